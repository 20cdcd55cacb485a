"""What an update costs does not grow with the number of scopes: steps of the interpreter and bytes on disk are counted.

Steps are counted, not seconds: they are the same on every machine. Work that grew with the number of scopes would be
eight times as much among eight times as many.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from akpolicy import durable
from tests.simulators.disk import RecordingOs
from tests.simulators.host import HostSimulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from akpolicy.v1 import distribution_pb2 as pb

PERMIT: Final = {"p": '@id("p") permit (principal, action, resource);'}
FORBID: Final = {"p": '@id("p") forbid (principal, action, resource);'}
FEW, MANY = 40, 320
# Logarithms, and journals whose numbers have a digit more.
SLACK: Final = 1.3
ALICE: Final = "org/acme/user/alice"


def steps(work: Callable[[], object]) -> int:
    """Return how many instructions of the interpreter some work takes in this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def with_scopes(place: Path, count: int) -> HostSimulator:
    """Return a host that enforces so many teams' layers and one user's, and is connected."""
    host = HostSimulator(place)
    host.office.publish(PERMIT)
    host.office.publish(PERMIT, scope=ALICE)
    for number in range(count):
        host.office.publish(PERMIT, scope=f"org/acme/team/t{number}")
    return host.connect()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[HostSimulator, HostSimulator]]:
    """A host with few scopes and one with many."""
    few, many = with_scopes(tmp_path / "few", FEW), with_scopes(tmp_path / "many", MANY)
    yield few, many
    few.close()
    many.close()


def messages_of(host: HostSimulator, policies: dict[str, str], scope: str) -> list[pb.SubscribeResponse]:
    host.office.publish(policies, scope=scope)
    return host.office.bundle(scope)


def compare(hosts: tuple[HostSimulator, HostSimulator], work: Callable[[HostSimulator], Callable[[], object]]) -> None:
    """Check that some work, once it is prepared, takes as long among many scopes as among few."""
    few, many = (steps(work(host)) for host in hosts)
    assert few > 100
    assert many < SLACK * few


@pytest.mark.parametrize("scope", [ALICE, "org/acme/team/new"])
def test_a_bundle_costs_the_same_among_many_scopes(hosts: tuple[HostSimulator, HostSimulator], scope: str) -> None:
    def bundle(host: HostSimulator) -> Callable[[], object]:
        messages = messages_of(host, FORBID, scope)
        return lambda: host.hear(*messages)

    compare(hosts, bundle)
    assert [host.nacks for host in hosts] == [[], []]
    assert [host.versions[scope] for host in hosts] == [2 if scope == ALICE else 1] * 2


def test_the_first_contact_costs_as_much_for_each_scope(tmp_path: Path) -> None:
    costs = []
    for count in (FEW, MANY):
        host = HostSimulator(tmp_path / str(count))
        for number in range(count):
            host.office.publish(PERMIT, scope=f"org/acme/team/t{number}")
        messages = host.office.greeting(host.new_session().hello().hello)
        costs.append(steps(lambda host=host, messages=messages: host.hear(*messages)) / count)  # type: ignore[misc]
        assert len(host.versions) == count
        assert host.nacks == []
        host.close()
    assert costs[1] < SLACK * costs[0]


def test_a_heartbeat_with_a_known_index_costs_the_same_among_many_scopes(
    hosts: tuple[HostSimulator, HostSimulator],
) -> None:
    def beat(host: HostSimulator) -> Callable[[], object]:
        host.clock.advance(1)
        known = bytes.fromhex(host.updater.holdings.index_digest)
        message = host.office.heartbeat(known_index=known)
        assert message.heartbeat.index == b""
        return lambda: host.hear(message)

    compare(hosts, beat)
    assert [host.standing().age_ms for host in hosts] == [0, 0]


def test_a_heartbeat_after_one_change_costs_the_same_among_many_scopes(
    hosts: tuple[HostSimulator, HostSimulator],
) -> None:
    sizes: list[int] = []

    def beat(host: HostSimulator) -> Callable[[], object]:
        base = host.office.heartbeat().heartbeat.index
        host.hear(*messages_of(host, FORBID, "org/acme/team/t7"))
        message = host.office.heartbeat(changes_from=base)
        sizes.append(message.ByteSize())
        return lambda: host.hear(message)

    compare(hosts, beat)
    assert sizes[1] <= sizes[0] + 16
    assert [host.nacks for host in hosts] == [[], []]
    assert [host.updater.lacking for host in hosts] == [(), ()]
    assert [dict(host.snapshots.current.freshness.confirmations.others) for host in hosts] == [{}, {}]


def test_the_first_decision_after_a_change_costs_the_same_among_many_scopes(
    hosts: tuple[HostSimulator, HostSimulator],
) -> None:
    def decision(host: HostSimulator) -> Callable[[], object]:
        host.hear(*messages_of(host, FORBID, "org/acme/team/t7"))
        return host.decide

    compare(hosts, decision)


def test_what_is_looked_at_several_times_a_second_costs_the_same_among_many_scopes(
    hosts: tuple[HostSimulator, HostSimulator],
) -> None:
    def look(host: HostSimulator) -> Callable[[], object]:
        host.hear(*messages_of(host, FORBID, "org/acme/team/t7"))
        return lambda: (host.viewer.look().standing, host.viewer.look().base.standing)

    compare(hosts, look)


def test_a_bundle_writes_as_many_bytes_among_many_scopes(
    hosts: tuple[HostSimulator, HostSimulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for host in hosts:
        messages = messages_of(host, FORBID, ALICE)
        with monkeypatch.context() as patch:
            recorder = RecordingOs()
            patch.setattr(durable, "os", recorder)
            host.hear(*messages)
        sizes.append(sum(len(event.data) for event in recorder.events if event.step == "write"))
    assert sizes[1] <= sizes[0] + 16
