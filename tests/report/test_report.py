"""The report: what it says, what stops it, and that its bytes and its markup are safe."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

import pypdf
import pytest

from geoevidence.errors import PackageError
from geoevidence.messages import render
from geoevidence.report import Document, Rows, SignatureLines, Table, Text, build_document, render_pdf
from geoevidence.report.typst import pdf_bytes
from geoevidence.trust.notes import Cosignature, LogCheckpoint, NoteSignature, SignedNote
from geoevidence.types import Message, Quantity
from tests.report.conftest import SampleCase, make_case, with_finding


def words(document: Document) -> str:
    """Every text of the document, block by block."""
    parts: list[str] = [document.title, document.subtitle, document.mark, document.footer]
    for section in document.sections:
        parts.append(section.title)
        for block in section.blocks:
            if isinstance(block, Text):
                parts.append(block.text)
            elif isinstance(block, Rows):
                parts += [f"{label}: {value}" for label, value in block.rows]
            elif isinstance(block, SignatureLines):
                parts += [role for role, _ in block.roles]
            elif isinstance(block, Table):
                parts += [" ".join(row) for row in (block.header, *block.rows)]
            else:
                parts += [f"{figure.caption} {figure.item}" for figure in block.figures]
    return "\n".join(parts)


def pages(pdf: bytes) -> list[str]:
    # invisible break points stand inside long runs
    return [page.extract_text().replace("\u200b", "") for page in pypdf.PdfReader(io.BytesIO(pdf)).pages]


@pytest.fixture(scope="session")
def pdf(sample: SampleCase) -> bytes:
    return pdf_bytes(build_document(sample, lang="zh"))


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_no_text_is_missing(sample: SampleCase, lang: str) -> None:
    said = words(build_document(sample, lang=lang))
    assert not re.search(r"\b(report|app|core|case\.field|custody)\.[a-z_]+", said)
    assert "{" not in said


def test_the_five_questions_are_answered(sample: SampleCase) -> None:
    said = words(build_document(sample, lang="zh"))
    assert "可能发生在 2025-08-14 至 2025-09-03 之间" in said
    assert "120000 ± 6200 m² (k=2)" in said
    assert "MOSUM" in said
    assert "此前有 48 个日期的清晰影像支持。" in said
    assert "不能证明何人所为。" in said
    assert "2025-08-24 的影像读取失败" in said


def test_the_place_is_told_in_cgcs2000(sample: SampleCase) -> None:
    said = words(build_document(sample, lang="zh"))
    assert "CGCS2000 / 3-degree Gauss-Kruger CM 114E (EPSG:4547)" in said
    assert "北 3319950.00 m，东 404300.00 m" in said  # centre of the outline in the fixture
    # 3319950 N, 404300 E in zone 114E: 30.0 deg N, 113.0 deg E to half a hundredth (one degree is about 96 km there)
    found = re.search(r"(\d+\.\d{6})°E，(\d+\.\d{6})°N", said)
    assert found is not None
    assert abs(float(found[1]) - (114 - 95700 / 96486)) < 0.005
    assert abs(float(found[2]) - 29.995) < 0.005


def test_a_case_without_a_certificate_is_auxiliary(sample: SampleCase) -> None:
    assert build_document(sample, lang="zh").subtitle == "辅助测量"
    certified = replace(sample, sheet={"surveying_certificate": "甲测资字 42100000"})
    assert build_document(certified, lang="zh").subtitle == "测量报告"


def test_every_digest_stands_in_the_annex(sample: SampleCase, pdf: bytes) -> None:
    text = "".join(pages(pdf)).replace("\n", "")
    for item in sample.items():
        assert item.sha256 in text
        assert item.sm3 in text


def test_demonstration_data_are_marked_on_every_page(sample: SampleCase, pdf: bytes) -> None:
    said = pages(pdf)
    assert len(said) >= 6
    assert all("演示数据（合成）" in page for page in said)
    real = replace(with_finding(sample, synthetic=False), demonstration=False)
    stored = real.stored[0]
    real = replace(real, stored=(replace(stored, result=replace(stored.result, synthetic=False)),))
    assert not any("演示数据（合成）" in page for page in pages(pdf_bytes(build_document(real, lang="zh"))))


def test_the_same_case_gives_the_same_bytes(sample: SampleCase, tmp_path: Path, pdf: bytes) -> None:
    again = make_case(tmp_path)
    out = render_pdf(build_document(again, lang="zh"), tmp_path / "report.pdf")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == hashlib.sha256(pdf).hexdigest()
    assert not (tmp_path / "report.pdf.part").exists()


def test_the_file_claims_pdf_a_and_the_time_of_the_log(sample: SampleCase, pdf: bytes) -> None:
    reader = pypdf.PdfReader(io.BytesIO(pdf))
    metadata = reader.trailer["/Root"]["/Metadata"].get_data().decode()
    assert re.search(r"<pdfaid:part>2</pdfaid:part>\s*<pdfaid:conformance>B", metadata)
    assert reader.metadata is not None
    assert reader.metadata.creation_date == sample.events()[-1].time_claimed
    fonts = {
        str(font["/BaseFont"]).partition("+")[2]
        for page in reader.pages
        for font in (f.get_object() for f in page["/Resources"]["/Font"].values())
    }
    assert fonts <= {"NotoSansSC-Regular", "NotoSansSC-Bold", "DejaVuSansMono", "NotoSansSC-400", "NotoSansSC-700"}


@pytest.mark.parametrize(
    "hostile", ['#image("/etc/passwd")', "$x^2$ *b* _i_ `c` = h <l> @r \\", "[]{}()#let x = 1; #x", "a\u200bb" * 40, "x" * 900]
)
def test_a_field_is_printed_as_it_is(sample: SampleCase, hostile: str) -> None:
    case = replace(sample, sheet={"question": hostile, "commissioner": "某县人民检察院"})
    whole = build_document(case, lang="zh")
    document = replace(whole, sections=whole.sections[1:2])  # the case sheet alone: pictures take their time
    squeezed = re.sub(r"\s", "", "".join(pages(pdf_bytes(document))))
    assert re.sub(r"\s", "", hostile.replace("\u200b", "")) in squeezed


def test_nothing_to_report_is_refused(sample: SampleCase) -> None:
    with pytest.raises(PackageError) as caught:
        build_document(replace(sample, stored=()), lang="zh")
    assert caught.value.message_id == "report.no_findings"


@pytest.mark.parametrize(
    ("changes", "message_id"),
    [
        ({"method": Message(id="")}, "report.no_method"),
        ({"quantity": Quantity(value=1.0, unit="m2", standard_uncertainty=0.1)}, "report.no_error"),
        ({"quantity": Quantity(value=1.0, unit="m2", standard_uncertainty=None)}, "report.no_error"),
    ],
)
def test_a_finding_without_method_or_error_stops_the_report(
    sample: SampleCase, changes: dict[str, object], message_id: str
) -> None:
    with pytest.raises(PackageError) as caught:
        build_document(with_finding(sample, **changes), lang="zh")
    assert caught.value.message_id == message_id
    assert "S-001" in caught.value.render("zh")


def test_a_missing_picture_is_an_error_not_a_gap(sample: SampleCase, tmp_path: Path) -> None:
    with pytest.raises(PackageError) as caught:
        pdf_bytes(build_document(replace(sample, folder=tmp_path / "gone"), lang="zh"))
    assert caught.value.message_id == "report.no_picture"


def test_no_legal_word(sample: SampleCase) -> None:
    said = words(build_document(sample, lang="zh")).replace("也不认定任何行为是否违法", "")
    assert not re.search("违法|非法|犯罪|盗采", said)


def test_the_time_before_recording_is_asked_about_and_left_open(sample: SampleCase) -> None:
    """The same facts as data/before-recording.json: five answers, and what the files say of their own time."""
    answered = replace(sample, sheet={**sample.sheet, "before_source": "操控员李四自行拍摄"})
    for lang in ("zh", "en"):
        section = next(
            s for s in build_document(answered, lang=lang).sections if s.title == render("report.before.title", {}, lang)
        )
        questions = next(block for block in section.blocks if isinstance(block, Rows)).rows
        assert [text for _, text in questions] == ["操控员李四自行拍摄", "", "", "", ""]
        assert all(not label.startswith("case.field") for label, _ in questions)
        (row,) = next(block for block in section.blocks if isinstance(block, Table)).rows
        assert row[0] == "E-1f3a9c02-2" and row[4:6] == ("SD-1", "2")
        assert (
            ("14:00:00" in row[6] and "15:00:00" in row[6]) if lang == "zh" else ("06:00:00" in row[6] and "07:00:00" in row[6])
        )


def attested(sample: SampleCase) -> SampleCase:
    """The case with a witness's cosignature, of 2026-03-01 10:00:07 UTC, over its first three events."""
    text = LogCheckpoint("geoevidence/W-0123456789/C-0123456789", 3, hashlib.sha256(b"three").digest()).to_text()
    note = SignedNote(text, (NoteSignature("geoevidence-1f3a9c02", bytes(4), bytes(64)),)).to_bytes()
    witness = Cosignature("geoevidence-77777777", bytes(4), 1772359207, bytes(64)).to_bytes(text)
    return replace(sample, objects={hashlib.sha256(data).hexdigest(): data for data in (note, witness)})


@pytest.mark.parametrize(
    ("lang", "before", "after"), [("zh", "2026-03-01 18:00:08 之前", "2026-03-01 18:00:07 之后"), ("en", "before 2026-03-01 10:00:08", "after 2026-03-01 10:00:07")]
)  # fmt: skip
def test_each_event_has_the_interval_that_others_attest(sample: SampleCase, lang: str, before: str, after: str) -> None:
    title = render("report.custody.title", {}, lang)
    unattested = render("report.custody.unattested", {}, lang)
    section = next(s for s in build_document(attested(sample), lang=lang).sections if s.title == title)
    events, evidence = (block for block in section.blocks if isinstance(block, Table))
    # covered by the cosignature; itself not; after it, since its anchor holds the event with the cosignature
    assert [row[2] for row in events.rows] == [before, before, before, unattested, after]
    assert evidence.rows == (
        ("3", render("report.custody.by_witness", {}, lang), "geoevidence-77777777", render("report.custody.covered", {"last": 2}, lang), f"{after}\n{before}"),
    )  # fmt: skip
    section = next(s for s in build_document(sample, lang=lang).sections if s.title == title)
    (events,) = (block for block in section.blocks if isinstance(block, Table))
    assert {row[2] for row in events.rows} == {unattested}
