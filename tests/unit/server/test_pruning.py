"""What of old revisions goes, and what stays however old it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from akpolicy.errors import RevisionNotFound
from akpolicy_server.first_root import DAY_S
from akpolicy_server.orders import RollbackOrder
from akpolicy_server.pruning import Pruned, Pruning
from akpolicy_server.settings_retention import RetentionSection
from akpolicy_server.store.hosts import HostRevision
from akpolicy_server.store.tables import blobs, host_revisions, hosts, revisions
from tests.unit.server.conftest import order, policy

if TYPE_CHECKING:
    from tests.unit.server.conftest import Core

SCOPE = "org/acme"


def pruning(core: Core, *, days: int = 30, contents: int = 2) -> Pruning:
    return Pruning(core.database, RetentionSection(days=days, contents=contents), core.clock)


def publish(core: Core, name: str) -> int:
    return core.publisher.publish(core.admin, order(SCOPE, policy(name))).revision.version


def versions(core: Core, scope: str = SCOPE) -> list[int]:
    with core.database.read() as connection:
        query = select(revisions.c.version).where(revisions.c.scope == scope).order_by(revisions.c.version)
        return list(connection.scalars(query))


def count_blobs(core: Core) -> int:
    with core.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(blobs)) or 0


def publish_and_wait(core: Core, *names: str) -> None:
    for name in names:
        publish(core, name)
    core.clock.advance(31 * DAY_S)


def test_by_default_everything_stays(core: Core) -> None:
    publish_and_wait(core, "a", "b", "c", "d")

    assert pruning(core, days=0).once() == Pruned(0, 0, 0)
    assert versions(core) == [1, 2, 3, 4]


def test_what_is_old_and_out_of_the_window_goes_with_its_content(core: Core) -> None:
    publish_and_wait(core, "a", "b", "c", "d")
    before = count_blobs(core)

    pruned = pruning(core).once()

    assert (pruned.revisions, pruned.scopes) == (2, 1)
    assert pruned.content_bytes > 0
    assert versions(core) == [3, 4]
    assert count_blobs(core) == before - 2
    assert pruning(core).once() == Pruned(0, 0, 0)


def test_a_dry_run_counts_the_same_and_removes_nothing(core: Core) -> None:
    publish_and_wait(core, "a", "b", "c", "d")

    rehearsed = pruning(core).once(dry_run=True)

    assert versions(core) == [1, 2, 3, 4]
    assert pruning(core).once() == rehearsed


def test_what_is_young_stays(core: Core) -> None:
    publish_and_wait(core, "a", "b")
    for name in ("c", "d", "e", "f"):
        publish(core, name)

    pruning(core).once()

    assert versions(core) == [3, 4, 5, 6]


def test_the_same_policies_again_do_not_shorten_the_window(core: Core) -> None:
    publish_and_wait(core, "a", "b", "b", "b", "b")

    pruning(core).once()

    assert versions(core) == [1, 5]


def test_versions_count_on_after_everything_else_is_gone(core: Core) -> None:
    publish_and_wait(core, "a", "b", "c", "d")
    pruning(core).once()

    assert publish(core, "e") == 5


def test_a_rollback_within_the_window_works_and_beyond_it_says_what_is_missing(core: Core) -> None:
    publish_and_wait(core, "a", "b")
    for name in ("c", "d"):
        publish(core, name)
    pruning(core).once()

    with pytest.raises(RevisionNotFound):
        core.rollbacks.roll_back(core.admin, RollbackOrder(SCOPE, to_version=1))
    rolled = core.rollbacks.roll_back(core.admin, RollbackOrder(SCOPE, to_version=3))
    assert rolled.revision.restores_version == 3


def test_what_a_kept_rollback_restores_stays(core: Core) -> None:
    for name in ("a", "b", "c", "d"):
        publish(core, name)
    core.clock.advance(20 * DAY_S)
    core.rollbacks.roll_back(core.admin, RollbackOrder(SCOPE, to_version=3))
    for name in ("e", "f"):
        publish(core, name)

    pruning(core, days=10).once()

    assert versions(core) == [3, 5, 6, 7]


def test_what_a_host_enforces_stays(core: Core) -> None:
    publish_and_wait(core, "a", "b", "c", "d")
    report = HostRevision(SCOPE, 1, 2, b"d" * 32)
    with core.database.write() as connection:
        connection.execute(
            hosts.insert().values(
                org="acme", host_id="h", software_version="1", root_version=1, connected_at_us=1, last_seen_at_us=1
            )
        )
        connection.execute(
            host_revisions.insert().values(
                org="acme",
                host_id="h",
                scope=report.scope,
                epoch=1,
                version=2,
                digest=report.digest,
                reported_at_us=1,
            )
        )

    pruning(core).once()

    assert versions(core) == [2, 3, 4]


def test_content_that_another_scope_has_stays(core: Core) -> None:
    publish_and_wait(core, "a", "b", "c")
    core.publisher.publish(core.admin, order("org/globex", policy("a")))

    assert pruning(core).once().content_bytes == 0
    assert core.history.get(core.admin, "org/globex", 0)[1][0].id == "a"
