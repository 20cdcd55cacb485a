"""One decision over the layers of a request.

Rules, in this order:

1. No layer: DENY, NO_POLICY.
2. Every layer judges the request alone. What does not fit the schema is refused (`RequestInvalid`), not decided.
3. A matching `forbid` in any layer: DENY, FORBIDDEN. All matching forbids are named.
4. An erroring `forbid`, or an error that cannot be attributed to a policy: DENY, EVALUATION_ERROR. Plain Cedar skips
   such a policy, which would open the door that it keeps shut.
5. A matching `permit` in any layer whose permits count: ALLOW, PERMITTED. All of them are named, and the most specific
   layer with one is the deciding layer. An erroring `permit` does not match; it is listed.
6. Else: DENY, NO_PERMIT.

Layers come broad to specific; policies are named in that order, within a layer in the order of its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NoReturn

import cedarpy

from akpolicy.engine.compile import CompiledLayer, Effect
from akpolicy.errors import RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.engine.request import CedarRequest
    from akpolicy.engine.schema import CedarSchema

__all__ = ["Determining", "Effect", "EvalError", "Reason", "Verdict", "decide"]

# In a message; a broad request can match thousands of policies.
MAX_NAMED: Final = 5

_ERROR: Final = re.compile(r"error while evaluating policy `policy(\d+)`: (.*)", re.DOTALL)
_ATTRIBUTE: Final = re.compile(r"attribute `([^`]+)`")
_NOISE: Final = re.compile(
    r"^(?:failed to build request: |while parsing context, |error during entity deserialization: "
    r"|entity does not conform to the schema: )+"
)
# Cedar repeats the whole context here, and does not say which value is wrong.
_WRONG_CONTEXT: Final = re.compile(r"^context `.*` is not valid for `(.*)`$", re.DOTALL)


class Reason(Enum):
    """Why a decision came out as it did; the names are those of the wire's `ReasonCode`."""

    PERMITTED = "permitted"
    FORBIDDEN = "forbidden"
    NO_PERMIT = "no_permit"
    EVALUATION_ERROR = "evaluation_error"
    NO_POLICY = "no_policy"
    POLICY_STALE = "policy_stale"
    BUNDLE_EXPIRED = "bundle_expired"
    FOREIGN_ORG = "foreign_org"
    CLOCK_UNTRUSTED = "clock_untrusted"


@dataclass(frozen=True, slots=True)
class Determining:
    """A policy that determined a decision."""

    scope: str
    policy_id: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class EvalError:
    """A policy that could not be evaluated; `scope` and `policy_id` are empty if Cedar does not say which."""

    scope: str
    policy_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision that explains itself.

    `deciding_layer` is the most specific layer with a determining policy, empty if nothing matched.
    """

    effect: Effect
    reason: Reason
    message: str
    determining: tuple[Determining, ...] = ()
    deciding_layer: str = ""
    errors: tuple[EvalError, ...] = ()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one layer says: its matching policies, its errors, and the errors that must deny."""

    matching: list[Determining]
    errors: list[EvalError]
    denying: list[EvalError]


def decide(
    layers: Sequence[CompiledLayer],
    request: CedarRequest,
    schema: CedarSchema,
    *,
    forbids_only: frozenset[str] = frozenset(),
) -> Verdict:
    """Judge `request` by `layers`, broad to specific.

    The permits of the scopes in `forbids_only` do not count. The schema must be the one of the layers.

    Raises:
        RequestInvalid: the request does not fit the schema; `field` names the culprit where Cedar does.

    """
    # (1): nothing to judge by
    if not layers:
        return Verdict(Effect.DENY, Reason.NO_POLICY, "denied: there is no policy")
    # (2): every layer alone, by the same entities
    query: dict[str, object] = {
        "principal": request.principal,
        "action": request.action,
        "resource": request.resource,
        "context": request.context,
    }
    entities = _parse_entities(request, query, layers[0], schema)
    outcomes = [_judge(layer, query, entities, request, schema) for layer in layers]
    errors = tuple(error for outcome in outcomes for error in outcome.errors)
    matching = [policy for outcome in outcomes for policy in outcome.matching]
    # (3): forbids before anything else
    if forbids := tuple(policy for policy in matching if policy.effect is Effect.DENY):
        message = f"denied: forbidden by {_names(forbids)}"
        return Verdict(Effect.DENY, Reason.FORBIDDEN, message, forbids, forbids[-1].scope, errors)
    # (4): what might have forbidden
    if denying := [error for outcome in outcomes for error in outcome.denying]:
        return Verdict(Effect.DENY, Reason.EVALUATION_ERROR, _error_message(denying[0]), errors=errors)
    # (5): permits that count
    if permits := tuple(policy for policy in matching if policy.scope not in forbids_only):
        message = f"allowed by {_names(permits)}"
        return Verdict(Effect.ALLOW, Reason.PERMITTED, message, permits, permits[-1].scope, errors)
    # (6): the default
    return Verdict(Effect.DENY, Reason.NO_PERMIT, "denied: no policy permits it", errors=errors)


def _judge(
    layer: CompiledLayer,
    query: dict[str, object],
    entities: cedarpy.Entities | str,
    request: CedarRequest,
    schema: CedarSchema,
) -> _Outcome:
    result = cedarpy.is_authorized(query, layer.policy_set, entities, schema.handle)
    decision, diagnostics = result.decision, result.diagnostics
    if decision is cedarpy.Decision.NoDecision:
        _refuse(diagnostics.errors, request)
    # Cedar names the matching forbids of a Deny and the matching permits of an Allow.
    effect = Effect.ALLOW if decision is cedarpy.Decision.Allow else Effect.DENY
    matching = [Determining(layer.scope, layer.policies[at].id, effect) for at in _positions(diagnostics.reasons)]
    errors, denying = _attribute(layer, diagnostics.errors) if diagnostics.errors else ([], [])
    return _Outcome(matching, errors, denying)


def _positions(names: Iterable[str]) -> list[int]:
    """Return the positions that Cedar's policy names stand for, in order; its own order is arbitrary."""
    return sorted(int(name.removeprefix("policy")) for name in names)


def _attribute(layer: CompiledLayer, messages: Iterable[str]) -> tuple[list[EvalError], list[EvalError]]:
    """Return the errors of a layer in the order of its policies, and those of them that deny."""
    found: list[tuple[int, EvalError, bool]] = []
    for message in messages:
        match = _ERROR.fullmatch(message)
        position = int(match[1]) if match else len(layer.policies)
        if match and position < len(layer.policies):
            policy = layer.policies[position]
            error = EvalError(layer.scope, policy.id, match[2])
            found.append((position, error, policy.effect is Effect.DENY))
        else:
            found.append((len(layer.policies), EvalError("", "", message), True))
    found.sort(key=lambda entry: (entry[0], entry[1].message))
    return [error for _, error, _ in found], [error for _, error, denies in found if denies]


def _parse_entities(
    request: CedarRequest, query: dict[str, object], layer: CompiledLayer, schema: CedarSchema
) -> cedarpy.Entities:
    try:
        return cedarpy.Entities.from_json_str(request.entities, schema.handle)
    except ValueError as error:
        # The handle's error does not say which attribute it is; the same entities as text do.
        result = cedarpy.is_authorized(query, layer.policy_set, request.entities, schema.handle)
        if result.decision is cedarpy.Decision.NoDecision:
            _refuse(result.diagnostics.errors, request)
        raise RequestInvalid(f"the request does not fit the schema: {error}") from error


def _refuse(messages: Sequence[str], request: CedarRequest) -> NoReturn:
    """Raise what Cedar says about a request that does not fit the schema, without the entities that it echoes."""
    text = messages[0] if messages else "Cedar gives no reason"
    echo = f"failed to parse entities from:\n{request.entities}: "
    about_entities = text.startswith(echo)
    reason = _NOISE.sub("", text.removeprefix(echo))
    if wrong := _WRONG_CONTEXT.match(reason):
        reason = f"a value of the context has not the type that {wrong[1]} asks for"
    field = _field(reason, request, about_entities=about_entities)
    raise RequestInvalid(f"the request does not fit the schema: {reason}", field=field)


def _field(reason: str, request: CedarRequest, *, about_entities: bool) -> str:
    if reason.startswith("action "):
        return "action"
    if reason.startswith(("principal type", "resource type")):
        return reason.split(" ", 1)[0]
    side = "context"
    if about_entities:
        side = "resource" if f"`{request.resource['type']}::" in reason else "principal"
    found = _ATTRIBUTE.search(reason)
    return f"{side}.{found[1]}" if found else side


def _error_message(error: EvalError) -> str:
    if not error.policy_id:
        return f"denied: an evaluation error without a policy: {error.message}"
    return f"denied: `{error.scope}/{error.policy_id}` forbids and could not be evaluated: {error.message}"


def _names(policies: Sequence[Determining]) -> str:
    """Return the first of the policies for people; the verdict itself names them all."""
    names = ", ".join(f"`{policy.scope}/{policy.policy_id}`" for policy in policies[:MAX_NAMED])
    more = len(policies) - MAX_NAMED
    return f"{names} and {more} more" if more > 0 else names
