"""What is enforced now: one immutable snapshot behind one reference.

Rules:

- A snapshot is never changed. The updater builds the next one and swaps the reference; a decision takes the reference
  once and is judged by that snapshot alone. Reading takes no lock.
- Layers are ordered broad to specific. A layer carries the facts of its manifest that matter for every decision: its
  revision, when it expires (the manifest or the root, whichever is first) and its signed offline floor.
- `missing` names scopes whose bundle was accepted earlier and cannot be enforced now (it cannot be loaded, or its keys
  were revoked). Their forbids are unknown, so nothing is decided by policy while there is one.
- `leaving` names scopes whose layer a new root does not stand behind: they decide until a moment that is near.
- How fresh the layers are and what time it is at least belong to the snapshot: one reference holds all that a decision
  rests on, so that no decision sees half of an update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.decision import BundleVersion
from akpolicy.scope import specificity
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED, Freshness
from akpolicy_sidecar.offline import OfflineRule, effective_rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.bundle import Manifest
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.trusted_time import TimeProof


@dataclass(frozen=True, slots=True)
class Layer:
    """One scope's enforced bundle. `expires_at` is in epoch seconds."""

    compiled: CompiledLayer
    bundle: BundleVersion
    expires_at: int
    floor: OfflineRule

    @property
    def scope(self) -> str:
        """The scope that the layer belongs to."""
        return self.bundle.scope


def layer_of(manifest: Manifest, digest: str, compiled: CompiledLayer, *, root_expires_at: int) -> Layer:
    """Return the layer of a verified and compiled bundle; `digest` is that of its signed manifest."""
    return Layer(
        compiled,
        BundleVersion(manifest.scope, manifest.epoch, manifest.version, digest),
        min(manifest.expires_at, root_expires_at),
        OfflineRule.from_floor(manifest.offline),
    )


@dataclass(frozen=True, slots=True)
class Leaving:
    """Scopes that have to be replaced `until` a moment, in seconds since boot."""

    scopes: tuple[str, ...]
    until: float


NOTHING_LEAVING: Final = Leaving((), math.inf)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All layers that are enforced at one time, with what follows from them for every decision."""

    layers: tuple[Layer, ...]
    rule: OfflineRule
    missing: tuple[str, ...] = ()
    leaving: Leaving = NOTHING_LEAVING
    freshness: Freshness = NOTHING_CONFIRMED
    proof: TimeProof | None = None
    compiled: tuple[CompiledLayer, ...] = field(init=False, repr=False)
    bundles: tuple[BundleVersion, ...] = field(init=False, repr=False)
    scopes: frozenset[str] = field(init=False, repr=False)
    expires_at: int | None = field(init=False)

    def __post_init__(self) -> None:
        """Work out once what every decision needs."""
        object.__setattr__(self, "compiled", tuple(layer.compiled for layer in self.layers))
        object.__setattr__(self, "bundles", tuple(layer.bundle for layer in self.layers))
        object.__setattr__(self, "scopes", frozenset(layer.scope for layer in self.layers))
        object.__setattr__(self, "expires_at", min((layer.expires_at for layer in self.layers), default=None))

    @classmethod
    def build(
        cls,
        layers: Iterable[Layer],
        *,
        local: OfflineRule,
        missing: Iterable[str] = (),
        leaving: Leaving = NOTHING_LEAVING,
        freshness: Freshness = NOTHING_CONFIRMED,
        proof: TimeProof | None = None,
    ) -> Snapshot:
        """Order the layers and work out the offline rule that they and the host's configuration (`local`) demand."""
        ordered = tuple(sorted(layers, key=lambda layer: (specificity(layer.scope), layer.scope)))
        rule = effective_rule(local, [layer.floor for layer in ordered])
        return cls(ordered, rule, tuple(sorted(missing)), leaving, freshness, proof)

    def missing_at(self, elapsed: float) -> tuple[str, ...]:
        """Return the scopes that cannot be enforced at a moment, in seconds since boot."""
        return self.missing if elapsed < self.leaving.until else tuple(sorted({*self.missing, *self.leaving.scopes}))

    def layer(self, scope: str) -> Layer | None:
        """Return the layer of a scope, if there is one."""
        return next((layer for layer in self.layers if layer.scope == scope), None)


class SnapshotHolder:
    """The one reference to the snapshot in force. One thread replaces it; any thread reads it."""

    __slots__ = ("current",)

    def __init__(self, snapshot: Snapshot) -> None:
        """Begin with `snapshot`."""
        self.current = snapshot
