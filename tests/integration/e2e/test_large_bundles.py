"""A bundle near the limit of 32 MiB arrives, and what it costs in memory is bounded; one beyond it is refused.

Measured with 30 MiB of 2,500 policies, as growth of the peak: server 2.4 times the size, sidecar 2.3 times, the child
of each fence, which has Cedar parse all of it as one text, 9.8 times and for a moment (5.8 if no character is beyond
Latin-1). With PostgreSQL the server that publishes grows by 2.8 times the size, one that reads it by 1.6. One more copy
on the way exceeds the bounds of server and sidecar.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.errors import ServerRefused
from akpolicy.limits import KIB, MIB
from tests.integration.e2e.pair import Pair
from tests.integration.e2e.world import ORG, World, permit
from tests.simulators.postgresql import PostgreSQL
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.e2e.programs import Program

SCOPE: Final = f"org/{ORG}"
POLICIES: Final = 2500
DEADLINE_S: Final = 180.0
# How often the size of the bundle a program, and the child of its fence, may grow by.
TIMES: Final = 3.0
CHILD_TIMES: Final = 11.0
# That many times the size may stay with a program after it.
STAYS_TIMES: Final = 2.7
_RESET_PEAK: Final = "5"


def large(size: int) -> str:
    """Return policies of about `size` bytes in total."""
    text = "x" * (size // POLICIES - 120)
    rule = '@id("p{n}") forbid (principal == AgentKernel::User::"u{n}", action, resource) when {{ "{text}" == "y" }};\n'
    # The last one: as one text, Python would need four bytes for each character of all of them.
    return (
        permit("second")
        + "".join(rule.format(n=n, text=text) for n in range(POLICIES))
        + "// \U0001f512\n"
        + rule.format(n="-last", text="x")
    )


def status(pid: int, field: str) -> float:
    """Return a field of a process's status, in MiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * KIB / MIB


def children(pid: int) -> Iterator[int]:
    """Yield the children of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text("ascii").split())


class Watch:
    """What processes grow by, from now on; `programs` by their names, each with how often the size it may grow by."""

    def __init__(self, programs: dict[str, tuple[Program, float]]) -> None:
        self._allowed: dict[int, tuple[str, float]] = {}
        for name, (program, times) in programs.items():
            self._allowed[program.pid] = (name, times)
            self._allowed |= dict.fromkeys(children(program.pid), (f"child of the {name}", CHILD_TIMES))
        for pid in self._allowed:
            Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        self._before = {pid: status(pid, "VmHWM") for pid in self._allowed}

    def check(self, size: int) -> None:
        """Require that all kept to what they may grow by for a bundle of `size` bytes, and give most of it back."""
        for pid, (name, times) in self._allowed.items():

            def grown(field: str, pid: int = pid) -> float:
                return (status(pid, field) - self._before[pid]) * MIB / size

            # A sidecar decides before it has let go of all that it needed.
            wait_until(lambda grown=grown: grown("VmRSS") <= STAYS_TIMES, what=f"the {name} to give back")  # type: ignore[misc]
            sys.stdout.write(f"{name}: {grown('VmHWM'):.1f} times the size at most, {grown('VmRSS'):.1f} stay\n")
            assert grown("VmHWM") <= times, name


@pytest.fixture
def pair(world: World) -> Iterator[Pair]:
    with PostgreSQL() as database:
        database.execute("CREATE DATABASE akpolicy TEMPLATE template0")
        yield Pair(world, database)


@pytest.mark.slow
def test_a_bundle_of_thirty_mebibytes_arrives_and_takes_bounded_memory(enforcing: World) -> None:
    assert enforcing.server is not None
    watch = Watch({"server": (enforcing.server, TIMES), "sidecar": (enforcing.sidecars["host-1"], TIMES)})
    text = large(30 * MIB)
    assert len(text.encode()) > 29 * MIB

    enforcing.publish(text)
    wait_until(lambda: enforcing.state()[SCOPE]["version"] == 2, deadline=DEADLINE_S, what="the bundle")
    enforcing.wait_decided_by("second")

    watch.check(len(text.encode()))


@pytest.mark.slow
def test_it_takes_bounded_memory_with_postgresql_too_where_it_is_published_and_where_it_is_read(pair: Pair) -> None:
    world = pair.world
    watch = Watch({"first server": (pair.first, TIMES), "second server": (pair.second, TIMES)})
    text = large(30 * MIB)

    world.publish(text)
    # It has the second server alone.
    wait_until(lambda: world.state("host-1")[SCOPE]["version"] == 2, deadline=DEADLINE_S, what="the bundle")
    world.wait_decided_by("second", "host-1")

    watch.check(len(text.encode()))


@pytest.mark.slow
def test_a_bundle_beyond_the_limit_is_refused_and_says_why(enforcing: World) -> None:
    with pytest.raises(ServerRefused, match=r"more than 33554432 bytes in total; publish fewer policies") as refused:
        enforcing.publish(large(33 * MIB))
    assert "INVALID_ARGUMENT" in str(refused.value)
    assert [revision.version for revision in enforcing.history()] == [1]
    enforcing.publish(permit("after"))
    enforcing.wait_decided_by("after")
