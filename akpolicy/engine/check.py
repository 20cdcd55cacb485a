"""Are these policies enforceable? The check of a publish, of `akpolicy policy validate` and of a sidecar.

Rules, in this order; what breaks one is not shown to the next:

1. The set is not empty, not too large, and has no more policies than a scope may have.
2. Each entry is within the limits of size and depth, and is exactly one static policy that ends with `;`.
3. Each id is valid, used once, and the one that the policy's `@id` says, if it says one.
4. Cedar parses each policy.
5. Each policy fits the schema.
6. Its head can be read (`heads`), and its annotations mean what they say (`annotations`).

Good policies are parsed and validated in batches, which bounds time and memory; single policies are only looked at when
something is wrong. Problems come in the order of the policies, at most `MAX_PROBLEMS`.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.engine.annotations import annotation_problems
from akpolicy.engine.heads import read_heads
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.locate import line_at, parse_error_line, validation_error_line
from akpolicy.engine.source import (
    PolicyText,
    duplicate_problems,
    ending_problem,
    id_problem,
    len_utf8,
    limit_problems,
    problem_of,
    too_many_policies,
    total_size_problem,
)
from akpolicy.engine.tokens import Kind, Piece, head, pieces, tokenize
from akpolicy.errors import PolicySetInvalid, Problem
from akpolicy.limits import KIB, MAX_POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from akpolicy.engine.heads import PolicyHead
    from akpolicy.engine.schema import CedarSchema

    # `check_policies`, or what says the same.
    Check = Callable[[Sequence["PolicyText"], CedarSchema], tuple["Problem", ...]]

# Cedar's validator takes time by the square of the number of its errors (0.8 s for 2,000); a batch bounds that, in
# policies and in characters, because a policy of 9 KiB can have 490 of them.
_BATCH: Final = 256
_BATCH_CHARS: Final = 64 * KIB

_NOT_TOGETHER: Final = "Cedar refuses the policies together, but each alone is accepted"
_POSITION: Final = re.compile(r"policy(\d+)")
_SUBJECT: Final = re.compile(r"^for policy `[^`]*`, ")
_NO_ATTRIBUTE: Final = re.compile(r"^attribute `([^`]+)` on entity type `([^`]+)` not found$")
_NOT_IN_CONTEXT: Final = re.compile(r'^attribute `([^`]+)` in context for \S*::Action::"([^"]+)" not found$')
_NOT_HERE: Final = re.compile(r"^attribute `([^`]+)` is not in context of action ")
_OPTIONAL: Final = re.compile(r"^unable to guarantee safety of access to optional attribute `([^`]+)`")
_UNRECOGNISED: Final = re.compile(r'^unrecognized (?:action|entity type) `(?:\w+::)*"?(\w+)"?`$')
_CONSEQUENCE: Final = "unable to find an applicable action given the policy scope constraints"

# Position of a policy in the set, its problem.
_Found = tuple[int, Problem]


def check_policies(policies: Sequence[PolicyText], schema: CedarSchema) -> tuple[Problem, ...]:
    """Return every reason why these policies cannot be enforced together; empty if there is none."""
    return inspect(policies, schema)[0]


def check_together(policies: Sequence[PolicyText], schema: CedarSchema) -> tuple[Problem, ...]:
    """Check as `check_policies`, and parse all at once: no decision about them can need more memory than this.

    For a process that may die of it.
    """
    if problems := check_policies(policies, schema):
        return problems
    if _parses(policies):
        return ()
    return (problem_of(policies[0], "PolicyCountMismatch", _NOT_TOGETHER),)


def inspect(policies: Sequence[PolicyText], schema: CedarSchema) -> tuple[tuple[Problem, ...], list[PolicyHead]]:
    """Return the problems, and the head of each policy if there are none."""
    if problem := set_problem(policies):
        return (problem,), []
    found = _outline_problems(policies)
    outlined = {position for position, _ in found}
    sound = [position for position in range(len(policies)) if position not in outlined]
    for batch in _batches(policies, sound):
        found += _cedar_problems(policies, batch, schema)
        # Finding out what is wrong with a policy takes several parses, and no more problems than these are shown.
        if len(found) >= MAX_PROBLEMS:
            break
    if found:
        found.sort(key=lambda entry: (entry[0], entry[1].line))
        return tuple(problem for _, problem in found[:MAX_PROBLEMS]), []
    try:
        heads = read_heads(policies)
    except PolicySetInvalid as error:
        return error.problems, []
    wrong = annotation_problems(policies, heads, schema)
    return tuple(problem for _, problem in wrong[:MAX_PROBLEMS]), heads


def set_problem(policies: Sequence[PolicyText]) -> Problem | None:
    """Judge a set by its size alone: the problem that keeps everything else from being looked at, if it has it."""
    if not policies:
        return Problem("EmptyPolicySet", "no policy")
    if len(policies) > MAX_POLICIES:
        return too_many_policies(policies[0].source)
    return total_size_problem(sum(max(0, len_utf8(policy.text)) for policy in policies), policies[0].source)


def _outline_problems(policies: Sequence[PolicyText]) -> list[_Found]:
    found: list[_Found] = []
    for position, policy in enumerate(policies):
        outlines = list(pieces(policy.text))
        problems = [problem for outline in outlines[:1] for problem in limit_problems(policy, outline)]
        problems = problems or _count_problems(policy, outlines) or _head_problems(policy, outlines[0])
        found += [(position, problem) for problem in problems]
    found += duplicate_problems(policies)
    return found


def _count_problems(policy: PolicyText, outlines: Sequence[Piece]) -> list[Problem]:
    """Judge whether the text is exactly one policy; Cedar's positional ids hang on it."""
    real = [outline for outline in outlines if not outline.is_comment]
    if not real:
        if not policy.text.strip():
            return [problem_of(policy, "EmptyPolicySet", "is only white space")]
        return [problem_of(policy, "PolicyCountMismatch", "must be one policy but is only comments")]
    if len(real) > 1:
        return [problem_of(policy, "PolicyCountMismatch", f"must be one policy but is {len(real)}")]
    if not real[0].ended:
        return [ending_problem(policy, real[0])]
    if real[0].slot >= 0:
        message = "is a template (`?principal` or `?resource`); these are not supported: write the policy out"
        return [problem_of(policy, "PolicyTemplate", message, line=line_at(policy, real[0].slot))]
    return []


def _head_problems(policy: PolicyText, outline: Piece) -> list[Problem]:
    if invalid := id_problem(policy):
        return [invalid]
    annotated = head(policy.text, outline.first).id
    if annotated is not None and annotated != policy.id:
        message = f"is called `{policy.id}` but its annotation says `@id({annotated!r})`"
        return [problem_of(policy, "PolicyIdInvalid", message)]
    return []


def _cedar_problems(policies: Sequence[PolicyText], batch: Sequence[int], schema: CedarSchema) -> list[_Found]:
    """Parse and validate a batch; what does not parse is not validated."""
    if _parses([policies[position] for position in batch]):
        return _validate_batch(policies, batch, schema)
    found = _parse_problems(policies, batch)
    broken = {position for position, _ in found}
    if sound := [position for position in batch if position not in broken]:
        found += _validate_batch(policies, sound, schema)
    if not found:
        # Each parses alone, together they do not: nothing that may be enforced.
        found.append((batch[0], problem_of(policies[batch[0]], "PolicyCountMismatch", _NOT_TOGETHER)))
    return found


def _parses(policies: Sequence[PolicyText]) -> bool:
    """Whether Cedar accepts all of them and counts as we do."""
    try:
        return len(cedarpy.PolicySet.from_str(joined(policies), release_gil=True)) == len(policies)
    except ValueError:
        return False


def joined(policies: Sequence[PolicyText]) -> str:
    """Return the policies as one text; the line end keeps a comment of one from swallowing the next."""
    return "\n".join(policy.text for policy in policies)


def _parse_problems(policies: Sequence[PolicyText], sound: Sequence[int]) -> list[_Found]:
    """Parse one by one, until there are more problems than are shown: each costs several parses."""
    found: list[_Found] = []
    for position in sound:
        if problem := _parse_problem(policies[position]):
            found.append((position, problem))
        if len(found) >= MAX_PROBLEMS:
            break
    return found


def _parse_problem(policy: PolicyText) -> Problem | None:
    try:
        count = len(cedarpy.PolicySet.from_str(policy.text))
    except ValueError as error:
        message = str(error)
        line, hint = parse_error_line(policy, message)
        return problem_of(policy, "PolicyParseError", f"{message}; {hint}" if hint else message, line=line)
    if count != 1:
        return problem_of(policy, "PolicyCountMismatch", f"must be one policy but is {count}")
    return None


def _batches(policies: Sequence[PolicyText], sound: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for position in sound:
        length = len(policies[position].text)
        if batch and (len(batch) == _BATCH or size + length > _BATCH_CHARS):
            yield batch
            batch, size = [], 0
        batch.append(position)
        size += length
    if batch:
        yield batch


def _validate_batch(policies: Sequence[PolicyText], batch: Sequence[int], schema: CedarSchema) -> list[_Found]:
    text = joined([policies[position] for position in batch])
    result = cedarpy.validate_policies(text, schema.handle, release_gil=True)
    if result.validation_passed:
        return []
    messages: dict[int, set[str]] = {}
    for error in result.errors:
        number = _POSITION.fullmatch(error.policy_id)
        # An error that names no policy is the batch's: shown with the first, never lost.
        position = batch[int(number[1])] if number and int(number[1]) < len(batch) else batch[0]
        messages.setdefault(position, set()).add(_SUBJECT.sub("", error.error))
    # Cedar said no; a batch without a message must not pass for valid.
    messages = messages or {batch[0]: {"Cedar refuses the policy without a reason"}}
    found: list[_Found] = []
    for at in sorted(messages):
        found += [(at, problem) for problem in _explain(policies[at], messages[at], schema)]
        # Finding a line takes Cedar's help and milliseconds, and what follows comes later in the report anyway.
        if len(found) >= MAX_PROBLEMS:
            break
    return found


def _explain(policy: PolicyText, messages: set[str], schema: CedarSchema) -> list[Problem]:
    """Turn Cedar's messages about one policy (in no stable order) into problems with lines and hints."""
    if len(messages) > 1:
        messages = messages - {_CONSEQUENCE}
    problems = []
    for message in _merge_contexts(sorted(messages)):
        line = validation_error_line(policy, message, schema)
        problems.append(problem_of(policy, "PolicyValidationError", message + _suggestion(message, schema), line=line))
    return problems


def _merge_contexts(messages: Sequence[str]) -> list[str]:
    """Say once what Cedar says for each action whose context lacks the attribute."""
    merged: list[str] = []
    actions: dict[str, list[str]] = {}
    for message in messages:
        if found := _NOT_IN_CONTEXT.match(message):
            actions.setdefault(found[1], []).append(found[2])
        else:
            merged.append(message)
    for attribute, names in actions.items():
        listed = ", ".join(f"`{name}`" for name in names)
        merged.append(f"attribute `{attribute}` is not in context of action {listed}")
    return merged


def _suggestion(message: str, schema: CedarSchema) -> str:
    """Return what to do about a message of Cedar's validator, "" if there is no telling."""
    if optional := _OPTIONAL.match(message):
        return f"; test `has {optional[1]}` first"
    found = _NO_ATTRIBUTE.match(message) or _UNRECOGNISED.match(message) or _NOT_HERE.match(message)
    if not found:
        return ""
    names = {token.text.strip('"') for token in tokenize(schema.text) if token.kind in {Kind.WORD, Kind.STRING}}
    if found[1] in names:
        return f"; narrow the policy's scope to what has it, or test `has {found[1]}` first"
    close = difflib.get_close_matches(found[1], sorted(names), n=1, cutoff=0.75)
    return f"; did you mean `{close[0]}`?" if close else ""
