"""Asks an authority or a witness over HTTP, patiently and within bounds.

One request, one answer: http or https only, no redirect is followed, the answer is bounded in size and in time. What is
not there, or too busy, is asked again after a pause; then NoAnswerError says that it can be asked later. What an
answer says is for the caller to judge.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from geoevidence.errors import AnswerError, ConfigError, GeoEvidenceError, NoAnswerError

MAX_ANSWER = 1 << 20
"""Bytes of the largest answer that is read."""
_BUSY = {429, 500, 502, 503, 504}
_BLOCK = 1 << 16


class Answer(NamedTuple):
    """status: of HTTP. content_type: as sent, or empty. body: all of it."""

    status: int
    content_type: str
    body: bytes


Transport = Callable[[str, bytes | None, str], Answer]
"""URL, body (None: GET) and its content type -> what was answered. Raises NoAnswerError, AnswerError."""


def require_url(url: str) -> str:
    """`url`, if it is one of http or https with a host. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # the address is a name: it is printed, and stands in the key list of packages
        usable = usable and parts.username is None and parts.password is None
    except ValueError:
        usable = False
    if not usable or any(ord(c) < 33 or ord(c) > 126 for c in url):
        raise ConfigError("custody.ask_url", url=url)
    return url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET elsewhere: nothing that was asked for."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def http_transport(*, timeout: float = 10.0, deadline: float = 30.0) -> Transport:
    """Asks over the network; proxies as the environment says.

    Args:
        timeout: seconds without a byte. deadline: seconds until the whole answer is there.
    """
    opener = urllib.request.build_opener(_NoRedirect)

    def ask(url: str, body: bytes | None, content_type: str) -> Answer:
        headers = {"Content-Type": content_type} if body is not None else {}
        request = urllib.request.Request(require_url(url), data=body, headers={"User-Agent": "geoevidence", **headers})
        outcome: list[Answer | Exception] = []

        def run() -> None:
            try:
                outcome.append(_answer(opener, request, timeout=timeout, end=time.monotonic() + deadline))
            except (GeoEvidenceError, OSError, http.client.HTTPException, ValueError) as error:
                outcome.append(error)

        # a name server or a drip of headers knows no deadline: the thread is left behind with them
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(deadline)
        if not outcome:
            raise NoAnswerError("custody.answer_too_slow", url=url, seconds=int(deadline))
        if isinstance(outcome[0], Answer):
            return outcome[0]
        if isinstance(outcome[0], GeoEvidenceError):
            raise outcome[0]
        reason = getattr(outcome[0], "reason", None) or outcome[0]
        raise NoAnswerError("custody.no_answer", url=url, reason=str(reason) or type(reason).__name__) from outcome[0]

    return ask


def _answer(opener: urllib.request.OpenerDirector, request: urllib.request.Request, *, timeout: float, end: float) -> Answer:
    url = request.full_url
    try:
        response: Any = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        response = error  # any status is an answer
    with response:
        parts, size = [], 0
        # read1 gives what has come, so that a slow drip meets the deadline
        while block := response.read1(_BLOCK):
            parts.append(block)
            size += len(block)
            if size > MAX_ANSWER:
                raise AnswerError("custody.answer_too_large", url=url, limit=MAX_ANSWER)
            if time.monotonic() > end:
                raise NoAnswerError("custody.no_answer", url=url, reason=f"{size} B ...")
        announced = response.headers.get("Content-Length")
        if announced is not None and announced != str(size):  # read1 does not tell that the line broke
            raise NoAnswerError("custody.no_answer", url=url, reason=f"{size} / {announced} B")
        return Answer(response.status, response.headers.get("Content-Type") or "", b"".join(parts))


def ask_patiently(
    transport: Transport,
    url: str,
    body: bytes | None,
    content_type: str,
    *,
    tries: int = 3,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """The answer, asked for up to `tries` times with pauses of 1, 2, 4 ... seconds.

    Raises: NoAnswerError when nobody answers, or only that they are too busy; AnswerError.
    """
    for attempt in range(1, tries + 1):
        try:
            answer = transport(url, body, content_type)
        except NoAnswerError:
            if attempt == tries:
                raise
        else:
            if answer.status not in _BUSY:
                return answer
            if attempt == tries:
                raise NoAnswerError("custody.no_answer", url=url, reason=f"HTTP {answer.status}")
        sleep(2.0 ** (attempt - 1))
    raise ValueError("tries is at least 1")
