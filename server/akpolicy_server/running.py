"""The mark of a running server: a lock on its data directory.

Servers share it, because several may use one directory; who replaces the database has it alone. flock(2) releases it
with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from akpolicy.durable import PRIVATE_FILE_MODE
from akpolicy.errors import StartupError, StateDirUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_FILE: Final = "lock"


@contextmanager
def running(data_dir: Path) -> Iterator[None]:
    """Be a running server while the block runs; raise `StartupError` while the database is being replaced."""
    if not data_dir.is_dir():
        # The start says of it what there is to say, and makes nothing.
        yield
        return
    with _locked(data_dir, fcntl.LOCK_SH, f"the database in `{data_dir}` is being restored; start when that has ended"):
        yield


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Keep servers from running while the block runs; raise `StartupError` if one does."""
    with _locked(data_dir, fcntl.LOCK_EX, f"a server runs on `{data_dir}`; stop it first"):
        yield


@contextmanager
def _locked(data_dir: Path, how: int, refusal: str) -> Iterator[None]:
    path = data_dir / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE_MODE)
    except OSError as error:
        raise StateDirUnusable(f"cannot open the lock `{path}`: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(refusal) from None
        yield
    finally:
        os.close(descriptor)
