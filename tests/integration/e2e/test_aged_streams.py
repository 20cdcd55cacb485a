"""Streams end because they are old, one after the other, and a host in the strictest mode notices nothing of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import pytest

from akpolicy.client import PolicyClient
from akpolicy.decision import PolicySource
from tests.integration.e2e.repeating import Repeating
from tests.integration.e2e.world import ASK_TIMEOUT_S, HOST, World, ask, decided_by, permit
from tests.simulators.waiting import wait_until

# A host bridges three keep-alives, and comes back within half a second: this leaves it room on a busy machine.
KEEP_ALIVE_S: Final = 2.0
STREAM_AGE_S: Final = 1.0
STREAMS: Final = 6


@pytest.mark.slow
def test_fail_closed_refuses_nothing_while_streams_grow_old_and_enforces_what_is_published_in_between(
    world: World,
) -> None:
    world.init()
    world.server_tables["server"] |= {"keep_alive_seconds": KEEP_ALIVE_S, "stream_age_seconds": STREAM_AGE_S}
    server = world.start_server()
    world.publish(permit("p0"))
    tables = world.sidecar_tables()
    tables["enterprise"]["offline_mode"] = "fail_closed"
    sidecar = world.start_sidecar(tables=tables)
    world.wait_for_decision(lambda d: d.source is PolicySource.LIVE, what="a live stream")

    def ended() -> float:
        return server.metric("akpolicy_server_streams_ended_total", reason="old")

    with (
        PolicyClient(world.directory / f"{HOST}.sock", timeout=ASK_TIMEOUT_S) as client,
        Repeating(lambda: ask(client)) as asking,
    ):
        for number in range(1, STREAMS + 1):
            before = ended()
            wait_until(lambda before=before: ended() > before, what="a stream that is old")  # type: ignore[misc]
            # Mostly while there is no stream.
            world.publish(permit(f"p{number}"))
            world.wait_decided_by(f"p{number}")
        asking.more()

    assert [decision for decision in asking.results if not decision.allowed or not decision.fresh] == []
    assert {(decision.mode.value, decision.source) for decision in asking.results} == {
        ("fail_closed", PolicySource.LIVE)
    }
    versions = [decision.bundles[0].version for decision in asking.results]
    assert all(earlier <= later for earlier, later in pairwise(versions))
    assert (versions[-1], decided_by(asking.results[-1])) == (STREAMS + 1, f"p{STREAMS}")
    assert not any(record["event"].startswith("no connection") for record in sidecar.records())
