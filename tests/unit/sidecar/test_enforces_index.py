"""Whether a host enforces just what the last index names, so that the index's digest can stand for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.sidecar.state_files import FORBID, PERMIT

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator


def test_a_host_without_an_index_does_not(new_host: HostSimulator) -> None:
    assert not new_host.updater.enforces_index


def test_a_host_that_has_all_that_a_heartbeat_names_does(enforcing: HostSimulator) -> None:
    assert len(enforcing.updater.enforced) == 2
    assert enforcing.updater.enforces_index


def test_a_host_that_lacks_something_does_not_until_it_has_it(enforcing: HostSimulator) -> None:
    enforcing.office.publish(FORBID, scope="org/acme")
    enforcing.beat()
    assert enforcing.updater.lacking == ("org/acme",)
    assert not enforcing.updater.enforces_index
    enforcing.hear(*enforcing.office.bundle("org/acme"))
    assert enforcing.updater.enforces_index


def test_a_host_that_enforces_more_than_the_index_names_does_not(enforcing: HostSimulator) -> None:
    team = "org/acme/team/red"
    enforcing.office.publish(PERMIT, scope=team)
    enforcing.hear(*enforcing.office.bundle(team))
    assert len(enforcing.updater.enforced) == 3
    assert enforcing.updater.lacking == ()
    assert not enforcing.updater.enforces_index
    enforcing.beat()
    assert enforcing.updater.enforces_index
