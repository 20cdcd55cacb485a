"""docs/runtime-integration.md: its programs run, its names exist, its tables are complete."""

from __future__ import annotations

import ast
import re
import sys
from importlib import resources
from typing import TYPE_CHECKING, Final

import grpc
import pytest

import akpolicy.client
from akpolicy.client import ExtensionCall, InvalidRequest, PolicyClient, Principal, Resource
from akpolicy.v1 import authorization_pb2 as pb
from tests.integration.docs.pages import blocks, column, read, section
from tests.integration.e2e import programs
from tests.integration.e2e.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy.client import CedarValue

PAGE: Final = read("docs/runtime-integration.md")
ORG: Final = "acme-corp"
SOCKET: Final = "/run/akpolicy/sidecar.sock"
# The service's own file, and those of the messages that it imports for its callers.
FILES: Final = (pb.DESCRIPTOR, *pb.DESCRIPTOR.public_dependencies)
MESSAGES: Final = {name: message for file in FILES for name, message in file.message_types_by_name.items()}
[PYTHON] = [block.text for block in blocks(PAGE, "python")]
[RUST] = [block.text for block in blocks(PAGE, "rust")]
VALUES: Final[dict[str, CedarValue]] = {
    "command": "pytest",
    "sudo": True,
    "host_path": "/src",
    "read_only": True,
    "ports": ["8080/tcp"],
    "domain": "registry.example",
    "port": 443,
    "ip": ExtensionCall("ip", "192.0.2.1"),
    "provider": "anthropic",
    "model": "claude",
}


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    """A host of the page's org that enforces the example policies."""
    with World() as world:
        world.init(ORG)
        world.start_server()
        policies = resources.files("akpolicy").joinpath("examples", "policies.cedar").read_text(encoding="utf-8")
        world.publish(policies, ORG)
        world.start_sidecar(org=ORG)
        world.wait_for_decision(lambda d: d.allowed, org=ORG)
        yield world


# --- Python -----------------------------------------------------------------------------------------------------------


def docstring_example() -> str:
    """Return the indented program in the docstring of `akpolicy.client`."""
    lines = (akpolicy.client.__doc__ or "").splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines if line.startswith("    ") or not line)


def run_example(program: str, socket: Path) -> str:
    """Run a program of the page as a script, with another socket, and return what it prints."""
    assert SOCKET in program
    done = programs.run([sys.executable, "-W", "error", "-c", program.replace(SOCKET, str(socket))])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("program", [PYTHON, docstring_example()], ids=["page", "docstring"])
def test_the_python_example_gets_a_decision(host: World, program: str) -> None:
    said = run_example(program, host.directory / "host-1.sock").split()
    assert said[0] == "allowed"
    if len(said) > 1:
        assert said[1] in (host.state_dir() / "audit.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", [PYTHON, docstring_example()], ids=["page", "docstring"])
def test_the_python_example_denies_without_a_sidecar(tmp_path: Path, program: str) -> None:
    assert run_example(program, tmp_path / "none.sock").startswith("denied: SidecarUnreachable: ")


def test_the_python_example_shows_what_the_page_says_of_the_client() -> None:
    assert {node.attr for node in ast.walk(ast.parse(PYTHON)) if isinstance(node, ast.Attribute)} >= {
        "authorize",
        "allowed",
    }
    text = section(PAGE, "## Python")
    for name in re.findall(r"`policy\.(\w+)\(", text):
        assert hasattr(PolicyClient, name)
    for name in re.findall(r"`(\w+Client)`", text):
        assert name in akpolicy.client.__all__


# --- Rust -------------------------------------------------------------------------------------------------------------


def rust_structs() -> dict[str, set[str]]:
    """Return the fields that the Rust example gives to each message that it builds."""
    found: dict[str, set[str]] = {}
    for match in re.finditer(r"(?<!-> )\b(\w+) \{\n", RUST):
        if match[1] not in MESSAGES:
            continue
        depth, body = 1, []
        for line in RUST[match.end() :].splitlines():
            if depth == 1 and (field := re.match(r"\s*(\w+): ", line)):
                body.append(field[1])
            depth += line.count("{") + line.count("(") + line.count("[")
            depth -= line.count("}") + line.count(")") + line.count("]")
            if depth <= 0:
                break
        found[match[1]] = set(body)
    return found


def test_the_rust_example_names_what_the_protocol_has() -> None:
    package = pb.DESCRIPTOR.package
    assert f'tonic::include_proto!("{package}")' in RUST
    [imported] = re.findall(r"use akpolicy_v1::\{(.+)\};", RUST)
    messages = {name for name in imported.split(", ") if name[0].isupper()}
    assert messages <= {*MESSAGES, *(name for file in FILES for name in file.enum_types_by_name)}

    # tonic: module `<service in snake case>_client`, struct `<Service>Client`, one method a call.
    [(module, client)] = re.findall(r"use akpolicy_v1::(\w+)_client::(\w+)Client;", RUST)
    service = pb.DESCRIPTOR.services_by_name[client]
    assert module == re.sub(r"(?<!^)(?=[A-Z])", "_", client).lower()
    methods = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in service.methods_by_name}
    assert set(re.findall(r"\bclient\.(\w+)\(", RUST)) <= methods


def test_the_rust_example_fills_fields_that_the_messages_have() -> None:
    built = rust_structs()
    assert built.keys() == {"AuthorizeRequest", "Principal", "Resource"}
    for name, fields in built.items():
        assert fields, name
        assert fields <= set(MESSAGES[name].fields_by_name), name
    # A message that does not name every field needs this.
    assert RUST.count("..Default::default()") == len(built)


def test_the_rust_example_reads_values_and_effects_that_exist() -> None:
    # prost: a oneof becomes an enum in the message's module, variants in camel case.
    kinds = re.findall(r"value::(\w+)::(\w+)\(", RUST)
    assert kinds == [("Kind", "StringValue")]
    oneof = pb.Value.DESCRIPTOR.oneofs_by_name["kind"]
    assert "string_value" in {field.name for field in oneof.fields}
    assert "Value { kind: Some(" in RUST
    # prost drops the prefix of enum values.
    for variant in re.findall(r"\bEffect::([A-Z]\w+)", RUST):
        assert f"EFFECT_{variant.upper()}" in pb.Effect.keys()  # noqa: SIM118 - no dictionary
    fields = set(re.findall(r"\bdecision\.(\w+)", RUST)) - {"ok_or"}
    assert fields == {"effect", "message", "decision_id"}
    assert fields <= set(pb.Decision.DESCRIPTOR.fields_by_name)
    assert "decision" in pb.AuthorizeResponse.DESCRIPTOR.fields_by_name
    for status in re.findall(r"\bCode::(\w+)", RUST):
        assert re.sub(r"(?<!^)(?=[A-Z])", "_", status).upper() in grpc.StatusCode.__members__


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_reasons_are_all_reasons() -> None:
    named = [name for cell in column(PAGE, "Reason") for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert sorted(f"REASON_CODE_{name}" for name in named) == sorted(pb.ReasonCode.keys())


def test_the_statuses_are_statuses_of_grpc() -> None:
    named = [name for cell in column(PAGE, "gRPC status") for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert set(named) == set(named) & set(grpc.StatusCode.__members__)
    assert {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"} <= set(named)


def contexts() -> list[tuple[str, list[str], list[str]]]:
    """Return each action of the last table with its required and its optional context."""
    rows = re.findall(r"^\| (`[A-Z].*?) \|(.*?)\|(.*?)\|$", section(PAGE, "## From agentkernel's terms"), re.MULTILINE)
    names = re.compile(r"`(\w+)`")
    return [(a, names.findall(row[1]), names.findall(row[2])) for row in rows for a in names.findall(row[0])]


def test_every_action_of_the_schema_is_in_the_table() -> None:
    schema = resources.files("akpolicy").joinpath("schemas", "agentkernel.cedarschema").read_text(encoding="utf-8")
    declared = [
        name for line in re.findall(r"^\s*action (.+?) appliesTo", schema, re.MULTILINE) for name in line.split(", ")
    ]
    assert sorted(action for action, _, _ in contexts()) == sorted(declared)


@pytest.mark.parametrize(("action", "required", "optional"), contexts(), ids=[c[0] for c in contexts()])
def test_a_sidecar_asks_for_just_the_context_of_the_table(
    host: World, action: str, required: list[str], optional: list[str]
) -> None:
    def ask(names: list[str]) -> bool:
        return (
            host.client()
            .authorize(
                principal=Principal(id="alice", org_id=ORG, roles=("admin",), mfa_verified=True),
                action=action,
                resource=Resource(id="box", attributes={"agent_type": "claude", "runtime": "python"}),
                context={name: VALUES[name] for name in names},
            )
            .allowed
        )

    assert ask(required)
    assert ask(required + optional)
    for left_out in required:
        with pytest.raises(InvalidRequest, match=left_out):
            ask([name for name in required if name != left_out])
    with pytest.raises(InvalidRequest, match="source"):
        host.client().authorize(
            principal=Principal(id="alice", org_id=ORG),
            action=action,
            resource=Resource(id="box", attributes={"agent_type": "claude", "runtime": "python"}),
            context={**{name: VALUES[name] for name in required}, "source": "runtime"},
        )
