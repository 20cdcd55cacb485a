"""Whole files laid out: `akpolicy.engine.layout`, within limits and a part at a time.

Rules:

- What could not be published is not laid out, as long as sizes tell: Cedar's formatter is as recursive as its parser,
  and 20,000 chained `&&` end the process with SIGSEGV. So are policies that could not be published afterwards: every
  level of an `if` indents, and 1,000 of them in 16 KiB become 5 MB.
- Cedar's formatter takes time by the square of the number of policies (2.3 s for 8,000), so it gets some of them at a
  time. A file is cut between policies, after a comment on the line of the last `;`, and comes out as it would whole.
- The result is believed only if each policy has its own comments still, in their order, and the id that it had.
- It is laid out again until nothing changes, so that `--check` agrees with `--write`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.engine.layout import formatted
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.locate import parse_error_line
from akpolicy.engine.source import PolicyText, len_utf8, limit_problems, problem_of, too_many_policies
from akpolicy.engine.tokens import Kind, head, pieces, tokenize
from akpolicy.errors import PolicyError, PolicyParseError, PolicySetInvalid, Problem
from akpolicy.limits import KIB, MAX_POLICIES, MAX_POLICY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from akpolicy.engine.tokens import Piece

_PART_POLICIES: Final = 256
_PART_CHARS: Final = 64 * KIB
# Measured with 64,000 random policies full of comments: the first round settles all but 105, the second all.
_MAX_ROUNDS: Final = 4
_BESIDE: Final = re.compile(r"[^\S\n\r]*+//[^\n\r]*+")
_OTHERWISE: Final = "Cedar's formatter would change more than the layout here, so the file is left as it is"


def laid_out(text: str, source: str, *, line_width: int, indent: int) -> str:
    """Return the text of a file laid out; `source` names it in messages, the numbers are columns.

    Raises:
        PolicyError: a policy cannot be parsed, is over a limit or would be, or would not be the same afterwards.

    """
    found = _policies(text, source)
    if not found and not text.strip():
        return text
    parts = [_part_laid_out(part, line_width, indent) for part in _parts(text, found, source)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _policies(text: str, source: str) -> list[Piece]:
    """Return where the policies are; raise for what must not be shown to Cedar."""
    found: list[Piece] = []
    problems: list[Problem] = []
    for piece in pieces(text):
        if piece.is_comment:
            continue
        found.append(piece)
        if len(found) > MAX_POLICIES:
            raise PolicySetInvalid((too_many_policies(source),))
        if len(problems) < MAX_PROBLEMS:
            problems += limit_problems(_policy(text, piece, source), piece)
    if problems:
        raise PolicySetInvalid(tuple(problems))
    return found


def _policy(text: str, piece: Piece, source: str) -> PolicyText:
    """Return a policy as what carries its name and line; files without ids can be laid out too."""
    body = text[piece.start : piece.end]
    name = head(body, piece.first - piece.start).id
    return PolicyText(name or "", body, source, piece.line)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some policies of a file: the text they stand in, and each with its line in the file."""

    text: str
    policies: Sequence[PolicyText]
    source: str


def _parts(text: str, found: Sequence[Piece], source: str) -> Iterator[_Part]:
    start, policies = 0, []
    for number, piece in enumerate(found):
        policies.append(_policy(text, piece, source))
        if number + 1 == len(found):
            break
        if len(policies) == _PART_POLICIES or found[number + 1].end - start > _PART_CHARS:
            beside = _BESIDE.match(text, piece.end)
            end = beside.end() if beside else piece.end
            yield _Part(text[start:end], policies, source)
            start, policies = end, []
    yield _Part(text[start:], policies, source)


def _part_laid_out(part: _Part, line_width: int, indent: int) -> str:
    try:
        return _settled(part.text, part.source, line_width, indent)
    except PolicyError as error:
        raise _with_place(error, part, line_width, indent) from error


def _settled(text: str, source: str, line_width: int, indent: int) -> str:
    for _ in range(_MAX_ROUNDS):
        before, text = text, formatted(text, source, line_width=line_width, indent=indent)
        if before == text:
            return text
        _require_same(before, text, source)
    raise PolicyParseError(
        "Cedar's formatter lays this out otherwise each time; move or remove comments", source=source
    )


def _require_same(before: str, after: str, source: str) -> None:
    """Raise `PolicyError` if policies could not be published any more, or have other comments or other ids."""
    outlines = list(pieces(after))
    for piece in outlines:
        if not piece.is_comment and len_utf8(after[piece.start : piece.end]) > MAX_POLICY_BYTES:
            message = f"would have {len_utf8(after[piece.start : piece.end])} bytes; the limit is {MAX_POLICY_BYTES}"
            raise PolicySetInvalid((Problem("PolicyTooLarge", message + ": split it", source=source),))
    if [_outline(before, piece) for piece in pieces(before)] != [_outline(after, piece) for piece in outlines]:
        raise PolicyParseError(_OTHERWISE, source=source)


def _outline(text: str, piece: Piece) -> tuple[str | None, list[str]]:
    """Return the id as it is written and the comments, which are the author's alone: Cedar knows nothing of them."""
    body = text[piece.start : piece.end]
    tokens = tokenize(body) if "//" in body else ()
    comments = [token.text.rstrip() for token in tokens if token.kind is Kind.COMMENT]
    return head(body, piece.first - piece.start).id, comments


def _with_place(error: PolicyError, part: _Part, line_width: int, indent: int) -> PolicyError:
    """Return the error as one of the policy that it is about."""
    for policy in part.policies:
        try:
            _settled(policy.text, policy.source, line_width, indent)
        except PolicyError as alone:
            return PolicySetInvalid((_problem(policy, alone),))
    return error


def _problem(policy: PolicyText, error: PolicyError) -> Problem:
    try:
        cedarpy.PolicySet.from_str(policy.text)
    except ValueError as unparsed:
        message = str(unparsed)
        line, hint = parse_error_line(policy, message)
        return problem_of(policy, "PolicyParseError", f"{message}; {hint}" if hint else message, line=line)
    return problem_of(policy, error.code, error.message)
