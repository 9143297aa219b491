"""Reports: what is said (`build_document`), how it is set (`render_pdf`), and both for a case (`report_case`).

The renderer, typst, loads on first use.
"""

from geoevidence.report.document import (
    Block,
    Document,
    Figure,
    Figures,
    Rows,
    Section,
    SignatureLines,
    Table,
    Text,
    build_document,
)
from geoevidence.report.typst import render_pdf, report_case

__all__ = [
    "Block",
    "Document",
    "Figure",
    "Figures",
    "Rows",
    "Section",
    "SignatureLines",
    "Table",
    "Text",
    "build_document",
    "render_pdf",
    "report_case",
]
