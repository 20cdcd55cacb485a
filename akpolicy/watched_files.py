"""Files that change under a running program: read again when they have changed, and only then.

Rules:

- A look costs one stat a file. What tells a change is inode, size, mtime and ctime of what the path leads to, so that
  a rename over it, a write in place, a chmod and a symbolic link that points elsewhere are all seen. A file that is not
  there is a state like any other.
- Files that changed while they were read are read again. What does not fit together even so is for `read` to refuse.
- Timestamps are coarse: two writes within one tick look like one. For `SETTLING_S` after a change, each look reads.
- What cannot be used is told once for each change, and what was read before stays. Nothing is ever half taken over.
- No clock but the one handed in. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from akpolicy.errors import AkpolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from akpolicy.clock import Clock

# The coarsest timestamps in use are those of FAT, 2 s; ext4 and XFS have a few milliseconds.
SETTLING_S: Final = 2.0
MAX_READS: Final = 3

T = TypeVar("T")
_Signature = tuple[tuple[int, ...], ...]


class WatchedFiles(Generic[T]):
    """What some files hold together, as it was when it could last be used."""

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[T | None], T],
        *,
        clock: Clock,
        failed: Callable[[AkpolicyError], None],
    ) -> None:
        """Read nothing yet.

        `read` gets what it returned last and returns that very object if the files hold the same, else what they hold;
        it raises an `AkpolicyError` for what cannot be used, and nothing else. `failed` is told of that error, once for
        each change; it must not call back.
        """
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._failed = failed
        self._lock = threading.Lock()
        self._current: T | None = None
        self._signature: _Signature | None = None
        self._settled_at = 0.0
        self._refused: _Signature | None = None

    def load(self) -> T:
        """Read the files now, and return what they hold; what `read` raises comes through."""
        with self._lock:
            return self._take()

    def refresh(self) -> T | None:
        """Return what could last be used (None: nothing yet), after a look whether the files have changed."""
        with self._lock:
            if self._is_due():
                try:
                    self._take()
                except AkpolicyError:
                    # Told by `_take`, and what was there stays.
                    return self._current
            return self._current

    @property
    def are_usable(self) -> bool:
        """Whether the files, as they were read last, could be used."""
        return self._current is not None and self._refused is None

    def _is_due(self) -> bool:
        return self._sign() != self._signature or self._clock.elapsed() < self._settled_at

    def _take(self) -> T:
        signature, outcome = self._read_between_looks()
        if signature != self._signature:
            self._signature, self._settled_at = signature, self._clock.elapsed() + SETTLING_S
        if isinstance(outcome, AkpolicyError):
            if signature != self._refused:
                self._refused = signature
                self._failed(outcome)
            raise outcome
        self._current, self._refused = outcome, None
        return outcome

    def _read_between_looks(self) -> tuple[_Signature, T | AkpolicyError]:
        """Return what was read or why it cannot be used, and the signature from before, which is right if it stayed."""
        for _ in range(MAX_READS - 1):
            signature, outcome = self._sign(), self._try()
            if self._sign() == signature:
                return signature, outcome
        # They change all the time. The signature is an old one, so that the next look reads again.
        return self._sign(), self._try()

    def _try(self) -> T | AkpolicyError:
        try:
            return self._read(self._current)
        except AkpolicyError as error:
            return error

    def _sign(self) -> _Signature:
        return tuple(_sign(path) for path in self._paths)


def _sign(path: Path) -> tuple[int, ...]:
    try:
        info = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
