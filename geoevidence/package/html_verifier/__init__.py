"""`verify.html`: a second verifier of packages, one page that runs in a browser without a network.

Written from docs/formats/, in JavaScript, with its own digests, curves, JSON and DER: a fault in
one of the two verifiers shows as a disagreement (tests/browser/test_html_verifier.py). The sources lie
beside this module; `build_html` puts them into one file and gives the browser a policy (CSP) that allows
these scripts, this style, a worker of them, and nothing else. Makes bytes only. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pkgutil
import re

from geoevidence.trust.messages import LANGUAGES

CORE = (
    "bytes.js",
    "folds.js",
    "digests.js",
    "json.js",
    "curves.js",
    "der.js",
    "certificates.js",
    "notes.js",
    "documents.js",
    "container.js",
    "checks.js",
    "logs.js",
    "packages.js",
    "supplements.js",
    "worker.js",
)
"""Sources that run in the worker, in the order in which they are joined."""
PAGE = ("page.js",)
"""Sources that run in the page only."""
_FAMILIES = ("trust.check.", "trust.status.", "trust.verdict.", "trust.event.", "trust.limit.")
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src {style}; worker-src blob:; child-src blob:; "
    "base-uri 'none'; form-action 'none'"
)


def build_html() -> bytes:
    """The bytes of `verify.html`: the same sources and texts give the same bytes, on every machine."""
    core, page = ("\n".join(_source(name) for name in names) for names in (CORE, PAGE))
    page = page.replace("__TEXTS__", json.dumps(texts(), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))
    style = _source("style.css")
    # the policy names the scripts by digest (CSP level 3, section 2.3.1): nothing that is added to the page runs
    policy = _POLICY.format(scripts=f"{_digest(core)} {_digest(page)}", style=_digest(style))
    html = _source("shell.html")
    for place, text in {"__POLICY__": policy, "__STYLE__": style, "__CORE__": core, "__PAGE__": page}.items():
        html = html.replace(place, text)
    return (html + "\n").encode("utf-8")


def texts() -> dict[str, dict[str, str]]:
    """{language: {message id: text}} of the page: those of the kernel that its sources name, and its own."""
    sources = "".join(_source(name) for name in CORE + PAGE)
    named = set(re.findall(r'"(trust\.[a-z0-9_.]+)"', sources))
    own = json.loads(_source("texts.json"))
    result = {}
    for lang in LANGUAGES:
        kernel = json.loads(_data("geoevidence.trust", f"messages/{lang}.json"))
        chosen = {name: text for name, text in kernel.items() if name in named or name.startswith(_FAMILIES)}
        result[lang] = dict(sorted({**chosen, **own[lang]}.items()))
    return result


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _source(name: str) -> str:
    return _data(__name__, name).strip("\n")


def _data(package: str, name: str) -> str:
    data = pkgutil.get_data(package, name)
    if data is None:
        raise FileNotFoundError(name)
    # a checkout with CRLF must not make another page
    return data.decode("utf-8").replace("\r\n", "\n")
