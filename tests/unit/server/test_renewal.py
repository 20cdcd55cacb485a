"""Renewal: what is renewed, when, as what, and what keeps it from that."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from akpolicy import metrics_names as names
from akpolicy.envelope import PayloadType
from akpolicy.errors import RollbackNotAuthorised, StoreUnavailable
from akpolicy.scope import GLOBAL
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.orders import EnvelopeOrder
from akpolicy_server.renewal import Renewal
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.store.revisions import RevisionKind
from akpolicy_server.threads import Threads
from tests.simulators.org import sign
from tests.simulators.waiting import wait_until
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import (
    Follower,
    current_root,
    new_signers,
    next_root,
    replace_key,
    with_keys,
    with_role,
)
from tests.unit.server.test_rollbacks import publish, roll_back
from tests.unit.server.test_roots import view_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.server.conftest import Core

ACME = "org/acme"
DAY = 86_400


@pytest.fixture
def threads() -> Iterator[Threads]:
    with closing(Threads()) as running:
        yield running


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def renewal(core: Core, threads: Threads, metrics: ServerMetrics) -> Renewal:
    return Renewal(core.database, core.ledger, threads, core.clock, metrics, interval_s=0.01)


def test_what_is_past_half_of_its_life_is_renewed_and_hosts_follow(
    core: Core, renewal: Renewal, metrics: ServerMetrics
) -> None:
    publish(core, "a", lifetime_s=10 * DAY, no_rollback=True, offline_max_age_s=77)
    host = Follower(core)
    host.follow()
    core.clock.advance(5 * DAY - 1)
    renewal.once()
    assert view_of(core).revisions[ACME].version == 1
    core.clock.advance(1)
    core.announced.clear()
    renewal.once()
    revision = host.follow().revisions[ACME]
    assert (revision.version, revision.kind, revision.published_by) == (2, RevisionKind.RENEWAL, None)
    assert revision.message == "renews version 1"
    assert revision.expires_at - revision.issued_at == 10 * DAY
    assert host.enforced[ACME].manifest.offline.max_age_s == 77
    assert host.policies(ACME) == ["a"]
    assert core.announced == ["acme"]
    assert metrics.value(names.SERVER_RENEWALS, outcome="renewed") == 1
    renewal.once()
    assert view_of(core).revisions[ACME].version == 2


def test_a_renewal_does_not_move_how_far_back_a_rollback_goes(core: Core, renewal: Renewal) -> None:
    publish(core, "a", "b", lifetime_s=300 * DAY)
    publish(core, "c")
    core.clock.advance(16 * DAY)
    renewal.once()
    core.clock.advance(16 * DAY)
    renewal.once()
    assert view_of(core).revisions[ACME].version == 5
    assert view_of(core).revisions[ACME].min_version == 2
    with pytest.raises(RollbackNotAuthorised, match="permits 2 on"):
        roll_back(core, 1)


def test_everything_is_renewed_for_global_and_every_org_and_epoch(core: Core, renewal: Renewal) -> None:
    for scope in (ACME, "org/globex", GLOBAL):
        publish(core, "a", scope=scope)
    core.roots.publish(core.admin, "acme", next_root(core, epoch=2))
    hosts = [Follower(core), Follower(core, "globex")]
    core.clock.advance(20 * DAY)
    renewal.once()
    for host in hosts:
        view = host.follow()
        assert {revision.kind for revision in view.revisions.values()} == {RevisionKind.RENEWAL}
        assert {revision.version for revision in view.revisions.values()} == {2}


def test_a_rollback_is_renewed_as_a_bundle_with_the_life_of_what_it_restored(core: Core, renewal: Renewal) -> None:
    publish(core, "a", lifetime_s=20 * DAY)
    publish(core, "b")
    core.clock.advance(DAY)
    roll_back(core)
    host = Follower(core)
    host.follow()
    core.clock.advance(10 * DAY)
    renewal.once()
    revision = host.follow().revisions[ACME]
    assert (revision.kind, revision.original, revision.min_version) == (RevisionKind.RENEWAL, None, 1)
    assert revision.expires_at - revision.issued_at == 20 * DAY
    assert host.policies(ACME) == ["a"]


def test_a_freeze_is_renewed_and_stays_a_freeze(core: Core, renewal: Renewal) -> None:
    publish(core, "a")
    core.freeze.set(core.admin, "acme", frozen=True, message="")
    core.clock.advance(20 * DAY)
    renewal.once()
    assert view_of(core).revisions[ACME].version == 3
    assert not core.freeze.set(core.admin, "acme", frozen=True, message="").changed
    with pytest.raises(RollbackNotAuthorised):
        roll_back(core)
    assert core.freeze.set(core.admin, "acme", frozen=False, message="").changed
    host = Follower(core)
    host.follow()
    assert host.policies(ACME) == ["a"]


def test_what_has_expired_is_renewed_too(core: Core, renewal: Renewal) -> None:
    publish(core, "a", lifetime_s=60)
    core.clock.advance(3600)
    renewal.once()
    Follower(core).follow()


def test_what_only_foreign_keys_can_sign_is_said_once_and_keeps_nobody_else_waiting(
    core: Core, renewal: Renewal, metrics: ServerMetrics
) -> None:
    [owner] = new_signers(1)
    roles = with_role(core, "acme", "bundle", ACME, owner.public_key)
    keys = with_keys(core, "acme", owner.public_key)
    core.roots.publish(core.admin, "acme", next_root(core, keys=keys, roles=roles))
    prepared = core.presigned.prepare(core.admin, order(ACME, policy("a")))
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, [owner])
    core.presigned.publish(core.admin, EnvelopeOrder(signed, prepared.content))
    publish(core, "a", scope="org/globex")
    core.clock.advance(20 * DAY)
    with capture_logs() as logs:
        renewal.once()
        renewal.once()
    [said] = [entry for entry in logs if entry["event"] == "cannot renew what expires"]
    assert (said["scope"], said["version"], said["code"]) == (ACME, 1, "SignersMissing")
    assert metrics.value(names.SERVER_RENEWALS, outcome="refused") == 1
    assert view_of(core).revisions[ACME].version == 1
    assert view_of(core, "globex").revisions["org/globex"].version == 2


def test_under_an_expired_root_nothing_is_renewed_until_there_is_a_new_one(core: Core, renewal: Renewal) -> None:
    publish(core, "a")
    core.clock.advance(366 * DAY)
    with capture_logs() as logs:
        renewal.once()
    assert [entry["code"] for entry in logs if entry["event"] == "cannot renew what expires"] == ["RootExpired"]
    core.roots.publish(core.admin, "acme", next_root(core, expires_at=int(core.clock.now()) + 365 * DAY))
    renewal.once()
    Follower(core).follow()


def test_with_keys_that_end_a_renewal_is_shorter_and_with_new_ones_as_long_as_it_was_meant(
    core: Core, renewal: Renewal
) -> None:
    publish(core, "a")
    role = current_root(core).bundle_role(ACME)
    assert role is not None
    key = core.vault.load(role.keys[0]).public_key
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", key, valid_for=40 * DAY)))
    core.clock.advance(15 * DAY)
    renewal.once()
    first = view_of(core).revisions[ACME]
    assert (first.version, first.expires_at - first.issued_at) == (2, 25 * DAY)
    # The next one could live no longer than this one.
    core.clock.advance(13 * DAY)
    with capture_logs() as logs:
        renewal.once()
    assert [entry["code"] for entry in logs if entry["event"] == "cannot renew what expires"] == ["ExpiryExceedsKey"]
    _, root = replace_key(core, "acme", KeyRole.BUNDLE, ACME, revoke=False)
    core.roots.publish(core.admin, "acme", root)
    renewal.once()
    last = view_of(core).revisions[ACME]
    assert last.expires_at - last.issued_at == 30 * DAY
    Follower(core).follow()


def test_a_publish_meanwhile_wins(core: Core, renewal: Renewal, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(core, "a")
    core.clock.advance(20 * DAY)
    renew = renewal._renew

    def publish_first(revision: object) -> object:
        publish(core, "b")
        return renew(revision)  # type: ignore[arg-type]

    monkeypatch.setattr(renewal, "_renew", publish_first)
    renewal.once()
    revision = view_of(core).revisions[ACME]
    assert (revision.version, revision.kind) == (2, RevisionKind.PUBLISH)


def test_a_database_that_is_away_is_tried_again(core: Core, renewal: Renewal, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(core, "a")
    core.clock.advance(20 * DAY)
    tries = []
    once = renewal.once

    def fail_first() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise StoreUnavailable("locked")
        once()

    monkeypatch.setattr(renewal, "once", fail_first)

    async def scenario() -> None:
        running = asyncio.create_task(renewal.run())
        await asyncio.to_thread(wait_until, lambda: view_of(core).revisions[ACME].version == 2)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    assert len(tries) >= 2
