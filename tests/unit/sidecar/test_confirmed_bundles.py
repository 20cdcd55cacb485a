"""How old a bundle is that comes after the heartbeat that named it, or before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy_sidecar.freshness import Confirmation

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


def test_a_bundle_that_the_last_heartbeat_named_before_it_came_is_confirmed_by_it(host: HostSimulator) -> None:
    host.update(PERMIT)
    host.clock.advance(100)
    host.office.publish(FORBID)
    host.beat()
    assert host.snapshots.current.freshness.by_scope["global"].issued_at == int(host.clock.now()) - 100

    host.hear(*host.office.bundle())

    now = int(host.clock.now())
    assert host.snapshots.current.freshness.by_scope["global"] == Confirmation(now, now + 300)
    assert host.restart().snapshots.current.freshness == host.snapshots.current.freshness


def test_a_bundle_that_no_heartbeat_named_yet_is_as_old_as_the_one_before(host: HostSimulator) -> None:
    host.update(PERMIT)
    before = host.snapshots.current.freshness
    host.clock.advance(100)

    host.office.publish(FORBID)
    host.hear(*host.office.bundle())

    assert host.versions == {"global": 2}
    assert host.snapshots.current.freshness == before
