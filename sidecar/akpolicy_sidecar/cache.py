"""The state directory: what survives a restart, and what of it may be believed.

::

    <state dir> 0700    lock  state.json  roots/NNNNNNNN  envelopes/<sha256>  blobs/<sha256>

Rules:

- Files are named by the SHA-256 of their bytes (roots by their version, with the digest in the state). A file that is
  not what its name says is `CacheCorrupt`.
- `state.json` alone says what is enforced. It is replaced atomically and has no second copy: a choice between two would
  be a rollback.
- Order of writing: blob, envelope, state.json; the caller enforces after that. A crash in between leaves the old state
  with a file too many.
- What neither the current nor the previous state names is swept, and so are temporary files.
- One process uses a directory at a time (`lock`, flock(2)), and for one org.
- Nothing here is trusted for lying here: whoever loads a document hands it to the same judge as one from the network.
  Whoever is root on the host can rewrite the state; the enforced versions are therefore reported to the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from akpolicy.durable import PRIVATE_FILE_MODE, TEMP_PREFIX, private_directory, read_private_file, write_atomic
from akpolicy.errors import (
    CacheCorrupt,
    CacheError,
    CacheLocked,
    CacheMissing,
    CacheStateMissing,
    StateDirUnusable,
    TrustError,
)
from akpolicy.fields import Counter, HexDigest, OrgName, ScopeText, Seconds
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_ENVELOPE_BYTES, MAX_ROOT_ENVELOPE_BYTES, MIB
from akpolicy.strict_json import Document, load

if TYPE_CHECKING:
    from pathlib import Path

STATE_FILE: Final = "state.json"
LOCK_FILE: Final = "lock"
MAX_STATE_BYTES: Final = 1 * MIB

_ROOTS: Final = "roots"
_ENVELOPES: Final = "envelopes"
_BLOBS: Final = "blobs"
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class RootState(Document):
    """The trusted root: its version, the digest of its signed bytes, and of the file."""

    version: Counter
    digest: HexDigest
    envelope: HexDigest


class ScopeState(Document):
    """What was accepted last for a scope: the mark, and the files. `blob` is None if the scope is deleted."""

    epoch: Counter
    version: Counter
    digest: HexDigest
    min_version: Counter
    previous_digest: HexDigest | None = None
    envelope: HexDigest
    blob: HexDigest | None = None


class ContactState(Document):
    """When the server last said that nothing is pending: wall clock and time since boot, in milliseconds."""

    wall_ms: Seconds
    elapsed_ms: Seconds
    boot_id: Annotated[str, Field(max_length=64)]


class State(Document):
    """`state.json`: everything that is enforced, and when the server was last heard."""

    format: Literal[1]
    org: OrgName
    root: RootState | None = None
    scopes: dict[ScopeText, ScopeState] = Field(default_factory=dict)
    contact: ContactState | None = None

    def files(self) -> set[str]:
        """Return the files that this state names, relative to the directory."""
        names = {_root_name(self.root.version)} if self.root else set()
        for scope in self.scopes.values():
            names.add(f"{_ENVELOPES}/{scope.envelope}")
            if scope.blob:
                names.add(f"{_BLOBS}/{scope.blob}")
        return names


class StateDirectory:
    """One org's state directory, locked for this process. Use it from one thread at a time."""

    def __init__(self, path: Path, org: str, lock: int) -> None:
        """Take over a locked directory; `open` makes one."""
        self._path = path
        self._org = org
        self._lock = lock
        self._state = State(format=1, org=org)

    @classmethod
    def open(cls, path: Path, org: str) -> StateDirectory:
        """Create or check the directory and lock it.

        Raises `CacheLocked` if another process has it, the `CacheError` that says why it must not be used, or
        `StateDirUnusable`.
        """
        for directory in (path, path / _ROOTS, path / _ENVELOPES, path / _BLOBS):
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

        A directory without any document is a new one and has an empty state. Raises `CacheStateMissing`,
        `CacheCorrupt` or another `CacheError`; the current state is then the empty one. Raises `StateDirUnusable` if
        the directory is another org's.
        """
        self._sweep_temporary()
        try:
            data = read_private_file(self._path / STATE_FILE, max_bytes=MAX_STATE_BYTES)
        except CacheMissing:
            if self._documents():
                msg = f"`{self._path / STATE_FILE}` is missing; what was enforced is unknown"
                raise CacheStateMissing(msg) from None
            return self._state
        state = self._parse(data)
        if state.org != self._org:
            msg = (
                f"state directory `{self._path}` belongs to the org `{state.org}`, not to `{self._org}`; "
                "give each org its own state_dir"
            )
            raise StateDirUnusable(msg)
        self._state = state
        return state

    def root(self, root: RootState) -> bytes:
        """Return the kept root envelope; raise a `CacheError`."""
        return self._read(_root_name(root.version), root.envelope, MAX_ROOT_ENVELOPE_BYTES)

    def envelope(self, digest: str) -> bytes:
        """Return a kept bundle envelope; raise a `CacheError`."""
        return self._read(f"{_ENVELOPES}/{digest}", digest, MAX_ENVELOPE_BYTES)

    def blob(self, digest: str) -> bytes:
        """Return kept content; raise a `CacheError`."""
        return self._read(f"{_BLOBS}/{digest}", digest, MAX_CONTENT_BYTES)

    def _parse(self, data: bytes) -> State:
        try:
            return load(data, State)
        except TrustError as error:
            msg = f"`{self._path / STATE_FILE}` is damaged: {error.message}"
            raise CacheCorrupt(msg) from error

    def _read(self, name: str, digest: str, max_bytes: int) -> bytes:
        data = read_private_file(self._path / name, max_bytes=max_bytes)
        if hashlib.sha256(data).hexdigest() != digest:
            msg = f"`{self._path / name}` is damaged: it has not the digest {digest}"
            raise CacheCorrupt(msg)
        return data

    # --- writing ------------------------------------------------------------------------------------------------------

    def put_root(self, version: int, data: bytes) -> str:
        """Keep a root envelope and return the digest of its bytes; raise `CacheWriteFailed`."""
        write_atomic(self._path / _root_name(version), data)
        return hashlib.sha256(data).hexdigest()

    def put_envelope(self, data: bytes) -> str:
        """Keep a bundle envelope and return its name; raise `CacheWriteFailed`."""
        return self._put(_ENVELOPES, data)

    def put_blob(self, data: bytes) -> str:
        """Keep content and return its name; raise `CacheWriteFailed`."""
        return self._put(_BLOBS, data)

    def commit(self, state: State) -> None:
        """Make `state` the current one, then sweep; raise `CacheWriteFailed` with the old state still the current."""
        write_atomic(self._path / STATE_FILE, state.to_bytes())
        previous, self._state = self._state, state
        if previous.files() != state.files():
            self._sweep(previous.files() | state.files())

    def _put(self, directory: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        write_atomic(self._path / directory / digest, data)
        return digest

    # --- sweeping -----------------------------------------------------------------------------------------------------

    def _documents(self) -> set[str]:
        return {
            f"{directory}/{entry.name}"
            for directory in (_ROOTS, _ENVELOPES, _BLOBS)
            for entry in (self._path / directory).iterdir()
        }

    def _sweep(self, named: set[str]) -> None:
        for name in self._documents() - named:
            _remove(self._path / name)

    def _sweep_temporary(self) -> None:
        for directory in (self._path, self._path / _ROOTS, self._path / _ENVELOPES, self._path / _BLOBS):
            for left in directory.glob(f"{TEMP_PREFIX}*"):
                _remove(left)


def _remove(path: Path) -> None:
    # A file too many is harmless, and is tried again with the next change.
    with contextlib.suppress(OSError):
        path.unlink()


def _root_name(version: int) -> str:
    return f"{_ROOTS}/{version:08d}"


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
