"""Authorities and witnesses for the tests: a local time-stamp authority made once, witnesses with keys from seeds."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from geoevidence.custody import Answer, EvidenceSources, KeyFolder, LocalTsa, TimeStampClient, Witness, WitnessClient, WitnessKey
from geoevidence.custody.asking import Transport
from geoevidence.errors import NoAnswerError

MADE = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
TSA_URL = "https://tsa.example/stamp"


@functools.cache
def tsa_folder() -> Path:
    """Folder of an authority whose certificates start at `MADE`; its two RSA keys take a second to make."""
    folder = Path(tempfile.mkdtemp(prefix="geoevidence-tsa-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    LocalTsa.create(folder, label="tests", now=lambda: MADE)
    return folder


def fixed(moment: datetime) -> Callable[[], datetime]:
    return lambda: moment


@functools.cache
def local_tsa(moment: datetime = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)) -> LocalTsa:
    return LocalTsa(tsa_folder(), now=fixed(moment))


def numbers(seed: int = 7) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def no_sleep(seconds: float) -> None:
    """Waits for nothing."""


def unreachable(url: str, body: bytes | None, content_type: str) -> Answer:
    """A transport that reaches nobody."""
    raise NoAnswerError("custody.no_answer", url=url, reason="unreachable")


def stamper(transport: Transport | None = None, *, url: str = TSA_URL, seed: int = 7) -> TimeStampClient:
    return TimeStampClient(url=url, random=numbers(seed), transport=transport or local_tsa().transport(), sleep=no_sleep, tries=2)


def witness(folder: Path, *, seed: int = 50, moment: datetime = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)) -> Witness:
    signer = KeyFolder(folder / "keys", random=numbers(seed)).software_signer()
    return Witness(folder, signer=signer, now=fixed(moment))


def client(of: Witness, transport: Transport | None = None, *, url: str = "https://witness.example") -> WitnessClient:
    return WitnessClient(url=url, key=of.key, transport=transport or of.transport(), sleep=no_sleep, tries=2)


def sources(*witnesses: WitnessClient, stamps: tuple[TimeStampClient, ...] = ()) -> EvidenceSources:
    return EvidenceSources(stamps=stamps, witnesses=witnesses)


def log_key(session: object) -> WitnessKey:
    return WitnessKey.of_log(session.signer.note_signer.public_key)  # type: ignore[attr-defined]
