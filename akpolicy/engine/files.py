"""Policy files as their authors wrote them: read, cut into policies, checked. Server and command line call this.

Rules:

- Every mistake in every file is reported, up to `MAX_PROBLEMS`, each with its file and line.
- Files that can be cut are checked together even if another one cannot: one look shows as much as possible.
- Cedar takes its time: do not call this on an event loop. Who must not die of it hands in a check that another process
  does (`akpolicy.fence`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.engine.caveats import caveats_of
from akpolicy.engine.check import check_policies
from akpolicy.engine.compile import Effect, effect_of
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.source import split_file
from akpolicy.engine.windows import first_bad_byte
from akpolicy.errors import PolicySetInvalid, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.engine.check import Check
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

NO_POLICIES: Final = Problem("EmptyPolicySet", "there is no policy text; give at least one policy")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy file; `name` is for messages, `data` is any bytes and should be UTF-8."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a set of files holds, and what is wrong with it."""

    policies: tuple[PolicyText, ...]
    problems: tuple[Problem, ...]

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What can be enforced and yet may not do what its author means; nothing while there are problems."""
        return () if self.problems else caveats_of(self.policies)


def cut(files: Iterable[PolicyFile]) -> Findings:
    """Cut files into policies, with what is wrong with the files.

    No file is kept longer than it takes to cut it: an iterator that forgets them has at most one of them in memory.
    """
    policies: list[PolicyText] = []
    problems: list[Problem] = []
    for found in map(_cut, files):
        policies += found.policies
        problems += found.problems
    if not policies and not problems:
        problems.append(NO_POLICIES)
    return Findings(tuple(policies), tuple(problems))


def examine(found: Findings, schema: CedarSchema, check: Check = check_policies) -> Findings:
    """Check what was cut; problems are a result, not an error, except for those that `check` raises."""
    problems = (*found.problems, *(check(found.policies, schema) if found.policies else ()))
    return Findings(found.policies, problems[:MAX_PROBLEMS])


def read_policies(
    files: Sequence[PolicyFile], schema: CedarSchema, check: Check = check_policies
) -> tuple[PolicyText, ...]:
    """Return the policies of the files; raise `PolicySetInvalid` with what is wrong, or what `check` raises."""
    findings = examine(cut(files), schema, check)
    if findings.problems:
        raise PolicySetInvalid(findings.problems)
    return findings.policies


def cut_policies(files: Sequence[PolicyFile]) -> tuple[PolicyText, ...]:
    """Return the policies of files that somebody else checks; raise `PolicySetInvalid` for what cannot be cut."""
    found = cut(files)
    if found.problems:
        raise PolicySetInvalid(found.problems)
    return found.policies


def permit_ids(policies: Iterable[PolicyText]) -> tuple[str, ...]:
    """Return the ids of the policies that permit."""
    return tuple(policy.id for policy in policies if effect_of(policy) is Effect.ALLOW)


def _cut(file: PolicyFile) -> Findings:
    """Return the policies of a file, or what is wrong with it."""
    if (bad := first_bad_byte(file.data)) is not None:
        line = file.data.count(b"\n", 0, bad) + 1
        message = f"byte 0x{file.data[bad]:02x} is not UTF-8; save the file as UTF-8"
        return Findings((), (Problem("PolicyNotUtf8", message, source=file.name, line=line),))
    try:
        return Findings(split_file(file.data, source=file.name), ())
    except PolicySetInvalid as error:
        return Findings((), error.problems)
