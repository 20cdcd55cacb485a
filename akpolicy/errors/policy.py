"""Policies that cannot be enforced, and requests that cannot be judged."""

from __future__ import annotations

from dataclasses import dataclass

from akpolicy.errors.base import AkpolicyError


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in policies: `line` counts from 1 in `source`; 0 and "" mean unknown."""

    code: str
    message: str
    policy_id: str = ""
    source: str = ""
    line: int = 0

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "code": self.code,
            "message": self.message,
            "policy_id": self.policy_id,
            "source": self.source,
            "line": self.line,
        }

    def __str__(self) -> str:
        where = ":".join(part for part in (self.source, str(self.line) if self.line else "") if part)
        subject = f"policy `{self.policy_id}`: " if self.policy_id else ""
        return f"{where + ': ' if where else ''}{self.code}: {subject}{self.message}"


class PolicyError(AkpolicyError):
    """Policies that cannot be enforced. `line` counts from 1 in `source`; 0 and "" mean unknown."""

    def __init__(self, message: str, *, policy_id: str = "", source: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.policy_id = policy_id
        self.source = source
        self.line = line

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The mistakes in it: one, except for `PolicySetInvalid`."""
        return (Problem(self.code, self.message, self.policy_id, self.source, self.line),)

    def __str__(self) -> str:
        return str(self.problems[0])


class EmptyPolicySet(PolicyError):
    """No policy at all, or only comments."""


class PolicyCountMismatch(PolicyError):
    """Another number of policies than stated."""


class PolicyIdDuplicate(PolicyError):
    """Two policies with one id."""


class PolicyIdInvalid(PolicyError):
    """An id with forbidden characters, or another one than the policy's `@id`."""


class PolicyIdMissing(PolicyError):
    """A policy without an `@id`."""


class PolicyAnnotationInvalid(PolicyError):
    """An annotation that should mean something, and does not."""


class PolicyTooLarge(PolicyError):
    """A policy, or the whole text, over its size limit."""


class PolicyTooDeep(PolicyError):
    """Brackets nested beyond the limit."""


class TooManyPolicies(PolicyError):
    """More policies than a scope may have."""


class PolicyNotUtf8(PolicyError):
    """Policy text that is not UTF-8."""


class PolicyParseError(PolicyError):
    """Policy text that Cedar cannot parse."""


class PolicyTemplate(PolicyError):
    """A template (`?principal`, `?resource`); these are not supported."""


class PolicyValidationError(PolicyError):
    """A policy that does not fit the schema."""


class PolicyCrashesEngine(PolicyError):
    """Policies on which a process that parses them dies or does not come to an end."""


class EngineUnavailable(PolicyError):
    """Policies that could not be checked, because the process that parses them first is not there: the host's fault."""


class SchemaInvalid(PolicyError):
    """A schema that Cedar cannot parse."""


class SchemaUnsupported(PolicyError):
    """A schema that hosts could not use, or one where none may be."""


class SchemaConflict(PolicyError):
    """An org's schema that a layer which its hosts enforce does not fit."""


class PolicySetInvalid(PolicyError):
    """Several problems at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(first.message + more, policy_id=first.policy_id, source=first.source, line=first.line)
        self._problems = problems

    @property
    def code(self) -> str:
        """The code of the first problem."""
        return self._problems[0].code

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every problem, in order."""
        return self._problems

    def __str__(self) -> str:
        more = len(self._problems) - 1
        return f"{self._problems[0]}{f' (and {more} more)' if more else ''}"


class RequestInvalid(AkpolicyError):
    """An authorization request that cannot be judged; `field` names the culprit where it is known."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field
