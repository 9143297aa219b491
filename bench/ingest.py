"""How fast files come into custody, beside what the same disk and processor do without us, in one run.

    python bench/ingest.py [--megabytes 32] [--files 12] [--folder DIR]

The peers: SM3 alone on one thread (the slowest digest, the floor of what is asked), and a plain copy with fsync. Sources
are read once beforehand, so the cache is warm for all. Prints one line of JSON for machines after the table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from geoevidence.catalogue import open_log_store
from geoevidence.custody import KeyFolder, Session, Workspace
from geoevidence.package import seal_folder, seal_zip
from geoevidence.trust import verify_package
from geoevidence.trust.digests import BLOCK, new_sm3
from geoevidence.types import Actor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=32, help="size of each large file")
    parser.add_argument("--files", type=int, default=12, help="number of large files")
    parser.add_argument("--small", type=int, default=300, help="number of files of 4 kB")
    parser.add_argument("--folder", type=Path, help="where to work; its disk is what is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        _run(Path(name), options.megabytes << 20, options.files, options.small)


def _run(root: Path, size: int, files: int, small: int) -> None:
    large = root / "large"
    large.mkdir()
    for number in range(files):
        (large / f"{number:03d}.bin").write_bytes(os.urandom(1 << 20) * (size >> 20))
    (root / "small").mkdir()
    for number in range(small):
        (root / "small" / f"{number:04d}.bin").write_bytes(os.urandom(4096))
    total = size * files
    workspace = _workspace(root)
    case = workspace.new_case("bench")
    rows = [
        ("sm3_one_thread", total, _timed(lambda: _digest(large))),
        ("copy_fsync", total, _timed(lambda: _copy(large, root / "copy"))),
        ("ingest_new", total, _timed(lambda: case.ingest(large))),
        ("ingest_again", total, _timed(lambda: case.ingest(large))),
        ("copy_fsync_small", small, _timed(lambda: _copy(root / "small", root / "copy-small"))),
        ("ingest_small", small, _timed(lambda: case.ingest(root / "small"))),
        ("seal_folder", total, _timed(lambda: seal_folder(case, root / "package"))),
        ("seal_zip", total, _timed(lambda: seal_zip(case, root / "package.zip"))),
        ("verify_folder", total, _timed(lambda: verify_package(root / "package").require())),
    ]
    seconds = {name: spent for name, _, (spent, _) in rows}
    cpu = {name: spent for name, _, (_, spent) in rows}
    record: dict[str, float] = {}
    for name, amount, (spent, busy) in rows:
        rate, unit = (amount / spent, "files/s") if "small" in name else (amount / spent / 1e6, "MB/s")
        record[name] = round(rate, 1)
        sys.stdout.write(f"{name:18s} {spent:8.2f} s {rate:9.1f} {unit:8s} {busy:8.2f} s of processor\n")
    record["ingest_to_sm3"] = round(seconds["sm3_one_thread"] / seconds["ingest_new"], 2)
    # on a machine that others use, what it costs says more than how long it took
    record["ingest_to_sm3_cpu"] = round(cpu["ingest_new"] / cpu["sm3_one_thread"], 2)
    record["ingest_to_copy"] = round(seconds["copy_fsync"] / seconds["ingest_new"], 2)
    record["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    sys.stdout.write(
        f"ingest is {record['ingest_to_sm3']} times as fast as one-thread SM3, {record['ingest_to_copy']} times as fast as a copy; "
        f"it costs {record['ingest_to_sm3_cpu']} times the processor time of SM3\n"
    )
    sys.stdout.write(json.dumps(record, sort_keys=True) + "\n")


def _workspace(root: Path) -> Workspace:
    session = Session(
        actor=Actor(id="bench", role="system"),
        signer=KeyFolder(root / "keys").signer(),
        device_serial="bench",
        software="geoevidence bench",
        now=lambda: datetime.now(UTC),
        random=secrets.token_bytes,
    )
    return Workspace.create(root / "workspace", session=session, log_store=open_log_store(root / "workspace"))


def _timed(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall clock, and of processor time over all threads."""
    start, busy = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - start, time.process_time() - busy


def _digest(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        digest = new_sm3()
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        digest.digest()


def _copy(folder: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as source, (target / path.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, BLOCK)
            copy.flush()
            os.fsync(copy.fileno())


if __name__ == "__main__":
    main()
