"""How soon two servers on one PostgreSQL act as one: real servers, real sidecars, a real database.

Run it with `make bench-replicas`. A change is published at one server and enforced on a host of the other; then one
server is killed under a host that knows both. Everything is on this machine and on Unix sockets or loopback.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from akpolicy.decision import PolicySource
from bench.table import Line, report
from tests.integration.e2e.pair import Pair
from tests.integration.e2e.world import World
from tests.simulators.postgresql import PostgreSQL

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANGES = 30
KILLS = 5
MAX_ENFORCED_S = 0.5
MAX_MOVED_S = 10.0


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    return report(__doc__ or "", lambda: list(_measure()))


def _measure() -> Iterator[Line]:
    with World() as world, PostgreSQL() as database:
        database.execute("CREATE DATABASE akpolicy TEMPLATE template0")
        pair = Pair(world, database)
        took = [_change(pair, number) for number in range(CHANGES)]
        what = "publish called at one -> decides on a host of the other"
        yield Line(f"{what} (median of {CHANGES})", statistics.median(took), "s", MAX_ENFORCED_S)
        yield Line("  the longest", max(took), "s", MAX_ENFORCED_S)
        moved = [_kill(pair) for _ in range(KILLS)]
        yield Line(f"server killed -> its host is live at the other (max of {KILLS})", max(moved), "s", MAX_MOVED_S)


def _change(pair: Pair, number: int) -> float:
    began = time.monotonic()
    pair.publish(f"p{number}")
    pair.world.wait_decided_by(f"p{number}", "host-1")
    return time.monotonic() - began


def _kill(pair: Pair) -> float:
    """Kill the server that `host-2` is with; return how long it takes to be live with the other, in seconds."""
    world = pair.world
    world.wait_for_decision(lambda d: d.source is PolicySource.LIVE, "host-2")
    on_first = pair.first.metric("akpolicy_server_subscribers") > 0
    (pair.first if on_first else pair.second).kill()
    began = time.monotonic()
    world.wait_for_decision(lambda d: d.source is not PolicySource.LIVE, "host-2")
    world.wait_for_decision(lambda d: d.source is PolicySource.LIVE, "host-2")
    took = time.monotonic() - began
    pair.restart(first=on_first)
    return took


if __name__ == "__main__":
    raise SystemExit(main())
