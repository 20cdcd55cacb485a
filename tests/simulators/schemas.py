"""Schemas that an org could bring, made of the packaged one."""

from __future__ import annotations

from typing import Final

from akpolicy.engine.schema import load_default_schema_text

PACKAGED: Final = load_default_schema_text()


def changed(old: str, new: str) -> str:
    """Return the packaged schema with one of its texts replaced."""
    assert PACKAGED.count(old) >= 1
    return PACKAGED.replace(old, new, 1)


# Users may have a `level`, and there is an action more.
OWN: Final = changed("email: String,", "email: String, level?: Long,").replace(
    "action Exec",
    "action Deploy appliesTo { principal: [User], resource: [Sandbox], context: { source: String } };\n  action Exec",
)
# As `OWN`, but `level` is a text.
OTHER: Final = OWN.replace("level?: Long", "level?: String")
# The packaged one without one of its actions.
SMALLER: Final = changed(
    """  action PortMap appliesTo {
    principal: [User], resource: [Sandbox], context: { source: String, ports: Set<String> },
  };
""",
    "",
)


def by_level(policy_id: str, effect: str = "permit", *, text: bool = False) -> str:
    """Return a policy that fits `OWN` alone, or with `text` `OTHER` alone."""
    condition = 'principal.level like "3*"' if text else "principal.level > 2"
    head = f'{effect} (principal, action == AgentKernel::Action::"Deploy", resource)'
    return f'@id("{policy_id}")\n{head} when {{ principal has level && {condition} }};\n'


PORT_MAP: Final = '@id("ports")\nforbid (principal, action == AgentKernel::Action::"PortMap", resource);\n'
DEPLOY: Final = '@id("deploy")\npermit (principal, action == AgentKernel::Action::"Deploy", resource);\n'
