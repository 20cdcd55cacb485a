"""One decision over the layers of a request.

Rules, in this order:

1. No layer: DENY, NO_POLICY.
2. The policies of all layers that can matter judge the request in one evaluation (`stack`, `slices`). What does not fit
   the schema is refused (`RequestInvalid`), not decided.
3. A matching `forbid` in any layer: DENY, FORBIDDEN. All matching forbids are named.
4. An erroring `forbid`, or an error that cannot be attributed to a policy: DENY, EVALUATION_ERROR. Plain Cedar skips
   such a policy, which would open the door that it keeps shut.
5. A matching `permit` in any layer whose permits count: ALLOW, PERMITTED. All of them are named, and the most specific
   layer with one is the deciding layer. An erroring `permit` does not match; it is listed.
6. Else: DENY, NO_PERMIT.

Layers come broad to specific; policies are named in that order, within a layer in the order of its text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.engine.evaluate import Refused, evaluate
from akpolicy.engine.refusal import refuse
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.stack import LayerStack
from akpolicy.engine.verdict import Determining, Effect, EvalError, Reason, Verdict
from akpolicy.scope import specificity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.cedar_request import CedarRequest, Subjects
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.evaluate import PolicyFailure
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.slices import Slice

__all__ = ["Determining", "Effect", "EvalError", "Reason", "Verdict", "decide", "judge"]

# In a message; a broad request can match thousands of policies.
MAX_NAMED: Final = 5

_NO_POLICY: Final = Verdict(Effect.DENY, Reason.NO_POLICY, "denied: there is no policy")
_NO_PERMIT: Final = Verdict(Effect.DENY, Reason.NO_PERMIT, "denied: no policy permits it")


def decide(
    layers: Sequence[CompiledLayer],
    request: CedarRequest,
    schema: CedarSchema,
    *,
    forbids_only: frozenset[str] = frozenset(),
) -> Verdict:
    """Judge one request by `layers`, broad to specific; who judges many keeps a `LayerStack` and calls `judge`.

    The permits of the scopes in `forbids_only` do not count. The schema must be the one of the layers.

    Raises:
        RequestInvalid: the request does not fit the schema; `field` names the culprit.

    """
    return judge(LayerStack(layers, schema, slices=SliceCache(), forbids_only=forbids_only), request)


def check_subjects(subjects: Subjects, schema: CedarSchema) -> None:
    """Refuse entities that do not fit the schema before anything is asked about them.

    Raises:
        RequestInvalid: `field` names the culprit.

    """
    try:
        subjects.entities.parsed(schema)
    except ValueError:
        refuse(subjects.ask("Run", {}, "runtime"), schema, ())


def judge(stack: LayerStack, request: CedarRequest) -> Verdict:
    """Judge one request by a stack of layers.

    Raises:
        RequestInvalid: the request does not fit the schema; `field` names the culprit.

    """
    # (1): nothing to judge by
    if not stack.layers:
        return _NO_POLICY
    # (2): all layers at once
    schema = stack.schema
    sliced = stack.slice_for(request)
    try:
        entities = request.entities.parsed(schema)
    except ValueError:
        refuse(request, schema, ())
    try:
        outcome = evaluate(request.query, sliced, entities, schema.handle)
    except Refused as refused:
        refuse(request, schema, refused.messages)
    policies = sliced.policies
    matching = tuple([policies[position] for position in outcome.matching])
    errors = _errors(sliced, outcome.failures) if outcome.failures else ()
    # (3): forbids before anything else
    if outcome.effect is Effect.DENY and matching:
        return _verdict(Effect.DENY, Reason.FORBIDDEN, "denied: forbidden by", matching, errors)
    # (4): what might have forbidden
    if errors and (denying := _denying(sliced, outcome.failures)):
        return Verdict(Effect.DENY, Reason.EVALUATION_ERROR, _error_message(denying), errors=errors)
    # (5): permits
    if matching:
        return _verdict(Effect.ALLOW, Reason.PERMITTED, "allowed by", matching, errors)
    # (6): the default
    return Verdict(Effect.DENY, Reason.NO_PERMIT, _NO_PERMIT.message, errors=errors) if errors else _NO_PERMIT


def _verdict(
    effect: Effect, reason: Reason, words: str, matching: tuple[Determining, ...], errors: tuple[EvalError, ...]
) -> Verdict:
    return Verdict(effect, reason, f"{words} {_names(matching)}", matching, deciding_layer(matching), errors)


def deciding_layer(matching: Sequence[Determining]) -> str:
    """Return the most specific scope of the policies, all of them where several teams are."""
    last = matching[-1].scope
    if matching[0].scope == last:
        return last
    rank = specificity_of(last)
    return ", ".join(dict.fromkeys(policy.scope for policy in matching if specificity_of(policy.scope) == rank))


def specificity_of(scope: str) -> int:
    """Return the rank of a layer; one that is of no published scope (`default`) is the broadest."""
    return specificity(scope) if "/" in scope else 0


def _errors(of: Slice, failures: Sequence[PolicyFailure]) -> tuple[EvalError, ...]:
    return tuple([_error(of, failure) for failure in failures])


def _error(of: Slice, failure: PolicyFailure) -> EvalError:
    if failure.position is None:
        return EvalError("", "", failure.message)
    policy = of.policies[failure.position]
    return EvalError(policy.scope, policy.policy_id, failure.message)


def _denying(of: Slice, failures: Sequence[PolicyFailure]) -> EvalError | None:
    """Return the first error that denies: of a forbid, or of nobody knows what."""
    for failure in failures:
        if failure.position is None or of.policies[failure.position].effect is Effect.DENY:
            return _error(of, failure)
    return None


def _error_message(error: EvalError) -> str:
    if not error.policy_id:
        return f"denied: an evaluation error without a policy: {error.message}"
    return f"denied: `{error.scope}/{error.policy_id}` forbids and could not be evaluated: {error.message}"


def _names(policies: Sequence[Determining]) -> str:
    """Return the first of the policies for people; the verdict itself names them all."""
    if len(policies) == 1:
        return f"`{policies[0].scope}/{policies[0].policy_id}`"
    names = ", ".join(f"`{policy.scope}/{policy.policy_id}`" for policy in policies[:MAX_NAMED])
    more = len(policies) - MAX_NAMED
    return f"{names} and {more} more" if more > 0 else names
