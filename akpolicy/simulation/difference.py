"""What would change: recorded requests, decided by two sets of policies.

Rules:

- A change is another effect. What only changes the policies that determine an effect is told apart: nobody is let in or
  kept out by it.
- A change is filed under the policies that are responsible: those that were added, removed or changed, and determine
  the decision before or after. An unchanged policy is not responsible for anything, whatever it determines.
- Permits are responsible only where all that allow were added, removed or changed: one that stays would allow by
  itself. A forbid that could not be evaluated determines the denial that it causes.
- Where none of these were edited, a narrower policy has begun or ceased to replace a permit with its id: that one is.
- A policy has changed if it is written otherwise; comments, layout and annotations decide nothing.
- Requests of other orgs are not replayed: no policy here could change them. Those that are refused before and after
  are counted, because a log of nothing else proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.engine.request import foreign_org
from akpolicy.engine.tokens import Kind, tokenize
from akpolicy.engine.verdict import Effect, Reason
from akpolicy.errors import RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from akpolicy.engine.request import AuthorizationRequest
    from akpolicy.engine.verdict import Verdict
    from akpolicy.simulation.layers import Layers

REFUSED: Final = "refused"
ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
NO_POLICY: Final = "(no policy)"
MAX_EXAMPLES: Final = 20

# How each policy, as `<scope>/<id>`, was edited; those that were not are missing.
_Edits = Mapping[str, str]


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
    """What one policy is responsible for: how often each outcome becomes another, and the first examples.

    `edit` is ADDED, REMOVED or CHANGED; empty if no policy is responsible.
    """

    policy: str
    edit: str = ""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[Change] = field(default_factory=list)


@dataclass(slots=True)
class Difference:
    """What would change: how many requests were replayed, whose outcome changes, whose policies alone change.

    `foreign` requests are of other orgs and were not replayed. `refused` ones are no requests before and after;
    `first_refusal` is the line of the first and what is wrong with it.
    """

    replayed: int = 0
    changed: int = 0
    by_other_policies: int = 0
    foreign: int = 0
    refused: int = 0
    first_refusal: tuple[int, str] = (0, "")
    policies: dict[str, PolicyChanges] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """How many requests policies have decided, before or after."""
        return self.replayed - self.refused


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a request: `permits` or `denials` (forbids, and forbids that failed) determined it."""

    name: str
    message: str
    permits: tuple[str, ...] = ()
    denials: tuple[str, ...] = ()


def compare(before: Layers, after: Layers, requests: Iterable[tuple[int, AuthorizationRequest]]) -> Difference:
    """Decide every request by both and return what differs; each comes with its line."""
    found = Difference()
    edits = _edits(before, after)
    for line, request in requests:
        if foreign_org(request.principal, request.resource, before.org):
            found.foreign += 1
            continue
        found.replayed += 1
        old, new = _outcome(before, request), _outcome(after, request)
        if old.name != new.name:
            _file(found, Change(line, request, old.name, new.name, new.message), _responsible(old, new, edits), edits)
        elif new.name == REFUSED:
            found.first_refusal = found.first_refusal if found.refused else (line, new.message)
            found.refused += 1
        else:
            found.by_other_policies += (old.permits, old.denials) != (new.permits, new.denials)
    return found


def _file(found: Difference, change: Change, policies: Iterable[str], edits: _Edits) -> None:
    found.changed += 1
    for policy in policies:
        entry = found.policies.setdefault(policy, PolicyChanges(policy, edits.get(policy, "")))
        entry.counts[change.before, change.after] += 1
        if len(entry.examples) < MAX_EXAMPLES:
            entry.examples.append(change)


def _responsible(old: _Outcome, new: _Outcome, edits: _Edits) -> list[str]:
    permits, denials = old.permits + new.permits, old.denials + new.denials
    named = [name for name in denials if name in edits]
    if all(name in edits for name in permits):
        named += permits
    if not named:
        ids = {_id(name) for name in permits}
        named = [name for name in edits if _id(name) in ids]
    return list(dict.fromkeys(named)) or [NO_POLICY]


def _id(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _outcome(layers: Layers, request: AuthorizationRequest) -> _Outcome:
    try:
        verdict: Verdict = layers.decide(request)
    except RequestInvalid as error:
        return _Outcome(REFUSED, error.message)
    names = tuple(f"{policy.scope}/{policy.policy_id}" for policy in verdict.determining)
    if verdict.effect is Effect.ALLOW:
        return _Outcome(verdict.effect.value, verdict.message, permits=names)
    if verdict.reason is Reason.EVALUATION_ERROR:
        names = tuple(_failed_forbids(layers, verdict))
    return _Outcome(verdict.effect.value, verdict.message, denials=names)


def _failed_forbids(layers: Layers, verdict: Verdict) -> Iterator[str]:
    for error in verdict.errors:
        if error.policy_id and layers.by_scope[error.scope].policy(error.policy_id).effect is Effect.DENY:
            yield f"{error.scope}/{error.policy_id}"


# --- what was edited --------------------------------------------------------------------------------------------------


def _edits(before: Layers, after: Layers) -> dict[str, str]:
    old, new = dict(before.policies()), dict(after.policies())
    edits = {name: REMOVED for name in old if name not in new}
    for name, text in new.items():
        if name not in old:
            edits[name] = ADDED
        elif old[name] != text and _tokens(old[name]) != _tokens(text):
            edits[name] = CHANGED
    return edits


def _tokens(text: str) -> list[str]:
    """Return the tokens of a policy from its effect on: those that decide."""
    tokens = [token.text for token in tokenize(text) if token.kind is not Kind.COMMENT]
    start = 0
    while tokens[start] == "@":
        # `@name("value")` or `@name`.
        start += 5 if tokens[start + 2] == "(" else 2
    return tokens[start:]
