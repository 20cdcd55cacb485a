"""The store on PostgreSQL: what its transactions promise, beside others and when the database goes away."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, text, update

from akpolicy.errors import StartupError, StoreUnavailable, VersionConflict
from akpolicy_server.store import postgresql as rules
from akpolicy_server.store.engine import MAX_TRIES, Database
from akpolicy_server.store.migrate import upgrade
from akpolicy_server.store.orgs import is_set_up, set_up_platform
from akpolicy_server.store.tables import generations, metadata, orgs
from tests.simulators.postgresql import PostgreSQL
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    url = postgresql.new_database()
    with closing(Database(url, create=True)) as database:
        upgrade(database)
    yield url
    postgresql.drop_database(url)


@pytest.fixture
def two(url: str) -> Iterator[tuple[Database, Database]]:
    """Two servers with the same database."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(closing(Database(url))) for _ in range(2))
        yield first, second


def _waiting(postgresql: PostgreSQL) -> int:
    """Return how many connections wait for a lock."""
    return len(postgresql.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(url: str) -> None:
    with closing(Database(url)) as database, database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_names_are_compared_byte_by_byte(url: str, postgresql: PostgreSQL) -> None:
    found = postgresql.execute(
        "SELECT collation_name, count(*) FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'character varying' GROUP BY 1",
        url,
    )
    assert [name for name, _ in found] == ["C"]


def test_servers_that_start_at_once_migrate_one_after_the_other(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        servers = [stack.enter_context(closing(Database(url, create=True))) for _ in range(4)]
        for done in [pool.submit(upgrade, server) for server in servers]:
            done.result()
        with servers[0].read() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    postgresql.drop_database(url)


def test_a_commit_waits_for_the_disk_whatever_the_database_has_set(two: tuple[Database, Database]) -> None:
    with two[0].read() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "off"
    with two[0].write() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"
    assert two[0].repeat(lambda connection: connection.scalar(text("SHOW synchronous_commit"))) == "on"


def test_a_publisher_sees_what_the_one_before_it_wrote(two: tuple[Database, Database], postgresql: PostgreSQL) -> None:
    with ThreadPoolExecutor(1) as pool:
        with two[0].write() as connection:
            later = pool.submit(_set_up_unless_it_is, two[1])
            wait_until(lambda: _waiting(postgresql), what="the second server")
            set_up_platform(connection, 1)
        assert later.result() is True


def _set_up_unless_it_is(database: Database) -> bool:
    with database.write() as connection:
        return is_set_up(connection)


def test_writers_of_several_servers_take_turns(url: str) -> None:
    counted = []

    def write(database: Database) -> None:
        for _ in range(10):
            with database.write() as connection:
                current = connection.scalar(text("SELECT count(*) FROM orgs"))
                connection.execute(insert(orgs).values(org=f"org{current}", created_at_us=0))
                counted.append(current)

    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        servers = [stack.enter_context(closing(Database(url))) for _ in range(4)]
        for done in [pool.submit(write, server) for server in servers]:
            done.result()
    assert counted == list(range(40))


def test_a_reader_sees_one_state(two: tuple[Database, Database]) -> None:
    with two[0].read() as connection:
        assert not is_set_up(connection)
        with two[1].write() as other:
            set_up_platform(other, 1)
        assert not is_set_up(connection)
    with two[0].read() as connection:
        assert is_set_up(connection)


def test_a_reader_cannot_write(two: tuple[Database, Database]) -> None:
    with pytest.raises(StoreUnavailable, match="read-only"), two[0].read() as connection:
        set_up_platform(connection, 1)


def test_what_need_not_be_kept_is_undone(two: tuple[Database, Database]) -> None:
    with two[0].write(keep=False) as connection:
        set_up_platform(connection, 1)
    with two[0].read() as connection:
        assert not is_set_up(connection)


def test_a_deadlock_is_undone_and_tried_again(two: tuple[Database, Database]) -> None:
    with two[0].write() as connection:
        connection.execute(insert(orgs), [{"org": name, "created_at_us": 0} for name in "ab"])
        connection.execute(insert(generations), [{"org": name, "seq": 0} for name in "ab"])
    both_hold_one, tries = threading.Barrier(2), []

    def add(database: Database, first: str, second: str) -> None:
        def work(connection: Connection) -> None:
            tries.append(first)
            _count(connection, first)
            if tries.count(first) == 1:
                both_hold_one.wait(30)
            _count(connection, second)

        database.repeat(work)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(add, two[0], "a", "b"), pool.submit(add, two[1], "b", "a")]:
            done.result()
    assert len(tries) == 3
    with two[0].read() as connection:
        assert set(connection.scalars(text("SELECT seq FROM generations"))) == {2}


def _count(connection: Connection, org: str) -> None:
    connection.execute(update(generations).where(generations.c.org == org).values(seq=generations.c.seq + 1))


def test_who_always_loses_is_told_so_in_the_end(two: tuple[Database, Database]) -> None:
    with two[0].write() as connection:
        set_up_platform(connection, 1)
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(StoreUnavailable, match="lost"):
        two[0].repeat(work)
    assert len(tries) == MAX_TRIES


def test_who_waits_too_long_is_told_to_try_again(
    two: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "_BEGIN", "SELECT set_config('lock_timeout', '50ms', true)")
    with two[0].write(), pytest.raises(StoreUnavailable, match=r"lock timeout.*try again"), two[1].write():
        pass
    two[1].check()


def test_a_server_that_hangs_loses_its_turn(two: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch) -> None:
    def hang() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(rules, "_BEGIN", "SELECT set_config('idle_in_transaction_session_timeout', '50ms', true)")
            with two[0].write() as connection:
                set_up_platform(connection, 1)
                with two[1].write() as other:
                    assert not is_set_up(other)

    with pytest.raises(StoreUnavailable, match="idle-in-transaction"):
        hang()
    two[0].check()


def test_a_database_with_other_tables_is_refused_and_left_as_it_is(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    with pytest.raises(StartupError, match="no database of akpolicy-server"):
        Database(url)
    postgresql.execute("CREATE TABLE songs (title text)", url)
    for create in (False, True):
        with pytest.raises(StartupError, match="left as it is"):
            Database(url, create=create)
    assert postgresql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", url) == [("songs",)]
    postgresql.drop_database(url)


def test_who_only_looks_cannot_write(url: str) -> None:
    with (
        closing(Database(url, read_only=True)) as database,
        pytest.raises(StoreUnavailable, match="read-only"),
        database.write() as connection,
    ):
        set_up_platform(connection, 1)


def test_a_database_that_is_not_there_is_said_so_without_its_password(postgresql: PostgreSQL) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist") as caught:
        Database(f"postgresql://akpolicy:hunter2@/nowhere?host={postgresql.directory}")
    assert "hunter2" not in str(caught.value)


def test_a_restarted_database_is_used_again_and_what_was_acknowledged_is_there() -> None:
    with PostgreSQL() as running, closing(Database(running.new_database(), create=True)) as database:
        upgrade(database)
        with database.write() as connection:
            set_up_platform(connection, 1)
        running.kill()
        for attempt in (database.check, lambda: database.write().__enter__()):
            with pytest.raises(StoreUnavailable, match="try again"):
                attempt()
        running.start()
        with database.read() as connection:
            assert is_set_up(connection)


def test_a_transaction_that_is_cut_off_left_nothing(two: tuple[Database, Database], url: str) -> None:
    def publish() -> None:
        with two[0].write() as connection:
            set_up_platform(connection, 1)
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            with psycopg.connect(url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))

    with pytest.raises(StoreUnavailable, match="try again"):
        publish()
    with two[0].read() as connection:
        assert not is_set_up(connection)


def test_an_error_of_the_block_is_the_callers(two: tuple[Database, Database]) -> None:
    def refuse() -> None:
        with two[0].write():
            raise VersionConflict("it is at version 1", current=1)

    with pytest.raises(VersionConflict):
        refuse()
