"""The paper record of a package: one printable page that two officers and a witness sign, with the short code and a QR code.

Paper that is signed by hand and kept elsewhere fixes the package without any key: whoever holds it compares the code
with what the verifier prints, or gives it to the verifier (`--code`). The page is self-contained, prints on A4, and is
the same for the same package. Makes text only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from html import escape

import segno

from geoevidence.messages import render
from geoevidence.package.draft import PackageDraft
from geoevidence.trust.digests import short_code
from geoevidence.trust.manifest import Statement
from geoevidence.trust.notes import LogCheckpoint, parse_checkpoint, parse_proof
from geoevidence.types import utc_value

_QR_SCHEME = "geoevidence:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRecord:
    """What the page says.

    number, cause: of the case sheet. files, size: under data/, bytes. statement_sha256: hex, of `seal/statement.dsse`.
    head: of the log after sealing.
    """

    number: str
    cause: str
    statement: Statement
    files: int
    size: int
    statement_sha256: str
    head: LogCheckpoint

    @classmethod
    def of_seal(
        cls, draft: PackageDraft, statement: Statement, proof: bytes, *, statement_bytes: bytes, size: int
    ) -> PaperRecord:
        """The record of a package. proof, statement_bytes: the files of seal/. size: bytes under data/."""
        return cls(
            number=draft.number,
            cause=draft.sheet.get("cause", ""),
            statement=statement,
            files=statement.items,
            size=size,
            statement_sha256=hashlib.sha256(statement_bytes).hexdigest(),
            head=parse_checkpoint(parse_proof(proof).checkpoint)[0],
        )

    @property
    def code(self) -> str:
        """The short code: the first 80 bits of the log's root after sealing."""
        return short_code(self.head.root)

    @property
    def qr_text(self) -> str:
        """What the QR code holds: `geoevidence:1:<short code>:<root, hex>`."""
        return f"{_QR_SCHEME}:{self.code}:{self.head.root.hex()}"

    def to_html(self) -> str:
        """The page, Chinese first."""
        said = self.statement
        moment = utc_value(said.time_claimed, "statement")
        beijing = (moment + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S")
        facts = [
            ("number", escape(self.number)),
            ("case", escape(said.case)),
            ("cause", escape(self.cause) or _both("empty")),
            ("time", f"{beijing}（UTC+8） &nbsp; <small>{escape(said.time_claimed)}</small>"),
            ("files", _both("files_value", count=f"{self.files:,}", size=f"{self.size:,}")),
            ("statement", _hex(self.statement_sha256)),
            ("root", _hex(said.package_root)),
            ("log", f'<span class="hex">{escape(self.head.origin)}</span>'),
            ("log_head", f"{_both('log_size', size=self.head.tree_size)}<br>{_hex(self.head.root.hex())}"),
            ("software", escape(said.software)),
        ]
        rows = "".join(f"<tr><th>{_both(name)}</th><td>{value}</td></tr>" for name, value in facts)
        mark = f'<div class="mark">{_both("demonstration")}</div>' if said.demonstration else ""
        signs = "".join(
            f"<div>{_both(name)}<i>{_both('date')}</i></div>" for name in ("officer_1", "officer_2", "witness", "keeper")
        )
        steps = "".join(f"<li>{_both(f'check_{n}')}</li>" for n in (1, 2, 3))
        qr = segno.make(self.qr_text, error="m", micro=False, boost_error=False)
        picture = qr.svg_inline(scale=1, border=4, omitsize=True, dark="#000", light="#fff", title=None, desc=None)
        return (
            '<!DOCTYPE html>\n<html lang="zh-CN"><head><meta charset="utf-8">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            f"<title>{escape(render('package.record.title', {}, 'zh'))} {escape(said.case)}</title>"
            f"<style>{_STYLE}</style></head><body>\n"
            f"<h1>{_both('title')}</h1>{mark}\n"
            f'<div class="code"><div>{_both("code")}<b>{self.code}</b>'
            f"<p>{_both('code_note')}</p></div><figure>{picture}<figcaption>{_both('qr')}</figcaption></figure></div>\n"
            f'<table class="facts">{rows}</table>\n'
            f'<div class="sign">{signs}</div>\n<p class="note">{_both("refusal")}</p>\n'
            f"<h2>{_both('check')}</h2>\n<ol>{steps}</ol>\n"
            f"<pre>python3 verify.pyz PACKAGE --code {self.code}</pre>\n"
            f'<p class="note">{_both("meaning")}</p>\n</body></html>\n'
        )


def _both(message_id: str, **values: object) -> str:
    chinese, english = (render(f"package.record.{message_id}", values, lang) for lang in ("zh", "en"))
    return f"{escape(chinese)} <small>{escape(english)}</small>"


def _hex(text: str) -> str:
    # groups of eight are easier to compare by eye
    return f'<span class="hex">{" ".join(text[at : at + 8] for at in range(0, len(text), 8))}</span>'


_STYLE = """
@page { size: A4; margin: 11mm 14mm; }
body { font-family: "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "PingFang SC", "SimSun", sans-serif;
  font-size: 10pt; line-height: 1.4; color: #111; max-width: 182mm; margin: 0 auto; padding: 8mm; }
@media print { body { padding: 0; } }
small { font-size: 8pt; color: #444; }
h1 { font-size: 18pt; margin: 0; } h1 small { font-weight: normal; font-size: 10pt; display: block; }
h2 { font-size: 11.5pt; margin: 4mm 0 1mm; } h2 small { font-weight: normal; }
.mark { border: 1.5pt solid #a00; color: #a00; padding: 1mm 3mm; display: inline-block; margin: 2mm 0; font-weight: bold; }
.mark small { color: #a00; }
.code { border: 1.5pt solid #111; padding: 3mm 5mm; margin: 3mm 0; display: flex; align-items: center; gap: 6mm; }
.code > div { flex: 1; }
.code b { font-family: "Noto Sans Mono", "DejaVu Sans Mono", Consolas, Menlo, monospace; font-size: 25pt; letter-spacing: 1pt;
  display: block; white-space: nowrap; }
.code p { margin: 1mm 0 0; font-size: 9pt; }
figure { margin: 0; text-align: center; font-size: 8pt; } figure svg { width: 38mm; height: 38mm; display: block; }
table { border-collapse: collapse; width: 100%; }
td, th { border: 0.5pt solid #777; padding: 0.8mm 1.5mm; text-align: left; vertical-align: top; font-weight: normal; }
th { background: #eee; width: 50mm; }
.hex { font-family: "Noto Sans Mono", "DejaVu Sans Mono", Consolas, Menlo, monospace; font-size: 7.5pt; line-height: 1.35; }
.sign { display: grid; grid-template-columns: 1fr 1fr; gap: 11mm 10mm; margin-top: 14mm; break-inside: avoid; }
.sign div { border-top: 0.7pt solid #111; padding-top: 1mm; } .sign i { font-style: normal; float: right; padding-right: 22mm; }
p.note { color: #333; font-size: 8.5pt; margin: 1.5mm 0; }
ol { margin: 1mm 0; padding-left: 6mm; }
pre { font-size: 9pt; border: 0.5pt solid #777; padding: 1.5mm 2mm; margin: 1.5mm 0; white-space: pre-wrap; }
"""
