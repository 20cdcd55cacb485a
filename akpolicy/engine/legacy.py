"""Whether policies mean on agentkernel's own hosts what they mean on ours.

Rules:

- They must fit the schema that such hosts have: a policy that reads what is not there errs, and an erring `forbid` is
  passed over by them. What stands behind `has` is fine for Cedar, and never true there.
- They must name no user and no sandbox by id: ids are other ones there, so a `forbid` for one would forbid nothing.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.schema import CedarSchema, parse_schema
from akpolicy.engine.source import problem_of
from akpolicy.engine.tokens import Kind, tokenize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.source import PolicyText
    from akpolicy.errors import Problem

LEGACY_SCHEMA_FILE: Final = "agentkernel-legacy.cedarschema"
_NAMED: Final = frozenset({"User", "Sandbox"})


@cache
def load_legacy_schema() -> CedarSchema:
    """Return the parsed schema that agentkernel's own hosts have."""
    return parse_schema(resources.files("akpolicy").joinpath("schemas", LEGACY_SCHEMA_FILE).read_text(encoding="utf-8"))


def named_id_problems(policies: Sequence[PolicyText]) -> tuple[Problem, ...]:
    """Return what is wrong with policies that name users or sandboxes by id, at most `MAX_PROBLEMS`."""
    found: list[Problem] = []
    for policy in policies:
        kind = _named_kind(policy.text)
        if kind:
            message = f"names a `{kind}` by id; agentkernel's own hosts have other ids"
            found.append(problem_of(policy, "PolicyValidationError", message))
        if len(found) >= MAX_PROBLEMS:
            break
    return tuple(found)


def _named_kind(text: str) -> str:
    """Return the first kind of entity that is named by id, empty for none."""
    before: tuple[str, str] = ("", "")
    for token in tokenize(text):
        if token.kind is Kind.COMMENT:
            continue
        if token.kind is Kind.STRING and before[1] == "::" and before[0] in _NAMED:
            return before[0]
        before = (before[1], token.text)
    return ""
