"""What is known of the time before the files were recorded: `data/before-recording.json` and the report's section on it.

A digest proves only that nothing changed after the recording. The five questions are those that the court asks of
the time before (人民法院在线诉讼规则, articles 16 to 19); the answers are the investigators' and stand in the case sheet.
An unanswered question stays None and is shown as not filled in. What the files themselves say of their time is
gathered beside the answers. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from geoevidence.custody import CustodyEvent
from geoevidence.trust.canonical import dumps
from geoevidence.types import EvidenceItem, utc_text

SCHEMA = "geoevidence.before_recording.v1"
QUESTIONS = {
    "source": "before_source",
    "generation": "before_generation",
    "storage": "before_storage",
    "third_party_witness": "before_witness",
    "corroboration": "before_corroboration",
}
"""Question -> field of the case sheet that answers it, in the order in which they are asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One event that took originals in.

    time_claimed, clock_source, clock_offset_ms: of the recording device's clock.
    source: what people called the carrier or folder, or None.
    files: how many. acquired_first, acquired_last: earliest and latest time in the files, or None where none says one.
    acquired_from: where those times come from (exif, stac, file, declared), sorted.
    """

    event: str
    type: str
    time_claimed: datetime
    clock_source: str
    clock_offset_ms: int | None
    source: str | None
    files: int
    acquired_first: datetime | None
    acquired_last: datetime | None
    acquired_from: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        first, last = self.acquired_first, self.acquired_last
        return {
            "event": self.event,
            "type": self.type,
            "time_claimed": utc_text(self.time_claimed),
            "clock": {"source": self.clock_source, "offset_ms": self.clock_offset_ms},
            "source": self.source,
            "files": self.files,
            "acquired_first": None if first is None else utc_text(first),
            "acquired_last": None if last is None else utc_text(last),
            "acquired_from": list(self.acquired_from),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeRecording:
    """answers: question -> text or None, all five; recordings: in log order."""

    answers: Mapping[str, str | None]
    recordings: tuple[Recording, ...]

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes of the file."""
        recordings = [each.to_dict() for each in self.recordings]
        return dumps({"schema": SCHEMA, "answers": dict(self.answers), "recordings": recordings})


def before_recording(sheet: Mapping[str, str], events: Iterable[CustodyEvent], items: Iterable[EvidenceItem]) -> BeforeRecording:
    """What the case sheet, the log and the originals say of the time before recording."""
    known = {item.id: item for item in items if item.role == "original"}
    recordings = []
    for event in events:
        taken = [known[ref.item] for ref in event.outputs if ref.item in known]
        if not taken:
            continue
        times = sorted(item.acquired for item in taken if item.acquired is not None)
        label = event.process.parameters.get("source") if event.process is not None else None
        recordings.append(
            Recording(
                event=event.event_id,
                type=event.type,
                time_claimed=event.time_claimed,
                clock_source=event.clock_source,
                clock_offset_ms=event.clock_offset_ms,
                source=label if isinstance(label, str) and label else None,
                files=len(taken),
                acquired_first=times[0] if times else None,
                acquired_last=times[-1] if times else None,
                acquired_from=tuple(sorted({item.acquired_from for item in taken if item.acquired_from is not None})),
            )
        )
    answers = {question: sheet.get(field) or None for question, field in QUESTIONS.items()}
    return BeforeRecording(answers=answers, recordings=tuple(recordings))
