"""Two real servers on a real PostgreSQL, with real sidecars: any of the three can die, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.decision import PolicySource
from akpolicy.errors import ServerRefused, ServerUnreachable
from tests.integration.e2e.pair import SCOPE, Pair
from tests.simulators.postgresql import PostgreSQL
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.e2e.world import World


REPETITIONS: Final = 10


@pytest.fixture
def pair(world: World) -> Iterator[Pair]:
    with PostgreSQL() as database:
        database.execute("CREATE DATABASE akpolicy TEMPLATE template0")
        yield Pair(world, database)


def test_what_is_published_at_one_is_enforced_at_once_by_the_hosts_of_the_other(pair: Pair) -> None:
    for number in range(REPETITIONS):
        pair.publish(f"p{number}")
        pair.world.wait_decided_by(f"p{number}", "host-1")
    # Without hearing of each other it would be the sweep: 20 seconds.
    assert pair.world.state("host-1")[SCOPE]["version"] == REPETITIONS + 1


def test_hosts_of_a_server_that_is_killed_are_soon_with_the_other(pair: Pair) -> None:
    pair.first.kill()
    # Whichever it was connected to: it hears of what is published at the one that is left.
    pair.publish("second", pair.port)
    pair.world.wait_for_decision(
        lambda d: d.source is PolicySource.LIVE and d.determining[0].policy_id == "second", "host-2"
    )
    pair.second.kill()
    pair.world.wait_for_decision(lambda d: d.source is not PolicySource.LIVE, "host-2")
    assert pair.world.ask("host-2").determining[0].policy_id == "second"
    pair.world.start_server()
    pair.world.wait_for_decision(lambda d: d.source is PolicySource.LIVE, "host-2")


def test_nothing_is_lost_when_postgresql_is_killed_and_decisions_go_on(pair: Pair) -> None:
    world, acknowledged = pair.world, pair.publish("second")
    pair.database.kill()
    with pytest.raises((ServerRefused, ServerUnreachable)):
        pair.publish("lost", key="k1")
    for host in ("host-1", "host-2"):
        assert world.ask(host).allowed
    pair.database.start()

    def publishes() -> int:
        # The same key as before: had it been stored, this would not store it again.
        try:
            return pair.publish("third", pair.port, key="k2")
        except (ServerRefused, ServerUnreachable):
            return 0

    version = wait_until(publishes, what="a server that publishes again")
    assert version == acknowledged + 1
    for host in ("host-1", "host-2"):
        world.wait_decided_by("third", host)
    wait_until(lambda: all(map(pair.is_live, ("host-1", "host-2"))), what="live hosts")
    assert [info.version for info in world.history()] == list(range(version, 0, -1))
