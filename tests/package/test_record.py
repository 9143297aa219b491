"""The paper record: what it says, that a phone reads its code, that the same package gives the same page."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import segno

from geoevidence.package.record import PaperRecord
from geoevidence.trust.digests import short_code
from geoevidence.trust.manifest import Statement
from geoevidence.trust.notes import LogCheckpoint

ROOT = hashlib.sha256(b"root").digest()


@pytest.fixture
def record() -> PaperRecord:
    statement = Statement(
        subjects={}, case="C-0123456789", workspace="W-0123456789", items=1234, package_root="ab" * 32, checkpoint_before="-",
        software="geoevidence 0.1.0", time_claimed="2026-11-23T20:00:00Z", demonstration=False,
    )  # fmt: skip
    return PaperRecord(
        number="川检公益〔2026〕12号",
        cause="<b>某河段</b>",
        statement=statement,
        files=1234,
        size=5_123_456,
        statement_sha256="cd" * 32,
        head=LogCheckpoint("geoevidence/W-0123456789/C-0123456789", 42, ROOT),
    )


def test_it_says_what_fixes_the_package(record: PaperRecord) -> None:
    page = record.to_html()
    assert record.code == short_code(ROOT) and f"<b>{record.code}</b>" in page
    assert f"python3 verify.pyz PACKAGE --code {record.code}" in page
    plain = re.sub(r"<[^>]*>| ", "", page)
    for text in ("ab" * 32, "cd" * 32, ROOT.hex(), "geoevidence/W-0123456789/C-0123456789", "1,234", "5,123,456"):
        assert text in plain
    # Beijing time beside UTC, and both are called claimed
    assert "2026-11-24 04:00:00" in page and "2026-11-23T20:00:00Z" in page and "自称" in page
    assert page.count("<div>") >= 4 and all(word in page for word in ("取证人一", "取证人二", "见证人", "first officer"))


def test_what_a_case_says_is_text_and_never_markup(record: PaperRecord) -> None:
    page = record.to_html()
    assert "&lt;b&gt;某河段&lt;/b&gt;" in page and "<b>某河段</b>" not in page
    assert "default-src 'none'" in page and "<script" not in page and "http://" not in page.replace("http://www.w3.org/", "")


def test_the_code_is_read_by_another_program(record: PaperRecord) -> None:
    """OpenCV's detector reads the same text from the modules that stand in the page."""
    code = segno.make(record.qr_text, error="m", micro=False, boost_error=False)
    assert code.svg_inline(scale=1, border=4, omitsize=True, dark="#000", light="#fff", title=None, desc=None) in record.to_html()
    picture = io.BytesIO()
    code.save(picture, kind="png", scale=8, border=4)
    image = cv2.imdecode(np.frombuffer(picture.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert cv2.QRCodeDetector().detectAndDecode(image)[0] == record.qr_text == f"geoevidence:1:{record.code}:{ROOT.hex()}"


def test_the_same_package_gives_the_same_page(record: PaperRecord) -> None:
    assert record.to_html() == replace(record).to_html()
    marked = replace(record, statement=replace(record.statement, demonstration=True)).to_html()
    assert "演示数据" in marked and "演示数据" not in record.to_html()
