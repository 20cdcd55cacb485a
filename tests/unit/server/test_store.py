"""The database: how it is opened, what a transaction promises, and how its structure changes."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from akpolicy.errors import StartupError, StoreUnavailable
from akpolicy_server.store.engine import Database
from akpolicy_server.store.migrate import upgrade
from akpolicy_server.store.orgs import is_set_up, set_up_platform
from akpolicy_server.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.sqlite3"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{path}", create=True)) as database:
        upgrade(database)
        yield database


def test_a_commit_waits_for_the_disk(database: Database) -> None:
    with database.write() as connection:
        modes = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
        foreign_keys = connection.scalar(text("PRAGMA foreign_keys"))
    assert modes == {"journal_mode": "wal", "synchronous": 2}
    assert foreign_keys == 1


def test_the_file_is_for_its_owner_alone(database: Database, path: Path) -> None:
    database.check()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_migrations_make_the_same_statements_as_the_tables(database: Database, path: Path) -> None:
    with closing(Database(f"sqlite:///{path}-direct", create=True)) as direct:
        with direct.write() as connection:
            metadata.create_all(connection)
        assert _columns(direct) == _columns(database)


def _columns(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(text(f"PRAGMA table_info({table.name})"))]
            for table in metadata.sorted_tables
        }


def test_upgrading_again_changes_nothing(database: Database) -> None:
    with database.write() as connection:
        set_up_platform(connection, 1)
    upgrade(database)
    with database.read() as connection:
        assert is_set_up(connection)


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartupError, match=r"`9999`.*newer version"):
        upgrade(database)


def test_a_block_that_fails_leaves_no_trace(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            set_up_platform(connection, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert not is_set_up(connection)


def test_a_missing_database_is_not_made_by_opening_it(path: Path) -> None:
    with pytest.raises(StartupError, match="there is no database"):
        Database(f"sqlite:///{path}")
    assert not path.exists()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StartupError, match="cannot read the database"):
        Database(f"sqlite:///{path}")
    assert path.read_bytes() == b"no database at all" * 100


def test_an_empty_file_that_init_did_not_make_is_refused_and_stays_empty(path: Path) -> None:
    path.touch()
    with pytest.raises(StartupError, match="no database of akpolicy-server"):
        Database(f"sqlite:///{path}")
    assert path.read_bytes() == b""


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("table", ["songs", "alembic_version"])
def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path, journal_mode: str, table: str) -> None:
    with closing(sqlite3.connect(path)) as foreign:
        foreign.execute(f"PRAGMA journal_mode = {journal_mode}")
        foreign.execute(f"CREATE TABLE {table} (title TEXT)")
        foreign.commit()
    before = path.read_bytes()
    with pytest.raises(StartupError, match="left as it is"):
        Database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_what_a_crash_left_in_the_write_ahead_log_is_read(database: Database, path: Path) -> None:
    with database.write() as connection:
        set_up_platform(connection, 1)
    # Nothing was folded into the file: `database` is open still.
    copy = path.with_name("a copy with 100% ?.sqlite3")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    with closing(Database(f"sqlite:///{copy}")) as recovered, recovered.read() as connection:
        assert is_set_up(connection)


def test_another_processes_lock_is_store_unavailable(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("akpolicy_server.store.engine.BUSY_TIMEOUT_S", 0)
        with closing(Database(f"sqlite:///{path}")) as second:
            with pytest.raises(StoreUnavailable, match="locked"), second.write():
                pass
            # Readers are not in the way of a writer, nor it in theirs.
            second.check()


def test_writers_take_turns(database: Database) -> None:
    counted = []

    def write() -> None:
        for _ in range(20):
            with database.write() as connection:
                current = connection.scalar(text("SELECT count(*) FROM orgs"))
                connection.execute(
                    text("INSERT INTO orgs (org, created_at_us) VALUES (:org, 0)"), {"org": f"org{current}"}
                )
                counted.append(current)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Each saw all that came before: no name was used twice.
    assert counted == list(range(80))
