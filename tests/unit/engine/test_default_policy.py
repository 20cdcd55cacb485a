"""The policy of the offline mode `default_policy`: looking at running work, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.engine.cedar_request import build
from akpolicy.engine.decide import Effect, decide
from akpolicy.engine.default_policy import load_default_layer
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema

_BOX = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})
_CONTEXTS: dict[str, dict[str, bool | int | str | tuple[str, ...]]] = {
    "Exec": {"command": "sh"},
    "Mount": {"host_path": "/", "read_only": True},
    "PortMap": {"ports": ("1:1",)},
    "Connect": {"domain": "d", "port": 1},
    "UseLlmProvider": {"provider": "p", "model": "m"},
}


def _effect(schema: CedarSchema, action: str, role: str, source: str = "runtime") -> Effect:
    request = AuthorizationRequest(Principal("alice", "acme", roles=(role,)), action, _BOX, _CONTEXTS.get(action, {}))
    return decide([load_default_layer(schema)], build(request, org="acme", source=source), schema).effect


@pytest.mark.parametrize("role", ["admin", "developer", "viewer"])
def test_known_roles_may_attach(schema: CedarSchema, role: str) -> None:
    assert _effect(schema, "Attach", role) is Effect.ALLOW


@pytest.mark.parametrize(
    "action", ["Create", "Run", "SSH", "Network", "Exec", "Mount", "PortMap", "Connect", "UseLlmProvider"]
)
def test_not_even_an_admin_may_do_anything_else(schema: CedarSchema, action: str) -> None:
    assert _effect(schema, action, "admin") is Effect.DENY


def test_another_role_may_not_attach(schema: CedarSchema) -> None:
    assert _effect(schema, "Attach", "guest") is Effect.DENY


def test_a_sandbox_may_not_attach(schema: CedarSchema) -> None:
    assert _effect(schema, "Attach", "admin", source="sandbox") is Effect.DENY


def test_the_layer_is_called_default(schema: CedarSchema) -> None:
    layer = load_default_layer(schema)

    assert (layer.scope, [policy.id for policy in layer.policies]) == ("default", ["default-attach"])
