"""The layers that apply to a request, with what counts of each: the rules of resolution.

Rules (layers come broad to specific: global, org, teams, user):

1. Every forbid of every layer counts. A layer in `forbids_only` has no permits that count.
2. A team contributes to a request if the principal is in it and the resource belongs to that team or to no team. The
   permits of a team that does not contribute do not count.
3. A policy replaces the permits with the same id in broader layers, whatever it does itself: one of the org replaces
   those of `global`, one of the user those of all other layers. A team replaces for its own contribution only: a permit
   that every contributing team replaces does not count, one that reaches the principal through another team does.
4. A forbid is never replaced. Replaced permits are not evaluated, so they neither allow nor err.

What is replaced is worked out from the layers that are enforced, once for each set of contributing teams, and never
taken from what a publisher said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.engine.index import Bucket, RequestKeys, positions_of
from akpolicy.engine.slices import Member, Slice, SliceCache
from akpolicy.engine.verdict import Determining, Effect
from akpolicy.scope import is_team_scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.cedar_request import CedarRequest
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.schema import CedarSchema

MAX_STACKS: Final = 4096
# Requests choose among the subsets of the teams of a stack.
MAX_PLANS: Final = 256
_NONE: Final = frozenset[str]()


@dataclass(frozen=True, slots=True)
class Share:
    """What counts of a layer: all forbids, and the permits that are not left out."""

    layer: CompiledLayer
    permits: bool
    replaced: frozenset[str] = _NONE

    @property
    def is_whole(self) -> bool:
        """Whether everything counts."""
        return self.permits and not self.replaced


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What counts of each layer for requests with the same contributing teams. `whole`: everything does."""

    shares: tuple[Share, ...]
    whole: bool

    @classmethod
    def of(cls, shares: Sequence[Share]) -> Plan:
        """Return the plan of these shares."""
        return cls(tuple(shares), all(share.is_whole for share in shares))


# The teams with a layer here that contribute, and whether one without a layer does.
_Teams = tuple[frozenset[str], bool]


class LayerStack:
    """Layers of one kind of request, in order. Safe to use from several threads."""

    def __init__(
        self,
        layers: Sequence[CompiledLayer],
        schema: CedarSchema,
        *,
        slices: SliceCache,
        forbids_only: frozenset[str] = _NONE,
    ) -> None:
        """`layers` were compiled with `schema` and come broad to specific."""
        self.layers = tuple(layers)
        self.schema = schema
        self._slices = slices
        self._forbids_only = forbids_only
        self._teams = frozenset(layer.scope for layer in layers if is_team_scope(layer.scope))
        self._plans: dict[_Teams, Plan] = {}

    def slice_for(self, request: CedarRequest) -> Slice:
        """Return the policies that can matter for the request, parsed."""
        keys = self.keys_of(request)
        reached: list[list[Bucket]] = []
        numbers: list[int] = []
        for layer in self.layers:
            found: list[Bucket] = []
            layer.index.reach(keys, found)
            reached.append(found)
            numbers += [bucket.number for bucket in found]
        plan = self.plan_for(request)
        # Whole layers need no plan in the key: the numbers say all, and other stacks can use the same slice.
        key = (None if plan.whole else plan, *numbers)
        return self._slices.get(key, lambda: _members(plan, reached))

    def keys_of(self, request: CedarRequest) -> RequestKeys:
        """Return what policies for the request are filed under."""
        return RequestKeys(request.principal_keys, self.schema.action_keys(**request.action), request.resource_keys)

    def is_team(self, scope: str) -> bool:
        """Whether the layer of a scope here is a team's."""
        return scope in self._teams

    def plan_for(self, request: CedarRequest) -> Plan:
        """Return what counts of each layer for the request."""
        teams: _Teams = self._contributing(request) if self._teams else (_NONE, False)
        plan = self._plans.get(teams)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[teams] = Plan.of([self._share(at, *teams) for at in range(len(self.layers))])
        return plan

    def _contributing(self, request: CedarRequest) -> _Teams:
        own, of_resource = request.team_scopes, request.resource_team_scopes
        teams = own & of_resource if of_resource else own
        return teams & self._teams, not teams <= self._teams

    def _share(self, at: int, teams: frozenset[str], has_other: bool) -> Share:
        layer = self.layers[at]
        counts = layer.scope not in self._forbids_only and (layer.scope not in self._teams or layer.scope in teams)
        return Share(layer, counts, self._replaced(at, teams, has_other) if counts else _NONE)

    def _replaced(self, at: int, teams: frozenset[str], has_other: bool) -> frozenset[str]:
        """Return the ids of the permits of a layer that narrower ones replace."""
        layer = self.layers[at]
        replaced: frozenset[str] = _NONE
        by_teams: frozenset[str] | None = None
        for narrower in self.layers[at + 1 :]:
            if narrower.scope not in self._teams:
                replaced |= layer.permit_ids & narrower.ids.keys()
            elif narrower.scope in teams and layer.scope not in self._teams:
                common = layer.permit_ids & narrower.ids.keys()
                by_teams = common if by_teams is None else by_teams & common
        return replaced | by_teams if by_teams and not has_other else replaced


class StackCache:
    """The stacks of the layers that are enforced now. Safe to use from several threads."""

    def __init__(self, slices: SliceCache) -> None:
        """Let all stacks share `slices`."""
        self._slices = slices
        self._stacks: dict[tuple[object, ...], LayerStack] = {}

    def get(
        self, layers: tuple[CompiledLayer, ...], schema: CedarSchema, forbids_only: frozenset[str] = _NONE
    ) -> LayerStack:
        """Return the stack of these layers, which come broad to specific."""
        key = (layers, id(schema), forbids_only)
        found = self._stacks.get(key)
        if found is None:
            found = LayerStack(layers, schema, slices=self._slices, forbids_only=forbids_only)
            if len(self._stacks) >= MAX_STACKS:
                self._stacks.clear()
            self._stacks[key] = found
        return found


def _members(plan: Plan, reached: Sequence[Sequence[Bucket]]) -> list[Member]:
    """Return what counts of the reached policies, broad to specific, within a layer in the order of its text."""
    members: list[Member] = []
    for share, buckets in zip(plan.shares, reached, strict=True):
        layer = share.layer
        for position in positions_of(buckets):
            policy = layer.policies[position]
            if policy.effect is Effect.ALLOW and (not share.permits or policy.id in share.replaced):
                continue
            members.append(Member(Determining(layer.scope, policy.id, policy.effect), layer.texts[position]))
    return members
