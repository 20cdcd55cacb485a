"""A policy cut into the parts that must all hold, in the order in which Cedar looks at them.

Rules:

- The parts are the constraints of principal, action and resource, then the conditions: each `unless` clause is one, and
  a `when` clause is cut at its `&&`, unless an `||` or `if` stands at the same level.
- A part is meant together with all parts before it: `context has x && context.x` is cut in two, and the second is
  looked at only where the first holds.
- `upto(n)` is a policy that applies exactly if the first n parts hold. It permits, whatever the policy does, because
  Cedar names only the policies that decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.engine.tokens import Kind, Token, first_token, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_SHOWN_CHARS: Final = 200
OPENING: Final = frozenset("([{")
CLOSING: Final = frozenset(")]}")
_VARIABLES: Final = ("principal", "action", "resource")


@dataclass(frozen=True, slots=True)
class Part:
    """One part: the policy's own `text[start:end]`, on `line` of the text; `clause` numbers its `when` or `unless`."""

    text: str
    line: int
    clause: int
    is_unless: bool = False

    @property
    def shown(self) -> str:
        """The part for people, on one line."""
        flat = " ".join(self.text.split())
        text = f"unless {{ {flat} }}" if self.is_unless else flat
        return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


@dataclass(frozen=True, slots=True)
class PolicyParts:
    """The parts of a policy; the first three are its scope, also where it constrains nothing."""

    scope: tuple[Part, Part, Part]
    conditions: tuple[Part, ...]

    def __len__(self) -> int:
        """Return how many parts there are."""
        return len(self.scope) + len(self.conditions)

    def part(self, number: int) -> Part:
        """Return part `number`, counting from 0."""
        return (*self.scope, *self.conditions)[number]

    def upto(self, count: int) -> str:
        """Return a permit that applies exactly if the first `count` parts hold."""
        scope = [part.text if at < count else _VARIABLES[at] for at, part in enumerate(self.scope)]
        clauses: dict[int, list[Part]] = {}
        for part in self.conditions[: max(0, count - len(self.scope))]:
            clauses.setdefault(part.clause, []).append(part)
        text = "".join(
            f"\n{'unless' if parts[0].is_unless else 'when'} {{ {' && '.join(part.text for part in parts)}\n}}"
            for parts in clauses.values()
        )
        return f"permit ({', '.join(scope)}){text};"


def cut(text: str) -> PolicyParts:
    """Cut a policy that Cedar accepts."""
    tokens = [token for token in tokenize(text, first_token(text)) if token.kind is not Kind.COMMENT]
    at = _after_annotations(tokens)
    end = closing(tokens, at + 1)
    first, second, third = split(tokens[at + 2 : end], ",")
    scope = (_part(first, text, -1), _part(second, text, -1), _part(third, text, -1))
    return PolicyParts(scope, tuple(_conditions(tokens[end + 1 :], text)))


def _after_annotations(tokens: Sequence[Token]) -> int:
    """Return the index of `permit` or `forbid`."""
    at = 0
    while tokens[at].text == "@":
        at += 2
        if tokens[at].text == "(":
            at = closing(tokens, at) + 1
    return at


def closing(tokens: Sequence[Token], opening: int) -> int:
    """Return the index of the bracket that closes the one at `opening`."""
    depth = 0
    for at in range(opening, len(tokens)):
        if tokens[at].text in OPENING:
            depth += 1
        elif tokens[at].text in CLOSING:
            depth -= 1
            if depth == 0:
                return at
    raise RuntimeError("a policy that was accepted by Cedar has a bracket that is not closed")


def split(tokens: Sequence[Token], at: str) -> list[list[Token]]:
    """Return the runs of tokens between separators outside brackets; an empty last one is dropped."""
    runs: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += token.text in OPENING
        depth -= token.text in CLOSING
        if depth == 0 and token.text == at:
            runs.append([])
        else:
            runs[-1].append(token)
    return runs if runs[-1] else runs[:-1]


def _conditions(tokens: Sequence[Token], text: str) -> Iterator[Part]:
    at = clause = 0
    while at < len(tokens) and tokens[at].text in {"when", "unless"}:
        end = closing(tokens, at + 1)
        inner = tokens[at + 2 : end]
        if tokens[at].text == "unless":
            yield _part(inner, text, clause, is_unless=True)
        elif _is_conjunction(inner):
            for run in split(inner, "&&"):
                yield _part(run, text, clause)
        else:
            yield _part(inner, text, clause)
        at, clause = end + 1, clause + 1


def _is_conjunction(tokens: Sequence[Token]) -> bool:
    """Whether nothing outside brackets binds less than `&&`."""
    depth = 0
    for token in tokens:
        depth += token.text in OPENING
        depth -= token.text in CLOSING
        if depth == 0 and token.text in {"||", "if"}:
            return False
    return True


def _part(tokens: Sequence[Token], text: str, clause: int, *, is_unless: bool = False) -> Part:
    # Comments inside stay out: one would swallow what is put behind it.
    words = _joined(tokens, text)
    return Part(words, tokens[0].line, clause, is_unless)


def _joined(tokens: Sequence[Token], text: str) -> str:
    """Return the text of the tokens, with a space where there was anything between two of them."""
    pieces = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and text[before.end : token.start]:
            pieces.append(" ")
        pieces.append(token.text)
    return "".join(pieces)
