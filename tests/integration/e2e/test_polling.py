"""Hosts that poll, and hosts whose streams somebody on the way breaks: real programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc

from akpolicy.cli.demo.middleman import Middleman
from tests.integration.e2e.world import World, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.v1 import distribution_pb2 as pb


class BreaksStreams(Middleman):
    """A proxy that passes answers on only when they are complete, which a stream's never are."""

    let_streams_pass = False

    def Subscribe(  # noqa: N802 - the service names it
        self, request_iterator: Iterator[pb.SubscribeRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SubscribeResponse]:
        """Break a stream, as such a proxy does when it has waited for long enough."""
        if self.let_streams_pass:
            yield from super().Subscribe(request_iterator, context)
            return
        context.abort(grpc.StatusCode.UNAVAILABLE, "upstream timed out")


def polling(world: World, **sidecar: Any) -> dict[str, dict[str, object]]:
    tables = world.sidecar_tables()
    tables["sidecar"] |= {"poll_interval_s": 1.0, **sidecar}
    return tables


def shown(world: World) -> dict[str, Any]:
    """Return how the fleet view shows the host."""
    listed = json.loads(world.cli("fleet", "hosts", "--org", "acme", "--output", "json").stdout)
    return dict(listed[0]) if listed else {}


def test_a_polling_host_follows_policy_and_is_shown_as_one(world: World) -> None:
    world.init()
    world.start_server()
    world.publish(permit("first"))
    sidecar = world.start_sidecar(tables=polling(world, update_mode="poll"))
    assert world.wait_decided_by("first").source.value == "live"
    world.publish(permit("second"))
    assert world.wait_decided_by("second").fresh
    wait_until(lambda: shown(world).get("scopes_behind") == 0, what="the report")
    host = shown(world)
    assert (host["update_mode"], host["connected"]) == ("poll", True)
    assert sidecar.readiness()[1]["update_mode"] == "poll"
    assert sidecar.metric("akpolicy_sidecar_update_mode", mode="poll") == 1
    assert sidecar.metric("akpolicy_sidecar_connected") == 1


def test_a_polling_host_goes_on_from_its_cache_while_the_server_is_away(world: World) -> None:
    world.init()
    server = world.start_server()
    world.publish(permit("first"))
    world.start_sidecar(tables=polling(world, update_mode="poll"))
    world.wait_decided_by("first")
    server.kill()
    world.wait_for_decision(lambda d: d.source.value == "cache")
    world.start_server()
    world.publish(permit("second"))
    assert world.wait_decided_by("second").fresh


def test_a_host_whose_streams_are_broken_on_the_way_polls_and_says_so(world: World) -> None:
    world.init()
    world.start_server()
    world.publish(permit("first"))
    with BreaksStreams(f"127.0.0.1:{world.port}") as between:
        tables = polling(world)
        tables["enterprise"]["policy_server"] = f"http://127.0.0.1:{between.port}"
        sidecar = world.start_sidecar(tables=tables)
        assert world.wait_decided_by("first").source.value == "live"
        sidecar.wait_for_record("no stream from the policy server can be had; polling instead")
        assert sidecar.readiness()[1]["update_mode"] == "poll"
        world.publish(permit("second"))
        assert world.wait_decided_by("second").fresh
        assert shown(world)["update_mode"] == "poll"
