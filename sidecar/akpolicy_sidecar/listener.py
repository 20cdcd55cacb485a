"""Where runtimes and sandboxes ask: Unix sockets, and for runtimes TLS over TCP where configured.

Rules:

- Who may connect to the socket is its mode and group, and both are right before anybody can connect: it is bound under
  a umask that lets only its owner in, given its group, and then opened up.
- A socket file that nobody serves is replaced; one that is served is `SocketInUse`. Anything else under that name is
  refused and never removed. On shutdown our own socket is removed, and no other.
- A path that does not fit into `sockaddr_un` is refused before anything is tried (unix(7): 108 bytes with the final
  zero).
- The TCP port is not shared with another process (`so_reuseport` off). Its handshakes use what the TLS files hold then.
- A call that has begun without its message holds a thread, so there are more threads than may decide at once; what
  comes on top of `MAX_PENDING_CALLS` is refused at once, not left waiting.
- Health tells the truth: SERVING while decisions can be made by policy, for the server as a whole and for the service.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped] # it has no types
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped] # it has no types

from akpolicy.errors import AddressInUse, SocketInUse, SocketNotWritable, SocketPathTooLong, StartupError
from akpolicy.limits import MAX_MESSAGE_BYTES
from akpolicy.v1 import authorization_pb2, authorization_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.addresses import HostPort
    from akpolicy.tls_files import ListenerTls, ServerTls
    from akpolicy_sidecar.api.authorization import AuthorizationServicer

SERVICE: Final = authorization_pb2.DESCRIPTOR.services_by_name["AuthorizationService"].full_name
MAX_SOCKET_PATH_BYTES: Final = 107
SOCKET_DIR_MODE: Final = 0o755
# Calls being worked on or waiting for a thread; what comes on top is refused with RESOURCE_EXHAUSTED.
MAX_PENDING_CALLS: Final = 128
PROBE_TIMEOUT_S: Final = 1.0

_OWNER_ONLY_UMASK = 0o177


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Where the socket is, its mode, and its group (empty: the process's own)."""

    path: Path
    mode: int
    group: str = ""


class Listener:
    """A gRPC server of the sidecar, between `start` and `stop`."""

    def __init__(self, serve: Callable[[grpc.Server], None]) -> None:
        """Serve what `serve` adds to the server."""
        self.server = grpc.server(
            ThreadPoolExecutor(max_workers=MAX_PENDING_CALLS, thread_name_prefix="authorize"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)],
            maximum_concurrent_rpcs=MAX_PENDING_CALLS,
        )
        serve(self.server)
        self._socket: tuple[Path, tuple[int, int]] | None = None

    def bind_socket(self, address: UnixAddress) -> None:
        """Bind the Unix socket.

        Raises `SocketPathTooLong`, `SocketInUse` or `SocketNotWritable`.
        """
        path = address.path
        _check_length(path)
        group = _group_id(address.group)
        _make_way(path)
        before = os.umask(_OWNER_ONLY_UMASK)
        try:
            self.server.add_insecure_port(f"unix:{quote(str(path))}")
            info = path.lstat()
            self._socket = (path, (info.st_dev, info.st_ino))
        except (RuntimeError, OSError) as error:
            msg = f"cannot create the socket `{path}`; check that its directory is writable for this user"
            raise SocketNotWritable(msg) from error
        finally:
            os.umask(before)
        try:
            if group is not None:
                os.chown(path, -1, group)
            path.chmod(address.mode)
        except OSError as error:
            msg = f"cannot give the socket `{path}` the group `{address.group}`: {error.strerror}"
            raise SocketNotWritable(msg) from error

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
        self._remove_socket()

    def _remove_socket(self) -> None:
        if self._socket is None:
            return
        path, identity = self._socket
        try:
            info = path.lstat()
            if (info.st_dev, info.st_ino) == identity:
                path.unlink()
        except FileNotFoundError:
            pass


class RuntimeListener(Listener):
    """The listener for runtimes: the whole service, health and reflection."""

    def __init__(self, servicer: AuthorizationServicer) -> None:
        """Serve `servicer`."""
        self._health_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="health")
        self._health = health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=self._health_pool)
        self._servicer = servicer
        super().__init__(self._serve)
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


# --- the socket's place -----------------------------------------------------------------------------------------------


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH_BYTES:
        msg = (
            f"the socket path `{path}` has {size} bytes, more than {MAX_SOCKET_PATH_BYTES}; "
            "set a shorter one with socket in [sidecar]"
        )
        raise SocketPathTooLong(msg)


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        msg = f"socket_group `{name}` is no group of this machine; create it or name another"
        raise StartupError(msg) from None


def _make_way(path: Path) -> None:
    """Create the directory, and remove a socket that nobody serves."""
    try:
        path.parent.mkdir(mode=SOCKET_DIR_MODE, parents=True, exist_ok=True)
        mode = _mode_of(path)
        if mode is None:
            return
        if not stat.S_ISSOCK(mode):
            msg = f"`{path}` exists and is no socket; move it away or set another socket in [sidecar]"
            raise SocketNotWritable(msg)
        if _is_served(path):
            msg = f"the socket `{path}` is served by another process; stop that or set another socket in [sidecar]"
            raise SocketInUse(msg)
        path.unlink()
    except OSError as error:
        msg = f"cannot create the socket `{path}`: {(error.strerror or str(error)).lower()}"
        raise SocketNotWritable(msg) from error


def _mode_of(path: Path) -> int | None:
    """Return the type and mode of what is at `path` (a link itself, not its target), None if nothing is."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except (BlockingIOError, TimeoutError):
            # Its queue is full: somebody is there.
            return True
    return True


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
