"""The HTTP side of a witness: two addresses, bounded bodies, bounded time, bounded threads. Standard library only.

`POST <prefix>/add-checkpoint` and `GET <prefix>/key` (docs/formats/time.md); everything else is 404. It reads no file that a
request names, keeps no connection open, and leaves every decision to `geoevidence.custody.Witness`.
"""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from geoevidence.custody import MAX_WITNESS_REQUEST, Answer, Witness
from geoevidence.errors import CustodyError

IDLE_SECONDS, TOTAL_SECONDS = 10.0, 30.0
"""Without a byte, and for a whole connection."""
MAX_THREADS = 32


class WitnessServer(ThreadingHTTPServer):
    """Serves one witness until `shutdown`.

    Args:
        witness: who decides.
        address: host and port; port 0 takes a free one, which `server_address` then names.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, witness: Witness, address: tuple[str, int]) -> None:
        self.witness = witness
        self._free = threading.BoundedSemaphore(MAX_THREADS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)  # the client asks again
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # a drip of bytes would hold the thread for ever
        end = threading.Timer(TOTAL_SECONDS, _cut, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a client that hangs up is no fault
            super().handle_error(request, client_address)


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended meanwhile


class _Handler(BaseHTTPRequestHandler):
    server: WitnessServer
    timeout = IDLE_SECONDS
    server_version = "geoevidence-witness"
    sys_version = ""

    def do_POST(self) -> None:
        if not self.path.endswith("/add-checkpoint"):
            return self._give(Answer(404, "text/plain", b""))
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            return self._give(Answer(411, "text/plain", b""))
        if len(length) > 9 or int(length) > MAX_WITNESS_REQUEST:
            return self._give(Answer(413, "text/plain", b""))
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return None  # cut off in the middle: nobody is there to answer
        try:
            answer = self.server.witness.add_checkpoint(body)
        except CustodyError as error:
            # nothing was signed; the operator has to see why
            self.log_error("%s", error)
            answer = Answer(500, "text/plain", b"")
        return self._give(answer)

    def do_GET(self) -> None:
        self._give(self.server.witness.answer_get(self.path))

    def _give(self, answer: Answer) -> None:
        self.send_response(answer.status)
        if answer.content_type:
            self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)
        self.close_connection = True
