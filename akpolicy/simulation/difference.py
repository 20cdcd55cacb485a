"""What would change: recorded requests, decided by two sets of policies.

Rules:

- A change is another effect, or the same effect for another reason or by other policies. What only changes the policies
  is told apart: nobody is let in or kept out by it.
- A change is filed under the policies that are responsible: those that determine the new decision, or, where nothing
  does, those that determined the old one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.errors import RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.engine.request import AuthorizationRequest
    from akpolicy.engine.verdict import Verdict
    from akpolicy.simulation.layers import Layers

REFUSED: Final = "refused"
MAX_EXAMPLES: Final = 20


@dataclass(frozen=True, slots=True)
class Change:
    """One request that would be decided otherwise; `line` is where it was recorded (0: nowhere)."""

    line: int
    request: AuthorizationRequest
    before: str
    after: str
    message: str


@dataclass(slots=True)
class PolicyChanges:
    """What one policy is responsible for: how often each outcome becomes another, and the first examples."""

    policy: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[Change] = field(default_factory=list)


@dataclass(slots=True)
class Difference:
    """What would change: how many requests were replayed, whose outcome changes, whose policies alone change."""

    replayed: int = 0
    changed: int = 0
    by_other_policies: int = 0
    policies: dict[str, PolicyChanges] = field(default_factory=dict)


def compare(before: Layers, after: Layers, requests: Iterable[tuple[int, AuthorizationRequest]]) -> Difference:
    """Decide every request by both and return what differs."""
    found = Difference()
    for line, request in requests:
        found.replayed += 1
        old, new = _outcome(before, request), _outcome(after, request)
        if old[0] == new[0]:
            found.by_other_policies += old[1] != new[1]
            continue
        found.changed += 1
        change = Change(line, request, old[0], new[0], new[2])
        for policy in new[1] or old[1] or ("(no policy)",):
            entry = found.policies.setdefault(policy, PolicyChanges(policy))
            entry.counts[change.before, change.after] += 1
            if len(entry.examples) < MAX_EXAMPLES:
                entry.examples.append(change)
    return found


def _outcome(layers: Layers, request: AuthorizationRequest) -> tuple[str, tuple[str, ...], str]:
    """Return the outcome, the policies that determined it, and why."""
    try:
        verdict: Verdict = layers.decide(request)
    except RequestInvalid as error:
        return REFUSED, (), error.message
    return verdict.effect.value, tuple(_names(verdict)), verdict.message


def _names(verdict: Verdict) -> Iterable[str]:
    yield from (f"{policy.scope}/{policy.policy_id}" for policy in verdict.determining)
    if not verdict.determining:
        yield from (f"{error.scope}/{error.policy_id}" for error in verdict.errors if error.policy_id)
