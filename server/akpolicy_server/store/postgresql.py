"""What PostgreSQL does otherwise than SQLite: several servers ("replicas") share one database.

Rules:

- The URL is libpq's, with everything that it can say (`sslmode`, several hosts, `passfile`). What it leaves out gets
  values with which a dead network path is noticed within `DEAD_PATH_S`.
- Who publishes or migrates holds one advisory lock from the first statement to the commit. So replicas publish one
  after the other, and what a transaction checked still holds when it writes, as with SQLite. It reads at READ
  COMMITTED, which with the lock is what the one before left: nothing has to be tried again.
- A server that hangs while it holds the lock loses it after `IDLE_LIMIT_S`; who waits for it gives up after `WAIT_S`.
- Reads see one state: REPEATABLE READ, read only.
- A commit is on disk when it returns, whatever the database's default for `synchronous_commit` is.
- A connection is tried before it is used, so that a restart of the database is not noticed. Nothing lives as long as a
  connection (no prepared statements, no settings), so that a pooler may hand each transaction to another one.
- Names are compared byte by byte, as SQLite and Python do, whatever the database's language is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from akpolicy.errors import StartupError

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Connection, Engine

PREFIXES: Final = ("postgresql://", "postgres://")
POOL_SIZE: Final = 8
CONNECT_TIMEOUT_S: Final = 5
POOL_TIMEOUT_S: Final = 10
DEAD_PATH_S: Final = 15
WAIT_S: Final = 30
IDLE_LIMIT_S: Final = 60

# Every database of this program has them, from its first migration on.
OWN_TABLES: Final = frozenset({"alembic_version", "platform"})

READS: Final[dict[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

# Of this program; advisory locks are of one database.
_LOCK: Final = 0x616B_706F_6C69_6379
_DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "akpolicy-server",
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": DEAD_PATH_S * 1000,
}
_BEGIN: Final = (
    f"SELECT set_config('lock_timeout', '{WAIT_S}s', true), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_LIMIT_S}s', true), "
    "set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on' "
    "ELSE current_setting('synchronous_commit') END, true)"
)
_ALONE: Final = f"SELECT pg_advisory_xact_lock({_LOCK})"
# Another transaction was in the way: serialization failure, deadlock, a row that both inserted.
_LOST: Final = frozenset({"40001", "40P01", "23505"})

_TABLES: Final = text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
_OTHERWISE_COLLATED: Final = text(
    "SELECT table_name, column_name, character_maximum_length FROM information_schema.columns "
    "WHERE table_schema = current_schema() AND data_type = 'character varying' "
    "AND collation_name IS DISTINCT FROM 'C' ORDER BY table_name, column_name"
)


def is_url(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.startswith(PREFIXES)


def connection_info(url: str) -> str:
    """Return what libpq connects with: what the URL says, and our defaults; raise `ValueError` without its text."""
    import psycopg  # noqa: PLC0415 - only who has such a database loads the driver
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415 - as above

    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError("is no URL of PostgreSQL; write `postgresql://user@host:5432/database`") from None
    return make_conninfo("", **{**_DEFAULTS, **given})


def opened(url: str, *, create: bool, read_only: bool) -> Engine:
    """Open a database; raise `StartupError` for one that is not ours, or with `create` not empty."""
    import psycopg  # noqa: PLC0415 - as above

    try:
        info = connection_info(url)
    except ValueError as error:
        raise StartupError(f"the database URL {error}") from None

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(info, prepare_threshold=None)
        if read_only:
            connection.read_only = True
        return connection

    pool: dict[str, Any] = {"poolclass": NullPool}
    if not read_only:
        pool = {"poolclass": QueuePool, "pool_size": POOL_SIZE, "pool_timeout": POOL_TIMEOUT_S, "pool_pre_ping": True}
    engine = create_engine("postgresql+psycopg://", creator=connect, hide_parameters=True, **pool)
    try:
        with engine.connect() as connection:
            _require(set(connection.scalars(_TABLES)), create=create)
    except BaseException:
        engine.dispose()
        raise
    return engine


def begin_write(connection: Connection, *, alone: bool) -> None:
    """Begin a write transaction; with `alone`, wait until nobody else publishes."""
    connection.exec_driver_sql(_BEGIN)
    if alone:
        connection.exec_driver_sql(_ALONE)


def has_lost(error: Exception) -> bool:
    """Whether a transaction failed because another one was in its way: it may succeed if it is repeated."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in _LOST


def compare_by_bytes(connection: Connection) -> None:
    """Make names compare byte by byte, where they do not."""
    quote = connection.dialect.identifier_preparer.quote
    for table, column, length in connection.execute(_OTHERWISE_COLLATED).all():
        kind = "varchar" if length is None else f"varchar({length})"
        connection.exec_driver_sql(f'ALTER TABLE {quote(table)} ALTER COLUMN {quote(column)} TYPE {kind} COLLATE "C"')


def _require(tables: set[str], *, create: bool) -> None:
    if create and tables:
        raise StartupError(
            "the database has tables already and was left as it is; make an empty one with `createdb`, or start a "
            "server with the configuration that belongs to it"
        )
    if not create and not tables >= OWN_TABLES:
        raise StartupError(
            "this is no database of akpolicy-server and was left as it is; correct database_url, or set up a server "
            "with `akpolicy-server init --database-url URL`"
        )
