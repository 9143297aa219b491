"""Trust files: put together key by key, always what the verifier's own parser accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoevidence.custody import (
    KeyFolder,
    TrustFile,
    WitnessKey,
    public_key_list,
    read_certificate,
    read_package_keys,
    read_public_keys,
)
from geoevidence.custody.keyfiles import certificates_pem
from geoevidence.errors import ConfigError, FormatError, GeoEvidenceError, InputError
from geoevidence.trust.policy import parse_policy
from geoevidence.trust.signatures import PublicKey
from tests.custody.sm2 import Sm2Holder, Sm2Key, public_pem
from tests.custody.workspaces import Place, full_case, session
from tests.trust import tree
from tests.trust.authority import openssl
from tests.trust.builder import write_folder

KEY = PublicKey("ed25519", bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))  # RFC 8032, test 1


@pytest.fixture
def trusted(tmp_path: Path) -> TrustFile:
    return TrustFile(tmp_path / "config" / "trust.json")


def refused(act: object, message_id: str) -> None:
    with pytest.raises(GeoEvidenceError) as raised:
        act()  # type: ignore[operator]
    assert raised.value.message_id == message_id, raised.value


def test_a_key_is_trusted_with_holder_roles_and_term(trusted: TrustFile) -> None:
    trusted.add_key(KEY, holder=" 张三 ", valid_from="2026-01-01", valid_to="2026-12-31")
    trusted.save()
    policy = parse_policy(trusted.path.read_bytes())
    assert policy == TrustFile(trusted.path).policy and policy.required == ("intact", "signed", "continuous")
    (key,) = policy.keys
    assert (key.key, key.holder, key.roles) == (KEY, "张三", ("operator", "log", "package"))
    assert (key.valid_from, key.valid_to, key.revoked_at_tree_size) == ("2026-01-01T00:00:00Z", "2026-12-31T23:59:59Z", None)
    assert trusted.path.read_bytes() == policy.to_bytes()


def test_adding_again_replaces_and_keeps_the_revocation(trusted: TrustFile) -> None:
    trusted.add_key(KEY, holder="张三", valid_from="2026-01-01")
    trusted.revoke_key(KEY.key_id[:8], 7)
    trusted.add_key(KEY, holder="李四", roles=["witness", "witness"], valid_from="2026-02-01T08:00:00Z")
    (key,) = trusted.policy.keys
    assert (key.holder, key.roles, key.valid_from, key.revoked_at_tree_size) == ("李四", ("witness",), "2026-02-01T08:00:00Z", 7)
    assert trusted.remove(KEY.key_id) == "李四" and trusted.policy.keys == ()


def test_authorities_and_their_revocations(trusted: TrustFile, tmp_path: Path) -> None:
    holder = Sm2Holder()
    (tmp_path / "root.pem").write_bytes(certificates_pem((holder.root,)))
    root = read_certificate(tmp_path / "root.pem")
    trusted.add_authority(root, holder="演示根", purposes=["sign", "time"])
    trusted.revoke_certificate(root.sha256[:10], "00:0A", "2026-06-01")
    trusted.revoke_certificate(root.sha256[:10], "ff", "2026-07-01T00:00:00Z")
    trusted.add_authority(root, holder="演示根二", purposes=["time"])
    trusted.save()
    (authority,) = parse_policy(trusted.path.read_bytes()).authorities
    assert (authority.holder, authority.purposes, authority.roles) == ("演示根二", ("time",), ())
    assert dict(authority.revoked) == {10: "2026-06-01T00:00:00Z", 255: "2026-07-01T00:00:00Z"}
    refused(lambda: trusted.revoke_key(root.sha256, 3), "custody.trust_revoke")
    refused(lambda: trusted.revoke_certificate(root.sha256, "x", "2026-06-01"), "custody.trust_revoke")
    refused(lambda: trusted.add_authority(root, holder="x", purposes=[]), "custody.trust_refused")
    refused(lambda: trusted.add_authority(root, holder="x", purposes=["seal"]), "custody.trust_refused")
    assert trusted.remove(root.sha256) == "演示根二" and trusted.policy.authorities == ()


def test_witnesses_and_their_number(trusted: TrustFile) -> None:
    refused(lambda: trusted.set_threshold(1), "custody.trust_threshold")
    trusted.add_key(KEY, holder="见证方", roles=["witness"], valid_from="2026-01-01")
    trusted.set_threshold(1)
    assert trusted.policy.witness_threshold == 1
    refused(lambda: trusted.set_threshold(2), "custody.trust_threshold")
    refused(lambda: trusted.set_threshold(-1), "custody.trust_threshold")


def test_required_verdicts(trusted: TrustFile) -> None:
    trusted.require(["time", "intact"])
    assert trusted.policy.required == ("intact", "time")
    refused(lambda: trusted.require([]), "custody.trust_verdict")
    refused(lambda: trusted.require(["true"]), "custody.trust_verdict")


def test_what_makes_no_sense_is_refused_and_changes_nothing(trusted: TrustFile, tmp_path: Path) -> None:
    trusted.add_key(KEY, holder="张三", valid_from="2026-01-01")
    before = trusted.policy
    refused(lambda: trusted.add_key(KEY, holder=" ", valid_from="2026-01-01"), "custody.trust_holder")
    for moment in ("gestern", "2026-13-01", "2026-01-01T00:00:00+08:00"):
        refused(lambda moment=moment: trusted.add_key(KEY, holder="x", valid_from=moment), "custody.trust_time")
    refused(lambda: trusted.remove(""), "custody.trust_which")
    refused(lambda: trusted.remove("0000"), "custody.trust_which")
    refused(lambda: trusted.revoke_key(KEY.key_id, -1), "custody.trust_revoke")
    assert trusted.policy == before
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError):
        TrustFile(tmp_path / "file" / "trust.json").save()
    (tmp_path / "broken.json").write_bytes(b"{}")
    with pytest.raises(FormatError):
        TrustFile(tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("words", "algorithm"),
    [
        (("-algorithm", "ed25519"), "ed25519"),
        (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), "ecdsa-p256-sha256"),
        (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"), "ecdsa-p384-sha384"),
        (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2"), "sm2-sm3"),
    ],
)
def test_public_keys_of_openssl_are_read(tmp_path: Path, words: tuple[str, ...], algorithm: str) -> None:
    openssl("genpkey", *words, "-out", tmp_path / "key.pem")
    openssl("pkey", "-in", tmp_path / "key.pem", "-pubout", "-out", tmp_path / "public.pem")
    (key,) = read_public_keys(tmp_path / "public.pem")
    assert key.algorithm == algorithm
    shown = "".join(openssl("pkey", "-in", tmp_path / "key.pem", "-text", "-noout").stdout.decode().split()).replace(":", "")
    assert key.raw.hex() in shown


def test_other_files_of_keys(tmp_path: Path) -> None:
    place = Place(tmp_path)
    full_case(place)
    folder = KeyFolder(place.root / "keys")
    (tmp_path / "list.json").write_bytes(public_key_list(folder.describe()))
    assert read_public_keys(tmp_path / "list.json") == (place.session.signer.public_key,)
    both = public_pem(Sm2Key.make()) + public_pem(Sm2Key.make())
    (tmp_path / "two.pem").write_bytes(both)
    assert len(set(read_public_keys(tmp_path / "two.pem"))) == 2
    openssl("genpkey", "-algorithm", "RSA", "-out", tmp_path / "rsa.pem")
    openssl("pkey", "-in", tmp_path / "rsa.pem", "-pubout", "-out", tmp_path / "rsa-public.pem")
    (tmp_path / "damaged.pem").write_bytes(b"-----BEGIN PUBLIC KEY-----\nMCo\n-----END PUBLIC KEY-----\n")
    for name, data in (("empty", b""), ("text", b"text"), ("binary", b"\xff\xfe")):
        (tmp_path / name).write_bytes(data)
    for name in ("rsa-public.pem", "damaged.pem", "empty", "text", "binary"):
        refused(lambda name=name: read_public_keys(tmp_path / name), "custody.public_key_file")
    refused(lambda: read_public_keys(tmp_path / "absent"), "core.cannot_read")
    refused(lambda: read_package_keys(place.workspace.path), "custody.public_key_file")
    with pytest.raises(ConfigError):
        TrustFile(tmp_path / "trust.json").remove("x")


def test_a_term_is_of_real_days_in_their_order(tmp_path: Path) -> None:
    trusted = TrustFile(tmp_path / "trust.json")
    key = session(tmp_path / "keys").signer.public_key
    for since, until, message_id in (
        ("2026-02-30", None, "custody.trust_time"),
        ("2026-02-01T24:00:00Z", None, "custody.trust_time"),
        ("2026-02-01", "2026-01-31", "custody.trust_term"),
    ):
        with pytest.raises(ConfigError) as caught:
            trusted.add_key(key, holder="x", valid_from=since, valid_to=until)
        assert caught.value.message_id == message_id
    assert trusted.policy.keys == ()
    trusted.add_key(key, holder="张三　检察官", valid_from="2026-02-01", valid_to="2026-02-01")


@pytest.mark.parametrize("holder", [" ", "a\nb", "a\x1b[2Jb", "\u202egnp.exe"])
def test_a_holder_is_one_line_that_moves_nothing(tmp_path: Path, holder: str) -> None:
    trusted = TrustFile(tmp_path / "trust.json")
    with pytest.raises(ConfigError) as caught:
        trusted.add_key(session(tmp_path / "keys").signer.public_key, holder=holder, valid_from="2026-02-01")
    assert caught.value.message_id == "custody.trust_holder"


def test_a_witness_that_is_still_asked_for_is_not_removed(tmp_path: Path) -> None:
    trusted = TrustFile(tmp_path / "trust.json")
    key = session(tmp_path / "keys").signer.public_key
    trusted.add_key(key, holder="w", valid_from="2026-02-01", roles=["witness"])
    trusted.set_threshold(1)
    with pytest.raises(ConfigError) as caught:
        trusted.remove(key.key_id)
    assert caught.value.message_id == "custody.trust_threshold"
    trusted.set_threshold(0)
    assert trusted.remove(key.key_id) == "w"


def test_two_changes_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    one, two = (session(tmp_path / f"keys-{n}", seed=n).signer.public_key for n in (1, 2))
    first, second = TrustFile(path), TrustFile(path)
    first.add_key(one, holder="a", valid_from="2026-02-01")
    second.add_key(two, holder="b", valid_from="2026-02-01")
    first.save()
    path.chmod(0o600)
    with pytest.raises(InputError) as caught:
        second.save()
    assert caught.value.message_id == "custody.trust_changed"
    again = TrustFile(path)
    again.add_key(two, holder="b", valid_from="2026-02-01")
    again.save()
    assert {each.holder for each in TrustFile(path).policy.keys} == {"a", "b"}
    # who may read it is its owner's affair
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_neither_text_nor_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"witness.example+\xff\xfe")
    refused(lambda: read_public_keys(path), "custody.public_key_file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_bytes(b"x")
    refused(lambda: read_package_keys(tmp_path / "folder"), "custody.public_key_file")


def test_verifier_keys_and_the_keys_of_a_package_are_read(tmp_path: Path) -> None:
    other = PublicKey("ed25519", bytes(range(32)))
    lines = [WitnessKey.of_witness(each).text for each in (KEY, other)]
    (tmp_path / "witnesses").write_text("\n" + "\n".join(lines) + "\n\n", encoding="utf-8")
    assert read_public_keys(tmp_path / "witnesses") == (KEY, other)
    package = write_folder(tree.base(), tmp_path / "P")
    assert tree.KEY.public in read_package_keys(package)
    supplement = write_folder(tree._supplement()(), tmp_path / "S")
    assert read_package_keys(supplement) == (tree.AUTHOR.public,)
