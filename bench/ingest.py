"""How fast files come into custody, beside what the same disk and processor do without us, in one run.

    python bench/ingest.py [--rounds 5] [--large 40x8 1x256] [--small 2000] [--folder DIR]

The peers, on the same bytes: SM3 alone on one thread (the slowest digest) and on two (what the machine has to give just
now: twice as much when it is idle), a plain copy with fsync, coreutils' sha256sum,
`openssl dgst -sm3`, and bagit (SHA-256 in place: it moves and digests, and copies nothing). Sources are read once beforehand, so
that the cache is warm for all. Every round runs all of them in turn; a claim is the median over the rounds of a ratio
inside one round, since other work on the machine changes the seconds. Prints one line of JSON for machines at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import bagit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from geoevidence.catalogue import open_log_store
from geoevidence.custody import Case, KeyFolder, Session, Workspace
from geoevidence.package import seal_folder, seal_zip
from geoevidence.trust import verify_package
from geoevidence.trust.digests import BLOCK, new_sm3
from geoevidence.types import Actor

Act = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", nargs="*", default=["40x8", "1x256"], help="files x megabytes")
    parser.add_argument("--small", type=int, default=2000, help="number of files of 4 kB; 0 for none")
    parser.add_argument("--folder", type=Path, help="where to work; its disk is what is measured")
    options = parser.parse_args()
    logging.getLogger("bagit").setLevel(logging.ERROR)
    record: dict[str, object] = {"load_before": os.getloadavg(), "processors": os.cpu_count()}
    _say(f"processors: {os.cpu_count()}; load before: {' '.join(f'{each:.2f}' for each in os.getloadavg())}")
    for size in options.large:
        count, megabytes = map(int, size.split("x"))
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            record[size] = _large(Path(name), count, megabytes << 20, options.rounds)
    if options.small:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            record["small"] = _small(Path(name), options.small, options.rounds)
    record["load_after"] = os.getloadavg()
    record["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    _say(f"load after: {' '.join(f'{each:.2f}' for each in os.getloadavg())}; peak memory {record['peak_memory_mb']} MB")
    sys.stdout.write(json.dumps(record, sort_keys=True) + "\n")


def _large(root: Path, count: int, size: int, rounds: int) -> dict[str, float]:
    source = _source(root, count, size)
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        here = root / f"round-{number}"
        here.mkdir()
        case = _case(here)
        shutil.copytree(source, here / "bag")
        acts: dict[str, Act] = {
            "SM3, one thread": lambda: _digest(source),
            "SM3, two threads": lambda: _digest(source, threads=2),
            "copy and fsync": lambda here=here: _copy(source, here / "copy"),  # type: ignore[misc]
            "sha256sum": lambda: _run("sha256sum", source),
            "openssl dgst -sm3": lambda: _run("openssl", "dgst", "-sm3", source),
            "bagit, SHA-256 in place": lambda here=here: bagit.make_bag(str(here / "bag"), checksums=["sha256"]),  # type: ignore[misc]
            "ingest": lambda case=case: case.ingest(source),  # type: ignore[misc]
            "ingest of the same again": lambda case=case: case.ingest(source),  # type: ignore[misc]
            "scrub": lambda case=case: case._workspace.scrub(),  # type: ignore[misc]
            "seal, folder": lambda case=case, here=here: seal_folder(case, here / "package"),  # type: ignore[misc]
            "seal, zip": lambda case=case, here=here: seal_zip(case, here / "package.zip"),  # type: ignore[misc]
            "verify, folder": lambda here=here: verify_package(here / "package").require(),  # type: ignore[misc]
        }
        for name, act in acts.items():
            times.setdefault(name, []).append(_timed(act))
        shutil.rmtree(here)
    return _table(f"{count} x {size >> 20} MB", times, count * size / 1e6, "MB", peer="SM3, one thread")


def _small(root: Path, count: int, rounds: int) -> dict[str, float]:
    source = _source(root, count, 4096)
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        here = root / f"round-{number}"
        here.mkdir()
        case = _case(here)
        times.setdefault("copy and fsync", []).append(_timed(lambda here=here: _copy(source, here / "copy")))  # type: ignore[misc]
        times.setdefault("ingest", []).append(_timed(lambda case=case: case.ingest(source)))  # type: ignore[misc]
        shutil.rmtree(here)
    return _table(f"{count} x 4 kB", times, count, "files", peer="copy and fsync")


def _table(title: str, times: dict[str, list[tuple[float, float]]], amount: float, unit: str, *, peer: str) -> dict[str, float]:
    """Print and return, for every act, its median rate and the median over the rounds of peer's seconds to its own."""
    _say(f"\n{title}: median of {len(times[peer])} rounds; ratio to “{peer}” inside each round (lowest to highest)")
    record: dict[str, float] = {}
    for name, spent in times.items():
        ratios = sorted(base[0] / each[0] for base, each in zip(times[peer], spent, strict=True))
        busy = statistics.median(each[1] / base[1] for base, each in zip(times[peer], spent, strict=True))
        rate, ratio = amount / statistics.median(each[0] for each in spent), statistics.median(ratios)
        # other programs' processor time is not ours to see
        cost = "" if name.startswith(("sha256sum", "openssl")) else f"{busy:5.2f} x its processor time"
        _say(f"{name:26s} {rate:10,.1f} {unit}/s {ratio:6.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})  {cost}")
        record[f"{name}: ratio"], record[f"{name}: rate"] = round(ratio, 3), round(rate, 1)
    return record


def _source(root: Path, count: int, size: int) -> Path:
    folder = root / "source"
    folder.mkdir()
    for number in range(count):
        block = os.urandom(min(size, BLOCK))
        with (folder / f"{number:05d}.bin").open("wb") as stream:
            for _ in range(size // len(block)):
                stream.write(block)
    return folder


def _case(root: Path) -> Case:
    session = Session(
        actor=Actor(id="bench", role="system"),
        signer=KeyFolder(root / "keys").signer(),
        device_serial="bench",
        software="geoevidence bench",
        now=lambda: datetime.now(UTC),
        random=secrets.token_bytes,
    )
    workspace = Workspace.create(root / "workspace", session=session, log_store=open_log_store(root / "workspace"))
    return workspace.new_case("bench", demonstration=True)


def _timed(act: Act) -> tuple[float, float]:
    """Seconds by the wall clock, and of processor time over all threads."""
    start, busy = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - start, time.process_time() - busy


def _digest(folder: Path, *, threads: int = 1) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_digest_file, sorted(folder.iterdir())))


def _digest_file(path: Path) -> None:
    digest, block = new_sm3(), memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as stream:
        while used := stream.readinto(block):
            digest.update(block[:used])
    digest.digest()


def _copy(folder: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as source, (target / path.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, BLOCK)
            copy.flush()
            os.fsync(copy.fileno())


def _run(*words: object) -> None:
    *command, folder = words
    files = [str(path) for path in sorted(Path(str(folder)).iterdir())]
    subprocess.run([*map(str, command), *files], stdout=subprocess.DEVNULL, check=True)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
