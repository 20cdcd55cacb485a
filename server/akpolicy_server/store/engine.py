"""The database: opening it, and transactions. SQLite is here; what PostgreSQL does otherwise is in `postgresql`.

Rules:

- A file is looked at, read-only, before it is opened for writing: what is not this program's stays as it is. One that
  goes away while it is open is not made anew: an empty database would look like a loss.
- Who only looks (`read_only`) leaves no trace: no file appears beside the database, not even for a moment. SQLite makes
  them for any reader of a database in WAL mode, unless it is told that nobody writes; that is so if no log is there.
- SQLite in WAL mode with synchronous=FULL: readers never wait, and a commit is on disk when it returns.
- A write transaction begins with BEGIN IMMEDIATE. It never has to upgrade a read lock, so it cannot fail half way for
  having read something old: what it checks still holds when it writes.
- Writers of this process queue at a lock; `BUSY_TIMEOUT_S` is for other processes.
- `repeat` is for what may be written beside publishers and by several servers at once: hosts' reports. A try that lost
  against another one is undone and made again, `MAX_TRIES` times at most.
- Whatever the database refuses, except a broken constraint, is `StoreUnavailable`; a broken constraint is for the
  caller, who knows what it means.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from akpolicy.errors import StartupError, StoreUnavailable
from akpolicy_server.store import postgresql
from akpolicy_server.store.notices import ORIGIN, ORIGIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUSY_TIMEOUT_S: Final = 5
POOL_SIZE: Final = 8
FILE_MODE: Final = 0o600

SQLITE_PREFIX: Final = "sqlite:///"

MAX_TRIES: Final = 5
MAX_PAUSE_S: Final = 0.05

# What SQLite puts beside a database in WAL mode while it is open, and leaves there after a crash.
LOG_SUFFIX: Final = "-wal"
SHARED_SUFFIX: Final = "-shm"

_WRITE_OPTION: Final = "akpolicy_write"
# Every database of this program has them, from its first migration on.
_OWN_TABLES: Final = postgresql.OWN_TABLES


T = TypeVar("T")


class Database:
    """An open database. Thread-safe; blocks, so an event loop calls it through a thread."""

    def __init__(self, url: str, *, create: bool = False, read_only: bool = False) -> None:
        """Open `url` (`sqlite:///<path>` or `postgresql://...`); raise `StartupError`.

        With `create` it must be a new one: a file that is made (0600), or a database without tables.
        """
        # By this the servers that share a database tell their own notices from those of the others.
        self.origin = secrets.token_hex(ORIGIN_BYTES)
        self.url = url
        self._shared = postgresql.is_url(url)
        if self._shared:
            with _translated():
                self._engine: Engine = postgresql.opened(url, create=create, read_only=read_only)
        else:
            self._engine = _opened_file(_sqlite_path(url), create=create, read_only=read_only)
        self._write_lock = threading.Lock()

    @property
    def is_shared(self) -> bool:
        """Whether several servers may have it open at once."""
        return self._shared

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database; raise `StoreUnavailable`."""
        with _translated(), self._engine.connect() as plain:
            connection = plain.execution_options(**postgresql.READS) if self._shared else plain
            with connection.begin():
                yield connection

    @contextmanager
    def write(self, *, keep: bool = True) -> Iterator[Connection]:
        """Open a transaction that alone may publish; raise `StoreUnavailable`.

        It commits at the end, and rolls back if the block fails, or in any case unless `keep`.
        """
        with self._writing(alone=True) as connection:
            yield connection
            if not keep:
                connection.get_transaction().rollback()  # type: ignore[union-attr] # it is open

    def repeat(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns in a transaction beside which others may write; raise `StoreUnavailable`.

        `work` is called again, in a new transaction, if it lost against another one: it must change nothing else.
        """
        for attempt in range(1, MAX_TRIES + 1):
            try:
                with self._writing(alone=False) as connection:
                    return work(connection)
            except (IntegrityError, StoreUnavailable) as error:
                if attempt == MAX_TRIES or not postgresql.has_lost(error):
                    raise
                time.sleep(SystemRandom().uniform(0, MAX_PAUSE_S))
        raise AssertionError

    @contextmanager
    def _writing(self, *, alone: bool) -> Iterator[Connection]:
        # Those that write alone would only hold connections while they wait.
        lock = self._write_lock if alone or not self._shared else nullcontext()
        with _translated(), lock, self._engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE_OPTION: True, ORIGIN: self.origin})
            with connection.begin():
                if self._shared:
                    postgresql.begin_write(connection, alone=alone)
                yield connection

    def check(self) -> None:
        """Raise `StoreUnavailable` unless the database answers."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection; the last one of SQLite folds the write-ahead log into the file."""
        self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, SQLAlchemyError) as error:
        reason = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        raise StoreUnavailable(f"the database cannot be used right now ({reason}); try again") from error


def _sqlite_path(url: str) -> Path:
    # Not parsed as a URL: a path may have `?` or `%`.
    path = url.removeprefix(SQLITE_PREFIX)
    if path in ("", url):
        raise StartupError("the database must be `sqlite:///<path of a file>` or `postgresql://...`")
    return Path(path)


def _opened_file(path: Path, *, create: bool, read_only: bool) -> Engine:
    _check_file(path, create=create)
    if not create:
        _require_ours(path, _look_uri(path) if read_only else _uri(path, "mode=ro"))
    engine = _looking(path) if read_only else _writing(path)
    event.listen(engine, "begin", _begin)
    return engine


def _check_file(path: Path, *, create: bool) -> None:
    # Before SQLite sees the file: its mode is what the write-ahead log inherits.
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
    try:
        os.close(os.open(path, flags, FILE_MODE))
    except FileNotFoundError:
        raise StartupError(
            f"there is no database `{path}`; set up a server with `akpolicy-server init --dir DIR`, or correct data_dir"
        ) from None
    except OSError as error:
        raise StartupError(f"cannot open the database `{path}`: {error.strerror}") from error


def _writing(path: Path) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: _connected(_uri(path, "mode=rw")),
        poolclass=QueuePool,
        pool_size=POOL_SIZE,
        hide_parameters=True,
    )
    event.listen(engine, "connect", _configure)
    return engine


def _looking(path: Path) -> Engine:
    engine = create_engine(
        "sqlite://", creator=lambda: _connected(_look_uri(path)), poolclass=NullPool, hide_parameters=True
    )
    event.listen(engine, "connect", _leave_transactions)
    return engine


def _connected(uri: str) -> sqlite3.Connection:
    # The pool hands a connection to one thread after the other.
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)


def _uri(path: Path, options: str) -> str:
    return f"{path.absolute().as_uri()}?{options}"


def _look_uri(path: Path) -> str:
    """Return how to open a database without making a file; raise `StartupError` if that cannot be."""
    log, shared = (path.with_name(path.name + suffix) for suffix in (LOG_SUFFIX, SHARED_SUFFIX))
    if not log.exists():
        return _uri(path, "mode=ro&immutable=1")
    if not shared.exists():
        raise StartupError(
            f"the database `{path}` has a write-ahead log and no server that uses it, as after a restore; start the "
            "server once, and check again"
        )
    return _uri(path, "mode=ro")


def _require_ours(path: Path, uri: str) -> None:
    # Not through the engine: its connections set the journal mode, which is written to the file.
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as look:
            tables = {name for (name,) in look.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise StartupError(
            f"cannot read the database `{path}` ({error}); restore it from a backup, or correct data_dir"
        ) from error
    if not tables >= _OWN_TABLES:
        raise StartupError(
            f"`{path}` is no database of akpolicy-server and was left as it is; correct data_dir or database_url, or "
            "set up a server with `akpolicy-server init --dir DIR`"
        )


def _leave_transactions(connection: Any, _record: object) -> None:  # noqa: ANN401 - what the driver hands out
    # The driver must not begin transactions by itself; `_begin` does.
    connection.isolation_level = None


def _configure(connection: Any, record: object) -> None:  # noqa: ANN401 - what the driver hands out
    _leave_transactions(connection, record)
    cursor = connection.cursor()
    for statement in (
        f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
    ):
        cursor.execute(statement)
    cursor.close()


def _begin(connection: Connection) -> None:
    is_write = connection.get_execution_options().get(_WRITE_OPTION, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
