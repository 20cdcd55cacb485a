"""docs/layers.md: its policies publish as it says, and decide as it says."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.client import Principal, Resource
from akpolicy.scope import specificity
from tests.integration.docs.pages import blocks, column, read
from tests.integration.e2e.world import World
from tests.simulators.schemas import OWN
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.client import Decision

PAGE: Final = read("docs/layers.md")
COMMANDS, OWN_SCHEMA = (block.text.splitlines() for block in blocks(PAGE, "console"))
[SHOWN] = [block.text for block in blocks(PAGE, "text")]


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    """A host of the page's org, and the page's policies beside it, published by its commands."""
    with World() as world:
        world.init("acme")
        world.start_server()
        world.start_sidecar(org="acme")
        for block in blocks(PAGE, "cedar"):
            name = re.match(r"// ([\w.]+)", block.text)
            assert name
            (world.directory / name[1]).write_text(block.text, encoding="utf-8")
        yield world


def ask(world: World, action: str, *teams: str, **attributes: int) -> Decision:
    return world.client().authorize(
        principal=Principal(id="alice", org_id="acme", roles=("developer",), teams=teams),
        action=action,
        resource=Resource(id="box", attributes={"agent_type": "claude", "runtime": "python", **attributes}),
    )


def test_the_commands_publish_and_the_layers_decide(host: World) -> None:
    said = {}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "akpolicy"
        done = host.cli(*arguments)
        assert done.returncode == 0, done.stderr
        said[command] = done.stdout

    [rehearsed] = [text for command, text in said.items() if "--dry-run" in command]
    assert SHOWN in rehearsed
    wait_until(lambda: len(ask(host, "Run", "platform").bundles) == 3, what="all layers")
    assert ask(host, "Run").deciding_layer == "org/acme"
    assert not ask(host, "Run", "platform").allowed
    assert ask(host, "Run", "platform", max_memory_mb=4096).deciding_layer == "org/acme/team/platform"
    assert ask(host, "SSH").deciding_layer == "org/acme/user/alice"


def test_an_org_brings_its_own_schema_and_goes_back(host: World) -> None:
    (host.directory / "own.cedarschema").write_text(OWN, encoding="utf-8")
    for command in OWN_SCHEMA:
        done = host.cli(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
        if "show" in command:
            assert "level?: Long" in done.stdout


def test_the_table_goes_from_broad_to_narrow() -> None:
    scopes = [cell.strip("`") for cell in column(PAGE, "Scope")]

    assert [specificity(scope) for scope in scopes] == [0, 1, 2, 3]
