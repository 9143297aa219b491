"""Workspaces, cards and results for the tests: seeded randomness, a clock that the test moves, real keys."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from geoevidence.catalogue import open_log_store
from geoevidence.custody import Case, Derivation, KeyFolder, Session, Workspace
from geoevidence.types import Actor, Finding, Message, ProcessResult, Product, Quantity


@dataclass
class Clock:
    """Starts at a fixed time and moves one second at each look."""

    moment: datetime = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment


def session(folder: Path, *, seed: int = 1, name: str = "张三", clock: Callable[[], datetime] | None = None) -> Session:
    """A session whose key and salts follow from `seed`; its key folder is `folder`."""
    rng = random.Random(seed)
    return Session(
        actor=Actor(id=name, role="field_team"),
        signer=KeyFolder(folder, random=rng.randbytes).signer(),
        device_serial="SN-0001",
        software="geoevidence 0.1.0",
        now=clock or Clock(),
        random=rng.randbytes,
    )


@dataclass
class Place:
    """A folder with a workspace, the keys of one person outside it, and a card."""

    root: Path
    seed: int = 1
    workspace: Workspace = field(init=False)

    def __post_init__(self) -> None:
        self.session = session(self.root / "keys", seed=self.seed)
        self.log_store = open_log_store(self.root / "workspace")
        self.workspace = Workspace.create(self.root / "workspace", session=self.session, log_store=self.log_store)

    def reopened(self, *, as_session: Session | None = None) -> Workspace:
        """The workspace as another process would open it."""
        path = self.root / "workspace"
        return Workspace.open(path, session=as_session or self.session, log_store=open_log_store(path))

    def card(self, files: dict[str, bytes], *, name: str = "card") -> Path:
        folder = self.root / name
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder


CARD = {
    "DCIM/100MEDIA/DJI_0001.JPG": b"\xff\xd8\xff\xe0one\xff\xd9",
    "DCIM/100MEDIA/说明.txt": "说明\n".encode(),
    "flight.MRK": b"1\t2\n",
}


def result(derivation: Derivation | None, *, process: str = "drone.survey", findings: int = 1) -> ProcessResult:
    """A result with one product, written into the derivation's folder when there is one."""
    if derivation is not None:
        (derivation.out / "dsm.tif").write_bytes(b"II*\x00" + b"heights" * 100)
    return ProcessResult(
        process=process,
        parameters={"gsd": "0.05", "limits": [1, 2]},
        seed=7,
        products=(
            Product(path="dsm.tif", kind="dsm", media_type="image/tiff; application=geotiff", title=Message(id="core.synthetic")),
        ),
        findings=tuple(
            Finding(
                id=f"S-{n:03d}",
                message=Message(id="core.synthetic"),
                quantity=Quantity(value=12.5 + n, unit="m2", standard_uncertainty=0.25),
                geometry={"type": "Point", "coordinates": [104.0 + n, 30.5]},
                crs="EPSG:4490",
                period=(date(2026, 5, 1), date(2026, 6, 1)),
                method=Message(id="core.synthetic"),
                limitations=(Message(id="core.synthetic"),),
                products=("dsm.tif",),
            )
            for n in range(1, findings + 1)
        ),
        gaps=(Message(id="core.synthetic"),),
    )


def derive(case: Case, *, findings: int = 1) -> None:
    """One committed derivation on all originals of the case."""
    with case.derivation(
        process="drone.survey", inputs=case.items(role="original"), parameters={"gsd": "0.05"}, seed=7
    ) as derivation:
        derivation.commit(result(derivation, findings=findings))


def full_case(place: Place) -> Case:
    """A case with a card, a result with two findings, a corrected sheet and a report."""
    case = place.workspace.new_case("川检 2026-1", fields={"cause": "演示"}, demonstration=True)
    case.ingest(place.card(CARD), label="SD-1")
    derive(case, findings=2)
    case.set_sheet({**case.sheet, "place": "某县某河段"})
    report = place.root / "report.pdf"
    report.write_bytes(b"%PDF-1.7 report")
    case.attach_report(report, lang="zh", inputs=case.items(role="record"))
    return case
