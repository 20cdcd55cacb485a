"""Copies of SQLite's database file: made while the server writes, looked through before anything believes them.

Rules:

- A copy is one state of the database: the reader's transaction is held until the last page is copied, so that commits
  meanwhile neither get into it nor begin it anew.
- It is made beside its place, 0600, looked through, made durable, and then gets its name, which nobody has: a file that
  is there is never replaced. Whatever fails leaves nothing behind.
- What is looked through is every page and index, every reference between tables, and that it is a database of this
  program whose structure this version knows.
- Copying and looking through take minutes for gigabytes, so whoever asks can follow: `progress` is told what is done,
  and of how much.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from akpolicy.durable import PRIVATE_FILE_MODE, TEMP_PREFIX, remove, sync_directory
from akpolicy.errors import BackupFailed, StartupError
from akpolicy_server.settings import SQLITE_PREFIX
from akpolicy_server.store.engine import LOG_SUFFIX, SHARED_SUFFIX, Database
from akpolicy_server.store.migrate import require_known

if TYPE_CHECKING:
    from collections.abc import Iterator

# 16 MiB of the usual pages of 4 KiB.
PAGES_A_STEP: Final = 4096
# Of SQLite's virtual machine, between two looks at how far it is: some hundred a second.
STEPS_A_LOOK: Final = 1_000_000
BUSY_TIMEOUT_S: Final = 5.0
JOURNAL_SUFFIX: Final = "-journal"
COPYING: Final = "copying"
CHECKING: Final = "checking"


class Progress(Protocol):
    """Follows long work."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note that `what` is being done, `done` of `total` bytes by now; `total` is 0 where nobody knows."""


def sqlite_file(url: str) -> Path:
    """Return the file of a database URL; raise `StartupError` for another kind of database."""
    path = url.removeprefix(SQLITE_PREFIX)
    if path == url:
        raise StartupError("only SQLite is a file; back up another database with its own tool, such as `pg_dump`")
    return Path(path)


def copy_database(source: Path, target: Path, progress: Progress, *, is_live: bool) -> int:
    """Copy a database to a new file and look through the copy; return its size in bytes.

    `is_live`: a server may use it; else it is a copy itself. Raises `BackupFailed` for what cannot be copied, or is not
    as it should be.
    """
    if os.path.lexists(target):
        raise BackupFailed(f"`{target}` exists and was left as it is; name a new file")
    with beside(target) as temporary:
        try:
            # SQLite leaves files beside a database in use for a reader that may not write.
            _copy(source, "mode=rw" if is_live else "mode=ro", temporary, progress)
        except sqlite3.Error as error:
            raise BackupFailed(f"cannot copy `{source}`: {error}") from error
        look_through(temporary, progress)
        size = temporary.stat().st_size
        try:
            # Unlike a rename, a link replaces nothing.
            os.link(temporary, target)
            sync_directory(target.parent)
        except FileExistsError:
            raise BackupFailed(f"`{target}` exists and was left as it is; name a new file") from None
    return size


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Yield an empty new file (0600) beside `target`, which is removed if it still has its name at the end.

    Raises `BackupFailed` if there can be none; what the system refuses while the block runs becomes that too.
    """
    temporary = target.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(temporary, flags, PRIVATE_FILE_MODE))
        yield temporary
    except OSError as error:
        raise BackupFailed(f"cannot write `{target}`: {error.strerror}") from error
    finally:
        for name in (
            temporary,
            *(temporary.with_name(temporary.name + end) for end in (JOURNAL_SUFFIX, LOG_SUFFIX, SHARED_SUFFIX)),
        ):
            remove(name)


def require_whole(path: Path) -> None:
    """Raise `BackupFailed` unless a copy is one file that has everything."""
    if not path.is_file():
        raise BackupFailed(f"`{path}` is no file; name one that `akpolicy-server backup` made")
    log = path.with_name(path.name + LOG_SUFFIX)
    if log.exists() and log.stat().st_size:
        raise BackupFailed(
            f"`{log}` stands beside `{path}`: that is a copy of a database in use, and not what "
            "`akpolicy-server backup` makes"
        )


def look_through(path: Path, progress: Progress) -> None:
    """Raise `BackupFailed` unless a file is a sound database of this program that this version can use."""
    try:
        with closing(_open(path, "mode=ro&immutable=1")) as connection:
            connection.set_progress_handler(lambda: progress(CHECKING, 0, 0), STEPS_A_LOOK)
            _require_sound(path, connection)
    except sqlite3.Error as error:
        raise BackupFailed(f"`{path}` cannot be read as a database: {error}") from error
    _require_ours(path)


def _require_sound(path: Path, connection: sqlite3.Connection) -> None:
    [(said,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if said != "ok":
        raise BackupFailed(f"`{path}` is damaged: {said}")
    lost = connection.execute("PRAGMA foreign_key_check").fetchone()
    if lost is not None:
        raise BackupFailed(f"`{path}` is damaged: a row of `{lost[0]}` refers to one of `{lost[2]}` that is missing")


def _require_ours(path: Path) -> None:
    try:
        with (
            closing(Database(f"{SQLITE_PREFIX}{path}", read_only=True)) as database,
            database.read() as connection,
        ):
            require_known(connection)
    except StartupError as error:
        raise BackupFailed(error.message) from error


def _copy(source: Path, options: str, target: Path, progress: Progress) -> None:
    with closing(_open(source, options)) as reader, closing(_open(target, "mode=rw")) as writer:
        # The first read takes the snapshot, and the transaction keeps it.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        [(page,)] = reader.execute("PRAGMA page_size").fetchall()
        reader.backup(
            writer,
            pages=PAGES_A_STEP,
            progress=lambda _, left, total: progress(COPYING, (total - left) * page, total * page),
        )
        # In one file: a reader of the copy leaves no other files beside it.
        writer.execute("PRAGMA journal_mode = DELETE")
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path, options: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{options}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
