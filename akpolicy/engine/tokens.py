r"""Cedar text cut into tokens and policies, without parsing it.

Rules:

- The lexical rules are Cedar's: a comment runs from `//` to a line end (`\n` or `\r`), a string from `"` to the next
  `"` without a backslash before it, and may span lines. Both are whole: nothing inside them has a meaning.
- Nothing here raises on any text, and the time is linear in its length. What Cedar's lexer would refuse becomes a token
  of kind BROKEN (a string that does not end) or OTHER; Cedar then says what is wrong with it.
- A policy ends at `;`. Cedar has no `;` inside brackets, so a `;` there ends the policy too: the mistake stays in the
  policy that made it.
- Bracket depth is an upper bound of what a parser can see: a closing bracket that does not match closes nothing.
- Lines count from 1 and end at `\n`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from akpolicy.engine.limits import MAX_OPERATORS
from akpolicy.limits import MAX_POLICY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

# Regular expressions of Cedar's lexical rules, for use in others.
COMMENT: Final = r"//[^\n\r]*+"
_STRING_BODY: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+'
STRING: Final = _STRING_BODY + '"'
BLANK: Final = rf"(?:\s++|{COMMENT})*+"

_TOKEN: Final = re.compile(
    rf"(?P<COMMENT>{COMMENT})"
    rf"|(?P<STRING>{STRING})"
    rf"|(?P<BROKEN>{_STRING_BODY})"
    r"|(?P<WORD>[A-Za-z_][A-Za-z0-9_]*+)"
    r"|(?P<NUMBER>[0-9]++)"
    r"|(?P<SLOT>\?[A-Za-z_][A-Za-z0-9_]*+)"
    r"|(?P<SYMBOL>::|==|!=|<=|>=|&&|\|\||[@.,;:(){}\[\]<>=+\-*/%!?])"
    r"|(?P<OTHER>\S)"
)
# Only what matters for the outline; all else is skipped by the regular expression engine.
_MARK: Final = re.compile(rf'{COMMENT}|{_STRING_BODY}(?P<close>"?)|[;()\[\]{{}}<>]|\?[A-Za-z_]')
_END: Final = re.compile(rf'{COMMENT}|{_STRING_BODY}(?P<close>"?)|;')
_SPACE: Final = re.compile(r"\s*+")
_LEADING: Final = re.compile(BLANK)
_BRACKETS: Final = {")": "(", "]": "[", "}": "{", ">": "<"}


_OPERATOR_CHARS: Final = (".", "[", "+", "-", "*", "&&", "||", "!")
_CONDITIONALS: Final = frozenset({"if"})
_OPERATORS: Final = frozenset({*_OPERATOR_CHARS, "if"})


class Kind(Enum):
    """What a token is."""

    COMMENT = "COMMENT"
    STRING = "STRING"
    BROKEN = "BROKEN"
    WORD = "WORD"
    NUMBER = "NUMBER"
    SLOT = "SLOT"
    SYMBOL = "SYMBOL"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Token:
    """One token: `text[start:end]`, which begins on `line`."""

    kind: Kind
    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One policy's place in a text: `text[start:end]`, leading comments included.

    `first` is the offset of its first token that is no comment and `line` that token's line. A piece of comments alone
    (only the last one can be that) has `first == end`. `ended` says whether it ends with `;`. `depth` is how deep its
    brackets nest within the size limit of a policy. Offsets, -1 where there is none: `unclosed`, the innermost bracket
    left open; `broken`, a string without an end; `slot`, the first template slot.
    """

    start: int
    first: int
    end: int
    line: int
    ended: bool
    depth: int
    unclosed: int
    broken: int
    slot: int

    @property
    def is_comment(self) -> bool:
        """Whether nothing but comments is here."""
        return self.first == self.end


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a policy's scope: the `@id` annotation (None if there is none) and the effect's word."""

    id: str | None
    effect: str


def tokenize(text: str, start: int = 0) -> Iterator[Token]:
    """Yield the tokens of `text` from offset `start` on; between them is only white space."""
    line, seen = 1 + text.count("\n", 0, start), start
    for match in _TOKEN.finditer(text, start):
        at = match.start()
        line += text.count("\n", seen, at)
        seen = at
        yield Token(Kind[match.lastgroup or "OTHER"], match.group(), at, match.end(), line)


def pieces(text: str, *, measured: int = MAX_POLICY_BYTES) -> Iterator[Piece]:
    """Yield every policy of `text` in order, and last what follows the final `;` unless it is white space.

    Depth, slots and what is left open are told of a policy's first `measured` characters.
    """
    line, counted, position = 1, 0, 0
    while True:
        start = _skip(_SPACE, text, position)
        if start == len(text):
            return
        first = _skip(_LEADING, text, start)
        line += text.count("\n", counted, first)
        counted = first
        piece = _outline(text, start, first, line, measured)
        yield piece
        position = piece.end


def first_token(text: str) -> int:
    """Return the offset of the first token that is no comment."""
    return _skip(_LEADING, text, 0)


def nesting(text: str) -> int:
    """Return how deep the brackets of `text` nest, `<>` included: the measure for a schema."""
    stack: list[str] = []
    depth = 0
    for match in _MARK.finditer(text):
        mark = match.group()
        if mark in "([{<":
            stack.append(mark)
            depth = max(depth, len(stack))
        elif stack and _BRACKETS.get(mark) == stack[-1]:
            stack.pop()
    return depth


def head(text: str, first: int) -> Head:
    """Read the annotations and the effect of the policy whose first token is at `first`."""
    policy_id: str | None = None
    tokens = (token for token in tokenize(text, first) if token.kind is not Kind.COMMENT)
    token = next(tokens, None)
    while token is not None and token.text == "@":
        name = next(tokens, None)
        value, token = _annotation_value(tokens)
        if name is not None and name.text == "id" and policy_id is None:
            policy_id = value
    return Head(policy_id, token.text if token is not None and token.kind is Kind.WORD else "")


def count_operators(text: str, *, limit: int = MAX_OPERATORS) -> int:
    """Return how many operators `text` has: `.`, `[`, `if` and what joins two operands.

    Up to `limit` it may be an upper bound, which costs next to nothing: strings and comments are counted too.
    """
    bound = sum(map(text.count, _OPERATOR_CHARS)) + text.count("if")
    return bound if bound <= limit else _count(text, _OPERATORS)


def count_conditionals(text: str, *, limit: int) -> int:
    """Return how many `if` are in `text`; up to `limit` it may be an upper bound."""
    bound = text.count("if")
    return bound if bound <= limit else _count(text, _CONDITIONALS)


def _count(text: str, wanted: frozenset[str]) -> int:
    return sum(token.text in wanted for token in tokenize(text) if token.kind in {Kind.SYMBOL, Kind.WORD})


def _annotation_value(tokens: Iterator[Token]) -> tuple[str, Token | None]:
    """Return an annotation's value as written ("" if it has none) and the token after it."""
    token = next(tokens, None)
    if token is None or token.text != "(":
        return "", token
    value = next(tokens, None)
    if value is None or value.kind is not Kind.STRING:
        return "", value
    token = next(tokens, None)
    return value.text[1:-1], next(tokens, None) if token is not None and token.text == ")" else token


def _outline(text: str, start: int, first: int, line: int, measured: int) -> Piece:
    stack: list[tuple[str, int]] = []
    depth, end, broken, slot = 0, -1, -1, -1
    for match in _marks(text, first, measured):
        mark = match.group()
        if mark in "([{":
            stack.append((mark, match.start()))
            depth = max(depth, len(stack))
        elif mark in ")]}":
            if stack and stack[-1][0] == _BRACKETS[mark]:
                stack.pop()
        elif mark == ";":
            end = match.end()
            break
        elif mark[0] == "?" and slot < 0:
            slot = match.start()
        elif mark[0] == '"' and not match["close"]:
            broken = match.start()
    ended = end >= 0
    if not ended:
        end = max(first, len(text.rstrip()))
    return Piece(start, first, end, line, ended, depth, stack[-1][1] if stack else -1, broken, slot)


def _marks(text: str, first: int, measured: int) -> Iterator[re.Match[str]]:
    """Yield what matters for the outline of the piece at `first`; `measured` characters on only what can end it."""
    position = first
    for match in _MARK.finditer(text, first):
        if match.start() - first > measured:
            break
        position = match.end()
        yield match
    yield from _END.finditer(text, position)


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
