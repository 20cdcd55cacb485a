"""docs/explain.md: its command prints the explanation that the page shows."""

from __future__ import annotations

import json
import shlex
from importlib import resources
from typing import TYPE_CHECKING, Final

import pytest

from tests.integration.docs.pages import blocks, read
from tests.integration.e2e import programs
from tests.integration.e2e.world import World

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PAGE: Final = read("docs/explain.md")
[COMMAND] = [block.text for block in blocks(PAGE, "console")]
[SHOWN] = [block.text for block in blocks(PAGE, "text")]


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    """A host that enforces the example policies."""
    with World() as world:
        world.init("acme")
        world.start_server()
        policies = resources.files("akpolicy").joinpath("examples", "policies.cedar").read_text(encoding="utf-8")
        world.publish(policies, "acme")
        world.start_sidecar(org="acme")
        world.wait_for_decision(lambda d: bool(d.bundles), org="acme")
        yield world


def run(host: World, *more: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(COMMAND)
    socket = ["--socket", str(host.directory / "host-1.sock")]
    return programs.run([str(programs.SCRIPTS / program), *arguments, *socket, *more])


def test_the_command_prints_what_the_page_shows(host: World) -> None:
    done = run(host)

    assert done.returncode == 1
    assert done.stdout.endswith(SHOWN)


def test_json_has_the_same(host: World) -> None:
    answer = json.loads(run(host, "--output", "json").stdout)

    [layer] = answer["explanation"]["layers"]
    assert [policy["policy_id"] for policy in layer["missed"]][:2] == ["seed-dev-run-memory", "admin-everything"]
    assert (answer["decision"], layer["scope"], layer["missed_count"]) == ("deny", "org/acme", 7)


def test_nothing_more_is_recorded_for_an_explanation(host: World) -> None:
    log = next(host.directory.rglob("audit.jsonl"))
    before = len(log.read_text(encoding="ascii").splitlines())

    run(host)

    assert len(log.read_text(encoding="ascii").splitlines()) == before + 1
