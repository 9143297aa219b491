"""Metadata from outside: what two parsers could read differently, or what reaches out, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.errors import FormatError
from satellite import strict
from satellite.assets import local_file
from satellite.strict import read_json, read_xml


@pytest.mark.parametrize("raw", [b'{"a": 1, "a": 2}', b"NaN", b"[Infinity]", b"\xff\xfe", b"{", b"", b"[" * 100_000])
def test_bad_json(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.json").write_bytes(raw)
    with pytest.raises(FormatError):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "http://example.invalid/a.dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>',
        "<a>&b;</a>",
        "<a><b></a></b>",
        "<a/><b/>",
        "",
        "<a>" * 200 + "</a>" * 200,
    ],
)
def test_bad_xml(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(FormatError):
        read_xml(tmp_path / "x.xml")


def test_namespaces_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text('<n:a xmlns:n="urn:x" n:k="1"><b>&lt;&#65;</b></n:a>')
    root = read_xml(tmp_path / "x.xml")
    assert (root.tag, root.get("k"), root.findtext("b")) == ("a", "1", "<A")


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "MAX_BYTES", 10)
    (tmp_path / "x.json").write_text('"0123456789"')
    with pytest.raises(FormatError) as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.message_id == "satellite.metadata_too_large"


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=30) | st.sampled_from(["../x", "a/../../x", "/etc/hostname", "file:///etc/hostname", "//host/x", "%2e%2e/x"])
)
def test_no_name_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, href: str) -> None:
    root = tmp_path_factory.getbasetemp() / "root"
    (root / "base").mkdir(parents=True, exist_ok=True)
    (root / "base" / "in.tif").touch()
    (root.parent / "x").touch()
    path, status = local_file(root, root / "base", href)
    assert (path is None) == (status != "read")
    if path is not None:
        assert path.is_relative_to(root.resolve())
    assert local_file(root, root / "base", "in.tif")[1] == local_file(root, root / "base", "../base/in.tif")[1] == "read"
