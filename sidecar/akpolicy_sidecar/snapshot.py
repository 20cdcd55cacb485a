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
- A request is judged by the part that its scopes select: a team's or user's layer that has expired, is stale or cannot
  be enforced denies its own members, and nobody else. Parts are kept; most requests share one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.decision import BundleVersion
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.stack import StackCache
from akpolicy.scope import specificity
from akpolicy_sidecar.freshness import MAX_NOT_ENFORCED, NOTHING_CONFIRMED, Freshness
from akpolicy_sidecar.offline import OfflineRule, effective_rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.bundle import Manifest
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.trusted_time import TimeProof

# Parts of a snapshot that are kept: about one for each team or user with a layer.
MAX_PARTS: Final = 4096
MOST_SPECIFIC_BASE: Final = 1


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
    """All layers that are enforced at one time, with what follows from them for every decision.

    `local` is the host's configured offline rule, `rule` the strictest of it and of the layers' floors. All layers fit
    `schema`; None is the packaged one.
    """

    layers: tuple[Layer, ...]
    local: OfflineRule
    missing: tuple[str, ...] = ()
    leaving: Leaving = NOTHING_LEAVING
    freshness: Freshness = NOTHING_CONFIRMED
    proof: TimeProof | None = None
    stacks: StackCache = field(default_factory=lambda: StackCache(SliceCache()), repr=False, compare=False)
    schema: CedarSchema | None = field(default=None, repr=False)
    rule: OfflineRule = field(init=False)
    compiled: tuple[CompiledLayer, ...] = field(init=False, repr=False)
    bundles: tuple[BundleVersion, ...] = field(init=False, repr=False)
    scopes: frozenset[str] = field(init=False, repr=False)
    expires_at: int | None = field(init=False)
    _known: frozenset[str] = field(init=False, repr=False, compare=False)
    _parts: dict[tuple[str, ...], Snapshot] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out once what every decision needs."""
        scopes = frozenset(layer.scope for layer in self.layers)
        known = scopes.union(self.missing, self.leaving.scopes, self.freshness.by_scope)
        object.__setattr__(self, "rule", effective_rule(self.local, [layer.floor for layer in self.layers]))
        object.__setattr__(self, "compiled", tuple(layer.compiled for layer in self.layers))
        object.__setattr__(self, "bundles", tuple(layer.bundle for layer in self.layers))
        object.__setattr__(self, "scopes", scopes)
        object.__setattr__(self, "expires_at", min((layer.expires_at for layer in self.layers), default=None))
        object.__setattr__(self, "_known", known)

    @classmethod
    def build(  # noqa: PLR0913 - each is a fact of its own
        cls,
        layers: Iterable[Layer],
        *,
        local: OfflineRule,
        missing: Iterable[str] = (),
        leaving: Leaving = NOTHING_LEAVING,
        freshness: Freshness = NOTHING_CONFIRMED,
        proof: TimeProof | None = None,
        before: Snapshot | None = None,
        slices: SliceCache | None = None,
        schema: CedarSchema | None = None,
    ) -> Snapshot:
        """Order the layers; `local` is the host's configured offline rule.

        What was prepared for the layers of `before` serves on if they are the same; parsed slices are in `slices`.
        """
        ordered = tuple(sorted(layers, key=lambda layer: (specificity(layer.scope), layer.scope)))
        same = before is not None and before.compiled == tuple(layer.compiled for layer in ordered)
        stacks = before.stacks if before is not None and same else StackCache(slices or SliceCache())
        return cls(ordered, local, tuple(sorted(missing)), leaving, freshness, proof, stacks, schema)

    def select(self, scopes: Iterable[str]) -> Snapshot:
        """Return the part by which a request is judged to which the layers of `scopes` can apply."""
        known = tuple([scope for scope in scopes if scope in self._known])
        part = self._parts.get(known)
        if part is None:
            part = self._part(frozenset(known))
            if len(self._parts) >= MAX_PARTS:
                self._parts.clear()
            self._parts[known] = part
        return part

    @property
    def base(self) -> Snapshot:
        """The part that concerns everybody: `global` and the org."""
        return self.select(sorted(scope for scope in self._known if specificity(scope) <= MOST_SPECIFIC_BASE))

    def _part(self, scopes: frozenset[str]) -> Snapshot:
        if scopes == self._known:
            return self
        unknown = sum(scope not in self.scopes for scope in self.freshness.by_scope)
        return Snapshot(
            tuple(layer for layer in self.layers if layer.scope in scopes),
            self.local,
            tuple(scope for scope in self.missing if scope in scopes),
            Leaving(tuple(scope for scope in self.leaving.scopes if scope in scopes), self.leaving.until),
            # Beyond that number it is not known which are not enforced: then the oldest confirmation is everybody's.
            self.freshness if unknown >= MAX_NOT_ENFORCED else self.freshness.of(scopes),
            self.proof,
            self.stacks,
            self.schema,
        )

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
