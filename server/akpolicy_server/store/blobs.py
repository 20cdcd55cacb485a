"""Content blobs by their SHA-256: inserted once, never changed.

Rules:

- A blob that is there already is left alone.
- What SQLite is given as a value it copies twice, and its driver keeps one of the copies with the statement. Large
  blobs are therefore written into a place made for them, and read from it (sqlite.org/c3ref/blob_open.html). That
  happens in the transaction of the connection, like everything else.
- PostgreSQL's driver has a value that it reads five times in memory, and keeps most of that. Large blobs are read in
  pieces. They are few: PostgreSQL unpacks what stands before a piece to get at it.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, exists, func, insert, literal_column, select

from akpolicy.errors import StoreUnavailable
from akpolicy.limits import MIB
from akpolicy_server.store.tables import blobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnClause, Connection

LARGE_BYTES: Final = MIB
PIECE_BYTES: Final = 4 * MIB
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
    size = connection.scalar(select(blobs.c.size).where(blobs.c.digest == digest)) or 0
    if size < LARGE_BYTES:
        return connection.scalar(select(blobs.c.data).where(blobs.c.digest == digest))
    if connection.dialect.name != _SQLITE:
        return _read_in_pieces(connection, digest, size)
    row = connection.scalar(select(_ROWID).select_from(blobs).where(blobs.c.digest == digest))
    with _opened(connection, row or 0, readonly=True) as blob:
        data: bytes = blob.read()
    return data


def _read_in_pieces(connection: Connection, digest: bytes, size: int) -> bytes:
    data = BytesIO()
    for at in range(0, size, PIECE_BYTES):
        # Counted from 1.
        piece = select(func.substr(blobs.c.data, at + 1, PIECE_BYTES)).where(blobs.c.digest == digest)
        data.write(connection.scalar(piece) or b"")
    return data.getvalue()


@contextmanager
def _opened(connection: Connection, row: int, *, readonly: bool) -> Iterator[Any]:
    """Open the place of a blob; raise `StoreUnavailable` for what SQLite refuses."""
    driver: Any = connection.connection.driver_connection
    try:
        with driver.blobopen(blobs.name, blobs.c.data.name, row, readonly=readonly) as blob:
            yield blob
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the database cannot be used right now ({error}); try again") from error
