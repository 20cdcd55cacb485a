"""What `akpolicy inspect` says: facts, then what was verified, what failed, and what was not checked.

Rules:

- "Not checked" is said as plainly as "ok": nobody may take a document for verified because nothing went wrong.
- What comes from a document is printed without control characters, in whatever form and to whatever it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from akpolicy.cli.document_text import Facts, aligned
from akpolicy.cli.output import printable
from akpolicy.errors import AkpolicyError

_INDENT = "  "


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One check; `code` is the error's, if it failed."""

    outcome: Outcome
    message: str
    code: str = ""

    def __str__(self) -> str:
        label = "FAILED" if self.outcome is Outcome.FAILED else self.outcome.value
        return f"{label:<11}  {f'{self.code}: ' if self.code else ''}{self.message}"

    def to_json(self) -> dict[str, str]:
        """Return plain values."""
        return {"outcome": self.outcome.value.replace(" ", "_"), "code": self.code, "message": self.message}


def ok(message: str) -> Check:
    """Return a check that was made and holds."""
    return Check(Outcome.OK, message)


def failed(error: AkpolicyError) -> Check:
    """Return a check that fails with this error."""
    return Check(Outcome.FAILED, error.message, error.code)


def not_checked(message: str) -> Check:
    """Return what was not verified, and why."""
    return Check(Outcome.NOT_CHECKED, message)


@dataclass
class Report:
    """What is said of one thing, and of the things in it. `data` is the document as plain values, for programs."""

    title: str
    kind: str
    facts: Facts = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    parts: list[Report] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing that was checked failed, here and in the parts."""
        return all(check.outcome is not Outcome.FAILED for check in self.checks) and all(p.good for p in self.parts)

    def text(self, indent: str = "") -> str:
        """Return the report for people."""
        lines = [f"{self.title}: {self.kind}"]
        lines += [f"{_INDENT}{line}" for line in aligned(self.facts).splitlines()]
        lines += [f"{_INDENT}{line}" for block in self.body for line in ["", *block.splitlines()]]
        lines += [""] if self.checks else []
        lines += [f"{_INDENT}{check}" for check in self.checks]
        own = "\n".join(f"{indent}{printable(line)}".rstrip() for line in lines)
        return "\n\n".join([own, *(part.text(indent + _INDENT) for part in self.parts)])

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "title": self.title,
            "kind": self.kind,
            "good": self.good,
            **self.data,
            "checks": [check.to_json() for check in self.checks],
            "parts": [part.to_json() for part in self.parts],
        }
