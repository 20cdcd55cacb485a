"""HTTP/2 pings on a quiet stream: as many as are tolerated harm nothing, and more than that are noticed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

from akpolicy.client import parse_server_url
from akpolicy.client.channel import bearer, channel_options
from akpolicy.v1.distribution_pb2_grpc import DistributionServiceStub
from akpolicy_server.listener import DEFAULT_PING_INTERVAL_S, MIN_PING_S, TOLERATED_PINGS
from tests.integration.server.conftest import Stream, live_server
from tests.simulators.waiting import wait_until
from tests.simulators.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR_S: Final = 3600.0
# Of a ping, and of the answer to one.
PING_FRAME_BYTES: Final = 17
PINGS: Final = 20
# No client of gRPC's pings more often, whatever it is told.
FASTEST_MS: Final = 1000


@contextmanager
def quiet_stream(directory: Path, ping_interval_s: float, ping_ms: int = 0) -> Iterator[tuple[Stream, Wire]]:
    """Yield a host's stream over which nothing goes any more, and the wire below it.

    The stream is opened as sidecars do; `ping_ms` is how often it pings, 0 for the sidecars' own interval.
    `ping_interval_s` is the server's.
    """
    quiet: dict[str, Any] = {"keep_alive_seconds": HOUR_S, "heartbeat_lifetime_seconds": int(HOUR_S)}
    with live_server(directory, ping_interval_seconds=ping_interval_s, **quiet) as server:
        secret = server.admin.create_key("acme", "host", "host-1").secret
        pings = {"grpc.keepalive_time_ms": ping_ms, "grpc.http2.max_pings_without_data": 0} if ping_ms else {}
        with Wire(server.serving.listen.port) as wire:
            endpoint = parse_server_url(f"http://127.0.0.1:{wire.port}")
            options = dict(channel_options(endpoint, [("grpc.use_local_subchannel_pool", 1)])) | pings
            with grpc.insecure_channel(endpoint.target, options=list(options.items())) as channel:
                stream = Stream(DistributionServiceStub(channel), bearer(secret)).hello()
                stream.until_keep_alive()
                yield stream, wire
                stream.call.cancel()


@pytest.mark.parametrize("ping_ms", [0, FASTEST_MS], ids=["pinged by the server", "pinging too"])
def test_a_quiet_stream_outlives_many_pings(tmp_path: Path, ping_ms: int) -> None:
    assert ping_ms == 0 or ping_ms >= MIN_PING_S * 1000 / TOLERATED_PINGS
    with quiet_stream(tmp_path, MIN_PING_S, ping_ms) as (stream, wire):
        before = wire.carried
        wait_until(lambda: wire.carried >= before + PINGS * PING_FRAME_BYTES or not stream.call.is_active())
        assert stream.call.is_active()
        assert (wire.connections, wire.open_connections) == (1, 1)


def test_a_client_that_pings_too_often_is_sent_away(tmp_path: Path) -> None:
    assert DEFAULT_PING_INTERVAL_S * 1000 / TOLERATED_PINGS > FASTEST_MS
    with quiet_stream(tmp_path, DEFAULT_PING_INTERVAL_S, FASTEST_MS) as (stream, _):
        # GOAWAY with ENHANCE_YOUR_CALM.
        assert stream.ending() == (grpc.StatusCode.UNAVAILABLE, "Too many pings")
