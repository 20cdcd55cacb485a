"""What servers tell each other: sent with the commit, in pieces that PostgreSQL takes, and read with suspicion."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from akpolicy_server.store.engine import Database
from akpolicy_server.store.migrate import upgrade
from akpolicy_server.store.notices import (
    CHANNEL,
    MAX_NOTICE_CHARS,
    Notice,
    NoticeKind,
    read_notice,
    tell_changed,
    tell_revoked,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulators.postgresql import PostgreSQL


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    yield (url := postgresql.new_database())
    postgresql.drop_database(url)


@pytest.fixture
def listener(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        yield connection


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database(url, create=True)) as database:
        upgrade(database)
        yield database


def _heard(listener: psycopg.Connection, count: int) -> list[str]:
    return [notice.payload for notice in listener.notifies(timeout=30, stop_after=count)]


def test_a_notice_comes_with_the_commit_and_says_who_sent_it(database: Database, listener: psycopg.Connection) -> None:
    with database.write(keep=False) as connection:
        tell_changed(connection, ["undone"])
    with database.write() as connection:
        tell_changed(connection, {"globex", "acme"})
        tell_revoked(connection, "0123456789abcdef")
        assert list(listener.notifies(timeout=0)) == []
    assert [read_notice(payload) for payload in _heard(listener, 2)] == [
        Notice(database.origin, NoticeKind.ORGS, ("acme", "globex")),
        Notice(database.origin, NoticeKind.REVOKED, ("0123456789abcdef",)),
    ]


def test_many_orgs_are_told_in_as_few_notices_as_it_takes(database: Database, listener: psycopg.Connection) -> None:
    orgs = [f"{number:063}" for number in range(1000)]
    with database.write() as connection:
        tell_changed(connection, orgs)
    payloads = _heard(listener, 10)
    assert len(payloads) == 10
    assert max(map(len, payloads)) <= MAX_NOTICE_CHARS
    notices = [read_notice(payload) for payload in payloads]
    assert [org for notice in notices if notice for org in notice.names] == orgs


def test_nothing_is_told_of_nothing(database: Database, listener: psycopg.Connection) -> None:
    with database.write() as connection:
        tell_changed(connection, [])
    assert list(listener.notifies(timeout=0)) == []


@pytest.mark.parametrize("payload", ["", "a", "a orgs", "a orgs ", "a songs acme", " orgs acme", "a orgs acme  b"])
def test_what_is_no_notice_is_passed_over(payload: str) -> None:
    assert read_notice(payload) is None
