"""The state directory: what survives a restart, and what of it may be believed.

::

    <state dir> 0700    lock  state.json  journal-<name>
                        roots/NNNNNNNN  envelopes/<sha256>  blobs/<sha256>  evidence/<sha256>

Rules:

- Files are named by the SHA-256 of their bytes, roots by their version. Content that is not what its name says is
  `CacheCorrupt`. Signed documents are handed to the judge as they are, who says what is wrong with them; only what it
  believes must fit its name too.
- `state.json`, with its journal (`journal`), alone says what is enforced. It is replaced atomically and has no second
  copy: a choice between two would be a rollback.
- What an update writes and looks at does not grow with the number of scopes: `append` writes a line. The first change
  of a run writes `state.json` anew (`commit`), and so does one that finds the journal full.
- Order of writing: blob, envelope, state; the caller enforces after that. A crash in between leaves the old state with
  a file too many. A state that could not be read again is never written: it would take the marks with it.
- What neither the current nor the previous state names is swept, and so are temporary files. Every root is kept, and so
  is evidence: documents that contradict each other, up to `MAX_EVIDENCE` files.
- One process uses a directory at a time (`lock`, flock(2)), and for one org.
- Nothing here is trusted for lying here: whoever loads a document hands it to the same judge as one from the network.
  Whoever is root on the host can rewrite the state; the enforced versions are therefore reported to the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.durable import PRIVATE_FILE_MODE, TEMP_PREFIX, private_directory, read_private_file, remove, write_atomic
from akpolicy.errors import (
    CacheCorrupt,
    CacheError,
    CacheLocked,
    CacheMissing,
    CacheStateMissing,
    CacheWriteFailed,
    StateDirUnusable,
)
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_ENVELOPE_BYTES, MAX_INDEX_SCOPES, MAX_ROOT_ENVELOPE_BYTES, MIB
from akpolicy_sidecar.current import CurrentState
from akpolicy_sidecar.journal import Journal, read_changes, sweep
from akpolicy_sidecar.named_files import BLOBS, ENVELOPES, ROOTS, NamedFiles, root_name
from akpolicy_sidecar.state import State, decode_checkpoint, encode_state

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy_sidecar.state import Change, Checkpoint, RootState

STATE_FILE: Final = "state.json"
LOCK_FILE: Final = "lock"
# 20,001 scopes with names of 512 characters have 34 MiB.
MAX_STATE_BYTES: Final = 40 * MIB
MAX_EVIDENCE: Final = 64
# Of a state that is replaced while it is read without the lock.
READ_ATTEMPTS: Final = 5

EVIDENCE: Final = "evidence"
_RELEASED: Final = -1
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class KeptEnvelope:
    """The bytes of a kept envelope; `intact` says whether they fit its name."""

    data: bytes
    intact: bool


class StateDirectory:
    """One org's state directory, locked for this process. Use it from one thread at a time."""

    def __init__(self, path: Path, org: str, lock: int) -> None:
        """Take over a locked directory; `open` makes one."""
        self._path = path
        self._org = org
        self._lock = lock
        self._current = CurrentState(State(format=2, org=org))
        self._names = NamedFiles()
        # That of this run, once `state.json` was written; and one that no `state.json` names for sure.
        self._journal: Journal | None = None
        self._next: Journal | None = None

    @classmethod
    def open(cls, path: Path, org: str) -> StateDirectory:
        """Create or check the directory and lock it.

        Raises `CacheLocked` if another process has it, the `CacheError` that says why it must not be used, or
        `StateDirUnusable`.
        """
        for directory in (path, *(path / name for name in (ROOTS, ENVELOPES, BLOBS, EVIDENCE))):
            private_directory(directory)
        return cls(path, org, _take_lock(path / LOCK_FILE))

    def lock_again(self) -> None:
        """Take the lock back after `close`, to `load` anew; raise `CacheLocked` or another `CacheError`."""
        self._lock = _take_lock(self._path / LOCK_FILE)
        self._current = CurrentState(State(format=2, org=self._org))
        self._names = NamedFiles()

    def close(self) -> None:
        """Release the lock, if it is held."""
        if self._lock == _RELEASED:
            return
        for journal in (self._journal, self._next):
            if journal is not None:
                journal.close()
        self._journal = self._next = None
        os.close(self._lock)
        self._lock = _RELEASED

    @property
    def state(self) -> State:
        """The state that is on disk, whole. To make it takes as long as there are scopes, after each change."""
        return self._current.state

    @property
    def root_state(self) -> RootState | None:
        """What the state says of roots. Safe to read from any thread."""
        return self._current.root

    # --- reading ------------------------------------------------------------------------------------------------------

    def load(self) -> State:
        """Read `state.json` and keep it as the current state.

        A directory without any document is a new one and gets an empty state, so that later no crash can leave
        documents without a state. Raises `CacheStateMissing`, `CacheCorrupt` or another `CacheError`; the current state
        is then the empty one. Raises `StateDirUnusable` if the directory is another org's.
        """
        self._sweep_temporary()
        checkpoint = read_checkpoint(self._path)
        if checkpoint is None:
            self.commit(self.state)
            return self.state
        state = _replayed(self._path, checkpoint)
        if state.org != self._org:
            msg = (
                f"state directory `{self._path}` belongs to the org `{state.org}`, not to `{self._org}`; "
                "give each org its own state_dir"
            )
            raise StateDirUnusable(msg)
        sweep(self._path, but=checkpoint.journal)
        self._current = CurrentState(state)
        self._names.name(state)
        return state

    def root(self, version: int) -> bytes:
        """Return a kept root envelope; raise a `CacheError`."""
        return read_root(self._path, version)

    def envelope(self, digest: str) -> KeptEnvelope:
        """Return a kept bundle or rollback envelope; raise a `CacheError`."""
        return read_envelope(self._path, digest)

    def blob(self, digest: str) -> bytes:
        """Return kept content; raise a `CacheError`."""
        return read_blob(self._path, digest)

    @property
    def evidence_count(self) -> int:
        """How many documents are kept as evidence; raise a `CacheError` if nobody can tell."""
        return len(self._evidence())

    def _evidence(self) -> set[str]:
        try:
            return {entry.name for entry in (self._path / EVIDENCE).iterdir()}
        except FileNotFoundError:
            return set()
        except OSError as error:
            msg = f"cannot list `{self._path / EVIDENCE}`: {error.strerror}"
            raise CacheCorrupt(msg) from error

    # --- writing ------------------------------------------------------------------------------------------------------

    def put_root(self, version: int, data: bytes) -> None:
        """Keep a root envelope; raise `CacheWriteFailed`."""
        write_atomic(self._path / root_name(version), data)

    def put_envelope(self, data: bytes) -> str:
        """Keep a bundle or rollback envelope and return its name; raise `CacheWriteFailed`."""
        return self._put(ENVELOPES, data)

    def put_blob(self, data: bytes) -> str:
        """Keep content and return its name; raise `CacheWriteFailed`."""
        return self._put(BLOBS, data)

    def put_evidence(self, data: bytes) -> None:
        """Keep a document that contradicts another; raise `CacheWriteFailed`, also if there is too much already."""
        digest = hashlib.sha256(data).hexdigest()
        kept = self._evidence()
        if digest in kept:
            return
        if len(kept) >= MAX_EVIDENCE:
            msg = f"`{self._path / EVIDENCE}` has {len(kept)} files already; look at them and move them away"
            raise CacheWriteFailed(msg)
        self._put(EVIDENCE, data)

    def commit(self, state: State) -> None:
        """Make `state` the current one, then sweep; raise `CacheWriteFailed` with the old state still the current.

        That takes as long as there are scopes: `append` is for updates.
        """
        journal = self._next = self._next or Journal(self._path)
        data = encode_state(state, journal.name)
        digest = _check_readable(data)
        # What is appended from here on to the old journal could be lost, whether or not this can be finished.
        self._end_journal()
        write_atomic(self._path / STATE_FILE, data)
        journal.begin(digest, len(data))
        self._journal, self._next = journal, None
        before = self._names.all
        self._current = CurrentState(state)
        self._names.name(state)
        sweep(self._path, but=journal.name)
        if before != self._names.all:
            self._sweep(before | self._names.all)

    def append(self, change: Change) -> None:
        """Keep what an update changes, then sweep; raise `CacheWriteFailed` with the old state still the current."""
        journal = self._journal
        current = self._current
        new = sum(current.scope(scope) is None for scope in change.scopes)
        if journal is None or not journal.has_room() or len(current) + new > MAX_INDEX_SCOPES:
            changed = CurrentState(current.state)
            changed.take(change)
            self.commit(changed.state)
            return
        try:
            journal.append(change)
        except CacheWriteFailed:
            self._end_journal()
            raise
        for scope, kept in change.scopes.items():
            for name in self._names.replace(current.scope(scope), kept):
                remove(self._path / name)
        current.take(change)

    def _end_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
        self._journal = None

    def _put(self, directory: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        write_atomic(self._path / directory / digest, data)
        self._names.written(f"{directory}/{digest}")
        return digest

    # --- sweeping -----------------------------------------------------------------------------------------------------

    def _sweep(self, named: set[str]) -> None:
        # The state is committed by now, whatever becomes of files too many.
        with contextlib.suppress(OSError):
            for name in documents(self._path) - named:
                # Tried again with the next change.
                remove(self._path / name)

    def _sweep_temporary(self) -> None:
        for name in ("", ROOTS, ENVELOPES, BLOBS, EVIDENCE):
            for left in (self._path / name).glob(f"{TEMP_PREFIX}*"):
                remove(left)


# --- reading without the lock, as `akpolicy inspect` does -------------------------------------------------------------


def read_state(path: Path) -> State | None:
    """Return the state of a directory, None of a new one; raise a `CacheError`."""
    for _ in range(READ_ATTEMPTS - 1):
        checkpoint = read_checkpoint(path)
        try:
            return checkpoint and _replayed(path, checkpoint)
        except CacheStateMissing:
            # Its sidecar may have replaced both meanwhile.
            continue
    checkpoint = read_checkpoint(path)
    return checkpoint and _replayed(path, checkpoint)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return what `state.json` says, None in a new directory; raise a `CacheError`."""
    try:
        data = read_private_file(path / STATE_FILE, max_bytes=MAX_STATE_BYTES)
    except CacheMissing:
        if documents(path):
            msg = f"`{path / STATE_FILE}` is missing; what was enforced is unknown"
            raise CacheStateMissing(msg) from None
        return None
    try:
        return decode_checkpoint(data)
    except CacheCorrupt as error:
        msg = f"`{path / STATE_FILE}` is damaged: {error.message}"
        raise CacheCorrupt(msg) from error


def _replayed(path: Path, checkpoint: Checkpoint) -> State:
    """Return the state with all that its journal says has changed since; raise a `CacheError`."""
    state, name, digest = checkpoint
    if not name:
        return state
    current = CurrentState(state)
    for change in read_changes(path, name, digest):
        current.take(change)
    return current.state


def read_root(path: Path, version: int) -> bytes:
    """Return a kept root envelope; raise a `CacheError`."""
    return read_private_file(path / root_name(version), max_bytes=MAX_ROOT_ENVELOPE_BYTES)


def read_envelope(path: Path, digest: str) -> KeptEnvelope:
    """Return a kept bundle or rollback envelope; raise a `CacheError`."""
    data = read_private_file(path / ENVELOPES / digest, max_bytes=MAX_ENVELOPE_BYTES)
    return KeptEnvelope(data, hashlib.sha256(data).hexdigest() == digest)


def read_blob(path: Path, digest: str) -> bytes:
    """Return kept content; raise a `CacheError`."""
    data = read_private_file(path / BLOBS / digest, max_bytes=MAX_CONTENT_BYTES)
    if hashlib.sha256(data).hexdigest() != digest:
        msg = f"`{path / BLOBS / digest}` is damaged: its bytes do not fit its name"
        raise CacheCorrupt(msg)
    return data


def documents(path: Path) -> set[str]:
    """Return the documents that lie in a directory, relative to it."""
    return {f"{name}/{entry.name}" for name in (ROOTS, ENVELOPES, BLOBS) for entry in (path / name).iterdir()}


def _check_readable(data: bytes) -> str:
    """Return the digest of the bytes of a state; raise `CacheWriteFailed` for those that `read_state` would refuse."""
    if len(data) > MAX_STATE_BYTES:
        msg = f"the state could not be read again: it has {len(data)} bytes, more than {MAX_STATE_BYTES}"
        raise CacheWriteFailed(msg)
    try:
        return decode_checkpoint(data).digest
    except CacheCorrupt as error:
        msg = f"the state could not be read again: {error.message}"
        raise CacheWriteFailed(msg) from error


def _take_lock(path: Path) -> int:
    try:
        descriptor = os.open(path, _LOCK_FLAGS, PRIVATE_FILE_MODE)
    except OSError as error:
        msg = f"cannot open the lock `{path}`: {error.strerror}"
        raise CacheError(msg) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        msg = f"`{path.parent}` is in use by another sidecar; stop it or set another state_dir"
        raise CacheLocked(msg) from None
    except OSError as error:
        os.close(descriptor)
        msg = f"cannot lock `{path}`: {error.strerror}"
        raise CacheError(msg) from error
    return descriptor
