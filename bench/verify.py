"""How fast a package is verified and in what memory, how fast the log grows, and the parts beside other implementations.

    python bench/verify.py [--files 2000] [--megabytes 256] [--leaves 100000] [--events 400]

Prints one line a measurement: name, amount, seconds, rate. The machine's other work shows in the numbers (its load is
printed first and last); what counts is the ratio of a part to its peer in the same run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from geoevidence.catalogue import open_log_store
from geoevidence.custody import KeyFolder, Session, Workspace
from geoevidence.package import seal_folder, seal_zip
from geoevidence.trust import build_pyz, digest_file, dumps, leaf_hash, loads_canonical, tree_root, verify_ed25519, verify_package
from geoevidence.trust.digests import BLOCK, PureSM3, new_sm3
from geoevidence.trust.merkle import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion
from geoevidence.types import Actor


def show(name: str, amount: float, unit: str, run: Callable[[], Any], *, repeats: int = 3) -> None:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    sys.stdout.write(f"{name:<44} {amount:>10,.6g} {unit:<5} {best:9.4f} s {amount / best:14,.1f} {unit}/s\n")
    sys.stdout.flush()


def parts(rng: random.Random) -> None:
    """The hot paths alone, each beside a peer."""
    data = rng.randbytes(64 << 20)
    show("SHA-256 + SM3 of one stream (ours)", 64, "MB", lambda: digest_file(io.BytesIO(data)))
    show("SHA-256 alone (hashlib)", 64, "MB", lambda: hashlib.sha256(data).digest())
    if "sm3" in hashlib.algorithms_available:
        show("SM3 alone (hashlib)", 64, "MB", lambda: hashlib.new("sm3", data).digest())
    show("SM3 in pure Python (ours)", 0.25, "MB", lambda: PureSM3(data[: 1 << 18]).digest(), repeats=1)
    private = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    public, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    verify_ed25519(public, signature, b"m")
    keys = [Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)) for _ in range(20)]
    made = [(key.public_key().public_bytes_raw(), key.sign(b"m")) for key in keys]
    show("Ed25519, pure Python, new keys (ours)", 20, "", lambda: [verify_ed25519(p, s, b"m") for p, s in made], repeats=1)
    show(
        "Ed25519, pure Python, a known key (ours)", 200, "", lambda: [verify_ed25519(public, signature, b"m") for _ in range(200)]
    )
    other = Ed25519PublicKey.from_public_bytes(public)
    show("Ed25519 (cryptography)", 200, "", lambda: [other.verify(signature, b"m") for _ in range(200)])
    lines = [
        {"item": f"E-00000000-1-{n}", "path": f"data/{n}", "sha256": "0" * 64, "size": n, "sm3": "1" * 64} for n in range(20_000)
    ]
    written = [dumps(line) for line in lines]
    show("canonical JSON, writing (ours)", 20_000, "lines", lambda: [dumps(line) for line in lines])
    show("canonical JSON, writing (rfc8785)", 20_000, "lines", lambda: [rfc8785.dumps(line) for line in lines])
    show("canonical JSON, strict reading (ours)", 20_000, "lines", lambda: [loads_canonical(line) for line in written])
    show("JSON, any reading (json)", 20_000, "lines", lambda: [json.loads(line) for line in written])
    hashes = [leaf_hash(line) for line in written]
    show("Merkle root (ours)", 20_000, "leaf", lambda: tree_root(hashes))
    show("verify.pyz made", len(build_pyz()) / 1e6, "MB", build_pyz)


def packages(folder: Path, rng: random.Random, *, files: int, megabytes: int) -> None:
    """A case of many small files, and one of a few large ones, sealed and verified."""
    workspace = _workspace(folder, rng)
    for name, count, size in (("many small", files, 512), ("few large", 4, (megabytes << 20) // 4)):
        card = folder / name
        for n in range(count):
            path = card / f"{n // 500:03d}" / f"{n:06d}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(size))
        case = workspace.new_case(name, fields={}, demonstration=True)
        case.ingest(card, label="bench")
        for kind, seal in (("folder", seal_folder), ("zip", seal_zip)):
            path = seal(case, folder / "out" / f"{name}.{kind}").path
            report = verify_package(path).require()
            label = f"verify {kind}, {name} files ({report.facts['files']})"
            if name == "many small":
                show(label, report.facts["files"], "files", lambda path=path: verify_package(path))
            else:
                show(label, report.facts["bytes"] / 1e6, "MB", lambda path=path: verify_package(path))


def proofs(leaves: int, rng: random.Random) -> None:
    """Checking that a leaf is in a log of that many, and that a log grew out of an older one."""
    hashes = [leaf_hash(b"%d" % n) for n in range(leaves)]
    show(f"root of {leaves:,} leaves", leaves, "leaf", lambda: tree_root(hashes), repeats=1)
    root = tree_root(hashes)
    chosen = [rng.randrange(leaves) for _ in range(3)] + [0, leaves - 1]
    included = [(index, inclusion_proof(hashes, index)) for index in chosen]
    show(
        f"inclusion proof in {leaves:,} leaves, checked",
        1000,
        "",
        lambda: [verify_inclusion(hashes[i], i, leaves, proof, root) for _ in range(200) for i, proof in included],
    )
    older = [rng.randrange(1, leaves) for _ in range(5)]
    grown = [(size, tree_root(hashes[:size]), consistency_proof(hashes, size)) for size in older]
    show(
        f"consistency proof to {leaves:,} leaves, checked",
        1000,
        "",
        lambda: [verify_consistency(size, old, leaves, root, proof) for _ in range(200) for size, old, proof in grown],
    )


def _session(folder: Path, rng: random.Random) -> Session:
    return Session(
        actor=Actor(id="bench", role="field_team"),
        signer=KeyFolder(folder / "keys", random=rng.randbytes).signer(),
        device_serial="bench",
        software="geoevidence bench",
        now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
        random=rng.randbytes,
    )


def _workspace(folder: Path, rng: random.Random) -> Workspace:
    session = _session(folder, rng)
    return Workspace.create(folder / "workspace", session=session, log_store=open_log_store(folder / "workspace"))


def appending(folder: Path, rng: random.Random, *, events: int) -> None:
    """One event of a case sheet after the other, each durable with its checkpoints in three places."""
    case = _workspace(folder, rng).new_case("log", demonstration=True)
    spent = []
    for number in range(events):
        started = time.perf_counter()
        case.set_sheet({"cause": str(number)})
        spent.append(1e3 * (time.perf_counter() - started))
    for start in range(0, events, max(1, events // 4)):
        part = sorted(spent[start : start + max(1, events // 4)])
        sys.stdout.write(
            f"event appended durably, from event {start:<6} p50 {statistics.median(part):7.2f} ms   p95 {part[int(len(part) * 0.95)]:7.2f} ms\n"
        )
    sys.stdout.write(f"one file of 100 bytes written and synced {'':<8} p50 {statistics.median(_sync_times(folder)):7.2f} ms\n")


def _sync_times(folder: Path) -> list[float]:
    spent = []
    for number in range(50):
        started = time.perf_counter()
        with (folder / f"sync-{number}").open("wb") as stream:
            stream.write(bytes(100))
            stream.flush()
            os.fsync(stream.fileno())
        spent.append(1e3 * (time.perf_counter() - started))
    return spent


def photographs(folder: Path, rng: random.Random, *, files: int, megabytes: int, rounds: int = 3) -> None:
    """A package of photographs of 8 MB: verifying it, beside one-thread SM3, and what a file loop of two threads would give."""
    case = _workspace(folder, rng).new_case("photographs", demonstration=True)
    card = folder / "card"
    card.mkdir()
    for number in range(files):
        (card / f"{number:03d}.JPG").write_bytes(rng.randbytes(BLOCK) * megabytes)
    case.ingest(card, label="bench")
    package = seal_folder(case, folder / "package").path
    paths = sorted(path for path in (package / "data").rglob("*") if path.is_file())

    def both(path: Path) -> None:
        with path.open("rb") as stream:
            digest_file(stream)

    def pool() -> None:
        with ThreadPoolExecutor(2) as workers:
            list(workers.map(both, paths))

    acts: dict[str, Callable[[], Any]] = {
        "SM3, one thread": lambda: [_sm3(path) for path in paths],
        "verify_package": lambda: verify_package(package).require(),
        "both digests, file after file": lambda: [both(path) for path in paths],
        "both digests, two files at a time": pool,
    }
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            started = time.perf_counter()
            act()
            times[name].append(time.perf_counter() - started)
    for name, spent in times.items():
        ratios = sorted(base / each for base, each in zip(times["SM3, one thread"], spent, strict=True))
        rate = files * megabytes * 1.048576 / statistics.median(spent)
        sys.stdout.write(
            f"{files} files of {megabytes} MB: {name:<36} {rate:8.1f} MB/s "
            f"{statistics.median(ratios):6.2f} x SM3 ({ratios[0]:.2f} to {ratios[-1]:.2f})\n"
        )


def _sm3(path: Path) -> None:
    digest, block = new_sm3(), memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as stream:
        while used := stream.readinto(block):
            digest.update(block[:used])
    digest.digest()


_CHILD = """
import re, sys
from pathlib import Path
from geoevidence.trust import verify_package
def peak():  # of this program alone; getrusage counts what the process was before it became this program
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
verify_package(sys.argv[1]).require()
print(before, peak())
"""


def memory(folder: Path, rng: random.Random) -> None:
    """Peak resident memory of a process of its own that verifies, by number of entries and by size; the slope, extrapolated."""
    workspace = _workspace(folder, rng)
    peaks: dict[str, list[tuple[float, float]]] = {"entries": [], "GB": []}
    for kind, amounts in (("entries", (500, 4000)), ("GB", (1 / 16, 1))):
        for amount in amounts:
            card = folder / f"card-{kind}-{amount}"
            card.mkdir()
            if kind == "entries":
                for number in range(int(amount)):
                    (card / f"{number:05d}.txt").write_bytes(b"%d" % number)
            else:
                with (card / "video.mp4").open("wb") as stream:
                    stream.truncate(int(amount * (1 << 30)))
            case = workspace.new_case(f"{kind} {amount}", demonstration=True)
            case.ingest(card, label="bench")
            package = seal_folder(case, folder / f"package-{kind}-{amount}").path
            command = [sys.executable, "-c", _CHILD, str(package)]
            root = Path(__file__).resolve().parents[1]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
            before, peak = (int(each) / 1024 for each in done.stdout.split())
            peaks[kind].append((amount, peak))
            sys.stdout.write(f"verify a package of {amount:g} {kind}: peak memory {peak:.1f} MB, {before:.1f} MB of it before\n")
    for kind, ((small, low), (large, high)) in peaks.items():
        slope = (high - low) / (large - small)
        for amount in (100_000,) if kind == "entries" else (100,):
            sys.stdout.write(
                f"that is {1024 * slope:.2f} kB for each of the {kind}; {amount:,} {kind} would need {high + slope * (amount - large):.0f} MB\n"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="of 512 bytes")
    parser.add_argument("--megabytes", type=int, default=256, help="of four large files together")
    parser.add_argument("--leaves", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=400)
    options = parser.parse_args()
    rng = random.Random(1)
    _load("before")
    parts(rng)
    proofs(options.leaves, rng)
    for act, values in (
        (appending, {"events": options.events}),
        (photographs, {"files": 40, "megabytes": 8}),
        (memory, {}),
        (packages, {"files": options.files, "megabytes": options.megabytes}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            act(Path(folder), rng, **values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"peak memory of this process, sealing included: {peak:.0f} MiB\n")
    _load("after")


def _load(when: str) -> None:
    sys.stdout.write(f"load {when}: {' '.join(f'{each:.2f}' for each in os.getloadavg())}; processors: {os.cpu_count()}\n")


if __name__ == "__main__":
    main()
