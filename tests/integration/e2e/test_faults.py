"""A network that goes wrong between real programs: hosts converge, or say why not, and never go back."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from akpolicy.client.publishing_types import PublishTerms
from tests.integration.e2e.world import ORG, World, permit
from tests.simulators.waiting import wait_until
from tests.simulators.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCOPE = f"org/{ORG}"
# 1.3 MiB: six chunks, so that faults find a bundle half way.
LARGE = 90
FAULTS: dict[str, Callable[[Wire], None]] = {
    "reset": lambda wire: wire.reset(),
    "half-close": lambda wire: wire.half_close(),
    "stall": lambda wire: wire.stall(),
    "refuse": lambda wire: wire.refuse(),
}


def large(policy_id: str) -> str:
    """Return policies of several chunks, under which `policy_id` decides."""
    padding = "".join(
        f'@id("{policy_id}-{n}") forbid (principal == AgentKernel::User::"{"x" * 14_000}-{n}", action, resource);\n'
        for n in range(LARGE)
    )
    return permit(policy_id) + padding


@pytest.fixture
def wire(world: World) -> Iterator[Wire]:
    """Yield the wire between a server and the sidecar of `host-1`, which enforces version 1 (`first`)."""
    world.init()
    world.server_tables["server"]["keep_alive_seconds"] = 0.2
    world.start_server()
    world.publish(permit("first"))
    with Wire(world.port) as made:
        start_behind(world, made)
        world.wait_decided_by("first")
        yield made


def start_behind(world: World, wire: Wire) -> None:
    tables = world.sidecar_tables()
    tables["enterprise"]["policy_server"] = f"http://127.0.0.1:{wire.port}"
    world.start_sidecar(tables=tables)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_a_quiet_stream_is_noticed_and_what_came_meanwhile_arrives(
    world: World, wire: Wire, fault: str
) -> None:
    before = wire.connections
    FAULTS[fault](wire)
    world.publish(permit("second"))
    # The host goes on with what it has, and notices.
    world.wait_for_decision(lambda d: [p.policy_id for p in d.determining] == ["first"])
    if fault != "half-close":
        world.sidecars["host-1"].wait_for_record("no connection to the policy server")
    wire.heal()
    world.wait_decided_by("second")
    assert wire.connections > before


@pytest.mark.parametrize("where", [1000, 200_000, 700_000, 1_200_000])
def test_a_connection_cut_within_a_bundle_leaves_the_old_policy_and_the_next_brings_the_new(
    world: World, wire: Wire, where: int
) -> None:
    wire.cut_after(where)
    # From the server's answer on the bundle is on its way, and the wire is cut in the middle of it.
    world.publish(large("second"))
    wait_until(lambda: wire.is_cut)
    world.wait_decided_by("second")
    assert world.history()[0].version == world.state()[SCOPE]["version"] == 2
    assert world.sidecars["host-1"].metric("akpolicy_updates_total", outcome="rejected") == 0


def test_a_bundle_that_stalls_half_way_is_given_up_and_comes_whole_when_the_wire_heals(
    world: World, wire: Wire
) -> None:
    sent = wire.carried
    wire.cut_after(10**9)
    world.publish(permit("second"))
    world.wait_decided_by("second")
    wire.delay(0.05)
    world.publish(large("third"))
    wait_until(lambda: wire.carried > sent + 300_000, what="a part of the bundle")
    wire.stall()
    world.sidecars["host-1"].wait_for_record("stream is silent")
    assert world.ask().determining[0].policy_id == "second"
    wire.heal()
    world.wait_decided_by("third")


def test_a_sidecar_killed_in_the_middle_of_a_bundle_comes_back_with_the_old_and_gets_the_new(
    world: World, wire: Wire
) -> None:
    wire.delay(0.05)
    sent = wire.carried
    world.publish(large("second"))
    wait_until(lambda: wire.carried > sent + 300_000, what="a part of the bundle")
    world.sidecars["host-1"].kill()
    wire.stall()
    start_behind(world, wire)
    # From its cache alone: the server cannot be heard.
    world.wait_decided_by("first")
    assert world.state()[SCOPE]["version"] == 1
    wire.heal()
    world.wait_decided_by("second")


def test_a_server_killed_in_the_middle_of_a_bundle_sends_it_whole_after_its_restart(world: World, wire: Wire) -> None:
    assert world.server is not None
    wire.delay(0.05)
    sent = wire.carried
    world.publish(large("second"))
    wait_until(lambda: wire.carried > sent + 300_000, what="a part of the bundle")
    world.server.kill()
    wire.heal()
    assert world.ask().determining[0].policy_id == "first"
    world.start_server()
    world.wait_decided_by("second")


def test_a_server_restored_from_an_older_backup_is_refused_and_hosts_keep_the_newer_policy(
    world: World, wire: Wire
) -> None:
    assert world.server is not None
    data = world.server_dir / "data"
    world.publish(permit("second"))
    world.wait_decided_by("second")
    assert world.server.stop() == 0
    shutil.copytree(data, world.directory / "older")
    world.start_server()
    world.publish(permit("third"))
    world.publish(permit("fourth"))
    world.wait_decided_by("fourth")
    assert world.server.stop() == 0
    shutil.rmtree(data)
    (world.directory / "older").rename(data)

    world.start_server()

    def refusals() -> list[str]:
        shown = world.cli("fleet", "hosts", "--org", ORG, "--output", "json")
        return [code for code in ("RollbackDetected", "HeartbeatRollback", "IndexRollback") if code in shown.stdout]

    wait_until(refusals, what="the host's refusal in `fleet hosts`")
    assert world.ask().determining[0].policy_id == "fourth"
    assert world.state()[SCOPE]["version"] == 4
    # Publishing past what was lost ends it: each version is a new one, and the host follows again.
    for number in range(5):
        world.publish(permit(f"after-{number}"), terms=PublishTerms())
    world.wait_decided_by("after-4")
    assert world.state()[SCOPE]["version"] == 7
