"""What can be enforced and yet may not do what its author means: told at a publish, never refused.

Rules:

- A `forbid` that can only match where an attribute is there lets through whoever leaves the attribute out. It is told
  with the `has` that it stands behind: in a `when` as something that must hold, in an `unless` as something that must
  not fail, `&&`, `||`, `!` and brackets followed. What is inside `if` is not looked into.
- Only policies that Cedar accepts are looked at, at most `MAX_PROBLEMS` are told.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from akpolicy.engine.compile import Effect, effect_of
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.parts import CLOSING, OPENING, closing, cut, split
from akpolicy.engine.source import problem_of
from akpolicy.engine.tokens import Kind, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from akpolicy.engine.source import PolicyText
    from akpolicy.engine.tokens import Token
    from akpolicy.errors import Problem

FORBID_BEHIND_HAS: Final = "ForbidBehindHas"
_SHOWN_CHARS: Final = 100


def caveats_of(policies: Iterable[PolicyText]) -> tuple[Problem, ...]:
    """Return what the authors of these policies should look at again, in the order of the policies."""
    return tuple(islice(_caveats(policies), MAX_PROBLEMS))


def _caveats(policies: Iterable[PolicyText]) -> Iterator[Problem]:
    for policy in policies:
        # The two cheap questions first: of most policies nothing has to be read.
        if "has" not in policy.text or effect_of(policy) is Effect.ALLOW:
            continue
        if (guard := _guard(policy.text)) is not None:
            message = (
                f"matches only where `{guard}`, so whoever leaves that out is not stopped; forbid what lacks it too, "
                "or require it in the schema and drop the `has`"
            )
            yield problem_of(policy, FORBID_BEHIND_HAS, message)


def _guard(text: str) -> str | None:
    """Return the first `has` without which the policy cannot match."""
    for part in cut(text).conditions:
        tokens = [token for token in tokenize(part.text) if token.kind is not Kind.COMMENT]
        if guard := _needed(tokens, part.text, holds=not part.is_unless):
            return guard
    return None


def _needed(tokens: Sequence[Token], text: str, *, holds: bool) -> str | None:
    """Return a `has` that must be true for the expression to be true (`holds`) or false; None if none has to."""
    while tokens and tokens[0].text == "(" and closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    if not tokens or any(token.text == "if" for token in tokens):
        return None
    for operator, every in (("||", holds), ("&&", not holds)):
        runs = split(tokens, operator)
        if len(runs) > 1:
            found = [_needed(run, text, holds=holds) for run in runs]
            return next(filter(None, found), None) if not every or all(found) else None
    if tokens[0].text == "!":
        return _needed(tokens[1:], text, holds=not holds)
    if holds and any(token.text == "has" for token in _outside(tokens)):
        return " ".join(text[tokens[0].start : tokens[-1].end].split())[:_SHOWN_CHARS]
    return None


def _outside(tokens: Sequence[Token]) -> Iterator[Token]:
    """Yield the tokens that are in no brackets of their own."""
    depth = 0
    for token in tokens:
        depth += token.text in OPENING
        depth -= token.text in CLOSING
        if depth == 0:
            yield token
