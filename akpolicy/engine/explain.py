"""Why a decision came out as it did, policy by policy.

Rules:

- Cedar itself says which part of a policy holds: for each policy that the request reaches, a permit is made of its
  first part, of its first two, and so on, and all are evaluated at once. The first that does not apply is the miss.
- A policy that could not be evaluated is told by its error. One that does not count here (replaced, of a team that does
  not contribute, of a layer without permits) is told apart.
- Policies that the request does not reach do not match by their scope. They are counted, and of those that differ least
  the first part that differs is told.
- The work is bounded: which policies apply and fail is told of all that the request reaches, but the first miss is
  looked for in `MAX_EXAMINED_CHARS` of policy text at most, and `MAX_MISSED` are told. It takes several times as long
  as a decision, and is done only where it is asked for.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.engine.annotations import CAPPED_ACTIONS, FLAGS, NAMES, NUMBERS, caps_of
from akpolicy.engine.evaluate import failures_of
from akpolicy.engine.index import Bucket, RequestKeys, positions_of
from akpolicy.engine.parts import PolicyParts, cut
from akpolicy.engine.verdict import Effect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from akpolicy.engine.cedar_request import CedarRequest
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.evaluate import PolicyFailure
    from akpolicy.engine.stack import LayerStack, Share

MAX_EXAMINED_CHARS: Final = 1024 * 1024
MAX_MISSED: Final = 20
MAX_LEFT_OUT: Final = 20


@dataclass(frozen=True, slots=True)
class PolicyExplanation:
    """What became of a policy.

    `because` is the first part that did not hold, as its author wrote it, and `line` where it begins in the policy's
    own text; or why the policy was left out, or what went wrong. Empty and 0 for a policy that applied.
    """

    policy_id: str
    effect: Effect
    because: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class LayerExplanation:
    """What a layer says of a request: the policies that applied, the nearest misses, errors, and what did not count."""

    scope: str
    applied: tuple[PolicyExplanation, ...]
    missed: tuple[PolicyExplanation, ...]
    failed: tuple[PolicyExplanation, ...]
    left_out: tuple[PolicyExplanation, ...]
    missed_count: int
    policy_count: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The layers of a request, broad to specific, and what the annotations of the permits that applied cap."""

    layers: tuple[LayerExplanation, ...] = ()
    caps: Mapping[str, str] = field(default_factory=dict)


def explain(stack: LayerStack, request: CedarRequest) -> Explanation:
    """Explain what the layers say of a request that fits the schema."""
    plan = stack.plan_for(request)
    layers = tuple(_explain_layer(stack, share, request) for share in plan.shares)
    return Explanation(layers, _caps(stack, layers, request))


# --- a layer ----------------------------------------------------------------------------------------------------------


def _explain_layer(stack: LayerStack, share: Share, request: CedarRequest) -> LayerExplanation:
    layer = share.layer
    keys = stack.keys_of(request)
    reached: list[Bucket] = []
    layer.index.reach(keys, reached)
    positions = positions_of(reached)
    counting = [at for at in positions if not _left_out(share, at)]
    applied, missed, failed = _examine(stack, layer, counting, request)
    near = sorted(missed, key=lambda entry: -entry[0])[:MAX_MISSED]
    others = _unreached(layer, keys, MAX_MISSED - len(near))
    left_out = [
        PolicyExplanation(layer.policies[at].id, Effect.ALLOW, _why_left_out(stack, share, at))
        for at in positions
        if _left_out(share, at)
    ]
    return LayerExplanation(
        layer.scope,
        tuple(applied),
        (*(entry for _, entry in near), *others),
        tuple(failed),
        tuple(left_out[:MAX_LEFT_OUT]),
        len(layer.policies) - len(applied) - len(failed) - len(left_out),
        len(layer.policies),
    )


def _left_out(share: Share, at: int) -> bool:
    policy = share.layer.policies[at]
    return policy.effect is Effect.ALLOW and (not share.permits or policy.id in share.replaced)


def _why_left_out(stack: LayerStack, share: Share, at: int) -> str:
    policy_id = share.layer.policies[at].id
    if share.permits:
        narrower = stack.layers[stack.layers.index(share.layer) + 1 :]
        names = ", ".join(f"`{layer.scope}/{policy_id}`" for layer in narrower if policy_id in layer.ids)
        return f"replaced by {names}"
    if stack.is_team(share.layer.scope):
        return "the resource belongs to other teams, so this team's permits do not count"
    return "the permits of this layer do not count: the embedded default policy decides in their place"


# --- policies that the request reaches --------------------------------------------------------------------------------

# How many parts of a policy held, and what is said of it.
_Miss = tuple[int, PolicyExplanation]


def _examine(
    stack: LayerStack, layer: CompiledLayer, positions: Sequence[int], request: CedarRequest
) -> tuple[list[PolicyExplanation], list[_Miss], list[PolicyExplanation]]:
    """Return what applied, the misses that could be looked into, and what failed."""
    parts = [cut(layer.texts[at]) for at in positions]
    holds, failures = _evaluate(stack, [one.upto(len(one)) for one in parts], request)
    applied = [
        PolicyExplanation(layer.policies[at].id, layer.policies[at].effect)
        for number, at in enumerate(positions)
        if number in holds
    ]
    missed: list[_Miss] = []
    failed: list[PolicyExplanation] = []
    others = [number for number in range(len(parts)) if number not in holds]
    found = _first_misses(stack, [parts[number] for number in others], request)
    for number, first in zip(others, found, strict=True):
        policy = layer.policies[positions[number]]
        # Beyond the bound nobody looked for the part; what failed is told all the same.
        part = parts[number].part(first) if first is not None else None
        if number in failures:
            line = part.line if part is not None else 0
            failed.append(PolicyExplanation(policy.id, policy.effect, failures[number].message, line))
        elif part is not None and first is not None:
            missed.append((first, PolicyExplanation(policy.id, policy.effect, part.shown, part.line)))
    return applied, missed, failed


def _first_misses(stack: LayerStack, policies: Sequence[PolicyParts], request: CedarRequest) -> list[int | None]:
    """Return of each policy that does not apply the number of its first part that does not hold; None beyond bounds."""
    texts: list[str] = []
    ranges: list[range | None] = []
    left = MAX_EXAMINED_CHARS
    for one in policies:
        prefixes = [one.upto(count) for count in range(1, len(one) + 1)]
        left -= sum(map(len, prefixes))
        ranges.append(range(len(texts), len(texts) + len(prefixes)) if left >= 0 else None)
        texts += prefixes if left >= 0 else []
    holds, _ = _evaluate(stack, texts, request)
    return [
        next((number - numbers.start for number in numbers if number not in holds), None) if numbers else None
        for numbers in ranges
    ]


def _evaluate(
    stack: LayerStack, texts: Sequence[str], request: CedarRequest
) -> tuple[set[int], dict[int, PolicyFailure]]:
    """Return the positions of the permits that apply, and of those that fail."""
    entities = request.entities.parsed(stack.schema)
    # Without the schema: the request was judged by it, and a prefix may be what it would not allow to be written.
    result = cedarpy.is_authorized(request.query, "\n".join(texts), entities)
    diagnostics = result.diagnostics
    holds = {int(name.removeprefix("policy")) for name in diagnostics.reasons}
    failures = failures_of(diagnostics.errors, len(texts))
    return holds, {failure.position: failure for failure in failures if failure.position is not None}


# --- policies that it does not reach ----------------------------------------------------------------------------------


def _unreached(layer: CompiledLayer, keys: RequestKeys, wanted: int) -> list[PolicyExplanation]:
    """Return the nearest of the policies whose scope does not match, each with the first part of it that does not."""
    # A policy with several actions is filed several times; the nearest of its places counts.
    nearest: dict[int, tuple[int, int]] = {}
    for principal, action, resource, bucket in layer.index.entries():
        differs = (principal not in keys.principal, action not in keys.action, resource not in keys.resource)
        for position in bucket.positions if True in differs else ():
            rank = sum(differs), differs.index(True)
            nearest[position] = min(nearest.get(position, rank), rank)
    reached: list[Bucket] = []
    layer.index.reach(keys, reached)
    for position in positions_of(reached):
        nearest.pop(position, None)
    chosen = heapq.nsmallest(wanted, nearest.items(), key=lambda entry: (entry[1], entry[0]))
    return [_by_scope(layer, position, part) for position, (_, part) in chosen]


def _by_scope(layer: CompiledLayer, position: int, number: int) -> PolicyExplanation:
    policy, part = layer.policies[position], cut(layer.texts[position]).part(number)
    return PolicyExplanation(policy.id, policy.effect, part.shown, part.line)


# --- caps -------------------------------------------------------------------------------------------------------------


def _caps(stack: LayerStack, layers: Sequence[LayerExplanation], request: CedarRequest) -> dict[str, str]:
    """Return what the permits of Create and Run that applied cap and grant, the strictest of each."""
    if request.action["id"] not in CAPPED_ACTIONS:
        return {}
    by_scope = {layer.scope: layer for layer in stack.layers}
    annotated = [
        caps_of(by_scope[layer.scope].policy(policy.policy_id).annotations)
        for layer in layers
        for policy in layer.applied
        if policy.effect is Effect.ALLOW
    ]
    found = {name: "true" for name in FLAGS if any(getattr(caps, name) for caps in annotated)}
    for name in NUMBERS:
        if values := [value for caps in annotated if (value := getattr(caps, name)) is not None]:
            found[name] = str(min(values))
    for name in NAMES:
        if profiles := sorted({value for caps in annotated if (value := getattr(caps, name)) is not None}):
            found[name] = " and ".join(profiles)
    return found
