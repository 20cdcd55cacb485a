"""Large content of SQLite goes into its place, and leaves no copy with the driver."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from akpolicy.errors import StoreUnavailable
from akpolicy_server.store.blobs import LARGE_BYTES, load_blob, store_blob
from akpolicy_server.store.tables import blobs
from tests.unit.server.test_blobs import content

if TYPE_CHECKING:
    from tests.unit.server.conftest import Core


def test_a_large_blob_is_no_value_of_a_statement_of_sqlite(core: Core) -> None:
    digest, data = content(LARGE_BYTES)
    sizes: list[int] = []

    def note(_connection: object, _cursor: object, _statement: str, values: tuple[object, ...], *_: object) -> None:
        sizes.extend(len(value) for value in values if isinstance(value, bytes | memoryview))

    with core.database.write() as connection:
        event.listen(connection, "before_cursor_execute", note)
        store_blob(connection, digest, data)
    assert sizes
    assert max(sizes) == len(digest)


def test_what_sqlite_refuses_is_said_as_everything_that_a_database_refuses(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, data = content(LARGE_BYTES)
    with core.database.write() as connection:
        store_blob(connection, digest, data)
    monkeypatch.setattr(blobs.c.data, "name", "nothing")
    with core.database.read() as connection, pytest.raises(StoreUnavailable, match="no such column") as refused:
        load_blob(connection, digest)
    assert isinstance(refused.value.__cause__, sqlite3.Error)
