"""The set of what is enforced, and the one place that swaps the snapshot.

Rules:

- `swap` makes everything that was changed before visible at once; nothing is visible before.
- A change of one scope costs no look at the others.
- A scope whose revision was accepted and cannot be enforced any more is `missing`: everything is denied until it is put
  again. It is not claimed towards the server.
- A scope that is let go is not claimed either, but goes on deciding for a moment, so that its successor, which is
  on the way, can take over without a denial between.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from akpolicy.decision import BundleVersion
from akpolicy.engine.slices import SliceCache
from akpolicy.persistent import PersistentMap
from akpolicy_sidecar.freshness import NOBODY, Members
from akpolicy_sidecar.snapshot import NO_LAYERS, NOTHING_LEAVING, Layers, Leaving, Snapshot
from akpolicy_sidecar.vouching import Vouching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.trusted_time import TimeProof
    from akpolicy_sidecar.freshness import Freshness
    from akpolicy_sidecar.layers import Enforced
    from akpolicy_sidecar.offline import OfflineRule
    from akpolicy_sidecar.snapshot import SnapshotHolder

Revisions = PersistentMap[BundleVersion, None]
NO_REVISIONS: Final[Revisions] = PersistentMap()


class Enforcement:
    """What is enforced now. One thread changes it; any thread reads the snapshot, and the revisions."""

    def __init__(self, snapshots: SnapshotHolder, local: OfflineRule) -> None:
        """Begin with nothing; `local` is the host's configured offline rule."""
        self._snapshots = snapshots
        self._local = local
        self._slices = SliceCache()
        self._enforced: dict[str, Enforced] = {}
        self._leaving: dict[str, Enforced] = {}
        self._leaving_until = math.inf
        # What the next swap makes visible.
        self._layers: Layers = NO_LAYERS
        self._gone: Members = NOBODY
        self._missing: Members = NOBODY
        self._next_revisions: Revisions = NO_REVISIONS
        self._revisions: Revisions = NO_REVISIONS
        # That of all layers; None for the packaged one.
        self.schema: CedarSchema | None = None
        self.vouching = Vouching()
        self.proof: TimeProof | None = None

    @property
    def freshness(self) -> Freshness:
        """For which scopes heartbeats vouch."""
        return self.vouching.freshness

    def __iter__(self) -> Iterator[tuple[str, Enforced]]:
        """Yield every scope with what is enforced for it."""
        return iter(sorted(self._enforced.items()))

    def get(self, scope: str) -> Enforced | None:
        """Return what is enforced for a scope."""
        return self._enforced.get(scope)

    def put(self, scope: str, entry: Enforced) -> None:
        """Enforce this for a scope from the next swap on."""
        self._enforced[scope] = entry
        self._set_layer(scope, entry)
        self._end_leaving(scope)
        self._missing = self._missing.without(scope)
        self._next_revisions = self._next_revisions.put(scope, entry.bundle)
        self.vouching.enforce(scope, entry.bundle.digest)

    def drop(self, scope: str) -> None:
        """Enforce nothing for a scope whose revision was accepted: it is missing from the next swap on."""
        self._enforced.pop(scope, None)
        self._set_layer(scope, None)
        self._end_leaving(scope)
        self._missing = self._missing.put(scope, None)
        self._forget_revision(scope)

    def let_go(self, scope: str, until: float) -> None:
        """Let what is enforced for a scope decide on, to `until` (seconds since boot) at the most."""
        if not self._leaving:
            self._leaving_until = until
        self._leaving[scope] = self._enforced.pop(scope)
        self._gone = self._gone.put(scope, None)
        self._forget_revision(scope)

    @property
    def leaving(self) -> Mapping[str, Enforced]:
        """Every scope that was let go and has no successor yet."""
        return MappingProxyType(self._leaving)

    @property
    def revisions(self) -> Revisions:
        """Every revision that is enforced since the last swap, by scope. Safe to read from any thread."""
        return self._revisions

    def swap(self) -> None:
        """Let every decision from now on see all that was changed."""
        self._snapshots.current = Snapshot.build(
            self._layers,
            local=self._local,
            missing=self._missing,
            leaving=Leaving(self._gone, self._leaving_until) if self._leaving else NOTHING_LEAVING,
            freshness=self.freshness,
            proof=self.proof,
            before=self._snapshots.current,
            slices=self._slices,
            schema=self.schema,
        )
        self._revisions = self._next_revisions

    def _set_layer(self, scope: str, entry: Enforced | None) -> None:
        layer = entry.layer if entry is not None else None
        if layer is None:
            self._layers = self._layers.without(scope)
        elif self._layers.get(scope) is not layer:
            self._layers = self._layers.put(scope, layer)

    def _end_leaving(self, scope: str) -> None:
        self._leaving.pop(scope, None)
        self._gone = self._gone.without(scope)

    def _forget_revision(self, scope: str) -> None:
        self._next_revisions = self._next_revisions.without(scope)
        self.vouching.enforce(scope, None)
