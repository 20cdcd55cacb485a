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


def check_enforceable(content: Content, schema: str | None = None) -> tuple[str, ...]:
    """Return the ids of the policies that permit; raise `PolicySetInvalid` unless the engine accepts all of them.

    They must fit the schema that the content brings, else `schema`, else the packaged one. Raises `SchemaInvalid` or
    `SchemaUnsupported` for a schema that hosts could not use.
    """
    from akpolicy.cli.schema_options import schema_of
    from akpolicy.engine.check import check_policies
    from akpolicy.engine.files import permit_ids
    from akpolicy.errors import PolicySetInvalid

    policies = policies_in(content)
    if problems := check_policies(policies, schema_of(content.schema_text or schema)):
        raise PolicySetInvalid(problems)
    return permit_ids(policies)
