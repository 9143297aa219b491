"""The main job from end to end on sample data: ingest, analyse, report, seal, verify.

Two cases: one of synthetic data with exact truth (a flight and a scene stack), marked everywhere as demonstration
data, and one of real Sentinel-2 scenes, which are read out of the wheel `nrt` 0.2.1 of the package index (EUPL-1.2;
the code in it is not installed or run). Without an index the second case is left out, and the demonstration says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.engines import ENGINES
from app.tools import create_workspace, make_witness, pending_evidence
from geoevidence.custody import (
    DEFAULT_ROLES,
    Case,
    EvidenceSources,
    LocalTsa,
    Session,
    TimeStampClient,
    TrustFile,
    WitnessClient,
    WitnessKey,
    Workspace,
    anchor_case,
    read_case_toml,
    read_certificate,
)
from geoevidence.errors import GeoEvidenceError, InputError, VerificationError
from geoevidence.messages import render
from geoevidence.package import recomputing, seal_folder
from geoevidence.trust import VERDICTS
from geoevidence.types import Progress, utc_text

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"
_DEMO_PLACE = "https://demonstration.invalid"
"""Nobody is there (RFC 2606): the authority and the witness answer in this process."""
_DEMO_HOLDER = "演示，不具证明力 demonstration, proves nothing"
REAL_SCENES_WHEEL = "nrt==0.2.1"
REAL_SCENES_MEMBER = "nrt/data/sentinel2_cube_subset_romania_10m.nc"
REAL_SCENES_SHA256 = "10165376979ed20f988bef09bf79135ea415e741256ba50fd4fef679b1c1fa9d"


@dataclass
class _Run:
    """What a demonstration prints and remembers."""

    say: Callable[[str], None]
    lang: str
    seconds: dict[str, float] = field(default_factory=dict)

    def tell(self, message_id: str, **values: Any) -> None:
        self.say(render(message_id, values, self.lang))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.tell(f"demo.step.{name}")
        start = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


def run_demo(out: Path, *, flight: Path | None, progress: Progress, say: Callable[[str], None], lang: str) -> dict[str, Any]:
    """Run the whole thread in a new folder and return where everything is and how long each step took.

    Raises:
        InputError: the sample data are not there (they come with the repository).
        VerificationError: a package that was just sealed does not verify.
    """
    if not (SAMPLES / "flight").is_dir():
        raise InputError("demo.no_samples", path=SAMPLES)
    run = _Run(say=say, lang=lang)
    folder = _free_folder(out)
    workspace = create_workspace(folder / "workspace")
    attested = demo_evidence(folder, workspace, workspace.session)
    run.tell("demo.evidence", path=attested.trust)
    fields = read_case_toml(SAMPLES / "case.toml")
    packages: list[dict[str, Any]] = []

    case = workspace.new_case("演示-001", fields={**fields, "case_number": "演示-001"}, demonstration=True)
    _satellite(run, case, SAMPLES / "scenes", progress, scale=None)
    if flight is None:
        _drone(run, case, SAMPLES / "flight", SAMPLES / "polygons.geojson", progress)
    packages.append(_finish(run, workspace, case, attested, folder, progress))

    if flight is not None:
        real = workspace.new_case("演示-003", fields={**fields, "case_number": "演示-003"})
        _drone(run, real, flight, None, progress)
        packages.append(_finish(run, workspace, real, attested, folder, progress))

    with tempfile.TemporaryDirectory() as scratch:
        with run.step("download"):
            try:
                cube = _real_scenes(Path(scratch))
            except (InputError, OSError) as error:
                cube = None
                run.tell("demo.real_skipped", reason=error.render(lang) if isinstance(error, GeoEvidenceError) else str(error))
        if cube is not None:
            real = workspace.new_case("演示-002", fields={**fields, "case_number": "演示-002"})
            _satellite(run, real, cube, progress, scale=1e-4)
            packages.append(_finish(run, workspace, real, attested, folder, progress))

    work = sum(seconds for name, seconds in run.seconds.items() if name != "download")
    run.tell("demo.done", seconds=f"{work:.0f}", download=f"{run.seconds['download']:.0f}", folder=folder)
    return {"folder": str(folder), "packages": packages, "seconds": {k: round(v, 2) for k, v in run.seconds.items()}}


@dataclass(frozen=True)
class DemoEvidence:
    """Who attests time in a demonstration. sources: to be asked; trust: the trust file that believes them."""

    sources: EvidenceSources
    trust: Path


def demo_evidence(folder: Path, workspace: Workspace, session: Session) -> DemoEvidence:
    """A time-stamp authority and a witness of one's own in `folder`, and a `trust.json` that believes them and the local key.

    They prove nothing, as the person at the machine holds all three, and their names say so; they let every verdict be
    answered. The witness serves all cases of the workspace.
    """
    tsa = LocalTsa.create(folder / "demonstration-tsa", label="demonstration", now=session.now)
    watcher = make_witness(folder / "demonstration-witness")
    own = session.signer.note_signer.public_key
    watcher.allow(f"geoevidence/{workspace.id}/*", WitnessKey.of_log(own))
    sources = EvidenceSources(
        stamps=(TimeStampClient(url=f"{_DEMO_PLACE}/tsa", random=session.random, transport=tsa.transport()),),
        witnesses=(WitnessClient(url=f"{_DEMO_PLACE}/witness", key=watcher.key, transport=watcher.transport()),),
    )
    trusted = TrustFile(folder / "trust.json")
    since = utc_text(session.now() - timedelta(minutes=5))
    for key in {own, session.signer.public_key}:
        trusted.add_key(key, holder=_DEMO_HOLDER, roles=(session.actor.role, *DEFAULT_ROLES, "recompute"), valid_from=since)
    trusted.add_key(watcher.key.key, holder=_DEMO_HOLDER, roles=("witness",), valid_from=since)
    root = read_certificate(folder / "demonstration-tsa" / "root.pem")
    trusted.add_authority(root, holder=_DEMO_HOLDER, purposes=("time",))
    trusted.set_threshold(1)
    trusted.require(VERDICTS)
    trusted.save()
    return DemoEvidence(sources, trusted.path)


def _free_folder(out: Path) -> Path:
    candidate, number = out, 1
    while candidate.exists() and any(candidate.iterdir()):
        number += 1
        candidate = out.with_name(f"{out.name}-{number}")
    candidate.mkdir(parents=True, exist_ok=True)
    return candidate


def _satellite(run: _Run, case: Case, source: Path, progress: Progress, *, scale: float | None) -> None:
    from satellite import MonitorConfig, monitor_case

    with run.step("ingest"):
        done = case.ingest(source, label=source.name, progress=progress)
    with run.step("satellite"):
        config = MonitorConfig() if scale is None else MonitorConfig().replace(scale=scale)
        stored = monitor_case(case, done.items, config=config, progress=progress)
    _tell_findings(run, stored.result)


def _drone(run: _Run, case: Case, photos: Path, polygons: Path | None, progress: Progress) -> None:
    from drone import SurveyConfig, survey_case

    with run.step("ingest"):
        done = case.ingest(photos, label=photos.name, progress=progress)
        outlines = None if polygons is None else case.ingest(polygons, label=polygons.name, progress=progress).items[0]
        run.tell("demo.receipt", code=done.short_code, path=done.receipt_html)
    with run.step("drone"):
        stored = survey_case(case, done.items, polygons=outlines, config=SurveyConfig(), progress=progress)
    _tell_findings(run, stored.result)


def _tell_findings(run: _Run, result: Any) -> None:
    for finding in result.findings:
        mark = f"【{render('core.synthetic', {}, run.lang)}】" if finding.synthetic else ""
        run.say(f"  {finding.id} {mark}{finding.message.render(run.lang)}")
    for gap in result.gaps:
        run.say(f"  {render('cli.gap', {}, run.lang)}: {gap.render(run.lang)}")


def _finish(
    run: _Run, workspace: Workspace, case: Case, attested: DemoEvidence, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Time evidence, report, package, and the verdicts of the package's verifier in a bare interpreter."""
    from geoevidence.report import report_case

    with run.step("anchor"):
        anchor_case(case, attested.sources, pending_evidence(workspace))
    with run.step("report"):
        item = report_case(case, lang="zh")
        report = folder / f"report-{case.id}.pdf"
        report.write_bytes(case.path_of(item).read_bytes())
    with run.step("package"):
        packages = folder / "workspace" / "packages"
        packages.mkdir(exist_ok=True)
        again = recomputing(case, engines=ENGINES, progress=progress)
        place = packages / f"package-{case.id}"
        sealed = seal_folder(case, place, evidence=attested.sources, recompute=again, progress=progress)
    with run.step("verify"):
        command = [sys.executable, "-I", str(sealed.path / "verify.pyz"), str(sealed.path), "--lang", run.lang]
        command += ["--trust", str(attested.trust)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
        run.say(done.stdout.rstrip())
        if done.returncode != 0:
            raise VerificationError(
                "demo.not_verified", path=sealed.path, code=done.returncode, detail=done.stderr.strip()[-400:]
            )
    return {
        "case": case.id,
        "number": case.number,
        "report": str(report),
        "package": str(sealed.path),
        "short_code": sealed.short_code,
        "items": sealed.items,
        "size": sealed.size,
        "verify_exit": done.returncode,
    }


def _real_scenes(scratch: Path) -> Path:
    """The Sentinel-2 cube out of the wheel, checked by digest. Raises InputError when it cannot be had."""
    if importlib.util.find_spec("pip") is None:
        raise InputError("demo.no_index", reason="pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
    try:
        done = subprocess.run([*command, REAL_SCENES_WHEEL], capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError("demo.no_index", reason="timeout") from error
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise InputError("demo.no_index", reason=(done.stderr.strip().splitlines() or ["-"])[-1])
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(REAL_SCENES_MEMBER) as member:
        content = member.read(64 << 20)
    if hashlib.sha256(content).hexdigest() != REAL_SCENES_SHA256:
        raise InputError("demo.other_bytes", expected=REAL_SCENES_SHA256)
    folder = scratch / "sentinel2_romania"
    folder.mkdir()
    target = folder / Path(REAL_SCENES_MEMBER).name
    target.write_bytes(content)
    return target
