"""Content blobs by their SHA-256: inserted once, never changed.

Rules:

- A blob that is there already is left alone.
- What SQLite is given as a value it copies twice, and its driver keeps one of the copies with the statement. Large
  blobs are therefore written into a place made for them, and read from it (sqlite.org/c3ref/blob_open.html). That
  happens in the transaction of the connection, like everything else.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, exists, func, insert, literal_column, select

from akpolicy.errors import StoreUnavailable
from akpolicy.limits import MIB
from akpolicy_server.store.tables import blobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnClause, Connection

LARGE_BYTES: Final = MIB
_SQLITE: Final = "sqlite"
_ROWID: Final[ColumnClause[int]] = literal_column("rowid", Integer)


def store_blob(connection: Connection, digest: bytes, data: bytes) -> None:
    """Keep a blob under its digest; one that is there already is left alone."""
    if connection.scalar(select(exists().where(blobs.c.digest == digest))):
        return
    if len(data) < LARGE_BYTES or connection.dialect.name != _SQLITE:
        connection.execute(insert(blobs).values(digest=digest, size=len(data), data=data))
        return
    place = func.zeroblob(len(data))
    made = connection.execute(insert(blobs).values(digest=digest, size=len(data), data=place))
    with _opened(connection, made.lastrowid, readonly=False) as blob:
        blob.write(data)


def load_blob(connection: Connection, digest: bytes) -> bytes | None:
    """Return a blob, or None."""
    if connection.dialect.name == _SQLITE:
        large = select(_ROWID).select_from(blobs).where(blobs.c.digest == digest, blobs.c.size >= LARGE_BYTES)
        row = connection.scalar(large)
        if row is not None:
            with _opened(connection, row, readonly=True) as blob:
                data: bytes = blob.read()
            return data
    return connection.scalar(select(blobs.c.data).where(blobs.c.digest == digest))


@contextmanager
def _opened(connection: Connection, row: int, *, readonly: bool) -> Iterator[Any]:
    """Open the place of a blob; raise `StoreUnavailable` for what SQLite refuses."""
    driver: Any = connection.connection.driver_connection
    try:
        with driver.blobopen(blobs.name, blobs.c.data.name, row, readonly=readonly) as blob:
            yield blob
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the database cannot be used right now ({error}); try again") from error
