"""Where the server listens: address, and how patient a connection is.

Rules:

- What is wrong with an address is said before anything is served, and as what it is.
- A port that somebody else listens on is refused, never shared.
- No gRPC here: `app` hands these values to it.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from akpolicy.errors import AddressInUse, StartupError
from akpolicy.limits import MIB

if TYPE_CHECKING:
    from akpolicy.addresses import HostPort

# A message is received before its sender is known to have a key. The largest legal one is a chunk (256 KiB) or a host's
# Hello; this bounds what strangers can make the server hold. A client needs few streams at once.
MAX_RECEIVED_BYTES: Final = MIB
MAX_STREAMS_PER_CONNECTION: Final = 128

# A host may have nothing to say for a long time. The server pings a connection from which nothing came for so long, and
# gives it up when no answer comes in time: together, three of the intervals in which streams say that they live.
DEFAULT_PING_INTERVAL_S: Final = 20.0
DEFAULT_PING_TIMEOUT_S: Final = 10.0
# Below that a busy machine is taken for a dead one; above, a host that is gone is shown as connected for too long.
MIN_PING_S: Final = 0.5
MAX_PING_INTERVAL_S: Final = 300.0
MAX_PING_TIMEOUT_S: Final = 60.0
# Clients may ping so many times as often as the server does, with or without calls. Who pings more often is sent away
# (GOAWAY too_many_pings).
TOLERATED_PINGS: Final = 4

_MILLISECONDS: Final = 1000

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # TLS records of 1 KiB: with the 16 KiB of a full one each connection has a buffer that broadcasts fill for good,
    # 12 KB resident of 90 (grpcio 1.85.1, 600 streams).
    ("grpc.tsi.max_frame_size", 1024),
    # What gRPC would remember of each connection for channelz, which this server does not serve.
    ("grpc.enable_channelz", 0),
    # Two servers on one port would take turns.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
)


def grpc_options(
    ping_interval_s: float = DEFAULT_PING_INTERVAL_S, ping_timeout_s: float = DEFAULT_PING_TIMEOUT_S
) -> tuple[tuple[str, int], ...]:
    """Return the channel arguments of a listener that pings after so many seconds, and waits so long for the answer."""
    interval_ms, timeout_ms = int(ping_interval_s * _MILLISECONDS), int(ping_timeout_s * _MILLISECONDS)
    return (
        ("grpc.keepalive_time_ms", interval_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # That alone does not end a connection whose kernel still answers (grpcio 1.85.1): a ping waits a minute.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.http2.min_ping_interval_without_data_ms", interval_ms // TOLERATED_PINGS),
        *_OPTIONS,
    )


def check_free(address: HostPort) -> None:
    """Raise `AddressInUse` or `StartupError` unless this process can listen on `address`."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartupError(f"`{address}` is no address of this machine: {error.strerror}") from error
    for family, kind, protocol, _, resolved in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(resolved)
            except OSError as error:
                raise _refused(address, error) from error


def _refused(address: HostPort, error: OSError) -> StartupError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"`{address}` is in use; stop what listens there, or choose another listen address")
    return StartupError(f"cannot listen on `{address}`: {(error.strerror or str(error)).lower()}")
