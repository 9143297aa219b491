"""A tree of packages with known verdicts, for every verifier of the format: sound ones, and ones with one defect each.

`TREE` lists the cases; `Case.make(folder)` writes one. `failed` names the checks of docs/formats/verify.md that must fail, and
no other may. Cases named `bagit/...` follow the conformance suite of the Library of Congress
(LibraryOfCongress/bagit-conformance-suite, the case of that name) or the section of RFC 8493 they cite.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from geoevidence.trust import dumps, leaf_hash, parse_checkpoint, parse_leaf, parse_proof, short_code, tree_root
from geoevidence.trust.archive import sort_key
from geoevidence.trust.events import PAYLOAD_TYPE
from geoevidence.trust.manifest import (
    RecomputedQuantity,
    RecomputedResult,
    Statement,
    keys_bytes,
    parse_manifest,
    parse_recompute,
)
from geoevidence.trust.policy import VERDICTS, Authority, TrustedKey, TrustPolicy
from geoevidence.trust.signatures import parse_envelope
from tests.trust import authority
from tests.trust.builder import (
    ORIGIN,
    PYZ,
    WORKSPACE,
    Files,
    Key,
    Log,
    closing_of,
    device_log,
    envelope,
    evidence,
    package_files,
    recompute_record,
    redact,
    sample_log,
    stamper,
    supplement_files,
    write_folder,
    write_zip,
)

BUILT_IN = ("passed", "not_checked", "not_checked", "passed", "not_checked")
"""Verdicts of a sound package without a trust file."""
ALL = ("passed",) * 5
NOW = "2026-12-01T00:00:00Z"
Make = Callable[[], Files]


@dataclass(frozen=True)
class Case:
    """One package and what every verifier must say of it.

    files: makes the files. form: folder or zip. trust: bytes of a trust file. checkpoints: notes kept outside.
    code: short code from paper. supplements: make further supplements. package: makes the package a supplement speaks of.
    now: the verifier's clock. exit_code, failed: what must come out. verdicts: the five statuses, where they are fixed.
    """

    name: str
    files: Make
    exit_code: int = 1
    failed: frozenset[str] = frozenset()
    form: str = "folder"
    trust: bytes | None = None
    checkpoints: tuple[bytes, ...] = ()
    code: str | None = None
    supplements: tuple[Make, ...] = ()
    package: Make | None = None
    now: str = NOW
    verdicts: tuple[str, ...] | None = None
    prepare: Callable[[Path], None] | None = field(default=None, compare=False)

    def make(self, folder: Path) -> Path:
        """Write the package into `folder`; gives the path of the folder or archive."""
        files = self.files()
        path = write_zip(files, folder / "P.zip") if self.form == "zip" else write_folder(files, folder / "P")
        if self.prepare is not None:
            self.prepare(path)
        return path

    def make_supplements(self, folder: Path) -> list[Path]:
        return [write_folder(make(), folder / f"S-{n}") for n, make in enumerate(self.supplements, 1)]

    def make_package(self, folder: Path) -> Path | None:
        return None if self.package is None else write_folder(self.package(), folder / "of")


TREE: list[Case] = []


def case(name: str, files: Make, failed: Iterable[str] = (), exit_code: int | None = None, **options: Any) -> None:
    failed = frozenset(failed)
    code = (1 if failed else 0) if exit_code is None else exit_code
    TREE.append(Case(name, files, code, failed, **options))


# ---- makings ---------------------------------------------------------------------------------------

KEY, SECOND, WITNESS, RECOMPUTER, REDACTOR, AUTHOR = Key(1), Key(3), Key(51), Key(61), Key(31), Key(41)
LATER_WITNESS = Key(52)


@cache
def sample() -> Log:
    return sample_log()


def sealed(log: Log | None = None, *, changes: Files | None = None, **options: Any) -> Files:
    return package_files(log or sample(), changes={"verify.pyz": PYZ, **(changes or {})}, **options)


@cache
def _base(version: int) -> Files:
    return sealed(version=version)


def base(version: int = 2) -> Files:
    return dict(_base(version))


def find(files: Files, part: str) -> str:
    """The one path that holds `part`."""
    return next(path for path in files if part in path)


def tampered(change: Callable[[Files], None], make: Make = base) -> Make:
    """A sound package with something done to its files afterwards."""

    def made() -> Files:
        files = dict(make())
        change(files)
        return files

    return made


def flipped(part: str, place: int = 0, make: Make = base) -> Make:
    def change(files: Files) -> None:
        path = find(files, part)
        data = bytearray(files[path])
        data[place] ^= 1
        files[path] = bytes(data)

    return tampered(change, make)


def replaced(part: str, change: Callable[[bytes], bytes], make: Make = base) -> Make:
    def act(files: Files) -> None:
        path = find(files, part)
        files[path] = change(files[path])

    return tampered(act, make)


def edited(index: int, change: Callable[[dict[str, Any]], object], grow: Callable[[Log], None] | None = None) -> Make:
    """Sealed by one who holds the key, with one event of the log changed and signed again."""

    def make() -> Files:
        log = sample_log()
        if grow is not None:
            grow(log)
        raw = json.loads(base64.b64decode(json.loads(log.leaves[index])["payload"]))
        change(raw)
        log.leaves[index] = envelope(dumps(raw), KEY, payload_type=PAYLOAD_TYPE).to_bytes()
        if index == len(log.leaves) - 1:
            log.heads[KEY.public.key_id] = (raw["seq"], f"sha256:{leaf_hash(log.leaves[index]).hex()}")
        return sealed(log)

    return make


def grown(grow: Callable[[Log], object], **options: Any) -> Make:
    """Sealed after more has happened in the log."""

    def make() -> Files:
        log = sample_log()
        grow(log)
        return sealed(log, **options)

    return make


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for name in path[:-1]:
            raw = raw[name]
        raw[path[-1]] = value

    return change


def trust(
    *,
    required: tuple[str, ...] = ("intact", "signed", "continuous"),
    keys: dict[Key, tuple[str, ...]] | None = None,
    authorities: tuple[Authority, ...] = (),
    threshold: int = 0,
    **terms: Any,
) -> bytes:
    """A trust file. terms: fields of every key to replace."""
    known = keys if keys is not None else {KEY: ("operator", "log", "package")}
    fields = {"valid_from": "2026-01-01T00:00:00Z", "valid_to": None, "revoked_at_tree_size": None, **terms}
    trusted = tuple(TrustedKey(key.public, "某县检察院", roles, **fields) for key, roles in known.items())
    ordered = tuple(sorted(trusted, key=lambda each: each.key.key_id))
    return TrustPolicy(required, ordered, authorities=authorities, witness_threshold=threshold).to_bytes()


EVERYONE = {
    KEY: ("operator", "log", "package"),
    SECOND: ("operator", "log", "package"),
    WITNESS: ("witness",),
    LATER_WITNESS: ("witness",),
    RECOMPUTER: ("recompute",),
    REDACTOR: ("redaction",),
    AUTHOR: ("supplement", "recompute"),
}


def stamping(number: int = 1, **options: Any) -> Authority:
    return Authority(stamper(number).root.read, "国家授时中心（测试）", ("time",), **options)


def full_trust(**options: Any) -> bytes:
    settings = {"required": VERDICTS, "keys": EVERYONE, "authorities": (stamping(),), "threshold": 1, **options}
    return trust(**settings)


@cache
def _full() -> Files:
    log = sample_log()
    log.anchored(stamps=[(stamper(), "2026-11-23T08:30:00Z")], witnesses=[(WITNESS, "2026-11-23T08:31:00Z")])
    log.append("viewed", {}, time="2026-11-23T08:40:00Z")
    return sealed(
        log,
        others=(WITNESS, LATER_WITNESS, RECOMPUTER),
        seal=evidence(
            stamps=[(stamper(), "2026-11-23T09:01:00Z")],
            witnesses=[(WITNESS, "2026-11-23T09:02:00Z"), (LATER_WITNESS, "2026-11-23T09:03:00Z")],
            recompute=lambda files, statement: recompute_record(log, statement, RECOMPUTER),
        ),
    )


def full() -> Files:
    """A package with everything: time stamps, witnesses, a record of recomputation."""
    return dict(_full())


# ---- sound ------------------------------------------------------------------------------------------

for _version in (1, 2):
    for _form in ("folder", "zip"):
        case(f"sound/v{_version}-{_form}", lambda v=_version: base(v), form=_form, verdicts=BUILT_IN)
case("sound/trusted", base, trust=trust(), verdicts=("passed", "passed", "not_checked", "passed", "not_checked"))
case("sound/everything-folder", full, trust=full_trust(), verdicts=ALL)
case("sound/everything-zip", full, trust=full_trust(), form="zip", verdicts=ALL)
case("sound/everything-without-trust", full, verdicts=BUILT_IN)
case("sound/no-disclosures", lambda: sealed(changes={"data/log/disclosures.jsonl": b""}), verdicts=BUILT_IN)
case("sound/two-signers", lambda: sealed(signers=(KEY, Key(8)), others=(Key(8),)), verdicts=BUILT_IN)

# ---- 1 intact: done to the files after sealing ----------------------------------------------------------

_folder = _form_ = "folder"
case("tampered/original", flipped("照片"), {"files"})
case("tampered/original-in-zip", flipped("照片"), {"files"}, form="zip")
case("tampered/original-empty-now", replaced("照片", lambda data: b""), {"files", "tags"})
case("tampered/original-longer", replaced("照片", lambda data: data + b"\n"), {"files", "tags"})
case("tampered/original-gone", tampered(lambda files: files.pop(find(files, "照片"))), {"listing", "items", "tags"})
case("tampered/original-added", tampered(lambda files: files.update({"data/originals/E-bd8a63bd-2/new.jpg": b"x"})), {"listing", "items", "tags"})  # fmt: skip
case("tampered/file-beside-data", tampered(lambda files: files.update({"README": b"x"})), {"layout"})
case(
    "tampered/attestation-gone",
    tampered(lambda files: files.pop(find(files, "attestations"))),
    {"listing", "attestations", "tags"},
)
case("tampered/attestation", flipped("attestations", 40), {"files"})
case("tampered/before-recording", flipped("before-recording", 12), {"files"})
case("tampered/verify-txt", flipped("VERIFY.txt"), {"files"})
case("tampered/verify-html", flipped("verify.html"), {"files"})
case("tampered/bag-info", flipped("bag-info.txt"), {"files", "tags"})
case("tampered/bagit-txt", flipped("bagit.txt"), {"files", "tags"})
case("tampered/manifest-sha256", flipped("manifest-sha256.txt"), {"manifests", "files"})
case("tampered/manifest-sm3", flipped("manifest-sm3.txt"), {"manifests", "files"})
case("tampered/tagmanifest-sm3", flipped("tagmanifest-sm3.txt"), {"manifests"})
case("tampered/tagmanifest-gone", tampered(lambda files: files.pop("tagmanifest-sha256.txt")), {"layout"})
case("tampered/statement-signature", replaced("statement.dsse", lambda data: data.replace(b'"sig":"', b'"sig":"AAAA', 1)), {"statement_signature", "packaged", "closing"})  # fmt: skip
case("tampered/proof", replaced("proof.tlog", lambda data: data.replace(b"index 5", b"index 4")), {"packaged", "closing"})
case("tampered/closing-gone", tampered(lambda files: files.pop("seal/closing.dsse")), {"layout"})
case("tampered/closing-spelling", replaced("closing.dsse", lambda data: data + b"\n"), {"seal"})
case("tampered/time-stamp", flipped("seal/time-1.tsr", -1, full), {"closing", "time_stamps"}, trust=full_trust())
case("tampered/time-stamp-no-der", flipped("seal/time-1.tsr", 0, full), {"closing", "seal"}, trust=full_trust())
case("tampered/time-stamp-gone", tampered(lambda files: files.pop("seal/time-1.tsr"), full), {"closing"}, trust=full_trust())
case("tampered/time-stamp-of-another", tampered(lambda files: files.update({"seal/time-1.tsr": stamper().stamp(b"other", "2026-11-23T09:01:00Z")}), full), {"closing", "time_stamps"}, trust=full_trust())  # fmt: skip
case("tampered/time-stamp-added", tampered(lambda files: files.update({"seal/time-2.tsr": files["seal/time-1.tsr"]}), full), {"closing"}, trust=full_trust())  # fmt: skip
case("tampered/witness-gone", tampered(lambda files: files.pop("seal/witness-2.cosig"), full), {"closing"}, trust=full_trust())
case("tampered/witness-gap", tampered(lambda files: files.pop("seal/witness-1.cosig"), full), {"closing", "layout"}, trust=full_trust())  # fmt: skip
case("tampered/recompute-gone", tampered(lambda files: files.pop("seal/recompute.dsse"), full), {"closing"}, exit_code=1, trust=full_trust())  # fmt: skip
case("tampered/recompute", replaced("recompute.dsse", lambda data: data + b" ", full), {"closing", "seal"}, trust=full_trust())
case("tampered/seal-extra", tampered(lambda files: files.update({"seal/notes.txt": b"x"})), {"layout", "closing"})
case("tampered/seal-time-100", tampered(lambda files: files.update({"seal/time-100.tsr": b"x"})), {"layout", "closing"})
case("tampered/closing-of-another-package", tampered(lambda files: files.update({"seal/closing.dsse": full()["seal/closing.dsse"]})), {"closing"})  # fmt: skip

# ---- 1 intact: sealed wrongly by one who holds the key ---------------------------------------------------

case("sealed/bagit-txt", lambda: sealed(changes={"bagit.txt": b"BagIt-Version: 0.97\n"}), {"tags"})
case("sealed/bag-info", lambda: sealed(changes={"bag-info.txt": b"Payload-Oxum: 1.1\n"}), {"tags"})
case("sealed/software", lambda: sealed(stated={"software": "geoevidence 9"}), {"tags"})
case("sealed/package-root", lambda: sealed(stated={"package_root": "0" * 64}), {"tree", "closing"})
case("sealed/items-number", lambda: sealed(stated={"items": 3}), {"tree"})
case("sealed/closing-root", lambda: sealed(closing={"package_root": "0" * 64}), {"closing"})
case("sealed/closing-case", lambda: sealed(closing={"case": "C-9999999999"}), {"closing"})
case("sealed/closing-workspace", lambda: sealed(closing={"workspace": "W-9999999999"}), {"closing"})
case("sealed/closing-without-proof", lambda: sealed(closing={"subjects": {k: v for k, v in closing_of(base()).subjects.items() if "proof" not in k}}), {"closing"})  # fmt: skip
case("sealed/closing-by-another", lambda: sealed(closers=(Key(8),), others=(Key(8),)), {"other_signatures"})
case("sealed/closing-by-one-more", lambda: sealed(closers=(KEY, Key(8)), others=(Key(8),)), {"other_signatures"})
case("sealed/closing-by-unknown", lambda: sealed(closers=(Key(8),)), {"other_signatures"})
case("sealed/leaves-cut", lambda: sealed(changes={"data/log/leaves.jsonl": b"".join(leaf + b"\n" for leaf in sample().leaves)[:-1]}), {"events"})  # fmt: skip
case("sealed/keys-empty", lambda: sealed(changes={"data/log/keys.json": b"[]"}), {"keys"})
case("sealed/attestation-of-none", lambda: sealed(more={"data/attestations/E-bd8a63bd-1.dsse": envelope(b"{}", KEY).to_bytes()}), {"attestations"})  # fmt: skip
case("sealed/attestation-name", lambda: sealed(more={"data/attestations/x.dsse": b"x"}), {"layout"})
case("sealed/attestation-differs", lambda: sealed(changes={"data/attestations/E-bd8a63bd-3.dsse": envelope(b"{}", KEY).to_bytes()}), {"attestations"})  # fmt: skip
case("sealed/attestation-by-another", lambda: sealed(changes={"data/attestations/E-bd8a63bd-3.dsse": envelope(_attestation(), Key(8)).to_bytes()}, others=(Key(8),)), {"other_signatures"})  # fmt: skip
case("sealed/findings", lambda: sealed(changes={"data/findings.json": b'{"results":[],"schema":"geoevidence.package-findings.v1"}'}), {"findings"})  # fmt: skip
case("sealed/file-without-event", lambda: sealed(more={"data/originals/E-bd8a63bd-2/new.jpg": b"x"}), {"items"})


def _attestation() -> bytes:
    from geoevidence.trust.manifest import attestation_payload

    return attestation_payload(parse_leaf(sample().leaves[2]))


# ---- BagIt -------------------------------------------------------------------------------------------------


def _manifest(change: Callable[[list[bytes]], list[bytes]], name: str = "manifest-sha256.txt") -> Make:
    return lambda: sealed(changes={name: b"".join(change(base()[name].splitlines(keepends=True)))})


def _listed(path: str) -> Make:
    """A sealed package whose manifests list one more path."""

    def make() -> Files:
        changes = {}
        for name in ("manifest-sha256.txt", "manifest-sm3.txt"):
            digests = {**parse_manifest(base()[name], where=name), path: "0" * 64}
            changes[name] = b"".join(
                f"{digests[each]}  {each.replace('%', '%25')}\n".encode() for each in sorted(digests, key=sort_key)
            )
        return sealed(changes=changes)

    return make


case("bagit/local-fetch", tampered(lambda files: files.update({"fetch.txt": b"http://localhost/x 1 data/x\n"})), {"layout"})
case("bagit/out-of-scope-file-paths-using-dot-notation", _listed("data/../../etc/passwd"), {"listing"})
case("bagit/rfc8493-6.1.1-tilde", _listed("~/x"), {"manifests"})
case("bagit/rfc8493-6.1.1-absolute", _listed("/etc/passwd"), {"manifests"})
case("bagit/leading-dot-slash", _manifest(lambda lines: [line.replace(b"  data", b"  ./data") for line in lines]), {"manifests"})
case("bagit/rfc8493-2.1.3-listed-twice", _manifest(lambda lines: [lines[0], *lines]), {"manifests"})
case("bagit/same-filename-listed-twice-with-different-normalization", _listed("data/originals/cafe\u0301.jpg"), {"listing"})
case("bagit/filename-normalization", lambda: sealed(more={"data/originals/cafe\u0301.jpg": b"x"}), {"paths", "items"})
case("bagit/bagit-with-invalid-whitespace", lambda: sealed(changes={"bagit.txt": b"BagIt-Version : 1.0\nTag-File-Character-Encoding : UTF-8\n"}), {"tags"})  # fmt: skip
case("bagit/byte-order-mark", lambda: sealed(changes={"bagit.txt": b"\xef\xbb\xbfBagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"}), {"tags"})  # fmt: skip
case("bagit/UTF-16-encoded-tag-files", lambda: sealed(changes={"bag-info.txt": "Payload-Oxum: 1.1\n".encode("utf-16")}), {"tags"})
case("bagit/UTF-16-manifest", _manifest(lambda lines: [b"".join(lines).decode().encode("utf-16")]), {"manifests"})
case("bagit/duplicate-metadata-entries", lambda: sealed(changes={"bag-info.txt": base()["bag-info.txt"] + base()["bag-info.txt"]}), {"tags"})  # fmt: skip
case("bagit/rfc8493-2.1.3-unencoded-percent", _manifest(lambda lines: [line.replace(b"%25", b"%") for line in lines]), {"manifests"})  # fmt: skip
case("bagit/upper-case-digest", _manifest(lambda lines: [lines[0].upper(), *lines[1:]]), {"manifests"})
case("bagit/carriage-returns", _manifest(lambda lines: [line.replace(b"\n", b"\r\n") for line in lines]), {"manifests"})
case("bagit/no-line-end", _manifest(lambda lines: [b"".join(lines)[:-1]]), {"manifests"})
case("bagit/manifest-leaves-one-out", _manifest(lambda lines: lines[1:], "manifest-sm3.txt"), {"listing"})
case("bagit/weaker-manifest-only", tampered(lambda files: files.update({"manifest-md5.txt": files.pop("manifest-sha256.txt")})), {"layout", "listing"})  # fmt: skip
case("bagit/no-bagit-txt", tampered(lambda files: files.pop("bagit.txt")), {"layout", "listing"})


def _code() -> str:
    proof = parse_proof(base()["seal/proof.tlog"])
    return short_code(parse_checkpoint(proof.checkpoint)[0].root)


# ---- 2 signed ------------------------------------------------------------------------------------------------

case("signed/unknown-key", base, exit_code=2, trust=trust(keys={Key(8): ("package",)}))
case("signed/role", base, {"trusted_keys"}, trust=trust(keys={KEY: ("operator", "log")}))
case("signed/term-before", base, {"trusted_keys"}, trust=trust(valid_from="2026-11-23T08:00:01Z"))
case("signed/term-after", base, {"trusted_keys"}, trust=trust(valid_to="2026-11-23T08:59:59Z"))
case("signed/revoked", base, {"trusted_keys"}, trust=trust(revoked_at_tree_size=5))
case("signed/revoked-later", base, trust=trust(revoked_at_tree_size=6))
case(
    "signed/statement-by-unknown", lambda: sealed(signers=(Key(9),), closers=(KEY,)), {"statement_signature", "other_signatures"}
)
case("signed/code", base, exit_code=0, code=_code())
case("signed/code-of-a-broken-proof", flipped("proof.tlog", 0), {"seal", "closing"}, code="0000-0000-0000-0000")
case("signed/code-wrong", base, {"code"}, code="0000-0000-0000-0000")


def _holder(**options: Any) -> tuple[authority.Holder, Key]:
    root = authority.authority("签名根", number=11)
    leaf = authority.certify("李检察官", "ed25519", by=root, number=12, serial=0x5A, extensions=(authority.SIGNING,), **options)
    key = Key(0)
    key._private, key.certificates = leaf.key, (leaf.der,)
    key.public = replace(key.public, raw=leaf.key.public_key().public_bytes_raw())
    return root, key


CERTIFIED_ROOT, CERTIFIED = _holder()


def certified() -> Files:
    log = Log(keys=[CERTIFIED])
    log.append("copied", {"originals/{e}/a.jpg": b"\xff\xd8\xff"})
    return sealed(log)


def _signing(**options: Any) -> tuple[Authority, ...]:
    return (
        Authority(
            CERTIFIED_ROOT.read,
            "电子认证机构（测试）",
            ("sign",),
            options.pop("roles", ("operator", "log", "package")),
            **options,
        ),
    )


case("signed/certificate", certified, trust=trust(keys={}, authorities=_signing()))
case(
    "signed/certificate-role", certified, {"trusted_keys"}, trust=trust(keys={}, authorities=_signing(roles=("operator", "log")))
)
case("signed/certificate-unknown", certified, exit_code=2, trust=trust(keys={}, authorities=(stamping(),)))
case("signed/certificate-revoked", certified, {"trusted_keys"}, trust=trust(keys={}, authorities=_signing(revoked={0x5A: "2027-01-01T00:00:00Z"})))  # fmt: skip
case("signed/certificate-of-another-key", lambda: sealed(others=(Key(8, certificates=CERTIFIED.certificates),)), {"keys"})
case("signed/certificate-no-der", lambda: sealed(others=(Key(8, certificates=(b"x",)),)), {"keys"})

# ---- 3 time ------------------------------------------------------------------------------------------------------


def _stamped(**options: Any) -> Make:
    return lambda: sealed(others=(WITNESS,), seal=evidence(**options))


IN_TIME = {"required": ("intact", "time")}
case("time/stamp", _stamped(stamps=[(stamper(), "2026-11-23T09:01:00Z")]), trust=trust(authorities=(stamping(),), **IN_TIME))
case("time/witness", _stamped(witnesses=[(WITNESS, "2026-11-23T09:01:00Z")]), trust=trust(keys=EVERYONE, **IN_TIME))
case("time/stamp-by-unknown", _stamped(stamps=[(stamper(2), "2026-11-23T09:01:00Z")]), exit_code=2, trust=trust(authorities=(stamping(),), **IN_TIME))  # fmt: skip
case("time/stamp-out-of-term", _stamped(stamps=[(stamper(), "2031-01-01T00:00:00Z")]), exit_code=2, trust=trust(authorities=(stamping(),), **IN_TIME))  # fmt: skip
case("time/stamp-revoked", _stamped(stamps=[(stamper(), "2026-11-23T09:01:00Z")]), exit_code=2, trust=trust(authorities=(stamping(revoked={1: "2026-11-23T09:01:00Z"}),), **IN_TIME))  # fmt: skip
case("time/none", base, exit_code=2, trust=trust(authorities=(stamping(),), **IN_TIME))
case("time/claimed-later-than-now", base, exit_code=0, now="2026-11-01T00:00:00Z")
case("time/stamp-of-another-file", lambda: sealed(seal=evidence(raw={"seal/time-1.tsr": stamper().stamp(b"x", "2026-11-23T09:01:00Z")})), {"time_stamps"})  # fmt: skip
case("time/cosignature-of-another-log", lambda: sealed(others=(WITNESS,), seal=evidence(raw={"seal/witness-1.cosig": WITNESS.cosign(KEY.checkpoint(6, bytes(32)), "2026-11-23T09:01:00Z")})), {"cosignatures"})  # fmt: skip
case(
    "time/cosignature-by-unlisted", lambda: sealed(seal=evidence(witnesses=[(WITNESS, "2026-11-23T09:01:00Z")])), {"cosignatures"}
)
case("time/cosignature-wrong", lambda: sealed(others=(WITNESS,), seal=_forged_cosignature), {"cosignatures"})


def _witness_by_certificate(**options: Any) -> dict[str, Any]:
    return {"trust": trust(authorities=_signing(roles=("witness",), **options), **IN_TIME)}


def _witnessed_by(key: Key, *others: Key) -> Make:
    return lambda: sealed(others=others, seal=evidence(witnesses=[(key, "2026-11-23T09:01:00Z")]))


OWN_WITNESS = {KEY: ("operator", "log", "package", "witness")}
case("time/witness-certificate", _witnessed_by(CERTIFIED, CERTIFIED), **_witness_by_certificate())
# its own clock is no proof that it cosigned before the revocation
case("time/witness-certificate-revoked", _witnessed_by(CERTIFIED, CERTIFIED), exit_code=2, **_witness_by_certificate(revoked={0x5A: "2027-01-01T00:00:00Z"}))  # fmt: skip
case("time/witness-of-own-work", _witnessed_by(KEY), exit_code=2, trust=trust(keys=OWN_WITNESS, **IN_TIME))
case("time/stamp-over-a-checkpoint-of-another-log", lambda: sealed(packaged={"anchor": None}, seal=evidence(stamps=[(stamper(), "2026-11-23T09:01:00Z")])), {"packaged"}, trust=trust(authorities=(stamping(),), **IN_TIME))  # fmt: skip


def _contradiction() -> Files:
    """A token in the log that is later than the one over the sealing: one of the clocks is wrong."""
    log = sample_log()
    log.anchored(stamps=[(stamper(), "2026-11-23T10:00:00Z")])
    log.append("viewed", {})
    return sealed(log, seal=evidence(stamps=[(stamper(), "2026-11-23T09:01:00Z")]))


def _inner_contradiction() -> Files:
    """The same inside the log: the sealing itself is not touched by it."""
    log = sample_log()
    log.anchored(stamps=[(stamper(), "2026-11-23T10:00:00Z")])
    log.append("viewed", {})
    log.anchored(stamps=[(stamper(), "2026-11-23T09:00:00Z")])
    return sealed(log, seal=evidence(stamps=[(stamper(), "2026-11-23T11:00:00Z")]))


case("time/contradiction", _contradiction, exit_code=2, trust=trust(authorities=(stamping(),), **IN_TIME))
case("time/contradiction-inside", _inner_contradiction, exit_code=2, trust=trust(authorities=(stamping(),), **IN_TIME))


def _forged_cosignature(files: Files, statement: Any) -> Files:
    made = evidence(witnesses=[(WITNESS, "2026-11-23T09:01:00Z")])(files, statement)
    head, _, tail = made["seal/witness-1.cosig"].rstrip(b"\n").rpartition(b" ")
    raw = bytearray(base64.b64decode(tail))
    raw[11] ^= 1  # another second than the one that was signed
    return {"seal/witness-1.cosig": head + b" " + base64.b64encode(raw) + b"\n"}


def _unknown_algorithm() -> bytes:
    """A token by a key on a curve that verifiers need not know."""
    tsa = authority.certify("P-521", "P-521", extensions=(authority.STAMPING,))
    return authority.Draft(tsa, authority.info(b"x"), hash_name="sha512").token()


def _unknown_digest() -> bytes:
    """A token over a SHA-1 digest."""
    info = authority.info(imprint=bytes(20), imprint_oid="1.3.14.3.2.26")
    return authority.Draft(stamper().tsa, info).token()


def _proof_stamped(make: Callable[[bytes], bytes]) -> Make:
    return lambda: sealed(seal=lambda files, statement: {"seal/time-1.tsr": make(files["seal/proof.tlog"])})


def _by_unknown_curve(message: bytes) -> bytes:
    tsa = authority.certify("P-521", "P-521", extensions=(authority.STAMPING,))
    return authority.Draft(tsa, authority.info(message), hash_name="sha512").token()


case("time/curve-unknown", _proof_stamped(_by_unknown_curve), exit_code=2, trust=trust(authorities=(stamping(),), **IN_TIME))
case("time/digest-unknown", _proof_stamped(lambda _: authority.response(_unknown_digest())), exit_code=2, trust=trust(authorities=(stamping(),), **IN_TIME))  # fmt: skip
case("time/no-authority", _stamped(stamps=[(stamper(), "2026-11-23T09:01:00Z")]), exit_code=2, trust=trust(**IN_TIME))
case("time/cosignature-no-note", lambda: sealed(seal=evidence(raw={"seal/witness-1.cosig": b"x"})), {"seal"})
case("time/keys-spoilt", lambda: sealed(changes={"data/log/keys.json": b"[]"}, seal=evidence(witnesses=[(WITNESS, "2026-11-23T09:01:00Z")])), {"keys"})  # fmt: skip
case("anchored/signed-twice", grown(lambda log: log.anchored(checkpoint=_second_line(KEY.checkpoint(5, tree_root(log.hashes))), stamps=[(stamper(), "2026-11-23T08:30:00Z")])), {"time_evidence"})  # fmt: skip
case("anchored/cosignature-no-note", grown(lambda log: log.append("anchored", {"records/{e}/checkpoint.note": KEY.checkpoint(5, tree_root(log.hashes)), "records/{e}/witness-1.cosig": b"x"})), {"cosignatures"})  # fmt: skip
case("anchored/changed-later", flipped("checkpoint.note", 3, grown(lambda log: _anchored_then_viewed(log), others=(WITNESS,))), {"files"})  # fmt: skip


def _second_line(note: bytes) -> bytes:
    return note + Key(9).checkpoint(5, bytes(32)).splitlines(keepends=True)[-1]


case("anchored/wrong-root", grown(lambda log: log.anchored(checkpoint=KEY.checkpoint(3, bytes(32)), stamps=[(stamper(), "2026-11-23T08:30:00Z")])), {"time_evidence"})  # fmt: skip
case("anchored/too-large", grown(lambda log: log.anchored(checkpoint=KEY.checkpoint(9, bytes(32)), stamps=[(stamper(), "2026-11-23T08:30:00Z")])), {"time_evidence"})  # fmt: skip
case("anchored/another-log", grown(lambda log: log.anchored(checkpoint=KEY.checkpoint(5, tree_root(sample().hashes), origin="geoevidence/W-0000000000/C-0000000000"), stamps=[(stamper(), "2026-11-23T08:30:00Z")])), {"time_evidence"})  # fmt: skip
case("anchored/by-unlisted-key", grown(lambda log: log.anchored(checkpoint=Key(9).checkpoint(5, tree_root(log.hashes)), stamps=[(stamper(), "2026-11-23T08:30:00Z")])), {"time_evidence"})  # fmt: skip
case("anchored/no-evidence", grown(lambda log: log.anchored()), {"time_evidence"})
case("anchored/stamp-of-another", grown(lambda log: log.append("anchored", {"records/{e}/checkpoint.note": KEY.checkpoint(5, tree_root(log.hashes)), "records/{e}/time-1.tsr": stamper().stamp(b"x", "2026-11-23T08:30:00Z")})), {"time_stamps"})  # fmt: skip
case("anchored/stamp-no-der", grown(lambda log: log.append("anchored", {"records/{e}/checkpoint.note": KEY.checkpoint(5, tree_root(log.hashes)), "records/{e}/time-1.tsr": b"x"})), {"time_stamps"})  # fmt: skip
case("anchored/order", grown(lambda log: log.append("anchored", {"records/{e}/time-1.tsr": stamper().stamp(b"x", "2026-11-23T08:30:00Z"), "records/{e}/checkpoint.note": KEY.checkpoint(5, tree_root(log.hashes))})), {"time_evidence"})  # fmt: skip
case(
    "anchored/attested-time-invented", edited(4, put("anchor", "attested_time", value="2026-11-23T08:00:00Z")), {"time_evidence"}
)


def _anchored_then_viewed(log: Log) -> None:
    log.anchored(stamps=[(stamper(), "2026-11-23T08:30:00Z")], witnesses=[(WITNESS, "2026-11-23T08:31:00Z")])
    log.append("viewed", {}, time="2026-11-23T08:40:00Z")


case("anchored/sound", grown(_anchored_then_viewed, others=(WITNESS,)), verdicts=BUILT_IN)
case("anchored/attested-time-of-no-evidence", edited(6, put("anchor", "attested_time", value="2026-11-23T08:30:01Z"), _anchored_then_viewed), {"time_evidence", "cosignatures"})  # fmt: skip

# ---- 4 continuous ---------------------------------------------------------------------------------------------------

case("log/another-case", edited(4, put("case", value="C-9999999999")), {"events"})
case("log/field-unknown", edited(4, put("more", value=1)), {"events"})
case("log/predecessor", edited(4, put("prev_event", value="sha256:" + "0" * 64)), {"chains"})
case("log/anchor-root", edited(4, put("anchor", "root", value="0" * 64)), {"anchors"})
case("log/anchor-ahead", edited(4, put("anchor", "tree_size", value=5)), {"anchors"})
case("log/input", edited(4, lambda raw: raw["inputs"][0].update(sm3="0" * 64)), {"inputs"})
case("log/input-of-no-event", edited(4, lambda raw: raw["inputs"][0].update(item="E-00000000-1-1", path="records/E-00000000-1/x")), {"inputs"})  # fmt: skip
case("log/output-digest", edited(4, lambda raw: raw["outputs"][0].update(sha256="0" * 64)), {"items"})
case("log/two-output-digests", edited(5, lambda raw: [each.update(sha256="0" * 64) for each in raw["outputs"]], lambda log: log.append("copied", {"originals/{e}/a": b"a", "originals/{e}/b": b"b"})), {"items"})  # fmt: skip
case("log/output-forgotten", edited(4, lambda raw: raw["outputs"].clear()), {"items"})
case("log/output-twice", edited(4, lambda raw: raw["outputs"].append({**raw["outputs"][0], "item": raw["event_id"] + "-2"})), {"items"})  # fmt: skip


def _outside_the_package(kind: str, name: str) -> Make:
    """An output that stands in the log under seal/, where no file of the package belongs to it."""

    def make() -> Files:
        log = sample_log()
        log.append(kind, {f"seal/{{e}}/{name}": b"\xff\xd8hidden"})
        log.files.popitem()
        return sealed(log)

    return make


case("log/output-under-seal", _outside_the_package("copied", "photo.jpg"), {"items"})
case("log/output-under-seal-of-an-export", _outside_the_package("exported", "photo.jpg"), {"items"})
case("log/exported", _outside_the_package("exported", "redaction.dsse"), verdicts=BUILT_IN)
case("log/packaged-before", _outside_the_package("packaged", "statement.dsse"), verdicts=BUILT_IN)


def _alike(number: int) -> Key:
    key = Key(0)
    key._private = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    key.public = replace(key.public, raw=key._private.public_key().public_bytes_raw())
    return key


ALIKE = (_alike(5419), _alike(15163))
"""Two keys whose ids begin with the same 8 digits; fifteen thousand tries find such a pair."""


def _chain_taken_over() -> Files:
    """The second key, which the reader trusts too, goes on with the numbers of the first."""
    one, other = ALIKE
    log = Log(keys=[one])
    log.append("copied", {"originals/{e}/a.jpg": b"\xff\xd8\xff"})
    log.heads[other.public.key_id] = log.heads[one.public.key_id]
    log.append("viewed", {}, key=other)
    log.heads[one.public.key_id] = log.heads[other.public.key_id]
    return sealed(log)


case("log/chain-taken-over", _chain_taken_over, {"chains"}, trust=trust(keys={key: ("operator", "log", "package") for key in ALIKE}))  # fmt: skip
case("log/disclosure", edited(4, put("device", "serial", value=None)), {"disclosures"})


def _replaced_leaf() -> Files:
    """A later leaf stands twice, the first time in place of another: out of place there, and unreadable at its own."""
    leaves = list(sample().leaves)
    leaves[2] = leaves[4]
    return sealed(changes={"data/log/leaves.jsonl": b"".join(leaf + b"\n" for leaf in leaves)})


case("log/leaf-in-place-of-another", _replaced_leaf, {"events", "chains", "anchors"})
case("log/many-lines-that-are-none", lambda: sealed(changes={"data/log/leaves.jsonl": b"{}\n" * 1002}), {"events"})
case("log/checkpoint-root", lambda: sealed(changes={"data/log/checkpoint": KEY.checkpoint(5, bytes(32))}), {"log_root"})
case("log/checkpoint-key", lambda: sealed(changes={"data/log/checkpoint": Key(9).checkpoint(5, tree_root(sample().hashes))}), {"checkpoint_signatures"})  # fmt: skip
case("log/signed-by-unknown", grown(lambda log: log.append("viewed", {}, key=Key(7))), {"event_signatures"})
case("log/packaged-type", lambda: sealed(packaged={"type": "viewed"}), {"packaged"})
case("log/packaged-anchor", lambda: sealed(packaged={"anchor": None}), {"packaged"})
case("log/workspace", lambda: sealed(stated={"workspace": "W-0000000000"}), {"log_root", "closing"})


def _swapped() -> Files:
    log = sample_log()
    log.leaves[2:4] = reversed(log.leaves[2:4])
    return sealed(log)


case("log/order", _swapped, {"chains", "anchors", "inputs", "disclosures"})

# ---- rollback, fork ----


def note(size: int, *, leaves: list[bytes] | None = None, key: Key = KEY, origin: str = ORIGIN) -> bytes:
    hashes = leaves if leaves is not None else sample().hashes
    return key.checkpoint(size, tree_root(hashes[:size]), origin=origin)


case("outside/earlier-checkpoint", base, checkpoints=(note(3),), verdicts=BUILT_IN)
case("outside/several", base, checkpoints=(note(3), note(5)), verdicts=BUILT_IN)
case("outside/later-checkpoint", base, exit_code=3, checkpoints=(note(8, leaves=sample().hashes * 2),))
case("outside/fork", base, {"rollback"}, exit_code=4, checkpoints=(note(3, leaves=sample().hashes[::-1]),))
case("outside/fork-among-others", base, {"rollback"}, exit_code=4, checkpoints=(note(3), note(4, leaves=sample().hashes[::-1])))
case("outside/two-forks", base, {"rollback"}, exit_code=4, checkpoints=(note(4, leaves=sample().hashes[::-1]), note(5, leaves=sample().hashes[::-1])))  # fmt: skip
case("outside/forged", base, {"rollback"}, checkpoints=(note(3)[:-8] + b"AAAAAA=\n",))
case(
    "outside/contradicted-by-unknown-signer", base, {"rollback"}, checkpoints=(note(3, leaves=sample().hashes[::-1], key=Key(9)),)
)
case("outside/unknown-signer", base, checkpoints=(note(3, key=Key(9)),))
case("outside/log-broken", lambda: sealed(changes={"data/log/leaves.jsonl": b"{}\n"}), {"events"}, checkpoints=(note(3),))
case("outside/another-log", base, {"rollback"}, checkpoints=(note(3, origin="geoevidence/W-0000000000/C-0000000000"),))

# ---- witnesses ----

case("witness/two-of-two", full, trust=full_trust(threshold=2), verdicts=ALL)
case("witness/two-of-three", full, exit_code=2, trust=full_trust(threshold=3))
case("witness/untrusted", full, exit_code=2, trust=full_trust(keys={k: v for k, v in EVERYONE.items() if k not in (WITNESS, LATER_WITNESS)}))  # fmt: skip

# ---- keys that end ----


def _after_rotation(log: Log) -> None:
    log.rotated(SECOND)
    log.append("viewed", {})


def _by_the_old_key(log: Log) -> None:
    log.rotated(SECOND)
    log.append("viewed", {}, key=KEY)


def _revoked(log: Log) -> None:
    log.append("viewed", {}, key=SECOND)
    log.keys.append(SECOND)
    log.revoked(SECOND, effective=len(log.leaves) + 1)


def _revoked_back(log: Log) -> None:
    log.append("viewed", {}, key=SECOND)
    log.keys.append(SECOND)
    log.revoked(SECOND, effective=len(log.leaves) - 1)


def _by_the_revoked(log: Log) -> None:
    _revoked(log)
    log.append("viewed", {}, key=SECOND)


def _effective_too_late(log: Log) -> None:
    log.append("viewed", {}, key=SECOND)
    log.keys.append(SECOND)
    log.revoked(SECOND, effective=len(log.leaves) + 5)


def _one_signature(log: Log) -> None:
    from geoevidence.trust.manifest import KeyChange

    change = KeyChange("rotated", KEY.public.key_id, SECOND.named, "superseded", len(log.leaves) + 1)
    log.append("key_rotated", {"records/{e}/key-change.json": change.to_bytes()})
    log.keys.insert(0, SECOND)


case("keys/rotated", grown(_after_rotation), trust=trust(keys=EVERYONE))
case("keys/old-key-after-rotation", grown(_by_the_old_key), {"key_changes"})
case("keys/revoked", grown(_revoked), trust=trust(keys=EVERYONE))
case("keys/revoked-back", grown(_revoked_back), exit_code=2, trust=trust(keys=EVERYONE))
case("keys/revoked-key-signs-on", grown(_by_the_revoked), {"key_changes"})
case("keys/effective-too-late", grown(_effective_too_late), {"key_changes"})
case("keys/rotation-effective", grown(lambda log: log.rotated(SECOND, effective=3)), {"key_changes"})
case("keys/rotation-with-one-signature", grown(_one_signature), {"key_changes"})
case("keys/rotation-of-another", grown(lambda log: log.rotated(SECOND, key_id="0" * 64)), {"key_changes"})
case("keys/document", grown(lambda log: log.append("key_rotated", {"records/{e}/key-change.json": b"{}"})), {"key_changes"})
case("keys/document-changed-later", flipped("key-change.json", 3, grown(_after_rotation)), {"files"})
case("keys/no-document", grown(lambda log: log.append("key_rotated", {})), {"key_changes"})

# ---- device logs ----

case("device/sound", grown(lambda log: log.synced(device_log())), verdicts=BUILT_IN)
case("device/root", grown(lambda log: log.synced(device_log(), root="0" * 64)), {"device_logs"})
case("device/size", grown(lambda log: log.synced(device_log(), tree_size=1)), {"device_logs"})
case("device/origin", grown(lambda log: log.synced(device_log(), origin=ORIGIN)), {"device_logs"})
case("device/workspace", grown(lambda log: log.synced(device_log(), workspace=WORKSPACE)), {"device_logs"})
case("device/files", grown(lambda log: log.synced(device_log(), files=9)), {"device_logs"})
case("device/file-changed", grown(lambda log: log.synced(device_log(), changes={f"E-{Key(21).public.chain}-2/IMG_1.JPG": b"other"})), {"device_logs"})  # fmt: skip
case("device/file-added", grown(lambda log: log.synced(device_log(), changes={f"E-{Key(21).public.chain}-2/IMG_9.JPG": b"other"})), {"device_logs"})  # fmt: skip
case("device/leaf-cut", grown(lambda log: log.synced(device_log(), changes={"device-leaves.jsonl": device_log().leaves[0] + b"\n"})), {"device_logs"})  # fmt: skip
case("device/checkpoint", grown(lambda log: log.synced(device_log(), changes={"device-checkpoint": b"x"})), {"device_logs"})
case("device/keys", grown(lambda log: log.synced(device_log(), changes={"device-keys.json": b"[]"})), {"device_logs"})
case(
    "device/disclosures",
    grown(lambda log: log.synced(device_log(), changes={"device-disclosures.jsonl": b"{}\n"})),
    {"device_logs"},
)
case("device/checkpoint-by-another", grown(lambda log: log.synced(device_log(), changes={"device-checkpoint": Key(9).checkpoint(2, tree_root(device_log().hashes), origin=device_log().origin)})), {"device_logs"})  # fmt: skip
case("device/checkpoint-signed-twice", grown(lambda log: log.synced(device_log(), changes={"device-checkpoint": _twice(device_log())})), {"device_logs"})  # fmt: skip
case("device/withheld", grown(lambda log: log.synced(device_log(), changes={"device-leaves.jsonl": _withheld(device_log())})), {"device_logs"})  # fmt: skip
case("device/certificate", grown(lambda log: log.synced(_with_certificate())), {"device_logs"})
case("device/parameter", grown(lambda log: log.synced(device_log(), more=1)), {"device_logs"})
case("device/parameter-object", grown(lambda log: log.synced(device_log(), root={"a": 1})), {"device_logs"})
case("device/parameter-text", grown(lambda log: log.synced(device_log(), tree_size="2")), {"device_logs"})
case("device/parameter-type", grown(lambda log: log.synced(device_log(), files=True)), {"device_logs"})
case("device/origin-of-no-log", grown(lambda log: log.synced(_renamed(), workspace="x")), {"device_logs"})
case("device/other-output", grown(lambda log: log.synced(device_log(), changes={"more.json": b"{}"})), {"device_logs"})
case("device/input", grown(lambda log: log.synced(_wrong_input())), {"device_logs"})
case("device/leaves-gone-later", tampered(lambda files: files.pop(find(files, "device-leaves")), grown(lambda log: log.synced(device_log()))), {"listing", "items", "tags"})  # fmt: skip
case("device/keys-gone-later", tampered(lambda files: files.pop(find(files, "device-keys")), grown(lambda log: log.synced(device_log()))), {"listing", "items", "tags"})  # fmt: skip
case("device/disclosures-gone-later", tampered(lambda files: files.pop(find(files, "device-disclosures")), grown(lambda log: log.synced(device_log()))), {"listing", "items", "tags"})  # fmt: skip
case("device/checkpoint-gone-later", tampered(lambda files: files.pop(find(files, "device-checkpoint")), grown(lambda log: log.synced(device_log()))), {"listing", "items", "tags"})  # fmt: skip
case("device/leaf-changed-later", flipped("device-leaves", 40, grown(lambda log: log.synced(device_log()))), {"files"})


def _cut_by_another(log: Log) -> None:
    """The last entries of the device's log are left out, under a checkpoint by a key that is not the device's."""
    device = device_log()
    head = Key(22).checkpoint(2, tree_root(device.hashes), origin=device.origin)
    rows = keys_bytes(key.named for key in (*device.keys, Key(22)))
    log.synced(device, changes={"device-checkpoint": head, "device-keys.json": rows})


DEVICE = {**EVERYONE, Key(21): ("operator", "log")}
case("device/trusted", grown(lambda log: log.synced(device_log())), trust=trust(keys=DEVICE))
case("device/cut-by-another", grown(_cut_by_another), exit_code=2, trust=trust(keys=DEVICE))
case("device/key-in-the-trust-file-alone", grown(lambda log: log.synced(device_log(), changes={"device-keys.json": keys_bytes([Key(22).named])})), trust=trust(keys=DEVICE))  # fmt: skip


def _twice(device: Log) -> bytes:
    one = device.keys[0].checkpoint(2, tree_root(device.hashes), origin=device.origin)
    return one + Key(9).checkpoint(2, tree_root(device.hashes), origin=device.origin).splitlines(keepends=True)[-1]


def _withheld(device: Log) -> bytes:
    return device.leaves[0] + b"\n" + dumps({"withheld": device.hashes[1].hex()}) + b"\n"


def _with_certificate() -> Log:
    device = device_log()
    device.keys[0].certificates = (b"x",)
    return device


def _renamed() -> Log:
    device = device_log()
    device.workspace = "x"
    return device


def _wrong_input() -> Log:
    device = device_log()
    item = json.loads(base64.b64decode(json.loads(device.leaves[1])["payload"]))["outputs"][0]
    device.append("viewed", {}, inputs=[{**item, "size": 1}])
    return device


case("device/no-documents", grown(lambda log: log.append("received", {}, process=_sync_process())), {"device_logs"})


def _synced_twice(log: Log, *, other: bool) -> None:
    device = device_log()
    log.synced(device)
    if other:
        device = Log(keys=[Key(21)], workspace=device.workspace)
        device.append("viewed", {})
    for _ in range(3):
        device.append("viewed", {})
    log.synced(device)


case("device/grown", grown(lambda log: _synced_twice(log, other=False)), verdicts=BUILT_IN)
case("device/another-history", grown(lambda log: _synced_twice(log, other=True)), {"device_logs"})


def _sync_process() -> dict[str, Any]:
    parameters = {"origin": "x", "tree_size": 0, "root": "0" * 64, "workspace": "x", "files": 0}
    return {"tool": "custody.sync", "version": "1", "code_digest": None, "environment_digest": None, "parameters": parameters, "seed": None}  # fmt: skip


def _with_device() -> Files:
    log = sample_log()
    log.synced(device_log())
    _anchored_then_viewed(log)
    log.rotated(SECOND)
    files = sealed(log, others=(WITNESS,))
    gone = ("device-", "IMG_", "checkpoint.note", "time-1.tsr", "witness-1", "key-change", "findings.json")
    hidden = [path for path in files if path.startswith("data/records/") and any(part in path for part in gone)]
    return redact(files, log, withhold=hidden, key=REDACTOR)


case("redacted/records-withheld-log-kept", lambda: _with_device(), exit_code=2, verdicts=("passed", "not_checked", "not_checked", "not_checked", "not_checked"))  # fmt: skip


# ---- redacted copies ----


def _redacted(**options: Any) -> Make:
    def make() -> Files:
        files = base()
        return redact(files, sample(), withhold=[find(files, "照片")], events=_naming(), key=REDACTOR, **options)

    return make


def _naming() -> list[str]:
    """Events that name the photo: where it was copied, and where it was an input."""
    return [f"E-{KEY.public.chain}-2", f"E-{KEY.public.chain}-3"]


REDACTED = ("passed", "not_checked", "not_checked", "not_checked", "not_checked")


def _whole_redacted() -> Files:
    files = base()
    hidden = [path for path in files if "/E-bd8a63bd-2/" in path or "/E-bd8a63bd-3/" in path]
    return redact(files, sample(), withhold=hidden, events=_naming(), key=REDACTOR)


def _two_findings() -> tuple[Log, Files]:
    """Two results with a finding each; the record of recomputation covers the first alone."""
    log = sample_log()
    first = list(log.leaves)
    derived = log.append("derived", {"derived/{e}/result.json": b"[]"})
    folder, item = f"derived/{derived['event_id']}/", derived["outputs"][0]["item"]
    findings = dumps({"schema": "geoevidence.findings.v1", "findings": [], "folder": folder, "result": item})
    log.append("found", {"records/{e}/findings.json": findings}, inputs=derived["outputs"])
    make = evidence(recompute=lambda files, statement: recompute_record(Log(leaves=first), statement, RECOMPUTER))
    return log, sealed(log, others=(RECOMPUTER,), seal=make)


def _finding_left_out(*, with_event: bool) -> Files:
    log, files = _two_findings()
    hidden = [path for path in files if path.startswith("data/records/E-bd8a63bd-7/")]
    return redact(files, log, withhold=hidden, events=["E-bd8a63bd-7"] if with_event else [], key=REDACTOR)


def _revocation_left_out() -> Files:
    log = sample_log()
    _revoked_back(log)
    files = sealed(log)
    return redact(files, log, withhold=[find(files, "key-change.json")], key=REDACTOR)


RECOMPUTED = {"trust": trust(keys=EVERYONE, required=("recomputes",))}
case("recompute/finding-not-covered", lambda: _two_findings()[1], exit_code=2, **RECOMPUTED)
case("redacted/finding-left-out", lambda: _finding_left_out(with_event=True), exit_code=2, **RECOMPUTED)
case("redacted/finding-left-out-log-kept", lambda: _finding_left_out(with_event=False), exit_code=2, **RECOMPUTED)
case("redacted/revocation-left-out", _revocation_left_out, exit_code=2, trust=trust(keys=EVERYONE, required=("intact", "signed")))
case("recompute/findings-changed-later", flipped("data/findings.json", 5, full), {"files"}, trust=full_trust(), verdicts=("failed", "passed", "passed", "not_checked", "not_checked"))  # fmt: skip
case("redacted/spoilt", flipped("redaction.dsse", 0, lambda: _whole_redacted()), {"seal"})
case("redacted/input-of-a-later-event", lambda: _redacted_later_input(), {"inputs"})
case("redacted/sound", _whole_redacted, exit_code=2, verdicts=REDACTED)
case("redacted/zip", _whole_redacted, exit_code=2, form="zip", verdicts=REDACTED)
case("redacted/keep-log", lambda: redact(base(), sample(), withhold=[find(base(), "照片")], key=REDACTOR), exit_code=2, verdicts=REDACTED)  # fmt: skip
case("redacted/trusted", _whole_redacted, exit_code=2, trust=trust(keys=EVERYONE), verdicts=("passed", "passed", "not_checked", "not_checked", "not_checked"))  # fmt: skip
case("redacted/enough-for-some", _whole_redacted, trust=trust(keys=EVERYONE, required=("intact", "signed")))
case("redacted/version-1", lambda: redact(base(1), sample(), withhold=[find(base(), "照片")], key=REDACTOR, version=1), exit_code=2, verdicts=REDACTED)  # fmt: skip
case("redacted/original-changed", flipped("100%.txt".replace("100%.txt", "report-zh.pdf"), 0, _whole_redacted), {"files"})
case("redacted/counts", lambda: redact(base(), sample(), withhold=[find(base(), "照片")], key=REDACTOR, stated={"files_withheld": 7}), {"withheld"})  # fmt: skip
case("redacted/other-root", lambda: redact(base(), sample(), withhold=[find(base(), "照片")], key=REDACTOR, stated={"package_root": "0" * 64}), {"closing"})  # fmt: skip
case("redacted/seal-file-not-named-and-statement-replaced", lambda: _statement_by_another(_redaction_without("seal/proof.tlog")), {"statement_signature", "other_signatures", "packaged"})  # fmt: skip
case("redacted/seal-file-not-named", lambda: _redaction_without("seal/proof.tlog"), {"closing"})
case("redacted/invented-leaf", lambda: _invented_leaf(), {"log_root", "chains", "anchors"})


def _redacted_later_input() -> Files:
    """An input that names an event which comes later: not excused by what is withheld."""
    log = sample_log()
    item = {"item": "E-bd8a63bd-7-1", "path": "records/E-bd8a63bd-7/x", "size": 0, "sha256": "0" * 64, "sm3": "0" * 64}
    log.append("viewed", {}, inputs=[item])
    log.append("viewed", {"records/{e}/x": b""})
    files = sealed(log)
    return redact(files, log, withhold=[find(files, "report-zh")], events=["E-bd8a63bd-5"], key=REDACTOR)


def _invented_time() -> Files:
    """A copy that leaves out a photo does not make an invented attested time good."""
    log = sample_log()
    raw = json.loads(base64.b64decode(json.loads(log.leaves[4])["payload"]))
    raw["anchor"]["attested_time"] = "2026-11-23T08:00:00Z"
    log.leaves[4] = envelope(dumps(raw), KEY, payload_type=PAYLOAD_TYPE).to_bytes()
    log.heads[KEY.public.key_id] = (raw["seq"], f"sha256:{leaf_hash(log.leaves[4]).hex()}")
    files = sealed(log)
    return redact(files, log, withhold=[find(files, "照片")], key=REDACTOR)


case("redacted/attested-time-invented", _invented_time, {"time_evidence"})


def _redaction_without(name: str) -> Files:
    files = redact(base(), sample(), withhold=[find(base(), "照片")], key=REDACTOR)
    from geoevidence.trust import parse_envelope
    from geoevidence.trust.manifest import parse_redaction

    redaction = parse_redaction(parse_envelope(files["seal/redaction.dsse"]).payload)
    subjects = {each: pair for each, pair in redaction.subjects.items() if each != name}
    files["seal/redaction.dsse"] = envelope(replace(redaction, subjects=subjects).to_bytes(), REDACTOR).to_bytes()
    return files


def _statement_by_another(files: Files) -> Files:
    from geoevidence.trust import parse_envelope

    payload = parse_envelope(files["seal/statement.dsse"]).payload
    return {**files, "seal/statement.dsse": envelope(payload, Key(9)).to_bytes()}


def _invented_leaf() -> Files:
    line = dumps({"withheld": "0" * 64}) + b"\n"
    leaves = b"".join(leaf + b"\n" for leaf in sample().leaves[:-1]) + line
    return redact(
        base(), sample(), withhold=[find(base(), "report-zh")], events=["E-bd8a63bd-5"], key=REDACTOR,
        changes={"data/log/leaves.jsonl": leaves},
    )  # fmt: skip


# ---- 5 recomputation ----


def _recomputed(key: Key = RECOMPUTER, **options: Any) -> Make:
    def make() -> Files:
        record = lambda files, statement: recompute_record(sample(), statement, key, **options)  # noqa: E731
        return sealed(others=(RECOMPUTER,), seal=evidence(recompute=record))

    return make


AGAIN = {"trust": trust(keys=EVERYONE, required=("recomputes",))}
case("recompute/identical", _recomputed(), **AGAIN)
case("recompute/within-tolerance", _recomputed(status="within_tolerance"), **AGAIN)
case("recompute/differs", _recomputed(status="differs"), {"recompute"}, **AGAIN)
case("recompute/not-run", _recomputed(status="not_run"), exit_code=2, **AGAIN)
case("recompute/another-package", _recomputed(changes={"package_root": "0" * 64}), {"recompute"}, **AGAIN)
case("recompute/another-result", _recomputed(changes={"subjects": (("derived/E-bd8a63bd-3/result.json", "0" * 64, "0" * 64),)}), {"recompute"}, **AGAIN)  # fmt: skip
case("recompute/no-rows", _recomputed(changes={"results": (RecomputedResult("E-bd8a63bd-3", "drone.survey", "identical"),)}), exit_code=2, **AGAIN)  # fmt: skip


def _numbers(quantity: Any, *rows: tuple[str, str | None, str, str], unit: str = "m2", findings: Any = None) -> Make:
    """A finding that states `quantity`, and a record with rows (stated, found, tolerance, status) of it."""

    def make() -> Files:
        log = sample_log()
        derived = log.append("derived", {"derived/{e}/result.json": b"[]"})
        folder, item = f"derived/{derived['event_id']}/", derived["outputs"][0]["item"]
        stated = [{"id": "S-001", "quantity": quantity}] if findings is None else findings
        document = dumps({"schema": "geoevidence.findings.v1", "findings": stated, "folder": folder, "result": item})
        log.append("found", {"records/{e}/findings.json": document}, inputs=derived["outputs"])
        made = tuple(RecomputedQuantity("S-001", unit, *row) for row in rows)
        status = max((row[3] for row in rows), key=("identical", "within_tolerance", "not_run", "differs").index)

        def record(files: Files, statement: Statement) -> bytes:
            event, output = derived["event_id"], derived["outputs"][0]
            other = recompute_record(sample(), statement, RECOMPUTER)
            first = parse_recompute(parse_envelope(other).payload)
            return recompute_record(
                log, statement, RECOMPUTER,
                changes={
                    "subjects": (*first.subjects, (output["path"], output["sha256"], output["sm3"])),
                    "results": (*first.results, RecomputedResult(event, "drone.survey", status, None, made)),
                },
            )  # fmt: skip

        return sealed(log, others=(RECOMPUTER,), seal=evidence(recompute=record))

    return make


def _stated(value: str, uncertainty: Any) -> dict[str, Any]:
    return {"unit": "m2", "value": value, "standard_uncertainty": uncertainty, "coverage_factor": "2.0", "propagation": ""}


SAME = ("13.5", "13.5", "0.025", "identical")
case("recompute/number", _numbers(_stated("13.5", "0.25"), SAME), **AGAIN)
case("recompute/number-close", _numbers(_stated("13.5", "0.25"), ("13.5", "13.52", "0.025", "within_tolerance")), **AGAIN)
case("recompute/number-close-in-another-spelling", _numbers(_stated("13.5", "2.5e-1"), ("13.5", "1.352e+1", "2.5e-2", "within_tolerance")), **AGAIN)  # fmt: skip
case("recompute/number-without-uncertainty", _numbers(_stated("-1000.0", None), ("-1000.0", "-1000.0009", "0.001", "within_tolerance")), **AGAIN)  # fmt: skip
case("recompute/number-not-stated-so", _numbers(_stated("13.6", "0.25"), SAME), exit_code=2, **AGAIN)
case("recompute/number-of-another-unit", _numbers(_stated("13.5", "0.25"), SAME, unit="m3"), exit_code=2, **AGAIN)
case("recompute/number-called-identical", _numbers(_stated("13.5", "0.25"), ("13.5", "13.6", "0.025", "identical")), exit_code=2, **AGAIN)  # fmt: skip
case("recompute/number-outside-its-tolerance", _numbers(_stated("13.5", "0.25"), ("13.5", "13.6", "0.025", "within_tolerance")), exit_code=2, **AGAIN)  # fmt: skip
case("recompute/tolerance-too-wide", _numbers(_stated("13.5", "0.25"), ("13.5", "13.6", "0.2", "within_tolerance")), exit_code=2, **AGAIN)  # fmt: skip
case("recompute/tolerance-too-wide-without-uncertainty", _numbers(_stated("-1000.0", None), ("-1000.0", "-1000.0009", "0.0011", "within_tolerance")), exit_code=2, **AGAIN)  # fmt: skip
case("recompute/number-unreadable", _numbers(_stated("13,5", "0.25"), SAME), exit_code=2, **AGAIN)
case("recompute/quantity-unreadable", _numbers("13.5", SAME), exit_code=2, **AGAIN)
case("recompute/finding-without-number", _numbers(None, SAME), **AGAIN)
case("recompute/findings-unreadable", _numbers(None, SAME, findings=[7]), exit_code=2, **AGAIN)
case("recompute/finding-without-result", lambda: _finding_without_result(), exit_code=2, **AGAIN)
case("recompute/none-covered", _recomputed(changes={"subjects": (), "results": ()}), exit_code=2, **AGAIN)
case("recompute/untrusted", _recomputed(), exit_code=2, trust=trust(required=("recomputes",)))
case("recompute/unlisted-key", _recomputed(Key(62)), {"other_signatures"}, **AGAIN)


def _finding_without_result() -> Files:
    log = sample_log()
    log.append("found", {"records/{e}/findings.json": b"{}"})
    log.append("found", {"records/{e}/findings.json": b"[1.5]"})
    log.append("found", {"records/{e}/findings.json": b"{"})
    make = evidence(recompute=lambda files, statement: recompute_record(log, statement, RECOMPUTER))
    return sealed(log, others=(RECOMPUTER,), seal=make)


# ---- supplements ----


def _supplement(**options: Any) -> Make:
    return lambda: supplement_files(base(), key=AUTHOR, **options)


SUPPLEMENT = ("passed", "not_checked", "not_checked", "passed", "not_checked")
BY_AUTHOR = {"trust": trust(keys=EVERYONE)}
case("supplement/sound", _supplement(), package=base, verdicts=SUPPLEMENT)
case("supplement/trusted", _supplement(), package=base, **BY_AUTHOR)
case("supplement/zip", _supplement(), package=base, form="zip", verdicts=SUPPLEMENT)
case("supplement/alone", _supplement(), exit_code=2)
case("supplement/nothing-left-to-ask", _supplement(), exit_code=2, trust=trust(keys=EVERYONE, required=("recomputes",)))
case("supplement/stamped", _supplement(stamps=[(stamper(), "2026-11-25T09:00:00Z")]), package=base, trust=trust(keys=EVERYONE, authorities=(stamping(),), required=("intact", "time")))  # fmt: skip
case("supplement/of-another", _supplement(), {"supplement_of"}, package=full)
case(
    "supplement/document-of-another-statement", _supplement(document={"statement_sm3": "0" * 64}), {"supplement_of"}, package=base
)
case("supplement/document", _supplement(changes={"data/supplement.json": b"{}"}), {"supplement_of"}, package=base)
case("supplement/keys", _supplement(changes={"data/keys.json": b"[]"}), {"keys"}, package=base)
case("supplement/file-changed", flipped("data/files/x", 0, _supplement(files={"x": b"x"})), {"files"}, package=base)
case("supplement/file-elsewhere", tampered(lambda files: files.update({"data/x": b"x"}), _supplement()), {"layout", "listing", "tags"}, package=base)  # fmt: skip
case("supplement/closing", _supplement(closing={"case": "C-9999999999"}), {"closing"}, package=base)
case("supplement/statement-digest", _supplement(stated={"supplement_sha256": "0" * 64}), {"supplement_of"}, package=base)
case("supplement/recompute-without-record", _supplement(kind="recompute"), {"supplement_of"}, package=base)
case("supplement/time-without-stamp", _supplement(kind="time"), {"supplement_of"}, package=base)
case(
    "supplement/record-spoilt", _supplement(kind="recompute", files={"recompute.dsse": b"{}"}), {"other_signatures"}, package=base
)
case("supplement/time-of-another", _supplement(kind="time", files={"time-1.tsr": stamper().stamp(b"x", "2026-11-25T09:00:00Z")}), {"time_stamps"}, package=base)  # fmt: skip
case("supplement/time-alone", _supplement(kind="time", files={"time-1.tsr": stamper().stamp(b"x", "2026-11-25T09:00:00Z")}), exit_code=2)  # fmt: skip
case("supplement/stamp-of-another", tampered(lambda files: files.update({"seal/time-1.tsr": b"x"}), _supplement()), {"closing", "seal"}, package=base)  # fmt: skip
case("supplement/stamp-untrusted", _supplement(stamps=[(stamper(2), "2026-11-25T09:00:00Z")]), exit_code=2, package=base, trust=trust(keys=EVERYONE, authorities=(stamping(),), required=("time",)))  # fmt: skip
case("supplement/of-a-broken-package", _supplement(), exit_code=2, package=flipped("statement.dsse", 0))
case("supplement/statement-spoilt", flipped("statement.dsse", 0, _supplement()), {"seal", "closing"}, package=base)
case("supplement/closing-spoilt", flipped("closing.dsse", 0, _supplement()), {"seal"}, package=base)
case("supplement/closing-gone", tampered(lambda files: files.pop("seal/closing.dsse"), _supplement()), {"layout"}, package=base)
case("supplement/document-gone", tampered(lambda files: files.pop("data/supplement.json"), _supplement()), {"layout", "listing", "tags"}, package=base)  # fmt: skip
case("supplement/keys-gone", tampered(lambda files: files.pop("data/keys.json"), _supplement()), {"layout", "listing"}, package=base)  # fmt: skip
case("supplement/document-changed", flipped("supplement.json", 20, _supplement()), {"files"}, package=base)
case("supplement/archive-damaged", _supplement(), exit_code=1, failed={"container"}, form="zip", prepare=lambda path: path.write_bytes(path.read_bytes()[:-9]))  # fmt: skip
case("with-supplement/sound", base, supplements=(_supplement(),), verdicts=BUILT_IN)
case("with-supplement/broken", base, exit_code=1, supplements=(flipped("supplement.json", 20, _supplement()),))
case("with-supplement/recompute", base, supplements=(lambda: _recompute_supplement(),), **AGAIN)
case("with-supplement/time", base, supplements=(lambda: _time_supplement(),), trust=trust(keys=EVERYONE, authorities=(stamping(),), required=("time",)))  # fmt: skip


def _recompute_supplement() -> Files:
    from geoevidence.trust import parse_envelope
    from geoevidence.trust.manifest import parse_statement

    statement = parse_statement(parse_envelope(base()["seal/statement.dsse"]).payload)
    record = recompute_record(sample(), statement, AUTHOR)
    return supplement_files(base(), kind="recompute", key=AUTHOR, files={"recompute.dsse": record})


def _time_supplement() -> Files:
    token = stamper().stamp(base()["seal/proof.tlog"], "2026-11-25T09:00:00Z")
    return supplement_files(base(), kind="time", key=AUTHOR, files={"time-1.tsr": token})


# ---- the container ----

case("container/archive-damaged", base, {"container"}, form="zip", prepare=lambda path: path.write_bytes(path.read_bytes()[:-9]))
case("paths/collision", lambda: sealed(more={"data/originals/E-bd8a63bd-2/dcim/照片 1.JPG": b"x"}), {"paths", "items"})
case("paths/file-and-folder", lambda: sealed(more={"data/originals/E-bd8a63bd-2/dcim": b"x"}), {"paths", "items"}, form="zip")
case("container/not-a-package", lambda: {"x": b"x"}, {"layout"})
