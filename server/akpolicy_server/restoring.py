"""`akpolicy-server restore`: an earlier state of the database in the place of the one that is there.

Rules:

- Nothing is changed before the backup has been looked through, every page of it, and copied beside the database.
- No server runs meanwhile, on this data directory (`running`) or on this file: SQLite lets nobody else have it.
- The database that was there stays, under a name with the time, with its write-ahead log: it may be what is needed
  after all, and only it knows what was published since the backup.
- At each moment there is a database under the name: first the old one gets its second name, then the new one takes its
  place. A write-ahead log of the old one would be taken for the new one's, so it is folded in before, or moved aside.
- What hosts make of it, this cannot change: they go on from what they have and take nothing older
  (docs/operations/backup.md).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from akpolicy.durable import private_directory, sync_directory
from akpolicy.errors import CacheError, StartupError, StateDirUnusable
from akpolicy_server.database_file import beside, copy_database, require_whole, sqlite_file
from akpolicy_server.running import alone
from akpolicy_server.settings import SQLITE_PREFIX
from akpolicy_server.store.engine import LOG_SUFFIX, SHARED_SUFFIX, Database
from akpolicy_server.store.tables import orgs, revisions

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.clock import Clock
    from akpolicy_server.database_file import Progress
    from akpolicy_server.settings import ServerSettings

# How long the last connection of a server that ends may take to let go of the file.
BUSY_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Restored:
    """What is in place now: how many orgs, and when something was published last (epoch seconds, None: never).

    `kept` is the database that was there before, None if there was none.
    """

    database: Path
    kept: Path | None
    orgs: int
    last_published_at: int | None


def restore(settings: ServerSettings, backup: Path, clock: Clock, progress: Progress) -> Restored:
    """Put a backup in place of the database.

    Raises `BackupFailed` for the backup, `StartupError` while a server runs, `StateDirUnusable` for the data directory;
    then nothing was changed.
    """
    data_dir, path = settings.server.data_dir, sqlite_file(settings.server.resolved_database_url)
    try:
        private_directory(data_dir)
    except CacheError as error:
        raise StateDirUnusable(error.message) from error
    require_whole(backup)
    with alone(data_dir), beside(path) as temporary:
        temporary.unlink()
        copy_database(backup, temporary, progress, is_live=False)
        kept = _set_aside(path, clock) if path.exists() else None
        temporary.replace(path)
        sync_directory(path.parent)
    count, last = _found(path)
    return Restored(path, kept, count, last)


def _set_aside(path: Path, clock: Clock) -> Path:
    """Give the database a second name; raise `StartupError` if somebody uses it."""
    _fold(path)
    stamp = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = path.with_name(f"{path.name}.before-restore-{stamp}")
    try:
        os.link(path, kept)
    except FileExistsError:
        raise StartupError(f"`{kept}` exists; wait a second and try again") from None
    for suffix in (LOG_SUFFIX, SHARED_SUFFIX):
        left = path.with_name(path.name + suffix)
        if left.exists():
            left.rename(kept.with_name(kept.name + suffix))
    return kept


def _fold(path: Path) -> None:
    """Fold the write-ahead log into the database, alone; one that is damaged is left as it is."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise StartupError(f"`{path}` is in use by another process; stop it first") from error
    except sqlite3.DatabaseError:
        # It may be the reason for the restore.
        return


def _found(path: Path) -> tuple[int, int | None]:
    with closing(Database(f"{SQLITE_PREFIX}{path}", read_only=True)) as database, database.read() as connection:
        count = connection.scalar(select(func.count()).select_from(orgs)) or 0
        last = connection.scalar(select(func.max(revisions.c.published_at_us)))
    return count, None if last is None else last // 1_000_000
