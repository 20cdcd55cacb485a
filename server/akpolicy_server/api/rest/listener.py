"""The REST listener: uvicorn in the loop and the process of the gRPC server.

Rules:

- Its TLS files are those of the gRPC listener, looked at in each handshake; a change that cannot be used leaves the old
  ones in use. Which files there are, and whether clients must present certificates, is fixed at the start.
- Whoever connects is given `REQUEST_PATIENCE_S` for the first request, and `MAX_CONNECTIONS` may be open at once, so
  that strangers cannot fill memory.
- Signals are the program's business, not uvicorn's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from akpolicy.errors import StartupError
from akpolicy.limits import KIB
from akpolicy.tls_files import ListenerTls
from akpolicy_server.api.rest.application import application
from akpolicy_server.listener import check_free

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.applications import Starlette

    from akpolicy.addresses import HostPort
    from akpolicy.clock import Clock
    from akpolicy.errors import AkpolicyError
    from akpolicy.tls_files import ServerTls
    from akpolicy_server.api.rest.call import RestCalls
    from akpolicy_server.settings import ServerSection

MAX_CONNECTIONS: Final = 1024
MAX_HEADER_BYTES: Final = 16 * KIB
BACKLOG: Final = 512
REQUEST_PATIENCE_S: Final = 10.0
# How long a connection may be idle between requests.
KEEP_ALIVE_S: Final = 15
# Turns of the event loop after which an aborted connection is gone; over TLS there is one in the other.
ABORT_TURNS: Final = 3

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does, and cut off who has not taken the rest of an answer by then."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for _ in range(ABORT_TURNS):
            await asyncio.sleep(0)


class _PatientProtocol(H11Protocol):
    """HTTP/1.1 that gives up on a connection without a first request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self.loop.call_later(REQUEST_PATIENCE_S, self._give_up)

    def _give_up(self) -> None:
        request: object = self.cycle
        if request is None:
            self.transport.close()


@asynccontextmanager
async def serving_rest(
    section: ServerSection, hosts: RestCalls, clock: Clock, failed: Callable[[AkpolicyError], None]
) -> AsyncIterator[HostPort | None]:
    """Serve REST while the block runs, unless there is no address for it; yield the address.

    `failed` is told of each change of TLS files that cannot be used. Raises `StartupError` or `ConfigError`.
    """
    if section.rest_listen is None:
        yield None
        return
    tls = ListenerTls(section.tls, clock=clock, failed=failed) if section.tls is not None else None
    async with rest_listener(section.rest_listen, application(hosts), tls, section.shutdown_grace_seconds) as address:
        yield address


@asynccontextmanager
async def rest_listener(
    address: HostPort, app: Starlette, tls: ListenerTls | None, grace_s: float
) -> AsyncIterator[HostPort]:
    """Serve while the block runs; yield the address. Raises `AddressInUse` or `StartupError`."""
    check_free(address)
    server = _Server(_config(app, tls, grace_s))
    listening = _bound(address)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield replace(address, port=listening.getsockname()[1])
    finally:
        server.should_exit = True
        await serving
        # uvicorn closes it, unless it was told to end before it had begun.
        listening.close()


def _config(app: Starlette, tls: ListenerTls | None, grace_s: float) -> uvicorn.Config:
    context = following_context(tls) if tls is not None else None
    return uvicorn.Config(
        app,
        http=_PatientProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        # What strangers send must not fill the log; what goes wrong here is logged by ourselves.
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )


def _bound(address: HostPort) -> socket.socket:
    family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    try:
        listening = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
        # Head and body are written apart; without this, a body waits 40 ms for the client to acknowledge the head.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise StartupError(f"cannot listen on `{address}`: {error.strerror}") from error
    return listening


# --- TLS --------------------------------------------------------------------------------------------------------------


def following_context(tls: ListenerTls) -> ssl.SSLContext:
    """Return a context whose handshakes use what the files hold at the time."""
    first = _context(tls.initial)
    newest = [first]

    def look(handshake: ssl.SSLObject, _name: str | None, _context_of: ssl.SSLContext) -> None:
        if (renewed := tls.renewed()) is not None:
            try:
                newest[0] = _context(renewed)
            except ssl.SSLError as error:
                log.warning("REST cannot use changed TLS files; the old ones stay in use", reason=str(error))
        handshake.context = newest[0]

    # Called in each handshake, whether the client names a server or not.
    first.sni_callback = look
    return first


def _context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with _in_memory(tls.identity.chain) as chain, _in_memory(tls.identity.key) as key:
        context.load_cert_chain(chain, key)
    if tls.client_ca is not None:
        context.load_verify_locations(cadata=tls.client_ca.decode("ascii", "replace"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _in_memory(pem: bytes) -> Iterator[str]:
    """Give bytes a path: Python's TLS reads certificates and keys from files alone, and these were checked already."""
    descriptor = os.memfd_create("akpolicy-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
