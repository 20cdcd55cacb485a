"""docs/sessions.md: its programs run, and its table names every error with its status."""

from __future__ import annotations

import sys
from importlib import resources
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.errors import SessionError, TooManyQuestionStreams
from akpolicy_sidecar.api.status import STATUS
from tests.integration.docs.pages import blocks, read
from tests.integration.e2e import programs
from tests.integration.e2e.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = read("docs/sessions.md")
ORG: Final = "acme-corp"
SESSIONS, STREAMS = (block.text for block in blocks(PAGE, "python"))


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


def run_example(world: World, program: str) -> list[str]:
    """Run a program of the page as a script, with this host's sockets, and return the lines that it prints."""
    socket = world.directory / "host-1.sock"
    assert "/run/akpolicy/sidecar.sock" in program
    program = program.replace("/run/akpolicy/sidecar.sock", str(socket))
    program = program.replace("/run/akpolicy/session.sock", str(socket.with_name("host-1-session.sock")))
    done = programs.run([sys.executable, "-W", "error", "-c", program])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_program_with_a_session_gets_decisions_outside_and_inside(host: World) -> None:
    assert run_example(host, SESSIONS) == ["allowed", "inside: allowed"]


def test_the_program_with_a_stream_gets_an_answer_to_each_question(host: World) -> None:
    assert run_example(host, STREAMS) == ["pytest allowed", "make allowed", "git push allowed"]


def test_every_error_of_a_session_is_in_the_table_with_its_status() -> None:
    rows = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name.strip(" `"): status.strip(" `") for name, status in rows}

    kinds = [kind for kind in SessionError.__subclasses__() if kind is not TooManyQuestionStreams]
    assert named == {kind.__name__: STATUS[kind].name for kind in kinds}
