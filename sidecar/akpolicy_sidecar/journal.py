"""What changed since `state.json` was written: one line for each change, so that an update costs what it changes.

Rules:

- A journal belongs to one `state.json`, which names it. The first line goes on from that file's digest, each further
  one from the line before: a line is `<digest> <change>` and a line feed, its digest the SHA-256 of the digest before
  and of the exact bytes of the change. So no line can be left out between others, moved, or taken from another journal.
- A line counts once its line feed is on disk. What stands behind the last line feed was never acknowledged, because
  power failed while it was written, and is left out. A whole line that does not fit is damage: `CacheCorrupt`.
- A journal that is named and not there is `CacheStateMissing`: what it had cannot be made up.
- After `MAX_BYTES`, or once it is as large as the state itself, a new `state.json` takes its place: over a host's life
  that costs as much again as the changes themselves, however many scopes there are.
- Nothing is appended to a journal of an earlier run, nor after an error: then a new `state.json` is written.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from akpolicy.durable import AppendedFile, read_private_file, remove
from akpolicy.errors import CacheCorrupt, CacheMissing, CacheStateMissing, CacheWriteFailed, TrustError
from akpolicy.limits import MIB
from akpolicy.strict_json import load
from akpolicy_sidecar.state import LIMITS, Change

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX: Final = "journal-"
# How large a journal may grow although the state itself is smaller.
MIN_BYTES: Final = MIB
# Of what a journal of that size is behind, the largest there is, and one line.
MAX_BYTES: Final = 48 * MIB
_NAME_BYTES: Final = 16


class Journal:
    """The journal of the `state.json` of this run. One thread uses it."""

    def __init__(self, place: Path) -> None:
        """Create an empty one in a state directory; raise `CacheWriteFailed`."""
        self.name = secrets.token_hex(_NAME_BYTES)
        self._file = AppendedFile(place / file_name(self.name))
        self._digest = ""
        self._room = 0

    def begin(self, digest: str, state_bytes: int) -> None:
        """Go on from a `state.json` with this digest and so many bytes."""
        self._digest = digest
        self._room = max(MIN_BYTES, state_bytes)

    def has_room(self) -> bool:
        """Whether it is worth while to append instead of writing the state anew."""
        return self._file.size < self._room

    def append(self, change: Change) -> None:
        """Write a change, durably; raise `CacheWriteFailed`, after which the journal must not be used any more."""
        body = change.to_bytes()
        try:
            load(body, Change, LIMITS)
        except TrustError as error:
            msg = f"the change could not be read again: {error.message}"
            raise CacheWriteFailed(msg) from error
        digest = _link(self._digest, body)
        self._file.append(b"%b %b\n" % (digest.encode("ascii"), body))
        self._digest = digest

    def close(self) -> None:
        """Append no more."""
        self._file.close()


def file_name(name: str) -> str:
    """Return the file of a journal, relative to the directory."""
    return f"{PREFIX}{name}"


def read_changes(place: Path, name: str, digest: str) -> Iterator[Change]:
    """Yield what changed since the `state.json` that names the journal and has this digest; raise a `CacheError`."""
    path = place / file_name(name)
    try:
        data = read_private_file(path, max_bytes=MAX_BYTES)
    except CacheMissing:
        msg = f"`{path}` is missing; what was enforced is unknown"
        raise CacheStateMissing(msg) from None
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        said, _, body = line.partition(b" ")
        digest = _link(digest, body)
        if said != digest.encode("ascii"):
            msg = f"`{path}` is damaged: line {number} is not what was written"
            raise CacheCorrupt(msg)
        try:
            yield load(body, Change, LIMITS)
        except TrustError as error:
            msg = f"`{path}` is damaged: line {number}: {error.message}"
            raise CacheCorrupt(msg) from error


def sweep(place: Path, *, but: str) -> None:
    """Remove all journals but one, as far as that is possible."""
    for path in place.glob(f"{PREFIX}*"):
        if path.name != file_name(but):
            remove(path)


def _link(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode("ascii") + body).hexdigest()
