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
from akpolicy.engine.source import split_policies
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


def examine(files: Sequence[PolicyFile], schema: CedarSchema, check: Check = check_policies) -> Findings:
    """Cut and check the files; problems are a result, not an error, except for those that `check` raises."""
    policies: list[PolicyText] = []
    problems: list[Problem] = []
    for file in files:
        try:
            policies += split_policies(_decode(file), source=file.name)
        except PolicySetInvalid as error:
            problems += error.problems
    if policies:
        problems += check(policies, schema)
    elif not problems:
        problems.append(NO_POLICIES)
    return Findings(tuple(policies), tuple(problems[:MAX_PROBLEMS]))


def read_policies(
    files: Sequence[PolicyFile], schema: CedarSchema, check: Check = check_policies
) -> tuple[PolicyText, ...]:
    """Return the policies of the files; raise `PolicySetInvalid` with what is wrong, or what `check` raises."""
    findings = examine(files, schema, check)
    if findings.problems:
        raise PolicySetInvalid(findings.problems)
    return findings.policies


def cut_policies(files: Sequence[PolicyFile]) -> tuple[PolicyText, ...]:
    """Return the policies of files that somebody else checks; raise `PolicySetInvalid` for what cannot be cut."""
    policies: list[PolicyText] = []
    for file in files:
        policies += split_policies(_decode(file), source=file.name)
    return tuple(policies)


def permit_ids(policies: Iterable[PolicyText]) -> tuple[str, ...]:
    """Return the ids of the policies that permit."""
    return tuple(policy.id for policy in policies if effect_of(policy) is Effect.ALLOW)


def _decode(file: PolicyFile) -> str:
    try:
        return file.data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = file.data.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{file.data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        problem = Problem("PolicyNotUtf8", message, source=file.name, line=line)
        raise PolicySetInvalid((problem,)) from None
