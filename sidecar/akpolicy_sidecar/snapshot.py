"""What is enforced now: one immutable snapshot behind one reference.

Rules:

- A snapshot is never changed. The updater builds the next one and swaps the reference; a decision takes the reference
  once and is judged by that snapshot alone. Reading takes no lock.
- What does not differ from one to the next is shared (`persistent`): to build one, and the parts that decisions need,
  costs no look at all layers.
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
from functools import cached_property
from typing import TYPE_CHECKING, Final

from akpolicy.decision import BundleVersion
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.stack import StackCache
from akpolicy.persistent import PersistentMap
from akpolicy.scope import GLOBAL, org_of, org_scope, specificity
from akpolicy_sidecar.freshness import MAX_NOT_ENFORCED, NOBODY, NOTHING_CONFIRMED, Freshness, Members, with_members
from akpolicy_sidecar.offline import OfflineRule, effective_rule, least_of_each_mode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from akpolicy.bundle import Manifest
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.trusted_time import TimeProof

# Parts of a snapshot that are kept: about one for each team or user with a layer.
MAX_PARTS: Final = 4096


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
class Bounds:
    """What layers come to: when the first expires, and the strictest floor of each mode."""

    expires_at: int
    floors: tuple[OfflineRule, ...]


class BoundsOfLayers:
    """Works out bounds (`persistent.Summary`)."""

    def of(self, layer: Layer) -> Bounds:
        """Return those of one layer."""
        return Bounds(layer.expires_at, (layer.floor,))

    def together(self, parts: Iterable[Bounds]) -> Bounds:
        """Return those of several."""
        parts = list(parts)
        floors = least_of_each_mode(floor for part in parts for floor in part.floors)
        return Bounds(min(part.expires_at for part in parts), floors)


Layers = PersistentMap[Layer, Bounds]
NO_LAYERS: Final[Layers] = PersistentMap(BoundsOfLayers())


@dataclass(frozen=True, slots=True)
class Leaving:
    """Scopes that have to be replaced `until` a moment, in seconds since boot."""

    scopes: Collection[str]
    until: float


NOTHING_LEAVING: Final = Leaving((), math.inf)


@dataclass(frozen=True)
class Snapshot:
    """All layers that are enforced at one time, with what follows from them for every decision.

    `local` is the host's configured offline rule, `rule` the strictest of it and of the layers' floors. All layers fit
    `schema`; None is the packaged one. `lost` are the scopes in `missing`.
    """

    by_scope: Layers
    local: OfflineRule
    lost: Members = field(default_factory=lambda: NOBODY)
    leaving: Leaving = NOTHING_LEAVING
    freshness: Freshness = NOTHING_CONFIRMED
    proof: TimeProof | None = None
    stacks: StackCache = field(default_factory=lambda: StackCache(SliceCache()), repr=False, compare=False)
    schema: CedarSchema | None = field(default=None, repr=False)
    rule: OfflineRule = field(init=False)
    expires_at: int | None = field(init=False)
    _parts: dict[tuple[str, ...], Snapshot] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out once what every decision needs."""
        bounds = self.by_scope.summary
        object.__setattr__(self, "rule", effective_rule(self.local, bounds.floors if bounds else ()))
        object.__setattr__(self, "expires_at", bounds.expires_at if bounds else None)

    # Each of these looks at all layers, once: few in the part for a request, all of them in the whole.

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, broad to specific."""
        return tuple(sorted(self.by_scope.values(), key=lambda layer: (specificity(layer.scope), layer.scope)))

    @cached_property
    def compiled(self) -> tuple[CompiledLayer, ...]:
        """What the layers were compiled to."""
        return tuple(layer.compiled for layer in self.layers)

    @cached_property
    def bundles(self) -> tuple[BundleVersion, ...]:
        """The revisions of the layers."""
        return tuple(layer.bundle for layer in self.layers)

    @cached_property
    def scopes(self) -> frozenset[str]:
        """The scopes that have a layer."""
        return frozenset(self.by_scope)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """The scopes that cannot be enforced."""
        return tuple(sorted(self.lost))

    @classmethod
    def build(  # noqa: PLR0913 - each is a fact of its own
        cls,
        layers: Iterable[Layer] | Layers,
        *,
        local: OfflineRule,
        missing: Iterable[str] | Members = (),
        leaving: Leaving = NOTHING_LEAVING,
        freshness: Freshness = NOTHING_CONFIRMED,
        proof: TimeProof | None = None,
        before: Snapshot | None = None,
        slices: SliceCache | None = None,
        schema: CedarSchema | None = None,
    ) -> Snapshot:
        """Return a snapshot of these layers; `local` is the host's configured offline rule.

        What was prepared for the layers of `before` serves on if they are the same; parsed slices are in `slices`.
        """
        by_scope = layers if isinstance(layers, PersistentMap) else _layers(layers)
        lost = missing if isinstance(missing, PersistentMap) else with_members(NOBODY, missing)
        same = before is not None and before.by_scope is by_scope
        stacks = before.stacks if before is not None and same else StackCache(slices or SliceCache())
        return cls(by_scope, local, lost, leaving, freshness, proof, stacks, schema)

    def select(self, scopes: Iterable[str]) -> Snapshot:
        """Return the part by which a request is judged to which the layers of `scopes` can apply."""
        known = tuple([scope for scope in scopes if self._knows(scope)])
        part = self._parts.get(known)
        if part is None:
            part = self._part(known)
            if len(self._parts) >= MAX_PARTS:
                self._parts.clear()
            self._parts[known] = part
        return part

    @property
    def base(self) -> Snapshot:
        """The part that concerns everybody: `global` and the org."""
        known = (self.by_scope, self.lost, self.leaving.scopes, self.freshness.by_scope)
        some = (scope for scopes in known for scope in scopes)
        org = next((org for scope in some if (org := org_of(scope)) is not None), None)
        return self.select([GLOBAL] if org is None else [GLOBAL, org_scope(org)])

    def _knows(self, scope: str) -> bool:
        is_enforced = scope in self.by_scope or scope in self.leaving.scopes
        return is_enforced or scope in self.lost or scope in self.freshness.by_scope

    @cached_property
    def _not_enforced(self) -> int:
        """How many scopes at the least have a confirmation and no layer: all of them have one of their own."""
        return sum(scope not in self.by_scope for scope in self.freshness.confirmations.others)

    def _part(self, scopes: tuple[str, ...]) -> Snapshot:
        parts = (self.by_scope, self.lost, self.leaving.scopes, self.freshness.by_scope)
        if all(len(part) <= len(scopes) for part in parts) and all(scope in scopes for part in parts for scope in part):
            return self
        return Snapshot(
            _layers(self.by_scope[scope] for scope in scopes if scope in self.by_scope),
            self.local,
            with_members(NOBODY, (scope for scope in scopes if scope in self.lost)),
            Leaving(tuple(scope for scope in scopes if scope in self.leaving.scopes), self.leaving.until),
            # Beyond that number it is not known which are not enforced: then the oldest confirmation is everybody's.
            self.freshness if self._not_enforced >= MAX_NOT_ENFORCED else self.freshness.of(scopes),
            self.proof,
            self.stacks,
            self.schema,
        )

    def missing_at(self, elapsed: float) -> tuple[str, ...]:
        """Return the scopes that cannot be enforced at a moment, in seconds since boot."""
        return self.missing if elapsed < self.leaving.until else tuple(sorted({*self.missing, *self.leaving.scopes}))

    def layer(self, scope: str) -> Layer | None:
        """Return the layer of a scope, if there is one."""
        return self.by_scope.get(scope)


def _layers(layers: Iterable[Layer]) -> Layers:
    found = NO_LAYERS
    for layer in layers:
        found = found.put(layer.scope, layer)
    return found


class SnapshotHolder:
    """The one reference to the snapshot in force. One thread replaces it; any thread reads it."""

    __slots__ = ("current",)

    def __init__(self, snapshot: Snapshot) -> None:
        """Begin with `snapshot`."""
        self.current = snapshot
