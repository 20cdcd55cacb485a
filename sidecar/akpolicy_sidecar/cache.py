"""The state directory: what survives a restart, and what of it may be believed.

::

    <state dir> 0700    lock  state.json  roots/NNNNNNNN  envelopes/<sha256>  blobs/<sha256>  evidence/<sha256>

Rules:

- Files are named by the SHA-256 of their bytes, roots by their version. Content that is not what its name says is
  `CacheCorrupt`. Signed documents are handed to the judge as they are, who says what is wrong with them; only what it
  believes must fit its name too.
- `state.json` alone says what is enforced. It is replaced atomically and has no second copy: a choice between two would
  be a rollback.
- Order of writing: blob, envelope, state.json; the caller enforces after that. A crash in between leaves the old state
  with a file too many. A state that could not be read again is never written: it would take the marks with it.
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
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_ENVELOPE_BYTES, MAX_ROOT_ENVELOPE_BYTES, MIB
from akpolicy_sidecar.state import State, decode_state, encode_state

if TYPE_CHECKING:
    from pathlib import Path

STATE_FILE: Final = "state.json"
LOCK_FILE: Final = "lock"
# 20,001 scopes with names of 512 characters have 34 MiB.
MAX_STATE_BYTES: Final = 40 * MIB
MAX_EVIDENCE: Final = 64

ROOTS: Final = "roots"
ENVELOPES: Final = "envelopes"
BLOBS: Final = "blobs"
EVIDENCE: Final = "evidence"
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
        self._state = State(format=2, org=org)

    @classmethod
    def open(cls, path: Path, org: str) -> StateDirectory:
        """Create or check the directory and lock it.

        Raises `CacheLocked` if another process has it, the `CacheError` that says why it must not be used, or
        `StateDirUnusable`.
        """
        for directory in (path, *(path / name for name in (ROOTS, ENVELOPES, BLOBS, EVIDENCE))):
            private_directory(directory)
        return cls(path, org, _take_lock(path / LOCK_FILE))

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    @property
    def state(self) -> State:
        """The state that is on disk."""
        return self._state

    # --- reading ------------------------------------------------------------------------------------------------------

    def load(self) -> State:
        """Read `state.json` and keep it as the current state.

        A directory without any document is a new one and gets an empty state, so that later no crash can leave
        documents without a state. Raises `CacheStateMissing`, `CacheCorrupt` or another `CacheError`; the current state
        is then the empty one. Raises `StateDirUnusable` if the directory is another org's.
        """
        self._sweep_temporary()
        state = read_state(self._path)
        if state is None:
            self.commit(self._state)
            return self._state
        if state.org != self._org:
            msg = (
                f"state directory `{self._path}` belongs to the org `{state.org}`, not to `{self._org}`; "
                "give each org its own state_dir"
            )
            raise StateDirUnusable(msg)
        self._state = state
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
        """Make `state` the current one, then sweep; raise `CacheWriteFailed` with the old state still the current."""
        data = encode_state(state)
        _check_readable(data)
        write_atomic(self._path / STATE_FILE, data)
        previous, self._state = self._state, state
        before, after = files_of(previous), files_of(state)
        if before != after:
            self._sweep(before | after)

    def _put(self, directory: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        write_atomic(self._path / directory / digest, data)
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
    try:
        data = read_private_file(path / STATE_FILE, max_bytes=MAX_STATE_BYTES)
    except CacheMissing:
        if documents(path):
            msg = f"`{path / STATE_FILE}` is missing; what was enforced is unknown"
            raise CacheStateMissing(msg) from None
        return None
    try:
        return decode_state(data)
    except CacheCorrupt as error:
        msg = f"`{path / STATE_FILE}` is damaged: {error.message}"
        raise CacheCorrupt(msg) from error


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


def root_name(version: int) -> str:
    """Return the file of a root, relative to the directory."""
    return f"{ROOTS}/{version:08d}"


def files_of(state: State) -> set[str]:
    """Return the files that a state names, relative to the directory."""
    versions = range(state.root.first, state.root.version + 1) if state.root is not None else ()
    names = {root_name(version) for version in versions}
    for scope in state.scopes.values():
        names |= {f"{ENVELOPES}/{digest}" for digest in (scope.envelope, scope.original) if digest}
        if scope.blob:
            names.add(f"{BLOBS}/{scope.blob}")
    return names


def documents(path: Path) -> set[str]:
    """Return the documents that lie in a directory, relative to it."""
    return {f"{name}/{entry.name}" for name in (ROOTS, ENVELOPES, BLOBS) for entry in (path / name).iterdir()}


def _check_readable(data: bytes) -> None:
    """Raise `CacheWriteFailed` for the bytes of a state that `read_state` would refuse."""
    if len(data) > MAX_STATE_BYTES:
        msg = f"the state could not be read again: it has {len(data)} bytes, more than {MAX_STATE_BYTES}"
        raise CacheWriteFailed(msg)
    try:
        decode_state(data)
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
