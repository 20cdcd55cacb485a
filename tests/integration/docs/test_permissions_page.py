"""docs/permissions.md: its policies publish, its command prints what the page shows, its program runs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.engine.annotations import KNOWN
from akpolicy.engine.permissions import PROFILES, Permissions
from tests.integration.docs.pages import blocks, column, read
from tests.integration.e2e import programs
from tests.integration.e2e.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = read("docs/permissions.md")
[POLICIES] = [block.text for block in blocks(PAGE, "cedar")]
[COMMAND] = [block.text for block in blocks(PAGE, "console")]
[SHOWN] = [block.text for block in blocks(PAGE, "text")]
[PROGRAM] = [block.text for block in blocks(PAGE, "python")]


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    """A host of the page's org that enforces the page's policies."""
    with World() as world:
        world.init("acme")
        world.start_server()
        world.publish(POLICIES, "acme")
        world.start_sidecar(org="acme")
        world.wait_for_decision(lambda d: bool(d.bundles), org="acme")
        yield world


def test_the_command_prints_what_the_page_shows(host: World) -> None:
    program, *arguments = shlex.split(COMMAND)
    assert program == "akpolicy"
    socket = ["--socket", str(host.directory / "host-1.sock")]
    done = programs.run([str(programs.SCRIPTS / program), *arguments, *socket])
    assert (done.returncode, done.stdout.strip()) == (0, SHOWN.strip())


def test_the_program_gets_permissions(host: World) -> None:
    program = PROGRAM.replace("/run/akpolicy/sidecar.sock", str(host.directory / "host-1.sock"))
    assert program != PROGRAM
    done = programs.run([sys.executable, "-W", "error", "-c", program])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["True True 1024", "max_memory_mb org/acme/developers"]


def test_the_tables_name_all_fields_annotations_and_profiles() -> None:
    named = {name for cell in column(PAGE, "Field") for name in cell.replace("`", "").split(", ")}
    assert named == {field.name for field in fields(Permissions)}
    assert all(f"`@{name}(" in PAGE for name in KNOWN)
    assert {cell.strip("`") for cell in column(PAGE, "Profile")} == set(PROFILES)
