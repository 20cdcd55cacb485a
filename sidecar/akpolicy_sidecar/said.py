"""What the server was told of what is enforced here, on one connection.

Rules:

- An org can have thousands of scopes, and a message holds less than all of them may need. So the first message says as
  much as fits, and each answer what is different by then: other revisions, new ones, and scopes that ended.
- What did not fit goes with later answers. A scope that the server was not told of is sent by it once more, and is then
  nothing new.
- An answer costs what is different since the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.limits import KIB
from akpolicy.scope import MAX_SCOPE_CHARS
from akpolicy.v1 import bundle_pb2
from akpolicy_sidecar.enforcement import NO_REVISIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from akpolicy.decision import BundleVersion
    from akpolicy_sidecar.enforcement import Revisions

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
        # What was enforced when that was looked at last, and the scopes of which there is still something to say.
        self._seen: Revisions = NO_REVISIONS
        self._unsaid: set[str] = set()

    def begin(self, enforced: Revisions) -> list[bundle_pb2.Revision]:
        """Return what the first message says."""
        said = list(_fitting((bundle for _, bundle in sorted(enforced.items())), 2 * MAX_SAID_BYTES))
        self._known = {bundle.scope: bundle for bundle in said}
        self._seen, self._unsaid = enforced, enforced.keys() - self._known.keys()
        return [_revision(bundle) for bundle in said]

    def news(self, enforced: Revisions) -> tuple[list[bundle_pb2.Revision], list[str]]:
        """Return the revisions that were not said yet, and the scopes that were said and ended."""
        self._unsaid.update(enforced.differences(self._seen))
        self._seen = enforced
        known = self._known
        now = {scope: enforced.get(scope) for scope in sorted(self._unsaid)}
        changed = [bundle for scope, bundle in now.items() if bundle is not None and known.get(scope) != bundle]
        gone = [scope for scope, bundle in now.items() if bundle is None and scope in known]
        said, ended = list(_fitting(changed, MAX_SAID_BYTES)), gone[:MAX_ENDED]
        known.update({bundle.scope: bundle for bundle in said})
        for scope in ended:
            del known[scope]
        self._unsaid = {*(bundle.scope for bundle in changed[len(said) :]), *gone[MAX_ENDED:]}
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
