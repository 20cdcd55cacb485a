"""A process that stands still (SIGSTOP) keeps its connections and answers nothing: the other end finds it dead."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from akpolicy.decision import PolicySource
from akpolicy.limits import KIB
from akpolicy_server.listener import MIN_PING_S
from tests.integration.e2e.pair import Pair
from tests.integration.e2e.world import HOST, ORG, World, decided_by, permit
from tests.simulators.postgresql import PostgreSQL
from tests.simulators.waiting import wait_until
from tests.simulators.wire import PIECE_BYTES, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.e2e.programs import Program

KEEP_ALIVE_S: Final = 0.5
HEARTBEAT_LIFETIME_S: Final = 3
HOUR_S: Final = 3600.0
# Of a ping, and how many are waited for.
PING_FRAME_BYTES: Final = 17
PINGS: Final = 20
# A line on which a ping of two seconds waits behind 320 KiB at most, and a bundle of 3 MB.
LINE_BYTES_A_SECOND: Final = 160 * KIB
LARGE_POLICIES: Final = 190


def begin(world: World, mode: str = "cached_with_expiry", **server: object) -> Program:
    """Have a host enforce `first` from a server with these settings; return the server."""
    world.init()
    world.server_tables["server"] |= {"keep_alive_seconds": KEEP_ALIVE_S, **server}
    running = world.start_server()
    world.publish(permit("first"))
    tables = world.sidecar_tables()
    tables["enterprise"]["offline_mode"] = mode
    world.start_sidecar(tables=tables)
    world.wait_for_decision(is_live, what="a live stream")
    return running


@contextmanager
def beginning_over_a_wire(world: World, **server: object) -> Iterator[Wire]:
    """Have a host enforce `first` from a server with these settings, to which it has a wire."""
    world.init()
    world.server_tables["server"] |= server
    world.start_server()
    world.publish(permit("first"))
    with Wire(world.port) as wire:
        tables = world.sidecar_tables()
        tables["enterprise"]["policy_server"] = f"http://127.0.0.1:{wire.port}"
        world.start_sidecar(tables=tables)
        world.wait_for_decision(is_live, what="a live stream")
        yield wire


def is_live(decision: Any) -> bool:
    return decision.source is PolicySource.LIVE


def presence(world: World) -> tuple[bool, int, int]:
    """Return whether the host is connected, and how many hosts are connected and gone, as operators see it."""
    [host] = json.loads(world.cli("fleet", "hosts", "--org", ORG, "--output", "json").stdout)
    status = json.loads(world.cli("fleet", "status", "--org", ORG, "--output", "json").stdout)
    return host["connected"], status["hosts_connected"], status["hosts_gone"]


# --- the server stands still ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "meanwhile"), [("cached_with_expiry", "first"), ("fail_closed", "POLICY_STALE")])
def test_a_server_that_stands_still_is_found_dead_and_found_again(world: World, mode: str, meanwhile: str) -> None:
    server = begin(world, mode, heartbeat_lifetime_seconds=HEARTBEAT_LIFETIME_S)
    sidecar = world.sidecars[HOST]
    with server.frozen():
        sidecar.wait_for_record("stream is silent")
        sidecar.wait_for_record("no connection to the policy server")
        kept = world.wait_for_decision(lambda d: not is_live(d) and not d.fresh, what="an expired heartbeat")
        assert decided_by(kept) == meanwhile
    world.publish(permit("second"))
    world.wait_for_decision(lambda d: is_live(d) and decided_by(d) == "second", what="the server again")


@pytest.mark.slow
def test_hosts_of_a_server_that_stands_still_turn_to_the_other(world: World) -> None:
    with PostgreSQL() as database:
        database.execute("CREATE DATABASE akpolicy TEMPLATE template0")
        pair = Pair(world, database, keep_alive_s=KEEP_ALIVE_S)
        # `host-1` knows the second alone; `host-2` is with one of the two.
        is_with_first = pair.second.metric("akpolicy_server_subscribers") == 1
        still, other = (pair.first, pair.port) if is_with_first else (pair.second, world.port)
        with still.frozen():
            pair.publish("second", other)
            world.wait_for_decision(lambda d: is_live(d) and decided_by(d) == "second", "host-2")


# --- the sidecar stands still -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sidecar_that_stands_still_is_gone_for_operators_and_back_when_it_goes_on(world: World) -> None:
    begin(world, ping_interval_seconds=MIN_PING_S, ping_timeout_seconds=MIN_PING_S)
    wait_until(lambda: presence(world) == (True, 1, 0), what="a connected host")

    with world.sidecars[HOST].frozen():
        # Whom nobody pings is shown as connected for as long as its connection stands.
        wait_until(lambda: presence(world) == (False, 0, 1), what="a host that is gone")
        world.publish(permit("second"))

    world.wait_for_decision(lambda d: is_live(d) and decided_by(d) == "second", what="what was published meanwhile")
    assert world.sidecars[HOST].is_running
    wait_until(lambda: presence(world) == (True, 1, 0), what="the host again")


# --- nobody has anything to say ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_quiet_stream_of_a_real_sidecar_outlives_many_pings(world: World) -> None:
    quiet = {"keep_alive_seconds": HOUR_S, "heartbeat_lifetime_seconds": int(HOUR_S)}
    with beginning_over_a_wire(world, ping_interval_seconds=MIN_PING_S, **quiet) as wire:
        before = wire.carried
        wait_until(lambda: wire.carried >= before + PINGS * PING_FRAME_BYTES, what=f"{PINGS} pings")
        assert is_live(world.ask())
        assert (wire.connections, wire.open_connections) == (1, 1)


# --- the line is slow -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_bundle_arrives_over_a_slow_line_on_which_a_ping_waits_behind_it(world: World) -> None:
    with beginning_over_a_wire(world, ping_interval_seconds=1.0, ping_timeout_seconds=2.0) as wire:
        wire.delay(PIECE_BYTES / LINE_BYTES_A_SECOND)
        world.publish(
            permit("second") + f"// {'x' * 16_000}\n".join(forbid(number) for number in range(LARGE_POLICIES))
        )
        world.wait_for_decision(lambda d: is_live(d) and decided_by(d) == "second", what="the large bundle")
        # Whose ping is answered too late is dead for the server, and the next connection begins the bundle anew.
        assert wire.connections == 1


def forbid(number: int) -> str:
    return f'@id("p{number}") forbid (principal == AgentKernel::User::"u{number}", action, resource);\n'
