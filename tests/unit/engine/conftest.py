"""What the engine's tests share: the default schema, the example policies, and layers from a text."""

from __future__ import annotations

from importlib import resources
from typing import Protocol

import pytest

from akpolicy.engine.cedar_request import CedarRequest, build
from akpolicy.engine.compile import CompiledLayer, compile_layer
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.schema import CedarSchema, load_default_schema
from akpolicy.engine.source import split_policies

_SANDBOX = {"agent_type": "claude", "runtime": "python"}


class MakeLayer(Protocol):
    def __call__(self, text: str, scope: str = "org/acme") -> CompiledLayer: ...


class MakeRequest(Protocol):
    def __call__(self, action: str = "Run", *, subject: str = "alice", roles: tuple[str, ...] = ()) -> CedarRequest: ...


@pytest.fixture(scope="session")
def schema() -> CedarSchema:
    return load_default_schema()


@pytest.fixture(scope="session")
def example_policies() -> str:
    return resources.files("akpolicy").joinpath("examples", "policies.cedar").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def make_layer(schema: CedarSchema) -> MakeLayer:
    def make(text: str, scope: str = "org/acme") -> CompiledLayer:
        return compile_layer(scope, split_policies(text, source="test.cedar"), schema)

    return make


@pytest.fixture(scope="session")
def make_request() -> MakeRequest:
    def make(action: str = "Run", *, subject: str = "alice", roles: tuple[str, ...] = ()) -> CedarRequest:
        principal = Principal(subject, "acme", roles=roles)
        request = AuthorizationRequest(principal, action, Resource("box", attributes=_SANDBOX))
        return build(request, org="acme", source="runtime")

    return make
