"""The client of time-stamp authorities against answers of every kind, and the local authority against OpenSSL."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.custody import Answer, LocalTsa, TimeStampClient
from geoevidence.custody.asking import MAX_ANSWER, ask_patiently, http_transport, require_url
from geoevidence.custody.local_tsa import POLICY
from geoevidence.custody.timestamps import QUERY, REPLY, build_request, check_answer, parse_request
from geoevidence.errors import AnswerError, ConfigError, CustodyError, FormatError, GeoEvidenceError, NoAnswerError
from geoevidence.trust import der
from geoevidence.trust.certificates import parse_certificate
from geoevidence.trust.timestamps import parse_time_stamp
from tests.custody.authorities import MADE, fixed, local_tsa, no_sleep, numbers, stamper, tsa_folder

MESSAGE = "检查点 checkpoint\n".encode()
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl absent: another implementation was not asked")


def openssl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(OPENSSL), *map(str, words)], capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- request


def test_request_says_what_it_asks() -> None:
    found = parse_request(build_request(MESSAGE, numbers()))
    assert (found.digest, found.algorithm) == (hashlib.sha256(MESSAGE).digest(), "2.16.840.1.101.3.4.2.1")
    assert (found.nonce, found.policy, found.wants_certificate) == (int.from_bytes(numbers()(8), "big"), None, True)


@needs_openssl
def test_request_is_the_one_that_openssl_makes(tmp_path: Path) -> None:
    """OpenSSL's request for the same message differs in its nonce only."""
    (tmp_path / "message").write_bytes(MESSAGE)
    done = openssl("ts", "-query", "-data", tmp_path / "message", "-sha256", "-cert", "-out", tmp_path / "theirs.tsq")
    assert done.returncode == 0, done.stderr
    theirs = (tmp_path / "theirs.tsq").read_bytes()
    nonce = parse_request(theirs).nonce
    assert nonce is not None
    assert build_request(MESSAGE, lambda n: nonce.to_bytes(n, "big")) == theirs


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d[:-1],
        lambda d: d + b"\x00",
        lambda d: d.replace(b"\x02\x01\x01", b"\x02\x01\x02", 1),
        lambda d: d.replace(b"\x01\x01\xff", b"\x01\x01\x01", 1),
        lambda d: b"",
        lambda d: b"\x30\x00",
    ],
)
def test_a_malformed_request_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FormatError):
        parse_request(change(build_request(MESSAGE, numbers())))


# ---------------------------------------------------------------- local authority


def test_the_same_request_at_the_same_second_gives_the_same_token() -> None:
    request = build_request(MESSAGE, numbers())
    moment = datetime(2026, 11, 23, 9, 0, 0, 999999, tzinfo=UTC)
    assert local_tsa().reply(request) == LocalTsa(tsa_folder(), now=fixed(moment)).reply(request)
    later = local_tsa(datetime(2026, 11, 23, 9, 0, 1, tzinfo=UTC)).reply(request)
    assert parse_time_stamp(later).serial != parse_time_stamp(local_tsa().reply(request)).serial


def test_token_says_what_it_is_and_leads_to_its_root() -> None:
    tsa = local_tsa()
    request = build_request(MESSAGE, numbers())
    stamp = check_answer(request, tsa.reply(request), MESSAGE, where="x")
    assert (stamp.gen_time, stamp.accuracy_ms, stamp.policy) == ("2026-11-23T09:00:00Z", 1000, POLICY)
    assert (stamp.earliest, stamp.latest) == ("2026-11-23T08:59:59Z", "2026-11-23T09:00:01Z")
    assert "not a trusted time source" in stamp.tsa.subject_text and "演示用，不具证明力" in stamp.tsa.subject_text
    stamp.verify(MESSAGE, roots=[parse_certificate(tsa.root_der)])
    with pytest.raises(GeoEvidenceError):
        stamp.verify(MESSAGE + b"x", roots=[parse_certificate(tsa.root_der)])
    with pytest.raises(GeoEvidenceError):
        stamp.verify(MESSAGE, roots=[])


@needs_openssl
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_openssl_accepts_the_token_and_only_for_its_data(tmp_path: Path, algorithm: str) -> None:
    message, query, reply, root = (tmp_path / name for name in ("message", "x.tsq", "x.tsr", "root.pem"))
    message.write_bytes(MESSAGE)
    assert openssl("ts", "-query", "-data", message, f"-{algorithm}", "-cert", "-out", query).returncode == 0
    tsa = local_tsa()
    reply.write_bytes(tsa.reply(query.read_bytes()))
    root.write_bytes(tsa.root)
    at = ["-attime", str(int(datetime(2026, 11, 23, 9, 0, tzinfo=UTC).timestamp()))]
    for asked in (["-data", message], ["-queryfile", query]):
        done = openssl("ts", "-verify", *asked, "-in", reply, "-CAfile", root, *at)
        assert done.returncode == 0 and "Verification: OK" in done.stdout + done.stderr, done.stderr
    message.write_bytes(MESSAGE + b"x")
    assert openssl("ts", "-verify", "-data", message, "-in", reply, "-CAfile", root, *at).returncode != 0
    shown = openssl("ts", "-reply", "-in", reply, "-text").stdout
    assert "Status: Granted." in shown and POLICY in shown


@needs_openssl
def test_an_answer_of_openssl_is_taken(tmp_path: Path) -> None:
    """The other way round: a request of ours, answered by OpenSSL's own authority with the same keys."""
    folder = tsa_folder()
    config = tmp_path / "tsa.cnf"
    config.write_text(
        "[tsa]\ndefault_tsa = one\n[one]\nserial = serial\ncrypto_device = builtin\n"
        f"signer_cert = {folder / 'tsa.pem'}\nsigner_key = {folder / 'tsa-key.pem'}\nsigner_digest = sha256\n"
        "default_policy = 1.2.3.4.1\ndigests = sha256\naccuracy = secs:1, millisecs:500, microsecs:100\n"
        "ess_cert_id_alg = sha256\ntsa_name = yes\nordering = yes\n".replace("= serial", f"= {tmp_path / 'serial'}")
    )
    (tmp_path / "serial").write_text("01\n")  # of the last token
    request = build_request(MESSAGE, numbers())
    (tmp_path / "x.tsq").write_bytes(request)
    done = openssl("ts", "-reply", "-config", config, "-queryfile", tmp_path / "x.tsq", "-out", tmp_path / "x.tsr")
    assert done.returncode == 0, done.stderr
    stamp = check_answer(request, (tmp_path / "x.tsr").read_bytes(), MESSAGE, where="openssl")
    assert (stamp.accuracy_ms, stamp.serial) == (1501, 2)


@pytest.mark.parametrize(
    ("request_", "failure"),
    [
        (b"garbage", "badDataFormat"),
        (build_request(MESSAGE, numbers()).replace(bytes.fromhex("0609608648016503040201"), bytes.fromhex("0609608648016503040209")), "badAlg"),
        (build_request(MESSAGE, numbers()).replace(bytes.fromhex("0609608648016503040201"), bytes.fromhex("0609608648016503040202")), "badAlg"),
    ],
)  # fmt: skip
def test_a_bad_request_is_rejected_in_the_answer(request_: bytes, failure: str) -> None:
    with pytest.raises(AnswerError) as caught:
        check_answer(build_request(MESSAGE, numbers()), local_tsa().reply(request_), MESSAGE, where="x")
    assert caught.value.message_id == "custody.tsa_rejected" and caught.value.values["reason"] == failure


def test_a_policy_of_somebody_else_is_rejected() -> None:
    imprint, rest = der.read(build_request(MESSAGE, numbers()), where="x").children()[1].encoded, der.encode_oid("1.2.3")
    asked = der.encode(der.SEQUENCE, der.encode_integer(1), imprint, rest)
    with pytest.raises(AnswerError, match="unacceptedPolicy"):
        check_answer(asked, local_tsa().reply(asked), MESSAGE, where="x")
    ours = der.encode(der.SEQUENCE, der.encode_integer(1), imprint, der.encode_oid(POLICY), der.encode(der.BOOLEAN, b"\xff"))
    assert check_answer(ours, local_tsa().reply(ours), MESSAGE, where="x").nonce is None


def test_the_authority_in_a_folder(tmp_path: Path) -> None:
    assert (tsa_folder() / "tsa-key.pem").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tsa_folder().iterdir()) == ["root.pem", "tsa-key.pem", "tsa.pem"]  # no key of the root
    with pytest.raises(CustodyError):
        LocalTsa.create(tsa_folder(), label="again", now=fixed(MADE))
    for label in ("", " ", "x" * 65, "a\nb"):
        with pytest.raises(ConfigError):
            LocalTsa.create(tmp_path / "tsa", label=label, now=fixed(MADE))
    with pytest.raises(CustodyError):
        LocalTsa(tmp_path / "nothing", now=fixed(MADE))
    broken = shutil.copytree(tsa_folder(), tmp_path / "broken")
    (broken / "tsa.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(CustodyError):
        LocalTsa(broken, now=fixed(MADE))


# ---------------------------------------------------------------- the client and answers that are not what was asked


def test_client_gives_a_checked_stamp() -> None:
    asked: list[tuple[str, str]] = []

    def transport(url: str, body: bytes | None, content_type: str) -> Answer:
        asked.append((url, content_type))
        return local_tsa().transport()(url, body, content_type)

    token = stamper(transport).stamp(MESSAGE)
    parse_time_stamp(token).verify_signature(MESSAGE)
    assert asked == [("https://tsa.example/stamp", QUERY)]


def other(message: bytes = b"other", seed: int = 1) -> bytes:
    return local_tsa().reply(build_request(message, numbers(seed)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda body: Answer(200, REPLY, other(MESSAGE)), "custody.tsa_nonce"),
        (lambda body: Answer(200, REPLY, local_tsa().reply(build_request(b"other", numbers(7)))), "custody.tsa_imprint"),
        (lambda body: Answer(200, REPLY, local_tsa().reply(body)[:-20]), "custody.tsa_answer"),
        (lambda body: Answer(200, REPLY, local_tsa().reply(body) + b"\x00"), "custody.tsa_answer"),
        (lambda body: Answer(200, REPLY, b""), "custody.tsa_answer"),
        (lambda body: Answer(200, REPLY, b"<html>sign in</html>"), "custody.tsa_answer"),
        (lambda body: Answer(200, REPLY, bytes([0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF])), "custody.tsa_answer"),
        (lambda body: Answer(200, "text/html", local_tsa().reply(body)), "custody.answer_type"),
        (lambda body: Answer(200, "", local_tsa().reply(body)), "custody.answer_type"),
        (lambda body: Answer(404, REPLY, local_tsa().reply(body)), "custody.answer_status"),
        (lambda body: Answer(301, REPLY, local_tsa().reply(body)), "custody.answer_status"),
        (lambda body: Answer(200, REPLY, local_tsa().reply(b"x")), "custody.tsa_rejected"),
    ],
)
def test_a_wrong_answer_is_not_taken(answer: Callable[[bytes], Answer], expected: str) -> None:
    with pytest.raises(AnswerError) as caught:
        stamper(lambda url, body, kind: answer(body or b"")).stamp(MESSAGE)
    assert caught.value.message_id == expected
    assert "{" not in caught.value.render("zh") and "{" not in caught.value.render("en")


def test_the_word_of_an_authority_stands_in_the_error_without_control_characters() -> None:
    texts = der.encode(der.SEQUENCE, der.encode(der.UTF8_STRING, b"no\x1b[2Jquota"))
    refused = der.encode(
        der.SEQUENCE, der.encode(der.SEQUENCE, der.encode_integer(2), texts, der.encode(der.BIT_STRING, b"\x04\x10"))
    )
    with pytest.raises(AnswerError) as caught:
        stamper(lambda url, body, kind: Answer(200, REPLY, refused)).stamp(MESSAGE)
    assert caught.value.values["reason"] == "no [2Jquota; bit 3"


@pytest.mark.parametrize("part", range(0, 1000, 9))
def test_a_token_with_one_changed_bit_is_not_taken(part: int) -> None:
    """A sample of single-bit errors over the whole answer: nothing but a valid answer to this request is taken."""
    request = build_request(MESSAGE, numbers())
    answer = bytearray(local_tsa().reply(request))
    at = part * len(answer) * 8 // 1000
    answer[at // 8] ^= 1 << at % 8
    try:
        stamp = check_answer(request, bytes(answer), MESSAGE, where="x")
    except AnswerError:
        return
    # what the signature does not cover: the certificate's own signature, judged with its chain, and the status 1 for 0
    try:
        stamp.verify(MESSAGE, roots=[parse_certificate(local_tsa().root_der)])
    except GeoEvidenceError:
        return
    assert answer[:9] == local_tsa().reply(request)[:8] + b"\x01"


@given(st.binary(max_size=300))
def test_hostile_answers_raise_only_our_error(data: bytes) -> None:
    for body in (data, b"\x30" + bytes([len(data[:100])]) + data[:100]):
        with pytest.raises(AnswerError):
            check_answer(build_request(MESSAGE, numbers()), body, MESSAGE, where="x")


# ---------------------------------------------------------------- patience


def test_busy_and_absent_are_asked_again_and_then_given_up() -> None:
    waits: list[float] = []
    answers = iter([503, 429, 200])
    found = ask_patiently(
        lambda url, body, kind: Answer(next(answers), "", b"x"), "http://x", b"", "", tries=3, sleep=waits.append
    )
    assert found.status == 200 and waits == [1.0, 2.0]
    with pytest.raises(NoAnswerError, match="HTTP 503"):
        ask_patiently(lambda url, body, kind: Answer(503, "", b""), "http://x", b"", "", tries=2, sleep=no_sleep)

    def absent(url: str, body: bytes | None, kind: str) -> Answer:
        waits.append(-1)
        raise NoAnswerError("custody.no_answer", url=url, reason="x")

    waits.clear()
    with pytest.raises(NoAnswerError):
        ask_patiently(absent, "http://x", b"", "", tries=4, sleep=waits.append)
    assert waits == [-1, 1.0, -1, 2.0, -1, 4.0, -1]
    with pytest.raises(ValueError, match="tries"):
        ask_patiently(absent, "http://x", b"", "", tries=0)


@pytest.mark.parametrize(
    "url",
    ["", "tsa.example", "ftp://tsa.example/", "file:///etc/passwd", "http://", "https:///x", "http://x:99999/", "http://[::1", "http://a b/", "http://中文/", "javascript:x"],
)  # fmt: skip
def test_only_addresses_of_the_web_are_asked(url: str) -> None:
    with pytest.raises(ConfigError):
        require_url(url)
    with pytest.raises(ConfigError):
        TimeStampClient.over_http(url, random=numbers())


# ---------------------------------------------------------------- over the network, on this machine


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers by path as badly as asked."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        getattr(self, f"give_{self.path.strip('/')}")()

    def _start(self, length: int | None, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", REPLY)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def give_huge(self) -> None:
        self._start(None)
        with contextlib.suppress(OSError):  # the client hangs up, as it should
            for _ in range(40):
                self.wfile.write(bytes(MAX_ANSWER // 16))

    def give_cut(self) -> None:
        self._start(100)
        self.wfile.write(b"x" * 10)

    def give_silent(self) -> None:
        time.sleep(1.5)

    def give_drip(self) -> None:
        self._start(1000)
        with contextlib.suppress(OSError):
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)

    def give_headers(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for n in range(30):
                self.wfile.write(b"X-%d: x\r\n" % n)
                self.wfile.flush()
                time.sleep(0.1)

    def give_moved(self) -> None:
        self.send_response(302)
        self.send_header("Location", "file:///etc/passwd")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def give_elsewhere(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/error")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def give_noise(self) -> None:
        self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")

    def give_error(self) -> None:
        self._start(4, 418)
        self.wfile.write(b"no t")

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test quiet."""


@pytest.fixture(scope="module")
def bad_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("huge", AnswerError),
        ("cut", NoAnswerError),
        ("silent", NoAnswerError),
        ("drip", NoAnswerError),
        ("headers", NoAnswerError),
        ("noise", NoAnswerError),
    ],
)
def test_bad_connections_end_in_our_errors_and_soon(bad_server: str, path: str, kind: type[CustodyError]) -> None:
    start = time.monotonic()
    with pytest.raises(kind):
        http_transport(timeout=0.5, deadline=1.0)(f"{bad_server}/{path}", b"x", QUERY)
    # a second for the drip, and what a busy machine adds; the drip itself would take three
    assert time.monotonic() - start < 2.5


def test_a_redirect_is_an_answer_and_is_not_followed(bad_server: str) -> None:
    found = http_transport()(f"{bad_server}/moved", b"x", QUERY)
    assert (found.status, found.body) == (302, b"")
    assert http_transport()(f"{bad_server}/error", b"x", QUERY) == Answer(418, REPLY, b"no t")


def test_a_closed_port_is_no_answer(free_port: int) -> None:
    with pytest.raises(NoAnswerError) as caught:
        http_transport(timeout=1)(f"http://127.0.0.1:{free_port}/", b"x", QUERY)
    assert re.search("127.0.0.1", caught.value.render("zh"))


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_redirect_to_another_page_is_not_followed_either(bad_server: str) -> None:
    found = http_transport()(f"{bad_server}/elsewhere", b"x", QUERY)
    assert (found.status, found.body) == (302, b"")


def test_a_refusal_without_a_reason_is_a_refusal() -> None:
    """PKIStatusInfo with the status alone (RFC 3161 section 2.4.2)."""
    refusal = bytes.fromhex("30053003020102")
    with pytest.raises(AnswerError) as caught:
        check_answer(build_request(MESSAGE, numbers()), refusal, MESSAGE, where="x.tsr")
    assert (caught.value.message_id, caught.value.values["status"], caught.value.values["reason"]) == (
        "custody.tsa_rejected",
        2,
        "-",
    )


def test_a_folder_that_holds_another_authority_or_key_is_refused(tmp_path: Path) -> None:
    shutil.copytree(tsa_folder(), tmp_path / "tsa")
    with pytest.raises(CustodyError) as caught:
        LocalTsa.create(tmp_path / "tsa", label="演示", now=fixed(MADE))
    assert caught.value.message_id == "custody.target_exists"
    (key,) = (path for path in (tmp_path / "tsa").iterdir() if b"PRIVATE KEY" in path.read_bytes())
    key.chmod(0o600)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(CustodyError) as caught:
        LocalTsa(tmp_path / "tsa", now=fixed(MADE))
    assert caught.value.message_id == "custody.tsa_folder" and "Ed25519" in str(caught.value.values["reason"])


def test_an_authority_is_not_made_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CustodyError) as caught:
        LocalTsa.create(tmp_path / "file" / "tsa", label="演示", now=fixed(MADE))
    assert caught.value.message_id.startswith("custody.disk_")
