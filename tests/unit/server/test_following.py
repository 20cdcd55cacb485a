"""Whatever operators do, and in whatever order or at once: hosts can follow, and what is counted is what changed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akpolicy.errors import AkpolicyError
from akpolicy.scope import GLOBAL
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.renewal import Renewal
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.threads import Threads
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import Follower, current_root, next_root, replace_key
from tests.unit.server.test_rollbacks import roll_back
from tests.unit.server.test_roots import view_of

if TYPE_CHECKING:
    from tests.unit.server.conftest import Core

ORGS = ("acme", "globex")
DAY = 86_400

Step = Callable[["Core", str, int], object]


def _publish(core: Core, org: str, number: int) -> object:
    return core.publisher.publish(core.admin, order(f"org/{org}", policy(f"p{number}")))


def _publish_global(core: Core, _org: str, number: int) -> object:
    return core.publisher.publish(core.admin, order(GLOBAL, policy(f"g{number}"), no_rollback=number % 3 == 0))


def _roll_back(core: Core, org: str, _number: int) -> object:
    return roll_back(core, scope=f"org/{org}")


def _roll_global_back(core: Core, _org: str, _number: int) -> object:
    return roll_back(core, scope=GLOBAL)


def _freeze(core: Core, org: str, number: int) -> object:
    return core.freeze.set(core.admin, org, frozen=number % 2 == 0, message="")


def _replace_bundle_key(core: Core, org: str, _number: int) -> object:
    return core.roots.publish(core.admin, org, replace_key(core, org, KeyRole.BUNDLE, f"org/{org}")[1])


def _replace_platform_key(core: Core, org: str, _number: int) -> object:
    return core.roots.publish(core.admin, org, replace_key(core, org, KeyRole.BUNDLE, GLOBAL)[1])


def _replace_rollback_key(core: Core, org: str, _number: int) -> object:
    return core.roots.publish(core.admin, org, replace_key(core, org, KeyRole.ROLLBACK, f"org/{org}")[1])


def _raise_epoch(core: Core, org: str, _number: int) -> object:
    return core.roots.publish(core.admin, org, next_root(core, org, epoch=current_root(core, org).epoch + 1))


def _renew_root(core: Core, org: str, _number: int) -> object:
    end = int(core.clock.now()) + 365 * DAY
    return core.roots.publish(core.admin, org, next_root(core, org, expires_at=end))


def _let_days_pass(core: Core, _org: str, number: int) -> object:
    core.clock.advance((number % 20) * DAY)
    with closing(Threads()) as threads:
        Renewal(core.database, core.ledger, threads, core.clock, ServerMetrics()).once()
    return None


def _let_hours_pass(core: Core, _org: str, number: int) -> object:
    core.clock.advance(number % 4 * 3600)
    return None


STEPS: list[Step] = [
    _publish,
    _publish_global,
    _roll_back,
    _roll_global_back,
    _freeze,
    _replace_bundle_key,
    _replace_platform_key,
    _replace_rollback_key,
    _raise_epoch,
    _renew_root,
    _let_days_pass,
]


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(ORGS), st.integers(0, 99)), max_size=10))
def test_hosts_follow_any_sequence_and_seq_rises_exactly_with_what_they_get(
    core: Core, steps: list[tuple[Step, str, int]]
) -> None:
    for org in ORGS:
        _renew_root(core, org, 0)
    hosts = {org: Follower(core, org) for org in ORGS}
    views = {org: host.follow() for org, host in hosts.items()}
    for step, org, number in steps:
        try:
            step(core, org, number)
        except AkpolicyError:
            assert {name: view_of(core, name) for name in ORGS} == views
        for name, host in hosts.items():
            before, views[name] = views[name], host.follow()
            has_changed = (before.root.digest, before.index) != (views[name].root.digest, views[name].index)
            assert (views[name].seq > before.seq) == has_changed
    # Hosts that come now end up where those are that saw it all, and follow what comes after.
    late = {name: Follower(core, name) for name in ORGS}
    assert {name: host.follow() for name, host in late.items()} == views
    for org in ORGS:
        with suppress(AkpolicyError):
            _roll_back(core, org, 0)
    for host in (*hosts.values(), *late.values()):
        host.follow()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_at_once_leaves_gapless_versions_and_hosts_that_follow(core: Core, seed: int) -> None:
    chance = random.Random(seed)
    at_once = [_publish, _publish_global, _roll_back, _freeze, _raise_epoch, _renew_root, _let_hours_pass]
    failures: list[BaseException] = []

    def work(plan: list[tuple[Step, str, int]]) -> None:
        for step, org, number in plan:
            try:
                step(core, org, number)
            except AkpolicyError:
                continue
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                failures.append(error)

    plans = [[(chance.choice(at_once), chance.choice(ORGS), chance.randrange(99)) for _ in range(6)] for _ in range(4)]
    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    watchers = {org: Follower(core, org) for org in ORGS}
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for host in watchers.values():
            host.follow()
    assert failures == []
    for org in ORGS:
        assert watchers[org].follow() == Follower(core, org).follow()
        assert _is_gapless(core, f"org/{org}")


def _is_gapless(core: Core, scope: str) -> bool:
    """Whether the versions of each epoch are 1, 2, 3 and so on, in the order in which they were published."""
    by_epoch: dict[int, list[int]] = {}
    for revision in core.history.page(core.admin, scope, page_size=500, token="").revisions:
        by_epoch.setdefault(revision.epoch, []).append(revision.version)
    return all(versions == list(range(len(versions), 0, -1)) for versions in by_epoch.values())
