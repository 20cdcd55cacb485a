"""What is kept in memory, and how it is kept true."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.errors import StoreUnavailable
from akpolicy.index import build_index
from akpolicy_server.access import Role
from akpolicy_server.catalog import Catalog
from akpolicy_server.denied_hosts import DeniedHosts
from akpolicy_server.fanout import End, Fanout
from akpolicy_server.store import layers
from akpolicy_server.store.batches import VALUES_A_STATEMENT
from akpolicy_server.store.hosts import HostKey
from akpolicy_server.store.revisions import revision_of
from akpolicy_server.sweep import Sweep
from akpolicy_server.threads import Threads
from tests.unit.server.conftest import order, policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy_server.store.revisions import RevisionRecord
    from tests.unit.server.conftest import Core


def test_many_streams_cost_one_read(core: Core) -> None:
    core.publisher.publish(core.admin, order("org/acme", policy("p")))
    reads = []

    class CountingCatalog(Catalog):
        """Counts what goes to the database."""

        def _read(self, query: Callable[[Any], Any]) -> Any:
            reads.append(query)
            return super()._read(query)

    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = CountingCatalog(core.database, threads)
            views = await asyncio.gather(*(catalog.view("acme") for _ in range(50)))
            assert {view.revisions["org/acme"].version for view in views} == {1}
            digest = views[0].revisions["org/acme"].content_digest
            blobs = await asyncio.gather(*(catalog.blob(digest) for _ in range(50)))
            assert len({bytes(blob) for blob in blobs}) == 1

    asyncio.run(scenario())
    assert len(reads) == 2


def test_streams_that_know_more_than_is_in_memory_share_one_read_that_began_after_they_asked(core: Core) -> None:
    reads = []

    class CountingCatalog(Catalog):
        """Counts what goes to the database."""

        def _read(self, query: Callable[[Any], Any]) -> Any:
            reads.append(query)
            return super()._read(query)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with closing(Threads()) as threads:
            catalog = CountingCatalog(core.database, threads)
            old = await catalog.view("acme")
            # Another server publishes; nobody tells this one.
            core.publisher.publish(core.admin, order("org/acme", policy("p")))
            assert await catalog.view("acme") is old
            views = await asyncio.gather(*(catalog.view_as_of("acme", loop.time()) for _ in range(50)))
            assert {view.seq for view in views} == {old.seq + 1}
            assert len(reads) == 2
            # One that is under way began before: it does not count for who asks now.
            catalog.forget("acme")
            under_way = asyncio.create_task(catalog.view("acme"))
            await asyncio.sleep(0)
            await asyncio.gather(*(catalog.view_as_of("acme", loop.time()) for _ in range(50)))
            await under_way
            assert len(reads) == 4
            assert await catalog.view_as_of("acme", 0.0) is await catalog.view("acme")

    asyncio.run(scenario())


def test_after_the_database_may_be_another_one_everything_is_read_whole(core: Core) -> None:
    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            core.publisher.publish(core.admin, order("org/acme", policy("p")))
            before = await catalog.view("acme")
            catalog.begin_anew()
            after = await catalog.view("acme")
            assert after.seq == before.seq
            assert after.revisions["org/acme"] is not before.revisions["org/acme"]
            assert after.index == before.index

    asyncio.run(scenario())


def test_a_publish_reads_what_it_changed_however_many_scopes_there_are(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes = [f"org/acme/team/t{number}" for number in range(30)]
    for scope in scopes:
        core.publisher.publish(core.admin, order(scope, policy("p", effect="forbid")))
    rows: list[int] = []

    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            first = await catalog.view("acme")
            core.publisher.publish(core.admin, order(scopes[7], policy("q", effect="forbid")))
            catalog.forget("acme")
            monkeypatch.setattr(layers, "revision_of", _counted(rows))
            second = await catalog.view("acme")
        assert list(second.names.differences(first.names)) == [scopes[7]]
        assert second.revisions[scopes[3]] is first.revisions[scopes[3]]
        assert second.index == build_index(second.index.lines.values())

    asyncio.run(scenario())
    assert len(rows) == 1


def _counted(rows: list[int]) -> Callable[[Any], RevisionRecord]:
    """Return what reads a revision, and notes each."""

    def read(row: Any) -> RevisionRecord:
        rows.append(row.serial)
        return revision_of(row)

    return read


def test_a_read_that_began_before_a_publish_is_not_kept(core: Core) -> None:
    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            early = asyncio.create_task(catalog.view("acme"))
            await asyncio.sleep(0)
            catalog.forget("acme")
            await early
            assert "acme" not in catalog.known()
            assert not (await catalog.view("acme")).revisions
            core.publisher.publish(core.admin, order("org/acme", policy("p")))
            catalog.forget("acme")
            assert (await catalog.view("acme")).revisions["org/acme"].version == 1

    asyncio.run(scenario())


def test_missing_content_is_unavailable_and_asked_for_again(core: Core) -> None:
    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="missing"):
                    await catalog.blob(b"x" * 32)

    asyncio.run(scenario())


def test_the_blob_cache_is_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = [
        core.publisher.publish(core.admin, order("org/acme", policy(f"p{number}"))).revision for number in range(4)
    ]
    monkeypatch.setattr("akpolicy_server.catalog.MAX_BLOB_CACHE_BYTES", 2 * revisions[0].content_size)

    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            for revision in revisions:
                await catalog.blob(revision.content_digest)
            assert list(catalog._blobs) == [revision.content_digest for revision in revisions[-2:]]
            assert catalog._blob_bytes == sum(revision.content_size for revision in revisions[-2:])

    asyncio.run(scenario())


def test_a_load_that_nobody_waits_for_any_more_is_kept_within_the_bound_and_not_beside_it(core: Core) -> None:
    revision = core.publisher.publish(core.admin, order("org/acme", policy("p"))).revision

    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            waiter = asyncio.create_task(catalog.blob(revision.content_digest))
            await asyncio.sleep(0)
            [load] = catalog._loads.values()
            waiter.cancel()
            await asyncio.wait([waiter, load])
            assert waiter.cancelled()
            assert catalog._loads == {}
            assert catalog._blob_bytes == revision.content_size

    asyncio.run(scenario())


def test_the_sweep_finds_what_nobody_announced(core: Core) -> None:
    made = core.api_keys.create(core.admin, org="acme", role=Role.HOST, host_id="h", description="")

    async def scenario() -> None:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            fanout = Fanout(catalog, max_streams_per_host=1)
            sweep = Sweep(core.database, threads, catalog, fanout, interval_s=3600)
            with fanout.joined(HostKey("acme", "h"), made.key_id) as subscriber:
                assert not (await catalog.view("acme")).revisions
                await sweep.once()
                await asyncio.sleep(0)
                assert not subscriber.take_news()
                # As another process would.
                core.publisher.publish(core.admin, order("org/acme", policy("p")))
                core.api_keys.revoke(core.admin, made.key_id)
                await sweep.once()
                assert await asyncio.wait_for(subscriber.ended(), 30) is End.KEY_REVOKED
                assert subscriber.take_news()
                assert (await catalog.view("acme")).revisions["org/acme"].version == 1

    asyncio.run(scenario())


def test_the_sweep_asks_about_any_number_of_keys_and_orgs(core: Core) -> None:
    async def scenario() -> tuple[list[str], set[str], set[HostKey]]:
        with closing(Threads()) as threads:
            catalog = Catalog(core.database, threads)
            sweep = Sweep(core.database, threads, catalog, Fanout(catalog, max_streams_per_host=1), interval_s=3600)
            keys = [f"{number:016x}" for number in range(2 * VALUES_A_STATEMENT)]
            hosts = [HostKey("acme", key) for key in keys]
            return sweep._look({**dict.fromkeys(keys, 1), "acme": 1}, [*keys, revoked_key], [*hosts, refused])

    revoked_key = core.publisher_of("acme").key_id
    core.api_keys.revoke(core.admin, revoked_key)
    refused = HostKey("acme", "refused")
    DeniedHosts(core.database, core.clock).deny(refused, "")
    changed, revoked, denied = asyncio.run(scenario())
    assert "acme" not in changed
    assert (revoked, denied) == ({revoked_key}, {refused})
