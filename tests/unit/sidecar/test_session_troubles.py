"""What a host tells the server of itself: once for each change, and again on a new connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import ClockJump, HeartbeatStale, PolicyStale
from tests.simulators.host import HostSimulator
from tests.simulators.org import DAY
from tests.unit.sidecar.conversation import (
    PERMIT,
)

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.v1 import distribution_pb2 as pb

    Message = pb.SubscribeResponse


def told(host: HostSimulator) -> list[str]:
    """Return the codes of what was told that is not about an update."""
    return [m.nack.code for m in host.sent if m.HasField("nack") and not m.nack.nonce]


def test_what_is_wrong_with_the_host_is_told_once_for_each_change(host: HostSimulator) -> None:
    stale, jump = HeartbeatStale("old"), ClockJump("ahead")
    for error in (None, stale, HeartbeatStale("older"), None, None, stale, jump, jump, PolicyStale("x"), None):
        host.session.tell(error)

    assert told(host) == ["HeartbeatStale", "HeartbeatStale", "ClockJump", "PolicyStale"]
    assert host.sent[-1].nack.detail == str(PolicyStale("x"))


def test_what_is_wrong_is_told_again_on_a_new_connection(host: HostSimulator) -> None:
    for _ in range(2):
        host.session.tell(HeartbeatStale("old"))
        host.new_session()

    assert told(host) == ["HeartbeatStale"] * 2


def test_what_is_told_says_what_is_enforced_and_was_not_said_yet(host: HostSimulator) -> None:
    host.take(host.office.publish(PERMIT))
    for error in (HeartbeatStale("old"), None, HeartbeatStale("older")):
        host.session.tell(error)

    first, second = host.sent[-2].nack, host.sent[-1].nack
    assert [(r.scope, r.version) for r in first.enforced] == [("global", 1)]
    assert (list(second.enforced), second.root_version) == ([], 1)


def test_a_host_that_goes_stale_tells_so_and_recovers(host: HostSimulator) -> None:
    host.update(PERMIT)
    host.standing()
    host.clock.advance(300)
    assert host.standing().source is PolicySource.CACHE
    host.standing()
    assert told(host) == ["HeartbeatStale"]

    host.beat()

    assert host.standing().source is PolicySource.LIVE
    assert told(host) == ["HeartbeatStale"]


def test_a_jump_of_the_clock_is_ended_by_a_new_connection(host: HostSimulator) -> None:
    host.update(PERMIT)
    host.clock.set_wall(host.clock.now() + DAY)
    assert host.standing().denial is Reason.CLOCK_UNTRUSTED
    assert told(host) == ["ClockJump"]

    host.connect()

    assert host.standing().source is PolicySource.LIVE


def test_two_sidecars_of_one_org_do_not_share_anything(host: HostSimulator, tmp_path: Path) -> None:
    other = HostSimulator(tmp_path / "other", org=host.org, clock=host.clock, office=host.office)
    host.update(PERMIT)

    other.connect()

    assert other.versions == host.versions
    assert other.session.hello().hello.nonce != host.session.hello().hello.nonce
    other.close()
