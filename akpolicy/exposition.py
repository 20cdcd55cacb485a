"""The small HTTP endpoint of both programs: `/metrics`, `/healthz`, `/readyz`.

Rules:

- GET and HEAD only, no request body, one request a connection. Whoever reaches the address is untrusted: the head of a
  request is bounded in bytes and must be there within one deadline, however slowly it trickles in; so many requests are
  worked on at once and no more, the rest wait in the kernel's queue.
- `/healthz` says that the process lives. `/readyz` says whether it does its work: 200 or 503, with the details as JSON.
- What is shown is handed in as callables, so this module knows neither the programs nor the metrics library. One that
  raises is logged and answered with 500: a scrape must not take the program down.
"""

from __future__ import annotations

import errno
import io
import json
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final

import structlog

from akpolicy.errors import AddressInUse, StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.addresses import HostPort

MAX_CONCURRENT_REQUESTS: Final = 8
MAX_HEAD_BYTES: Final = 16_384
REQUEST_TIMEOUT_S: Final = 5.0
_HEAD_END: Final = b"\r\n\r\n"
_READ_BYTES: Final = 4096
_POLL_S: Final = 0.1
_JSON: Final = "application/json"

log = structlog.get_logger(__name__)


class HttpEndpoint:
    """Serves `/metrics`, `/healthz` and `/readyz` on its own threads, from `start()` until `stop()`.

    `metrics` returns the content type and the body; `ready` returns whether the program does its work, and JSON-ready
    details. Both are called on the endpoint's threads. `request_timeout` is in seconds.
    """

    def __init__(
        self,
        address: HostPort,
        *,
        metrics: Callable[[], tuple[str, bytes]],
        ready: Callable[[], tuple[bool, dict[str, Any]]],
        request_timeout: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._address = address
        self._metrics = metrics
        self._ready = ready
        self._timeout = request_timeout
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind and serve; raise `AddressInUse` when the port is taken, `StartupError` when binding fails otherwise."""
        if self._server is not None:
            msg = "the endpoint is already started"
            raise RuntimeError(msg)
        self._server = _bind(self._address, _Routes(self._metrics, self._ready), self._timeout)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="http-endpoint", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on, which matters when the address asked for port 0."""
        if self._server is None:
            msg = "the endpoint is not started"
            raise RuntimeError(msg)
        port: int = self._server.socket.getsockname()[1]
        return port

    def stop(self) -> None:
        """Stop listening; requests being answered are left to end. Stopping twice is no mistake."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None
        self._thread = None


class _Routes:
    """What each path answers: status, content type, body."""

    def __init__(
        self, metrics: Callable[[], tuple[str, bytes]], ready: Callable[[], tuple[bool, dict[str, Any]]]
    ) -> None:
        self._metrics = metrics
        self._ready = ready

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Return the answer to `path`."""
        if path == "/metrics":
            content_type, body = self._metrics()
            return HTTPStatus.OK, content_type, body
        if path == "/healthz":
            return HTTPStatus.OK, _JSON, _json({"status": "alive"})
        if path == "/readyz":
            ready, detail = self._ready()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return status, _JSON, _json({"ready": ready, **detail})
        return HTTPStatus.NOT_FOUND, _JSON, _json({"error": "not found; there are /metrics, /healthz and /readyz"})


class _Server(ThreadingMixIn, TCPServer):
    """A TCP server that works on a bounded number of requests at once."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, family: socket.AddressFamily, address: Any, routes: _Routes, timeout: float) -> None:  # noqa: ANN401  as the socket module types it
        self.address_family = family
        self.routes = routes
        self.request_timeout = timeout
        self._slots = threading.BoundedSemaphore(MAX_CONCURRENT_REQUESTS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  as the base class types it
        """Wait for a free slot, then work on the request in a thread of its own."""
        self._slots.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  as the base class types it
        """Work on the request and free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002  as the base class types it
        """Note a connection that broke; the answer had nobody left to go to."""
        log.debug("http connection broke", exc_info=True)  # noqa: LOG014  called from within an exception handler


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: _Server
    server_version = "akpolicy"
    sys_version = ""
    default_request_version = "HTTP/1.0"  # every answer has a status line, even that to garbage
    error_message_format = '{"error": "%(message)s"}\n'
    error_content_type = _JSON

    def handle(self) -> None:
        """Read the whole head within its bounds, then let the standard library parse it."""
        head = _read_head(self.connection, self.server.request_timeout)
        if head is None:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", "GET"
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.connection.settimeout(self.server.request_timeout)
        self.handle_one_request()

    def do_GET(self) -> None:
        """Answer with the body."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._answer()

    def _refuse_method(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, _JSON, _json({"error": "use GET or HEAD"}), Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method  # noqa: N815  named so by the base class

    def _answer(self) -> None:
        path = self.path.split("?", maxsplit=1)[0]
        try:
            status, content_type, body = self.server.routes.answer(path)
        except Exception:
            log.exception("http endpoint cannot answer", path=path)
            status, content_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, _JSON, _json({"error": "see the log"})
        self._send(status, content_type, body)

    def _send(self, status: HTTPStatus, content_type: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401  as the base class names them
        """Keep requests out of the log, except for debugging."""
        log.debug("http request", line=format % args)


def _bind(address: HostPort, routes: _Routes, timeout: float) -> _Server:
    try:
        family, _, _, _, resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        return _Server(family, resolved, routes, timeout)
    except socket.gaierror as error:
        msg = f"`{address}` is no address of this machine: {error.strerror}"
        raise StartupError(msg) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            msg = f"`{address}` is in use; stop what listens there, or choose another metrics_listen"
            raise AddressInUse(msg) from error
        msg = f"cannot listen on `{address}`: {(error.strerror or str(error)).lower()}"
        raise StartupError(msg) from error


def _read_head(connection: socket.socket, timeout: float) -> bytes | None:
    """Return a request's head, None if it is too long; `TimeoutError` or `ConnectionError` if it does not come."""
    deadline = time.monotonic() + timeout
    head = b""
    while _HEAD_END not in head:
        if len(head) > MAX_HEAD_BYTES:
            return None
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            msg = "no request within the deadline"
            raise TimeoutError(msg)
        connection.settimeout(remaining)
        chunk = connection.recv(_READ_BYTES)
        if not chunk:
            msg = "closed before the request was complete"
            raise ConnectionError(msg)
        head += chunk
    return head


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode() + b"\n"
