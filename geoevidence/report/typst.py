"""Sets a `Document` as PDF/A-2b with typst: same document and pictures, same bytes.

Every text of a case reaches the template as JSON data, never as markup, so that no character in a field can change
the page. Only the fonts of set-up are used. The time in the file is that of the document, not of the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoevidence.errors import ConfigError, PackageError
from geoevidence.messages import render
from geoevidence.report.document import Block, Document, Figures, build_document
from geoevidence.types import EvidenceItem, Lang

if TYPE_CHECKING:
    from geoevidence.custody import Case

_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg"}
_LABELS = ("not_filled", "page", "figure", "signature", "date", "item")


def render_pdf(document: Document, out: Path) -> Path:
    """Write the document to `out` (replaced whole, or not at all) and return it.

    Raises:
        ConfigError: typst or the fonts are not installed.
        PackageError: a picture cannot be read, or the document cannot be set.
    """
    part = out.with_name(out.name + ".part")
    part.write_bytes(pdf_bytes(document))
    os.replace(part, out)
    return out


def pdf_bytes(document: Document) -> bytes:
    """The document as PDF/A-2b. Raises as `render_pdf`."""
    try:
        import typst
    except ImportError as error:
        raise ConfigError("report.typst_missing") from error
    templates = resources.files("geoevidence.report") / "templates"
    with resources.as_file(resources.files("geoevidence") / "fonts") as fonts, tempfile.TemporaryDirectory() as scratch:
        if not list(fonts.glob("*.ttf")):
            raise ConfigError("core.fonts_missing", path=str(fonts))
        folder = Path(scratch)
        data = {
            **asdict(document),
            "moment": document.moment.strftime("%Y-%m-%d"),
            "numbers": [],
            "labels": {name: render(f"report.label.{name}", {}, document.lang) for name in _LABELS},
            "sections": [
                {**asdict(section), "blocks": [_block(block, folder) for block in section.blocks]}
                for section in document.sections
            ],
        }
        (folder / "document.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        (folder / "report.typ").write_bytes((templates / "report.typ").read_bytes())
        try:
            return bytes(
                typst.compile(
                    str(folder / "report.typ"),
                    root=str(folder),
                    font_paths=[str(fonts)],
                    ignore_system_fonts=True,
                    format="pdf",
                    pdf_standards="a-2b",
                    timestamp=int(document.moment.timestamp()),
                )
            )
        except typst.TypstError as error:
            raise PackageError("report.cannot_set", reason=error.message) from error


def _block(block: Block, folder: Path) -> dict[str, Any]:
    """The block as JSON values; pictures are copied next to the template under a name that only we choose."""
    data: dict[str, Any] = {"kind": type(block).__name__, **asdict(block)}
    if isinstance(block, Figures):
        for entry, figure in zip(data["figures"], block.figures, strict=True):
            name = f"{figure.sha256}{_SUFFIX[figure.media_type]}"
            try:
                shutil.copyfile(figure.path, folder / name)
            except OSError as error:
                raise PackageError("report.no_picture", item=figure.item, reason=error.strerror or str(error)) from error
            entry["path"] = name
    return data


def report_case(case: Case, *, lang: Lang = "zh") -> EvidenceItem:
    """Write the report of a case into its custody and return the item of the PDF.

    Raises: as `build_document` and `render_pdf`; CustodyError when the log refuses.
    """
    document = build_document(case, lang=lang)
    with tempfile.TemporaryDirectory() as scratch:
        pdf = render_pdf(document, Path(scratch) / f"report-{lang}.pdf")
        return case.attach_report(pdf, lang=lang, inputs=_rests_on(case))


def _rests_on(case: Case) -> tuple[EvidenceItem, ...]:
    """The newest case sheet and every findings record: what a report of the case as it stands rests on."""
    records = case.items(role="record")
    sheets = [item for item in records if item.path.endswith("/case.json")]
    return (*sheets[-1:], *(item for item in records if item.path.endswith("/findings.json")))
