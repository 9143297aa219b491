"""The receipt of an ingest: a signed head of the log, the list of files, and a short code to read out by phone.

A receipt is made from the event and a checkpoint that covers it, so a lost one can be made again.
The page is self-contained and prints on A4; Chinese first. It shows claimed times as claimed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any

from geoevidence.custody.files import storage_error, write_durably
from geoevidence.custody.log import CustodyEvent
from geoevidence.messages import render
from geoevidence.trust.canonical import dumps
from geoevidence.trust.digests import short_code
from geoevidence.types import require, utc_text

SCHEMA = "geoevidence.receipt.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where a receipt is, and what is read aloud from it. manifest_sha256: hex."""

    json_path: Path
    html_path: Path
    manifest_sha256: str
    short_code: str


def manifest_sha256(files: list[dict[str, Any]]) -> str:
    """Hex SHA-256 of the RFC 8785 bytes of the list of files without item ids."""
    rows = [{name: row[name] for name in ("path", "size", "sha256", "sm3")} for row in files]
    return hashlib.sha256(dumps(sorted(rows, key=lambda row: str(row["path"])))).hexdigest()


def receipt_of(folder: Path, event: CustodyEvent) -> Receipt:
    """The receipt of a `copied` or `received` event, whether or not its files exist yet."""
    parameters = event.process.parameters if event.process is not None else {}
    digest = require(parameters, "manifest_sha256", str, "event.process.parameters")
    return Receipt(
        json_path=folder / f"{event.event_id}.json",
        html_path=folder / f"{event.event_id}.html",
        manifest_sha256=digest,
        short_code=short_code(bytes.fromhex(digest)),
    )


# On a machine without a Chinese font the page uses this one, laid beside it where set-up has fetched it.
_FONT = Path(__file__).resolve().parents[1] / "fonts" / "NotoSansSC-400.ttf"


def write_receipt(
    folder: Path, event: CustodyEvent, *, checkpoint: bytes, number: str, sheet: Mapping[str, str], demonstration: bool
) -> Receipt:
    """Write both forms of the receipt of an event.

    Args:
        folder: where receipts of the case are.
        event: a `copied` or `received` event.
        checkpoint: signed, covers the event.
        number, sheet, demonstration: of the case.

    Raises: CustodyError.
    """
    receipt = receipt_of(folder, event)
    prefix = f"originals/{event.event_id}/"
    files = [{**ref.to_dict(), "path": ref.path.removeprefix(prefix)} for ref in event.outputs]
    source = event.process.parameters.get("source", "") if event.process is not None else ""
    record = {
        "schema": SCHEMA,
        "case": event.case,
        "event_id": event.event_id,
        "leaf_hash": event.leaf_hash,
        "time_claimed": utc_text(event.time_claimed),
        "clock": {"source": event.clock_source, "offset_ms": event.clock_offset_ms},
        "source": source,
        "files": files,
        "manifest_sha256": receipt.manifest_sha256,
        "short_code": receipt.short_code,
        "checkpoint": checkpoint.decode("utf-8"),
    }
    page = _page(record, event, number=number, sheet=sheet, demonstration=demonstration)
    written = [(receipt.html_path, page.encode("utf-8")), (receipt.json_path, dumps(record))]
    if _FONT.is_file() and not (folder / _FONT.name).exists():
        written.insert(0, (folder / _FONT.name, _FONT.read_bytes()))
    for path, data in written:
        try:
            write_durably(path, data)
        except OSError as error:
            raise storage_error(error, path) from error
    return receipt


_STYLE = """
@page { size: A4; margin: 16mm 14mm; }
@font-face { font-family: "Receipt"; src: local("Noto Sans SC"), local("Microsoft YaHei"), local("PingFang SC"),
  url("NotoSansSC-400.ttf") format("truetype"); }
body { font-family: "Receipt", "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "PingFang SC", "SimSun", sans-serif;
  font-size: 10.5pt; line-height: 1.5; color: #111; max-width: 182mm; margin: 0 auto; padding: 8mm; }
@media print { body { padding: 0; } }
h1 { font-size: 18pt; margin: 0; } h1 small { font-size: 10.5pt; font-weight: normal; color: #444; display: block; }
h2 { font-size: 12pt; margin: 7mm 0 2mm; }
.mark { border: 1.5pt solid #a00; color: #a00; padding: 1mm 3mm; display: inline-block; margin: 2mm 0; font-weight: bold; }
.code { border: 1.5pt solid #111; padding: 3mm 5mm; margin: 4mm 0; text-align: center; }
.code b { font-family: "Noto Sans Mono", Consolas, Menlo, monospace; font-size: 26pt; letter-spacing: 1pt; display: block; }
table { border-collapse: collapse; width: 100%; } thead { display: table-header-group; }
td, th { border: 0.5pt solid #777; padding: 1mm 1.5mm; text-align: left; vertical-align: top; font-weight: normal; }
th { background: #eee; } .facts th { width: 34mm; }
tbody { break-inside: avoid; } tr { break-inside: avoid; }
.hex { font-family: "Noto Sans Mono", Consolas, Menlo, monospace; font-size: 7.5pt; word-break: break-all; line-height: 1.3; }
.right { text-align: right; white-space: nowrap; }
.sign { display: grid; grid-template-columns: 1fr 1fr; gap: 9mm 10mm; margin-top: 9mm; break-inside: avoid; }
.sign div { border-top: 0.7pt solid #111; padding-top: 1mm; }
p.note { color: #333; font-size: 9pt; margin: 1.5mm 0; }
pre { font-size: 7.5pt; white-space: pre-wrap; word-break: break-all; border: 0.5pt solid #777; padding: 2mm; }
"""


def _page(record: Mapping[str, Any], event: CustodyEvent, *, number: str, sheet: Mapping[str, str], demonstration: bool) -> str:
    def both(message_id: str, **values: Any) -> str:
        chinese, english = (render(f"custody.receipt.{message_id}", values, lang) for lang in ("zh", "en"))
        return f"{escape(chinese)} <small>{escape(english)}</small>"

    beijing = (event.time_claimed + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S")

    def named(kind: str, value: str) -> str:
        known = f"custody.{kind}.{value}"
        return (
            escape(value)
            if render(known, {}, "zh") == known
            else f"{escape(render(known, {}, 'zh'))} <small>{escape(value)}</small>"
        )

    offset = both("offset_unknown") if event.clock_offset_ms is None else f"{event.clock_offset_ms} ms"
    total = sum(int(row["size"]) for row in record["files"])
    facts = [
        (both("number"), escape(number)),
        (both("case"), escape(event.case)),
        (both("cause"), escape(sheet.get("cause", "")) or both("empty")),
        (both("time"), f"{beijing} (UTC+8)<br>{escape(record['time_claimed'])}"),
        (both("clock"), f"{named('clock', event.clock_source)}；{offset}"),
        (both("source"), escape(str(record["source"])) or both("empty")),
        (both("actor"), f"{escape(event.actor_id or '')} / {named('role', event.role)} / {named('auth', event.auth_level)}"),
        (both("device"), f"{escape(event.device_serial or '')} / {escape(event.software)}"),
        (both("event"), f'<span class="hex">{escape(event.event_id)}<br>{event.leaf_hash}</span>'),
        (both("files"), both("files_value", count=len(record["files"]), size=f"{total:,}")),
        (both("manifest"), f'<span class="hex">{record["manifest_sha256"]}</span>'),
    ]
    rows = "".join(
        f'<tbody><tr><td class="right" rowspan="2">{n}</td><td>{escape(str(row["path"]))}</td>'
        f'<td class="right">{int(row["size"]):,}</td></tr>'
        f'<tr><td class="hex" colspan="2">SHA-256 {row["sha256"]}<br>SM3 &nbsp; &nbsp; {row["sm3"]}</td></tr></tbody>'
        for n, row in enumerate(record["files"], start=1)
    )
    mark = f'<div class="mark">{both("demonstration")}</div>' if demonstration else ""
    signs = "".join(f"<div>{both(name)}</div>" for name in ("sign_operator", "sign_second", "sign_witness", "sign_holder"))
    notes = "".join(f'<p class="note">{both(name)}</p>' for name in ("note_code", "note_meaning", "note_refusal", "note_key"))
    return (
        '<!DOCTYPE html>\n<html lang="zh-CN"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; font-src 'self' file:\">"
        f"<title>{escape(render('custody.receipt.title', {}, 'zh'))} {escape(event.event_id)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{both('title')}</h1>{mark}\n"
        f'<div class="code">{both("code")}<b>{record["short_code"]}</b></div>\n'
        f'<table class="facts">{"".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)}</table>\n{notes}\n'
        f'<div class="sign">{signs}</div>\n'
        f"<h2>{both('list')}</h2>\n<table><thead><tr><th>{both('col_no')}</th><th>{both('col_path')}</th>"
        f"<th>{both('col_size')}</th></tr></thead>{rows}</table>\n"
        f"<h2>{both('checkpoint')}</h2>\n<pre>{escape(str(record['checkpoint']))}</pre>\n</body></html>\n"
    )
