"""A case made of plain values, with real pictures in a folder, as the report reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from geoevidence import figures
from geoevidence.custody import FileRef
from geoevidence.raster import Grid
from geoevidence.trust.notes import LogCheckpoint
from geoevidence.types import EvidenceItem, Finding, Message, Process, ProcessResult, Product, Quantity

START = datetime(2026, 3, 1, 8, 0, 0, tzinfo=UTC)

ORIGINALS = tuple(
    EvidenceItem(
        id=f"E-1f3a9c02-2-{number}", path=f"originals/E-1f3a9c02-2/DCIM/DJI_000{number}.JPG", sha256=f"{number}{number}" * 32,
        sm3=f"0{number}" * 32, size=100, role="original", media_type="image/jpeg",
        acquired=START - timedelta(hours=3 - number), acquired_from="exif",
    )
    for number in (1, 2)
)  # fmt: skip
INGEST = Process(
    tool="custody.ingest", version="0.1.0", code_digest="", environment_digest="", parameters={"source": "SD-1"}, seed=None
)


@dataclass(frozen=True)
class SampleEvent:
    event_id: str
    type: str
    time_claimed: datetime
    inputs: tuple[FileRef, ...] = ()
    outputs: tuple[FileRef, ...] = ()
    process: Process | None = None
    actor_id: str | None = "张三"
    role: str = "operator"
    clock_source: str = "system"
    clock_offset_ms: int | None = None
    index: int = 0
    anchor: tuple[int, str] | None = None


@dataclass(frozen=True)
class SampleStored:
    event: SampleEvent
    result: ProcessResult
    files: Mapping[str, EvidenceItem]


@dataclass
class SampleCase:
    folder: Path
    number: str = "鄂检公益〔2026〕12号"
    id: str = "C-0123456789"
    demonstration: bool = True
    sheet: dict[str, str] = field(default_factory=dict)
    stored: tuple[SampleStored, ...] = ()
    objects: dict[str, bytes] = field(default_factory=dict)
    """Content of records by digest: those of an `anchored` event, where there is one."""

    def events(self) -> tuple[SampleEvent, ...]:
        first = SampleEvent("E-1f3a9c02-1", "commissioned", START)
        taken = tuple(FileRef.of(item) for item in ORIGINALS)
        copied = SampleEvent("E-1f3a9c02-2", "copied", START + timedelta(minutes=5), outputs=taken, process=INGEST)
        events = [first, copied, *(part.event for part in self.stored)]
        if self.objects:
            names = ("checkpoint.note", "witness-1.cosig")
            outputs = tuple(
                FileRef(item=f"E-1f3a9c02-4-{n}", path=f"records/E-1f3a9c02-4/{name}", size=1, sha256=sha256, sm3="00" * 32)
                for n, (name, sha256) in enumerate(zip(names, self.objects, strict=True), 1)
            )
            events.append(SampleEvent("E-1f3a9c02-4", "anchored", START + timedelta(hours=2), outputs=outputs))
            events.append(SampleEvent("E-1f3a9c02-5", "viewed", START + timedelta(hours=3), anchor=(4, "00" * 32)))
        return tuple(replace(event, index=index) for index, event in enumerate(events))

    def read_object(self, sha256: str) -> bytes:
        return self.objects[sha256]

    def items(self, role: str | None = None) -> tuple[EvidenceItem, ...]:
        found = (*ORIGINALS, *(item for part in self.stored for item in part.files.values()))
        return tuple(item for item in found if role in (None, item.role))

    def results(self) -> tuple[SampleStored, ...]:
        return self.stored

    def findings(self) -> tuple[tuple[SampleStored, Finding], ...]:
        return tuple((part, finding) for part in self.stored for finding in part.result.findings)

    def path_of(self, item: EvidenceItem) -> Path:
        return self.folder / item.path.rpartition("/")[2]

    def log_checkpoint(self) -> LogCheckpoint:
        return LogCheckpoint("geoevidence/W-0123456789/C-0123456789", len(self.events()), hashlib.sha256(b"root").digest())


def make_case(folder: Path) -> SampleCase:
    rng = np.random.default_rng(1)
    grid = Grid(shape=(120, 160), transform=Affine(10, 0, 403500, 0, -10, 3320500), crs=CRS.from_epsg(4547))
    ring = [[404100.0, 3320100.0], [404500.0, 3320100.0], [404500.0, 3319800.0], [404100.0, 3319800.0], [404100.0, 3320100.0]]
    outline = {"type": "Polygon", "coordinates": [ring]}
    days = ("2025-08-14", "2025-09-03")
    for name, day in zip(("S-001-before", "S-001-after"), days, strict=True):
        bands = rng.uniform(0, 1, (3, 120, 160)) + np.linspace(0, 2, 160)
        image, _ = figures.stretch(bands)
        figures.map_picture(
            folder / f"{name}.png", image, grid, title="变化前" if "before" in name else "变化后", date_text=day, outlines=(outline,), synthetic=True
        )  # fmt: skip
    figures.map_picture(folder / "preview.png", image, grid, title="正射影像预览", date_text="2025-09-03", synthetic=True)
    files = {}
    kinds = {
        "S-001-before.png": "chip_before",
        "S-001-after.png": "chip_after",
        "S-001-series.png": "series_plot",
        "preview.png": "preview",
    }
    figures.map_picture(folder / "S-001-series.png", image, grid, title="序列", date_text="2025", synthetic=True)
    products = []
    for number, (name, kind) in enumerate(sorted(kinds.items()), start=1):
        data = (folder / name).read_bytes()
        files[name] = EvidenceItem(
            id=f"E-1f3a9c02-3-{number}", path=f"derived/E-1f3a9c02-3/{name}", sha256=hashlib.sha256(data).hexdigest(), sm3="ab" * 32,
            size=len(data), role="derived", media_type="image/png",
        )  # fmt: skip
        products.append(
            Product(path=name, kind=kind, media_type="image/png", title=Message(id="test.picture", values={"name": name}))
        )
    finding = Finding(
        id="S-001",
        message=Message(id="一处地表由植被变为裸地（#[*$x$*]）"),
        quantity=Quantity(value=120000.0, unit="m2", standard_uncertainty=3100.0, propagation="边界像元按半个像元计"),
        geometry=outline,
        crs="EPSG:4547",
        period=(date.fromisoformat(days[0]), date.fromisoformat(days[1])),
        method=Message(id="谐波模型残差的移动和检验（MOSUM）。依据：Chu, Hornik, Kuan (1995)"),
        sources=tuple(f"sha256:{item.sha256}" for item in files.values()),
        facts=(Message(id="此前有 48 个日期的清晰影像支持。"),),
        limitations=(Message(id="不能证明何人所为。"), Message(id="分辨率 10 m，小于 4 个像元的变化看不见。")),
        products=("S-001-before.png", "S-001-after.png", "S-001-series.png"),
        synthetic=True,
    )
    result = ProcessResult(
        process="satellite.monitor",
        parameters={"history_start": "2020-01-01", "order": 3, "scale": "0.0001", "nested": {"b": True, "a": None}},
        seed=7,
        products=tuple(products),
        findings=(finding,),
        gaps=(Message(id="2025-08-24 的影像读取失败：文件被截断。"),),
        synthetic=True,
    )
    process = Process(
        tool="satellite.monitor",
        version="0.1.0",
        code_digest="sha256:" + "c0" * 32,
        environment_digest="",
        parameters=result.parameters,
        seed=7,
    )
    event = SampleEvent(
        "E-1f3a9c02-3",
        "derived",
        START + timedelta(hours=1),
        tuple(FileRef.of(item) for item in ORIGINALS),
        tuple(map(FileRef.of, files.values())),
        process,
    )
    return SampleCase(folder=folder, stored=(SampleStored(event, result, files),))


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="session")
def sample(sample_folder: Path) -> SampleCase:
    return make_case(sample_folder)


def with_finding(case: SampleCase, **changes: object) -> SampleCase:
    """The case with its one finding changed."""
    stored = case.stored[0]
    finding = replace(stored.result.findings[0], **changes)
    return replace(case, stored=(replace(stored, result=replace(stored.result, findings=(finding,))),))
