"""Content of any size is stored and read as it is, in its transaction, and leaves no copy with the driver."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from akpolicy.errors import StoreUnavailable
from akpolicy_server.store.blobs import LARGE_BYTES, load_blob, store_blob
from akpolicy_server.store.tables import blobs

if TYPE_CHECKING:
    from tests.unit.server.conftest import Core

SEED = 33


def content(size: int) -> tuple[bytes, bytes]:
    """Return a blob and its digest."""
    data = random.Random(SEED).randbytes(size)
    return hashlib.sha256(data).digest(), data


@pytest.mark.parametrize("size", [1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES + 7])
def test_a_blob_comes_back_as_it_was(core: Core, size: int) -> None:
    digest, data = content(size)
    with core.database.write() as connection:
        store_blob(connection, digest, data)
        assert load_blob(connection, digest) == data
    with core.database.write() as connection:
        store_blob(connection, digest, b"something else")
    with core.database.read() as connection:
        assert load_blob(connection, digest) == data
        assert load_blob(connection, bytes(32)) is None


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
def test_a_transaction_that_is_undone_leaves_no_blob(core: Core, size: int) -> None:
    digest, data = content(size)
    with core.database.write(keep=False) as connection:
        store_blob(connection, digest, data)
    with core.database.read() as connection:
        assert load_blob(connection, digest) is None


def test_a_large_blob_is_no_value_of_a_statement_of_sqlite(core: Core) -> None:
    if core.database.is_shared:
        pytest.skip("PostgreSQL has no places to write into")
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
    if core.database.is_shared:
        pytest.skip("PostgreSQL has no places to write into")
    digest, data = content(LARGE_BYTES)
    with core.database.write() as connection:
        store_blob(connection, digest, data)
    monkeypatch.setattr(blobs.c.data, "name", "nothing")
    with core.database.read() as connection, pytest.raises(StoreUnavailable, match="no such column") as refused:
        load_blob(connection, digest)
    assert isinstance(refused.value.__cause__, sqlite3.Error)
