"""One evaluation by Cedar, and what it says in the slice's own terms.

Rules:

- Cedar names the matching forbids of a Deny and the matching permits of an Allow, and every policy that erred.
- An error that cannot be attributed to a member of the slice is kept, without a position: whoever decides must not take
  it for harmless.
- `NoDecision` is not a decision: the request does not fit the schema, and `Refused` has what Cedar says of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import cedarpy

from akpolicy.engine.verdict import Effect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.engine.slices import Slice

_ERROR: Final = re.compile(r"error while evaluating policy `policy(\d+)`: (.*)", re.DOTALL)
_PREFIX: Final = len("policy")


class Refused(Exception):
    """Cedar does not judge the request; `messages` say why."""

    def __init__(self, messages: tuple[str, ...]) -> None:
        super().__init__(*messages)
        self.messages = messages


@dataclass(frozen=True, slots=True)
class PolicyFailure:
    """A policy that could not be evaluated: its position in the slice, None if Cedar does not say which."""

    position: int | None
    message: str


class Outcome(NamedTuple):
    """What Cedar says: `matching` are positions in the slice, all of one effect, in order."""

    effect: Effect
    matching: list[int]
    failures: tuple[PolicyFailure, ...]


def evaluate(
    query: dict[str, object], of: Slice, entities: cedarpy.Entities | str, schema: cedarpy.Schema | None
) -> Outcome:
    """Let Cedar judge `query` by the slice `of`; raise `Refused` if it does not."""
    result = cedarpy.is_authorized_batch([query], of.policy_set, entities, schema)[0]
    decision, diagnostics = result.decision, result.diagnostics
    if decision is cedarpy.Decision.NoDecision:
        raise Refused(tuple(diagnostics.errors))
    matching = [int(name[_PREFIX:]) for name in diagnostics.reasons]
    matching.sort()
    failures = failures_of(diagnostics.errors, len(of.policies)) if diagnostics.errors else ()
    return Outcome(Effect.ALLOW if decision is cedarpy.Decision.Allow else Effect.DENY, matching, failures)


def failures_of(messages: Iterable[str], policies: int) -> tuple[PolicyFailure, ...]:
    """Return the errors in the order of the policies, those without a policy last."""
    found: list[PolicyFailure] = []
    for message in messages:
        match = _ERROR.fullmatch(message)
        if match and int(match[1]) < policies:
            found.append(PolicyFailure(int(match[1]), match[2]))
        else:
            found.append(PolicyFailure(None, message))
    found.sort(key=lambda failure: (policies if failure.position is None else failure.position, failure.message))
    return tuple(found)
