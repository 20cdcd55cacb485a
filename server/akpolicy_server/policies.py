"""Policy text as it was uploaded: read, cut into policies, checked.

Rules:

- Every mistake in every file is reported, up to `MAX_PROBLEMS`, each with its file and line.
- Files that can be cut are checked together even if another one cannot: one upload shows as much as possible.
- Nothing here needs the database, and nothing here may run on the event loop: Cedar takes its time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.engine.check import check_policies
from akpolicy.engine.compile import Effect, effect_of
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.source import split_policies
from akpolicy.errors import PolicySetInvalid, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

NO_POLICIES: Final = Problem("EmptyPolicySet", "no policy text was sent; send at least one policy")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A policy file as its author wrote it: any bytes."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a set of files holds, and what is wrong with it."""

    policies: tuple[PolicyText, ...]
    problems: tuple[Problem, ...]


def examine(files: Sequence[SourceFile], schema: CedarSchema) -> Findings:
    """Cut and check the files; problems are a result, not an error."""
    policies: list[PolicyText] = []
    problems: list[Problem] = []
    for file in files:
        try:
            policies += split_policies(_decode(file), source=file.name)
        except PolicySetInvalid as error:
            problems += error.problems
    if policies:
        problems += check_policies(policies, schema)
    elif not problems:
        problems.append(NO_POLICIES)
    return Findings(tuple(policies), tuple(problems[:MAX_PROBLEMS]))


def read_policies(files: Sequence[SourceFile], schema: CedarSchema) -> tuple[PolicyText, ...]:
    """Return the policies of the files; raise `PolicySetInvalid` with what is wrong."""
    findings = examine(files, schema)
    if findings.problems:
        raise PolicySetInvalid(findings.problems)
    return findings.policies


def permit_ids(policies: Iterable[PolicyText]) -> tuple[str, ...]:
    """Return the ids of the policies that permit."""
    return tuple(policy.id for policy in policies if effect_of(policy) is Effect.ALLOW)


def _decode(file: SourceFile) -> str:
    try:
        return file.data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = file.data.count(b"\n", 0, error.start) + 1
        problem = Problem("PolicyNotUtf8", f"byte {error.start} is not UTF-8", source=file.name, line=line)
        raise PolicySetInvalid((problem,)) from None
