"""A REST listener: uvicorn in the loop and the process of the gRPC server.

Rules:

- Its TLS files are those of the gRPC listener beside it, looked at for each connection; a change that cannot be used
  leaves the old ones in use. Which files there are, and whether clients must present certificates, is fixed at the
  start.
- Client certificates are verified as gRPC does it. A session is resumed only while the files are those of its
  handshake: no certificate is verified then.
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
from akpolicy_server.api.rest.peer import with_peer
from akpolicy_server.listener import check_free

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.applications import Starlette

    from akpolicy.addresses import HostPort
    from akpolicy.clock import Clock
    from akpolicy.errors import AkpolicyError
    from akpolicy.settings_types import TlsFiles
    from akpolicy.tls_files import ServerTls
    from akpolicy_server.api.rest.call import RestCalls

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


class _HostProtocol(H11Protocol):
    """HTTP/1.1 that tells who the peer is, and gives up on a connection without a first request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait; the handshake is done."""
        super().connection_made(transport)
        self.app = with_peer(self.app, transport.get_extra_info("ssl_object"))
        self.loop.call_later(REQUEST_PATIENCE_S, self._give_up)

    def _give_up(self) -> None:
        request: object = self.cycle
        if request is None:
            self.transport.close()


@asynccontextmanager
async def serving_rest(
    listen: HostPort | None,
    files: TlsFiles | None,
    hosts: RestCalls,
    clock: Clock,
    failed: Callable[[AkpolicyError], None],
    *,
    grace_s: float,
) -> AsyncIterator[HostPort | None]:
    """Serve REST while the block runs, unless there is no address for it; yield the address.

    `failed` is told of each change of TLS files that cannot be used. Raises `StartupError` or `ConfigError`.
    """
    if listen is None:
        yield None
        return
    tls = ListenerTls(files, clock=clock, failed=failed) if files is not None else None
    async with rest_listener(listen, application(hosts), tls, grace_s) as address:
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
        http=_HostProtocol,
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


class _FollowingContext(ssl.SSLContext):
    """Begins each connection with what the files hold at the time.

    A context that is put in another one's place within a handshake would not do: sessions stay with the first, and who
    resumes one would be let in by an authority that is no longer in the file.
    """

    newest: Callable[[], ssl.SSLContext]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Return the TLS side of a new connection; asyncio calls this once for each."""
        return self.newest().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def following_context(tls: ListenerTls) -> ssl.SSLContext:
    """Return a context whose connections use what the files hold at the time."""
    newest = _context(tls.initial)

    def look() -> ssl.SSLContext:
        nonlocal newest
        if (renewed := tls.renewed()) is not None:
            try:
                newest = _context(renewed)
            except ssl.SSLError as error:
                log.warning("REST cannot use changed TLS files; the old ones stay in use", reason=str(error))
        return newest

    following = _FollowingContext(ssl.PROTOCOL_TLS_SERVER)
    following.newest = look
    return following


def _context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    with _in_memory(tls.identity.chain) as chain, _in_memory(tls.identity.key) as key:
        context.load_cert_chain(chain, key)
    if tls.client_ca is not None:
        context.load_verify_locations(cadata=tls.client_ca.decode("ascii", "replace"))
        # As gRPC: an authority in the file is trusted although the one above it is not there.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
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
