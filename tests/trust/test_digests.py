"""Digests, commitments, short codes."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.trust import (
    Digest,
    FormatError,
    VerificationError,
    commitment,
    digest_bytes,
    digest_file,
    open_commitment,
    short_code,
)
from geoevidence.trust.digests import BLOCK, PureSM3, has_fast_sm3, new_sm3

# GB/T 32905-2016 annex A, examples 1 and 2
SM3 = {
    b"abc": "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
    b"abcd" * 16: "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
}


@pytest.mark.parametrize("data", sorted(SM3))
def test_sm3_of_the_standard(data: bytes) -> None:
    assert PureSM3(data).hexdigest() == SM3[data] == digest_bytes(data).sm3


@given(st.binary(max_size=300), st.integers(0, 300))
def test_pure_sm3_agrees_with_openssl_in_any_pieces(data: bytes, cut: int) -> None:
    if "sm3" not in hashlib.algorithms_available:
        pytest.skip("SM3 absent: OpenSSL of this Python has none to compare with")
    pure = PureSM3(data[:cut])
    pure.digest()
    pure.update(data[cut:])
    assert pure.digest() == hashlib.new("sm3", data).digest()


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 128])
def test_pure_sm3_padding(size: int) -> None:
    reference = new_sm3()
    reference.update(b"a" * size)
    assert PureSM3(b"a" * size).hexdigest() == reference.hexdigest()


def test_file_is_read_once_in_blocks() -> None:
    data = bytes(range(256)) * (BLOCK // 256) + b"tail"
    blocks: list[int] = []
    found = digest_file(io.BytesIO(data), on_block=blocks.append)
    assert found == digest_bytes(data)
    assert found.sha256 == hashlib.sha256(data).hexdigest() and found.size == len(data)
    assert blocks == [BLOCK, 4]


def test_digest_prints_and_parses() -> None:
    digest = Digest("sha256", hashlib.sha256(b"").digest())
    assert str(digest) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Digest.parse(str(digest)) == digest and digest.hex == str(digest)[7:]


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 32, "0" * 64, None, 7, "sm3:" + "٠" * 64]
)
def test_digest_refuses(text: object) -> None:
    with pytest.raises(FormatError):
        Digest.parse(text)
    with pytest.raises(FormatError):
        Digest("sha256", b"short")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.binary(min_size=32, max_size=32))
def test_commitment_opens_for_its_text_only(value: str, salt: bytes) -> None:
    made = commitment(value, salt.hex())
    assert open_commitment(made, {"salt": salt.hex(), "value": value}) == value
    with pytest.raises(VerificationError):
        open_commitment(made, {"salt": salt.hex(), "value": value + "x"})


def test_commitment_is_as_documented() -> None:
    salt = "00" * 32
    expected = hashlib.sha256(('{"salt":"' + salt + '","value":"张三"}').encode()).hexdigest()
    assert commitment("张三", salt) == f"sha256:{expected}"


@pytest.mark.parametrize(
    "disclosure",
    [None, {}, {"salt": "00" * 32}, {"salt": "00", "value": "x"}, {"salt": "00" * 32, "value": 1}, {"salt": 1, "value": "x"}],
)
def test_disclosure_of_another_shape_is_refused(disclosure: object) -> None:
    with pytest.raises(FormatError):
        open_commitment("sha256:" + "0" * 64, disclosure)


def test_short_code_is_the_first_80_bits() -> None:
    assert short_code(bytes(32)) == "0000-0000-0000-0000"
    assert short_code(b"\xff" * 10 + bytes(22)) == "ZZZZ-ZZZZ-ZZZZ-ZZZZ"
    # 00001 00010 ... 10000: the digits 1 to 16
    number = int("".join(f"{digit:05b}" for digit in range(1, 17)), 2)
    assert short_code(number.to_bytes(10, "big")) == "1234-5678-9ABC-DEFG"


def test_without_openssl_sm3_the_pure_one_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ValueError(f"unsupported hash type {name}")

    before = digest_bytes(b"abc")
    monkeypatch.setattr(hashlib, "new", absent)
    assert isinstance(new_sm3(), PureSM3) and not has_fast_sm3()
    assert digest_bytes(b"abc") == before == digest_file(io.BytesIO(b"abc"))
