"""What the server was told of what is enforced here, on one connection.

Rules:

- An org can have thousands of scopes, and a message holds less than all of them may need. So the first message says as
  much as fits, and each answer what is different by then: other revisions, new ones, and scopes that ended.
- What did not fit goes with later answers. A scope that the server was not told of is sent by it once more, and is then
  nothing new.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from akpolicy.limits import KIB
from akpolicy.scope import MAX_SCOPE_CHARS
from akpolicy.v1 import bundle_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from akpolicy.decision import BundleVersion

# The server takes messages of 1 MiB.
MAX_SAID_BYTES: Final = 384 * KIB
MAX_HELD_BLOBS: Final = 1024
# What a message needs for an entry beside the name of the scope, at the most.
_ENTRY_BYTES: Final = 72
MAX_ENDED: Final = MAX_SAID_BYTES // (MAX_SCOPE_CHARS + _ENTRY_BYTES)


class Said:
    """What was said, by scope. One thread at a time uses it."""

    def __init__(self) -> None:
        self._known: dict[str, BundleVersion] = {}
        # What there was to say when everything was said: as long as that is the same, nothing is new.
        self._all: tuple[BundleVersion, ...] | None = None

    def begin(self, enforced: tuple[BundleVersion, ...]) -> list[bundle_pb2.Revision]:
        """Return what the first message says."""
        said = list(_fitting(enforced, 2 * MAX_SAID_BYTES))
        self._known = {bundle.scope: bundle for bundle in said}
        self._all = enforced if len(said) == len(enforced) else None
        return [_revision(bundle) for bundle in said]

    def news(self, enforced: tuple[BundleVersion, ...]) -> tuple[list[bundle_pb2.Revision], list[str]]:
        """Return the revisions that were not said yet, and the scopes that were said and ended."""
        if enforced is self._all:
            return [], []
        known = self._known
        changed = [bundle for bundle in enforced if known.get(bundle.scope) != bundle]
        gone = sorted(known.keys() - {bundle.scope for bundle in enforced})
        said, ended = list(_fitting(changed, MAX_SAID_BYTES)), list(islice(gone, MAX_ENDED))
        known.update({bundle.scope: bundle for bundle in said})
        for scope in ended:
            del known[scope]
        self._all = enforced if len(said) + len(ended) == len(changed) + len(gone) else None
        return [_revision(bundle) for bundle in said], ended


def _fitting(bundles: Iterable[BundleVersion], max_bytes: int) -> Iterator[BundleVersion]:
    size = 0
    for bundle in bundles:
        size += len(bundle.scope) + _ENTRY_BYTES
        if size > max_bytes:
            return
        yield bundle


def _revision(bundle: BundleVersion) -> bundle_pb2.Revision:
    digest = bytes.fromhex(bundle.digest)
    return bundle_pb2.Revision(scope=bundle.scope, epoch=bundle.epoch, version=bundle.version, digest=digest)
