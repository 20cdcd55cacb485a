"""The policies of a content blob, and whether the engine could enforce them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akpolicy.bundle import Content
    from akpolicy.engine.source import PolicyText


def policies_in(content: Content) -> list[PolicyText]:
    """Return the policies of a content."""
    from akpolicy.engine.source import PolicyText

    return [PolicyText(entry.id, entry.text) for entry in content.policies]


def check_enforceable(content: Content) -> tuple[str, ...]:
    """Return the ids of the policies that permit; raise `PolicySetInvalid` unless the engine accepts all of them."""
    from akpolicy.engine.check import check_policies
    from akpolicy.engine.files import permit_ids
    from akpolicy.engine.schema import load_default_schema
    from akpolicy.errors import PolicySetInvalid

    policies = policies_in(content)
    if problems := check_policies(policies, load_default_schema()):
        raise PolicySetInvalid(problems)
    return permit_ids(policies)
