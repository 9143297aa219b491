"""Where a text still speaks of what is to be withheld: item ids, paths, names, digests, or a withheld word.

Looks into the bytes of files, into Base64 texts in them (signed envelopes, certificates), and at other spellings of a name
(JSON and percent escapes, the UTF-16 of Windows' EXIF tags, the GB 18030 of older Chinese software). What it cannot read (PDF, archives, compressed pictures) it does not judge: the caller names such files.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

_TOKEN = re.compile(rb"E-[0-9a-f]{8}-[0-9]+-[0-9]+|(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])")
_PAYLOAD = re.compile(
    rb'"(?:payload|extra)":\s*"([A-Za-z0-9+/]{16,}={0,2})"|^extra ([A-Za-z0-9+/]{16,}={0,2})$|"([A-Za-z0-9+/]{88,}={0,2})"', re.M
)
"""Longer than a hex digest: certificates stand as plain texts in lists."""
_LEAST = 4
"""Bytes; shorter names and words would be found everywhere."""
_LEAST_BINARY = 6
"""The same for spellings that are not text: four bytes turn up by chance in a gigabyte of pictures."""
_WORD = re.compile(rb"[0-9A-Za-z_]")


class Needles:
    """What is looked for.

    Args:
        tokens: item ids and hex digests.
        names: paths and file names. words: texts of withheld fields.
    """

    def __init__(self, tokens: Iterable[str], names: Iterable[str], words: Iterable[str] = ()) -> None:
        self._tokens = {token.lower().encode("ascii"): token for token in tokens}
        self._texts: dict[bytes, str] = {}
        self.too_short: list[str] = []
        for text in [*names, *words]:
            if len(text.encode("utf-8")) < _LEAST:
                self.too_short.append(text)
                continue
            for spelling in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], quote(text), escape(text)):
                self._texts.setdefault(spelling.encode("utf-8"), text)
            for encoded in (text.encode(encoding) for encoding in ("utf-16-le", "utf-16-be", "gb18030")):
                if len(encoded) >= _LEAST_BINARY:
                    self._texts.setdefault(encoded, text)

    def __bool__(self) -> bool:
        return bool(self._tokens or self._texts)

    def found_in(self, data: bytes) -> str | None:
        """The first thing that is mentioned in the bytes, or None."""
        found = self._found(data)
        for match in () if found else _PAYLOAD.finditer(data):
            try:
                found = self._found(base64.b64decode(match[1] or match[2] or match[3], validate=True))
            except binascii.Error:
                continue
            if found:
                break
        return found

    def _found(self, data: bytes) -> str | None:
        if self._tokens:
            for match in _TOKEN.finditer(data):
                token = self._tokens.get(match[0].lower())
                if token is not None:
                    return token
        for spelling, text in self._texts.items():
            at = data.find(spelling)
            while at >= 0:
                if _is_whole(data, at, at + len(spelling)):
                    return text
                at = data.find(spelling, at + 1)
        return None


def _is_whole(data: bytes, start: int, end: int) -> bool:
    """An ASCII word that is part of a longer one is another word."""
    before, after = data[start - 1 : start] if start else b"", data[end : end + 1]
    joined_before = _WORD.match(before) and _WORD.match(data[start : start + 1])
    joined_after = _WORD.match(after) and _WORD.match(data[end - 1 : end])
    return not (joined_before or joined_after)
