"""JSON bytes: RFC 8785 writing against another implementation, and a reader that refuses what is ambiguous."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.trust import FormatError, canonical, dumps, loads, loads_canonical
from geoevidence.trust.canonical import MAX_DEPTH, MAX_INTEGER, base64_text, base64_value

SCALARS = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_writes_what_the_other_implementation_writes_and_reads_it_back(value: Any) -> None:
    data = dumps(value)
    assert data == rfc8785.dumps(value)
    assert loads_canonical(data) == value == loads(json.dumps(value).encode())


def test_names_are_sorted_by_utf16_units() -> None:
    # RFC 8785 section 3.2.3, without its control character U+0080 spelled as an escape
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\u00f6"]
    found = dumps({name: 0 for name in names})
    assert list(json.loads(found)) == ["\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_strings_are_escaped_as_rfc_8785_section_3_2_2_2_asks() -> None:
    assert dumps('\u20ac$\x0f\nA\'B"\\\\"/\x7f') == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/\x7f"'.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":1}', "trust.json_duplicate"),
        (b'{"a":1,"\\u0061":2}', "trust.json_duplicate"),
        (b'[{"b":{"x":1,"x":1}}]', "trust.json_duplicate"),
        (b"NaN", "trust.json_constant"),
        (b"-Infinity", "trust.json_constant"),
        (b"1.0", "trust.json_float"),
        (b"1e2", "trust.json_float"),
        (b"9007199254740992", "trust.json_integer"),
        (b"-9007199254740992", "trust.json_integer"),
        (b"1" * 5000, "trust.json_integer"),
        (b'"\\ud800"', "trust.json_surrogate"),
        (b'{"\\udfff":1}', "trust.json_surrogate"),
        (b'"\xed\xa0\x80"', "trust.json_utf8"),
        (b'"\xff"', "trust.json_utf8"),
        (b"\xef\xbb\xbf1", "trust.json_bom"),
        ('{"a":1}'.encode("utf-16"), "trust.json_utf8"),
        ('{"a":1}'.encode("utf-16-le"), "trust.json_syntax"),
        (b"", "trust.json_syntax"),
        (b"1 2", "trust.json_syntax"),
        (b"[1,]", "trust.json_syntax"),
        (b"01", "trust.json_syntax"),
        (b"'a'", "trust.json_syntax"),
        (b'"\n"', "trust.json_syntax"),
        (b'"\\x41"', "trust.json_syntax"),
        (b"\xc2\xa01", "trust.json_syntax"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "trust.json_depth"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "trust.json_depth"),
    ],
)
def test_refuses_what_is_ambiguous(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        loads(data, where="x.json")
    assert caught.value.message_id == message
    assert "x.json" in caught.value.render("zh")


def test_limits_are_where_they_say() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert dumps(loads(deepest)) == deepest
    assert loads(b"9007199254740991") == MAX_INTEGER
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"
    with pytest.raises(FormatError, match="more than the limit"):
        loads(b"[1,2]", max_bytes=4)
    assert loads(b"[1,2]", max_bytes=5) == [1, 2]


def test_many_small_values_are_refused_before_they_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "MAX_VALUES", 10)
    assert loads(b'["' + b"x" * 20 + b'"' + b",1" * 9 + b"]")[1:] == [1] * 9
    with pytest.raises(FormatError) as caught:
        loads(b'["' + b"x" * 20 + b'"' + b",1" * 10 + b"]")
    assert caught.value.message_id == "trust.json_values" and caught.value.values["limit"] == 10
    # a long document may hold more, in proportion
    assert len(loads(b'["' + b"x" * 400 + b'"' + b",1" * 20 + b"]")) == 21


def test_floats_only_where_allowed_and_finite() -> None:
    assert loads(b"[1.5,-2e3]", allow_floats=True) == [1.5, -2000.0]
    with pytest.raises(FormatError):
        loads(b"1e999", allow_floats=True)


@pytest.mark.parametrize(
    "value", [1.5, MAX_INTEGER + 1, "\ud800", {"\ud800": 1}, {1: 2}, b"bytes", {1, 2}, [[float("nan")]], 10**4000]
)
def test_writer_refuses(value: Any) -> None:
    with pytest.raises(FormatError):
        dumps(value)


def test_writer_refuses_a_value_that_holds_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(FormatError):
        dumps(endless)


@pytest.mark.parametrize("data", [b'{"a": 1}', b'{"b":1,"a":2}', b'"\\u0041"', b'"\\/"', b" 1", b"-0", b'"\\u001F"'])
def test_one_value_has_one_encoding(data: bytes) -> None:
    loads(data)
    with pytest.raises(FormatError) as caught:
        loads_canonical(data)
    assert caught.value.message_id == "trust.json_not_canonical"


@given(st.binary(max_size=60) | st.text('{}[]",:\\u0019eE-+.ntfa \n').map(str.encode))
def test_hostile_bytes_raise_only_our_error(data: bytes) -> None:
    try:
        value = loads(data, allow_floats=True)
    except FormatError:
        return
    assert json.loads(data) == value


@given(st.binary(max_size=40))
def test_base64_round_trip(data: bytes) -> None:
    assert base64_value(base64_text(data), where="x") == data


@pytest.mark.parametrize("text", ["QQ", "QR==", "QQ==\n", " QQ==", "Q-==", "QQ===", "é", None, 5, "QQ==QQ=="])
def test_base64_has_one_spelling(text: Any) -> None:
    with pytest.raises(FormatError):
        base64_value(text, where="x")
