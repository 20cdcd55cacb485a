"""Policy files cut into policies with ids and lines.

Rules:

- A policy's id is its `@id("...")` annotation. A file with exactly one policy may leave it out: then the file's stem is
  the id, if it is a valid one.
- An id has 1 to 128 characters of `A-Z a-z 0-9 _ . -`, written without escapes, and is used once in a file.
- Comments before a policy belong to it and travel with it. Comments after the last policy belong to none.
- Sizes are judged before anything else, in linear time.
- Every mistake is reported, in the order of the text, up to `MAX_PROBLEMS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from akpolicy.engine.limits import MAX_BRACKET_DEPTH, MAX_OPERATORS, MAX_PROBLEMS
from akpolicy.engine.tokens import count_operators, head
from akpolicy.engine.windows import outlines
from akpolicy.errors import PolicySetInvalid, Problem
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_POLICIES, MAX_POLICY_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.tokens import Piece
    from akpolicy.engine.windows import Outline

_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SHOWN_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class PolicyText:
    """One policy as its author wrote it.

    `text` may begin with comments; `line` is where the policy itself begins in `source`, counting from 1.
    """

    id: str
    text: str
    source: str = ""
    line: int = 1


def is_policy_id(text: str) -> bool:
    """Whether `text` may name a policy."""
    return _ID.fullmatch(text) is not None


def split_policies(text: str, *, source: str) -> tuple[PolicyText, ...]:
    """Cut the text of a policy file into its policies, as `split_file` does.

    Raises `PolicySetInvalid` as that does, and with PolicyNotUtf8.
    """
    if problem := total_size_problem(len_utf8(text), source):
        raise PolicySetInvalid((problem,))
    return split_file(text.encode(), source=source)


def split_file(data: bytes, *, source: str) -> tuple[PolicyText, ...]:
    """Cut a policy file, which is UTF-8, into its policies.

    `source` names the file in messages and gives a single policy its id. Nothing is parsed: `check_policies` judges
    what a policy says.

    Raises:
        PolicySetInvalid: with every mistake, each one of EmptyPolicySet, PolicyTooLarge, PolicyTooDeep,
            TooManyPolicies, PolicyIdMissing, PolicyIdInvalid, PolicyIdDuplicate, PolicyParseError (a last policy
            without `;`).

    """
    if problem := total_size_problem(len(data), source):
        raise PolicySetInvalid((problem,))
    found = [outline for outline in islice(outlines(data), MAX_POLICIES + 2) if not outline.piece.is_comment]
    if not found:
        message = f"no policy in `{source}`, only white space or comments"
        raise PolicySetInvalid((Problem("EmptyPolicySet", message, source=source),))
    if len(found) > MAX_POLICIES:
        raise PolicySetInvalid((too_many_policies(source),))
    policies, problems = _named(found, source)
    problems += [problem for _, problem in duplicate_problems(policies)]
    if problems:
        raise PolicySetInvalid(tuple(sorted(problems, key=lambda problem: problem.line)[:MAX_PROBLEMS]))
    return policies


def len_utf8(text: str) -> int:
    """Return the length of `text` in bytes as UTF-8, or -1 if it cannot be encoded."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return -1


def total_size_problem(size: int, source: str) -> Problem | None:
    """Judge the size in bytes of a whole set (-1: not UTF-8)."""
    if size < 0:
        return Problem("PolicyNotUtf8", "the text has lone surrogates and cannot be UTF-8", source=source)
    if size > MAX_CONTENT_BYTES:
        message = f"the policies have {size} bytes in total; the limit is {MAX_CONTENT_BYTES}"
        return Problem("PolicyTooLarge", message, source=source)
    return None


def too_many_policies(source: str = "") -> Problem:
    """Return the problem of a set with more policies than a scope may have."""
    return Problem("TooManyPolicies", f"more than {MAX_POLICIES} policies; merge or split them", source=source)


def limit_problems(policy: PolicyText, piece: Piece) -> list[Problem]:
    """Judge a policy's size and depth: what must hold before Cedar may parse it."""
    problems = []
    size = len_utf8(policy.text)
    if size < 0:
        problems.append(problem_of(policy, "PolicyNotUtf8", "the text has lone surrogates and cannot be UTF-8"))
    if size > MAX_POLICY_BYTES:
        message = f"has {size} bytes; the limit is {MAX_POLICY_BYTES}: split it"
        problems.append(problem_of(policy, "PolicyTooLarge", message))
    if piece.depth > MAX_BRACKET_DEPTH:
        message = f"nests brackets more than {MAX_BRACKET_DEPTH} deep, which is the limit"
        problems.append(problem_of(policy, "PolicyTooDeep", message))
    if size <= MAX_POLICY_BYTES and (operators := count_operators(policy.text)) > MAX_OPERATORS:
        message = (
            f"has {operators} operators (`.`, `&&`, `+`, ...); the limit is {MAX_OPERATORS}: split it, or use a set"
        )
        problems.append(problem_of(policy, "PolicyTooDeep", message))
    return problems


def id_problem(policy: PolicyText) -> Problem | None:
    """Judge a policy's id."""
    if is_policy_id(policy.id):
        return None
    message = f"`{policy.id[:_SHOWN_CHARS]}` is not a policy id; use 1 to 128 of `A-Z a-z 0-9 _ . -` without escapes"
    return Problem("PolicyIdInvalid", message, source=policy.source, line=policy.line)


def duplicate_problems(policies: Sequence[PolicyText]) -> list[tuple[int, Problem]]:
    """Return the position and the problem of each policy whose id an earlier one has."""
    seen: dict[str, PolicyText] = {}
    problems = []
    for position, policy in enumerate(policies):
        first = seen.setdefault(policy.id, policy)
        if first is not policy and is_policy_id(policy.id):
            where = f"{first.source}:{first.line}" if first.source != policy.source else f"line {first.line}"
            message = f"the id is used on line {policy.line} and already on {where}; rename one"
            problems.append((position, problem_of(policy, "PolicyIdDuplicate", message)))
    return problems


def ending_problem(policy: PolicyText, piece: Piece) -> Problem:
    """Return the problem of a policy without `;` at its end. `piece` may be of a longer text that `policy` is in."""
    offset, message = piece.end, "does not end with `;`"
    if piece.broken >= 0:
        offset, message = piece.broken, 'a string begins here and never ends; a `"` is missing here or before'
    line = policy.line + policy.text.count("\n", piece.first - piece.start, offset - piece.start)
    return problem_of(policy, "PolicyParseError", message, line=line)


def problem_of(policy: PolicyText, code: str, message: str, *, line: int = 0) -> Problem:
    """Return a problem of `policy`, on `line` of its source, by default where the policy begins."""
    return Problem(code, message, policy.id if is_policy_id(policy.id) else "", policy.source, line or policy.line)


def _named(found: Sequence[Outline], source: str) -> tuple[tuple[PolicyText, ...], list[Problem]]:
    """Give each piece its id, and say what is wrong with the piece."""
    stem = PurePath(source).stem
    fallback = stem if len(found) == 1 and is_policy_id(stem) else None
    policies, problems = [], []
    for body, piece in found:
        # A policy that is too large is refused, and its head is not worth the time that megabytes of it would take.
        annotated = head(body[: piece.first + MAX_POLICY_BYTES], piece.first).id
        policy_id = fallback if annotated is None else annotated
        policy = PolicyText(policy_id or "", body, source, piece.line)
        policies.append(policy)
        problems += _piece_problems(policy, piece, missing=policy_id is None)
    return tuple(policies), problems


def _piece_problems(policy: PolicyText, piece: Piece, *, missing: bool) -> list[Problem]:
    problems = limit_problems(policy, piece)
    if missing:
        problems.append(problem_of(policy, "PolicyIdMissing", 'has no id; put `@id("...")` in front of it'))
    elif invalid := id_problem(policy):
        problems.append(invalid)
    if not piece.ended:
        problems.append(ending_problem(policy, piece))
    return problems
