"""Where runtimes and sandboxes ask: Unix sockets, and for runtimes TLS over TCP where configured.

Rules:

- Who may connect to the socket is its mode and group. It gets its name (`socket_place`) when it is published.
- A connection on a Unix socket lives `MAX_CONNECTION_AGE_S` and is then ended in order (GOAWAY, RFC 9113 6.8): calls
  that have begun end well and the next one connects anew. So whoever asks reaches a successor within that time,
  and no call is refused for it. Streams go on where they are.
- The TCP port is not shared with another process (`so_reuseport` off). Its handshakes use what the TLS files hold then.
- A call that has begun without its message holds a thread, so there are more threads than may decide at once; what
  comes on top of `MAX_PENDING_CALLS` is refused at once, not left waiting.
- Health tells the truth: SERVING while decisions can be made by policy, for the server as a whole and for the service.
"""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped] # it has no types
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped] # it has no types

from akpolicy.errors import AddressInUse, StartupError
from akpolicy.limits import MAX_MESSAGE_BYTES
from akpolicy.v1 import authorization_pb2, authorization_pb2_grpc
from akpolicy_sidecar.socket_place import SocketPlace

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.addresses import HostPort
    from akpolicy.tls_files import ListenerTls, ServerTls
    from akpolicy_sidecar.api.authorization import AuthorizationServicer
    from akpolicy_sidecar.socket_place import UnixAddress

SERVICE: Final = authorization_pb2.DESCRIPTOR.services_by_name["AuthorizationService"].full_name
# Calls being worked on or waiting for a thread; what comes on top is refused with RESOURCE_EXHAUSTED.
MAX_PENDING_CALLS: Final = 128
MAX_CONNECTION_AGE_S: Final = 5.0
# gRPC lets connections live up to a tenth longer, so that not all end at once; the rest is for the exchange of frames.
LEFT_AFTER_S: Final = MAX_CONNECTION_AGE_S * 1.1 + 0.5


class Listener:
    """A gRPC server of the sidecar, between `start` and `stop`."""

    def __init__(self, serve: Callable[[grpc.Server], None], *, is_local: bool = True) -> None:
        """Serve what `serve` adds to the server; `is_local` unless it is bound to TCP too."""
        options: list[tuple[str, int]] = [("grpc.so_reuseport", 0)]
        options.append(("grpc.max_receive_message_length", MAX_MESSAGE_BYTES))
        if is_local:
            options.append(("grpc.max_connection_age_ms", int(MAX_CONNECTION_AGE_S * 1000)))
        self.server = grpc.server(
            ThreadPoolExecutor(max_workers=MAX_PENDING_CALLS, thread_name_prefix="authorize"),
            options=options,
            maximum_concurrent_rpcs=MAX_PENDING_CALLS,
        )
        serve(self.server)
        self._place: SocketPlace | None = None

    def bind_socket(self, address: UnixAddress, predecessor: int | None = None) -> None:
        """Bind the Unix socket, which nobody finds before `publish`.

        `predecessor` is the process that has handed over. Raises as `SocketPlace.bind`.
        """
        self._place = SocketPlace(address, predecessor)
        self._place.bind(lambda path: self.server.add_insecure_port(f"unix:{quote(str(path))}"))

    def publish(self) -> None:
        """Let callers find the socket; raise as `SocketPlace.publish`."""
        if self._place is not None:
            self._place.publish()

    @property
    def is_found(self) -> bool:
        """Whether the socket's name still leads here."""
        return self._place is not None and self._place.is_ours

    def bind_tcp(self, address: HostPort, tls: ListenerTls) -> HostPort:
        """Bind a TCP port with TLS and return the address with the port that it got.

        Raises `AddressInUse` or `StartupError`.
        """
        _probe_port(address)
        try:
            port = self.server.add_secure_port(str(address), _credentials(tls))
        except RuntimeError as error:
            msg = f"cannot listen on `{address}` with TLS; check the address, the certificate and its key"
            raise StartupError(msg) from error
        return type(address)(address.host, port)

    def start(self) -> None:
        """Answer calls from now on."""
        self.server.start()

    def stop(self, grace_s: float) -> None:
        """Take no new call, let those that run end within `grace_s` seconds, remove the socket."""
        self.server.stop(grace_s).wait()
        if self._place is not None:
            self._place.remove()


class RuntimeListener(Listener):
    """The listener for runtimes: the whole service, health and reflection."""

    def __init__(self, servicer: AuthorizationServicer, *, is_local: bool = True) -> None:
        """Serve `servicer`; `is_local` unless it is bound to TCP too."""
        self._health_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="health")
        self._health = health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=self._health_pool)
        self._servicer = servicer
        super().__init__(self._serve, is_local=is_local)
        self._serving: bool | None = None
        self.set_serving(serving=False)

    def _serve(self, server: grpc.Server) -> None:
        authorization_pb2_grpc.add_AuthorizationServiceServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server, pool=None)

    def set_serving(self, *, serving: bool) -> None:
        """Tell health checks whether decisions can be made by policy."""
        if serving is self._serving:
            return
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            self._health.set(name, status)

    def stop(self, grace_s: float) -> None:
        """Tell health checks, end streams, and stop as every listener."""
        self._health.enter_graceful_shutdown()
        self._servicer.stop()
        super().stop(grace_s)
        self._health_pool.shutdown(wait=False)


# --- TCP --------------------------------------------------------------------------------------------------------------


def _probe_port(address: HostPort) -> None:
    """Say what is wrong with an address; gRPC only says that something is."""
    try:
        family, kind, _, _, resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(resolved)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            msg = f"`{address}` is in use; stop what listens there, or choose another listen in [sidecar.tcp]"
            raise AddressInUse(msg) from error
        msg = f"cannot listen on `{address}`: {(error.strerror or str(error)).lower()}"
        raise StartupError(msg) from error


def _credentials(tls: ListenerTls) -> grpc.ServerCredentials:
    """Return credentials that follow the files: gRPC asks at each handshake, on threads of its own."""

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        latest = tls.renewed()
        return _configuration(latest) if latest else None

    must_present = tls.initial.client_ca is not None
    first = _configuration(tls.initial)
    # The stubs do not know that None means: as before.
    return grpc.dynamic_ssl_server_credentials(first, renewed, must_present)  # type: ignore[arg-type]


def _configuration(tls: ServerTls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.identity.key, tls.identity.chain)], tls.client_ca)
