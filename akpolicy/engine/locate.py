"""The line of a mistake in a policy.

Cedar says what is wrong, not where. Two ways to find out:

- Text that does not parse: of every prefix of its tokens, ask Cedar whether something could still follow (it then
  complains about the end of the input). The first token after which nothing can follow is the mistake; prefixes are
  bisected, so a policy costs some ten short parses.
- Text that parses but means nothing (an unknown function, attribute or type): Cedar's message quotes a name. The
  mistake is where the policy uses that name, as an attribute if it does so anywhere.
- A message without a name (operands of the wrong type): each condition is cut at its outermost `&&`, and each part
  validated alone behind the policy's scope. The mistake is the first part that gives the same message.

Where nothing helps, the answer is the line on which the policy begins.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.engine.tokens import Kind, Token, pieces, tokenize

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

_INCOMPLETE: Final = "unexpected end of input"
# Cedar quotes in backticks, some messages in apostrophes; a backtick also encloses names with double quotes in them.
_QUOTED: Final = re.compile(r"`([^`]+)`|'([^']+)'")
_TAIL: Final = re.compile(r"(?:invalid policy effect|duplicate annotation): @?(\w+)")
_VARIABLE_OF: Final = {"User": "principal", "Sandbox": "resource", "Permission": "resource"}


def parse_error_line(policy: PolicyText, message: str) -> tuple[int, str]:
    """Return the line in `policy.source` of what Cedar's parser calls `message`, and a hint ("" if there is none)."""
    tokens = [token for token in tokenize(policy.text) if token.kind is not Kind.COMMENT]
    index = _first_dead_end(policy.text, tokens)
    if index is None or (index == len(tokens) - 1 and tokens[index].text == ";" and not _is_syntax(message)):
        return name_line(policy, message), ""
    token = tokens[index]
    return line_at(policy, token.start), _hint(policy, token)


def validation_error_line(policy: PolicyText, message: str, schema: CedarSchema) -> int:
    """Return the line in `policy.source` of what Cedar's validator calls `message`."""
    if _QUOTED.search(message):
        return name_line(policy, message)
    scope, parts = _conditions(policy.text)
    for start, end in parts:
        alone = f"{scope} when {{ {policy.text[start:end]} }};"
        errors = cedarpy.validate_policies(alone, schema.handle).errors
        if any(error.error.endswith(message) for error in errors):
            return line_at(policy, start)
    return policy.line


def name_line(policy: PolicyText, message: str) -> int:
    """Return the line in `policy.source` of the first use of a name that `message` quotes."""
    code = _without_comments(policy.text)
    names = [a or b for a, b in _QUOTED.findall(message)] + _TAIL.findall(message)
    for name in names:
        if not re.search(r"\w", name):
            found_at = [token.start for token in tokenize(policy.text) if token.text == name]
            if found_at:
                return line_at(policy, found_at[0])
            continue
        for pattern in _patterns(name, message):
            if found := re.search(pattern, code):
                return line_at(policy, found.start())
    return policy.line


def line_at(policy: PolicyText, offset: int) -> int:
    """Return the line in `policy.source` of an offset in `policy.text`."""
    first = next((piece.first for piece in pieces(policy.text)), 0)
    return policy.line + policy.text.count("\n", 0, offset) - policy.text.count("\n", 0, first)


def _first_dead_end(text: str, tokens: list[Token]) -> int | None:
    """Return the index of the first token after which no policy can follow."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        if _can_go_on(text[: tokens[middle].end]):
            low = middle + 1
        else:
            high = middle
    return low if low < len(tokens) else None


def _can_go_on(prefix: str) -> bool:
    try:
        cedarpy.PolicySet.from_str(prefix)
    except ValueError as error:
        return _INCOMPLETE in str(error)
    return True


def _conditions(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a policy's text up to its conditions, and where each part of a condition begins and ends."""
    depth, scope_end = 0, -1
    parts: list[tuple[int, int]] = []
    start = -1
    for token in tokenize(text):
        if token.kind is Kind.COMMENT:
            continue
        if token.text in {"(", "[", "{"}:
            depth += 1
        if depth == 0 and scope_end < 0 and token.text in {"when", "unless"}:
            scope_end = token.start
        elif scope_end >= 0 and depth == 1 and token.text in {"{", "&&", "}"}:
            if start >= 0:
                parts.append((start, token.start))
            start = -1
        elif scope_end >= 0 and depth > 0 and start < 0:
            start = token.start
        if token.text in {")", "]", "}"}:
            depth -= 1
    return text[:scope_end], parts


def _is_syntax(message: str) -> bool:
    return message.startswith(("unexpected", "invalid token"))


def _hint(policy: PolicyText, token: Token) -> str:
    if token.text in {"permit", "forbid", "@"}:
        return "is a `;` missing before it?"
    outline = next(pieces(policy.text), None)
    if token.text == ";" and outline is not None and outline.unclosed >= 0:
        return f"`{policy.text[outline.unclosed]}` of line {line_at(policy, outline.unclosed)} is not closed"
    return ""


def _without_comments(text: str) -> str:
    """Return `text` with its comments blanked out, every offset as before."""
    parts, position = [], 0
    for token in tokenize(text):
        if token.kind is Kind.COMMENT:
            parts += [text[position : token.start], " " * (token.end - token.start)]
            position = token.end
    return "".join([*parts, text[position:]])


def _patterns(name: str, message: str) -> list[str]:
    """Return where to look for `name`, best place first."""
    quoted = re.escape(name)
    if not re.fullmatch(r"\w+", name):
        return [quoted]
    word = rf"\b{quoted}\b"
    places = [rf"\.\s*{word}", rf"\bhas\s+(?:\w+\.)*{word}", word]
    owner = re.search(r"entity type `(?:\w+::)*(\w+)`", message)
    variable = "context" if "in context" in message else _VARIABLE_OF.get(owner[1], "") if owner else ""
    return [rf"\b{variable}\s*\.\s*{word}", rf"\b{variable}\s+has\s+{word}", *places] if variable else places
