"""The set of what is enforced, and the one place that swaps the snapshot.

Rules:

- `swap` makes everything that was changed before visible at once; nothing is visible before.
- A scope whose revision was accepted and cannot be enforced any more is `missing`: everything is denied until it is put
  again. It is not claimed towards the server.
- A scope that is let go is not claimed either, but goes on deciding for a moment, so that its successor, which is
  on the way, can take over without a denial between.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from akpolicy.engine.slices import SliceCache
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED, Freshness
from akpolicy_sidecar.snapshot import NOTHING_LEAVING, Leaving, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.decision import BundleVersion
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.trusted_time import TimeProof
    from akpolicy_sidecar.layers import Enforced
    from akpolicy_sidecar.offline import OfflineRule
    from akpolicy_sidecar.snapshot import SnapshotHolder


class Enforcement:
    """What is enforced now. One thread changes it; any thread reads the snapshot."""

    def __init__(self, snapshots: SnapshotHolder, local: OfflineRule) -> None:
        """Begin with nothing; `local` is the host's configured offline rule."""
        self._snapshots = snapshots
        self._local = local
        self._slices = SliceCache()
        self._enforced: dict[str, Enforced] = {}
        self._leaving: dict[str, Enforced] = {}
        self._leaving_until = math.inf
        self._missing: set[str] = set()
        self._revisions: tuple[BundleVersion, ...] = ()
        # That of all layers; None for the packaged one.
        self.schema: CedarSchema | None = None
        self.freshness: Freshness = NOTHING_CONFIRMED
        self.proof: TimeProof | None = None

    def __iter__(self) -> Iterator[tuple[str, Enforced]]:
        """Yield every scope with what is enforced for it."""
        return iter(sorted(self._enforced.items()))

    def get(self, scope: str) -> Enforced | None:
        """Return what is enforced for a scope."""
        return self._enforced.get(scope)

    def put(self, scope: str, entry: Enforced) -> None:
        """Enforce this for a scope from the next swap on."""
        self._enforced[scope] = entry
        self._leaving.pop(scope, None)
        self._missing.discard(scope)

    def drop(self, scope: str) -> None:
        """Enforce nothing for a scope whose revision was accepted: it is missing from the next swap on."""
        self._enforced.pop(scope, None)
        self._leaving.pop(scope, None)
        self._missing.add(scope)

    def let_go(self, scope: str, until: float) -> None:
        """Let what is enforced for a scope decide on, to `until` (seconds since boot) at the most."""
        if not self._leaving:
            self._leaving_until = until
        self._leaving[scope] = self._enforced.pop(scope)

    @property
    def leaving(self) -> dict[str, Enforced]:
        """Every scope that was let go and has no successor yet."""
        return dict(self._leaving)

    @property
    def revisions(self) -> tuple[BundleVersion, ...]:
        """Every revision that is enforced since the last swap, by scope. Safe to read from any thread."""
        return self._revisions

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each enforced document, by scope."""
        return {scope: entry.bundle.digest for scope, entry in self._enforced.items()}

    def swap(self) -> None:
        """Let every decision from now on see all that was changed."""
        deciding = (*self._enforced.values(), *self._leaving.values())
        self._snapshots.current = Snapshot.build(
            [entry.layer for entry in deciding if entry.layer is not None],
            local=self._local,
            missing=self._missing,
            leaving=Leaving(tuple(sorted(self._leaving)), self._leaving_until) if self._leaving else NOTHING_LEAVING,
            freshness=self.freshness,
            proof=self.proof,
            before=self._snapshots.current,
            slices=self._slices,
            schema=self.schema,
        )
        self._revisions = tuple(entry.bundle for _, entry in self)
