"""How fast a package is verified, and its parts beside other implementations in the same run.

    python bench/verify.py [--files 2000] [--megabytes 256]

Prints one line a measurement: name, amount, seconds, rate. The machine's other work shows in
the numbers; what counts is the ratio of a part to its peer.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from geoevidence.catalogue import open_log_store
from geoevidence.custody import KeyFolder, Session, Workspace
from geoevidence.package import seal_folder, seal_zip
from geoevidence.trust import build_pyz, digest_file, dumps, leaf_hash, loads_canonical, tree_root, verify_ed25519, verify_package
from geoevidence.trust.digests import PureSM3
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
    show("Ed25519, a known key (ours)", 200, "", lambda: [verify_ed25519(public, signature, b"m") for _ in range(200)])
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
    signer = KeyFolder(folder / "keys", random=rng.randbytes).signer()
    session = Session(
        actor=Actor(id="bench", role="field_team"),
        signer=signer,
        device_serial="bench",
        software="geoevidence bench",
        now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
        random=rng.randbytes,
    )
    workspace = Workspace.create(folder / "workspace", session=session, log_store=open_log_store(folder / "workspace"))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=256)
    options = parser.parse_args()
    rng = random.Random(1)
    parts(rng)
    with tempfile.TemporaryDirectory() as folder:
        packages(Path(folder), rng, files=options.files, megabytes=options.megabytes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"peak memory of this process, sealing included: {peak:.0f} MiB\n")


if __name__ == "__main__":
    main()
