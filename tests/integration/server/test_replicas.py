"""Several servers on one PostgreSQL database: they publish one after the other and hear each other at once.

The keep-alive interval is an hour here, so that nothing is found by the sweep, which looks once in it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.heartbeat import Heartbeat
from akpolicy.strict_json import load
from akpolicy_server.hearing import Hearing
from akpolicy_server.store.hosts import HostKey, find_host
from tests.integration.server.conftest import policy
from tests.integration.server.judged import judged
from tests.integration.server.replicas import live_servers
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy_server.store.hosts import HostRecord
    from tests.integration.server.conftest import LiveServer
    from tests.simulators.postgresql import PostgreSQL

ACME = "org/acme"
HOUR_S = 3600.0


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    yield (url := postgresql.new_database())
    postgresql.drop_database(url)


@pytest.fixture
def servers(tmp_path: Path, url: str) -> Iterator[list[LiveServer]]:
    """Two servers that hear each other."""
    with live_servers(tmp_path, url, keep_alive_seconds=HOUR_S) as running:
        for server in running:
            wait_until(lambda server=server: _hears(server), what="a server that listens")  # type: ignore[misc]
        yield running


def _hears(server: LiveServer) -> bool:
    return b"akpolicy_server_hearing 1.0" in server.serving.metrics.expose()[1]


def _cut_off(postgresql: PostgreSQL, url: str) -> int:
    """End every connection that listens, in the database of this test; return how many."""
    return len(
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE '%clock_timestamp%' AND pid <> pg_backend_pid()",
            url,
        )
    )


def test_what_one_publishes_the_hosts_of_the_other_get_at_once(servers: list[LiveServer]) -> None:
    one, two = servers
    host = two.host().hello()
    assert host.updates() == []
    one.admin.publish(ACME, policy("first"))
    update = host.next_update()
    assert (update.bundle.revision.scope, update.bundle.revision.version) == (ACME, 1)
    host.ack(update)
    two.admin.publish("global", policy("everywhere"))
    assert host.next_update().bundle.revision.scope == "global"


def test_a_key_that_one_revokes_ends_its_streams_at_the_other(servers: list[LiveServer]) -> None:
    one, two = servers
    key = one.admin.create_key("acme", "host", "host-1")
    host = two.stream(key.secret).hello()
    host.updates()
    one.admin.revoke_key(key.key_id)
    assert host.ending()[0] is grpc.StatusCode.UNAUTHENTICATED


def test_of_two_that_publish_at_once_one_loses_with_the_same_error_as_ever(servers: list[LiveServer]) -> None:
    def publish(server: LiveServer, name: str) -> str:
        try:
            published = server.admin.publish(ACME, policy(name), expected_version=before)
        except grpc.RpcError as error:
            return error.code().name
        return str(published.revision.revision.version)

    before = servers[0].admin.publish(ACME, policy("p")).revision.revision.version
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(publish, servers, ("a", "b")))
        before += 1
        assert sorted(outcomes) == [str(before), "ABORTED"]


def test_versions_have_no_gaps_whoever_publishes(servers: list[LiveServer]) -> None:
    def publish(number: int) -> int:
        scope = ("global", ACME, "org/globex")[number % 3]
        return servers[number % 2].admin.publish(scope, policy(f"p{number}")).revision.revision.version

    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(publish, range(18)))
    assert [sorted(versions[start::3]) for start in range(3)] == [list(range(1, 7))] * 3


def test_what_was_published_while_nobody_listened_is_made_up_for(
    servers: list[LiveServer], postgresql: PostgreSQL, url: str
) -> None:
    one, two = servers
    host = two.host().hello()
    host.updates()
    assert _cut_off(postgresql, url) == 2
    one.admin.publish(ACME, policy("first"))
    assert host.next_update().bundle.revision.version == 1


def test_a_host_is_never_sent_an_older_view_than_it_has(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(_: Hearing) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Hearing, "run", deaf)
    with live_servers(tmp_path, url, keep_alive_seconds=HOUR_S) as (one, two):
        one.admin.publish(ACME, policy("first"))
        # The second server keeps what was current now, and hears nothing.
        old = judged(two, "stays").follow()
        one.admin.publish(ACME, policy("second"))
        moving = judged(one, "moves").follow()
        assert moving.versions()[ACME] == (1, 2)
        seq = moving.heartbeats[-1].document.seq
        index = bytes.fromhex(moving.heartbeats[-1].document.index.digest)
        revisions = [revision for _, revision in moving.enforced.values()]
        stream = two.stream(two.admin.create_key("acme", "host", "moves").secret)
        stream.hello(root_version=1, enforced=revisions, index_digest=index)
        sent = stream.until_keep_alive()
        assert [kind for kind, _ in sent] == ["heartbeat"]
        assert load(sent[0][1].envelope.payload, Heartbeat).seq == seq
        assert old.versions()[ACME] == (1, 1)


def test_a_host_that_moved_is_not_gone_for_what_its_first_server_says_late(servers: list[LiveServer]) -> None:
    one, two = servers
    key = one.admin.create_key("acme", "host", "host-1")
    first = one.stream(key.secret).hello()
    first.updates()
    second = two.stream(key.secret).hello()
    second.updates()
    wait_until(lambda: _host(two) is not None, what="the host")
    first.close()
    wait_until(lambda: not one.serving.fanout.hosts, what="the end of the first stream")
    asyncio.run_coroutine_threadsafe(one.serving.reports.flush(), one._loop).result(30)
    asyncio.run_coroutine_threadsafe(two.serving.reports.flush(), two._loop).result(30)
    found = _host(one)
    assert found is not None
    assert found.disconnected_at_us is None


def _host(server: LiveServer) -> HostRecord | None:
    with server.serving.database.read() as connection:
        return find_host(connection, HostKey("acme", "host-1"))


def test_reports_are_dated_by_the_clock_that_all_share(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_s = 5.0

    def ahead(clock: object) -> int:
        return int((clock.now() + fast_s) * 1_000_000)  # type: ignore[attr-defined]

    monkeypatch.setattr("akpolicy_server.hearing.now_us", ahead)
    with live_servers(tmp_path, url, count=1, keep_alive_seconds=HOUR_S) as (server,):
        wait_until(lambda: _hears(server), what="a server that listens")
        assert abs(server.serving.reports.ahead_us + fast_s * 1_000_000) < 1_000_000
