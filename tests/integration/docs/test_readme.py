"""The README's commands, typed as they stand there and in that order.

Replaced are only what a test may not use on a shared machine: ports (`--listen`, `--metrics-listen`, the port in
`policy_server`), the sidecar's directories and its socket (keys of `[sidecar]`, `AKPOLICY_SOCKET`). The
anchor is the one that `init` prints.
"""

from __future__ import annotations

import re
import shlex
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from akpolicy.client import PolicyClient
from tests.integration.docs.pages import blocks, read, section, typed
from tests.integration.e2e import programs
from tests.integration.e2e.world import World
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_IT = section(read("README.md"), "## Run it")


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def test_make_demo_and_the_kept_demo_are_commands_that_exist() -> None:
    try_it = section(read("README.md"), "## Try it")
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    commands = [command for block in blocks(try_it, "console") for command in typed(block)]
    assert commands
    for command in commands:
        make, target = command.split()
        assert make == "make"
        assert target in targets
    assert "`.venv/bin/akpolicy demo --keep`" in try_it


@pytest.mark.slow
def test_the_commands_of_run_it_lead_to_an_allowed_request(world: World) -> None:
    [init, serve], [enforce], [copy, validate, publish, ask] = (typed(block) for block in blocks(RUN_IT, "console"))
    # The reader sits in a clone.
    (world.directory / "akpolicy").symlink_to(str(resources.files("akpolicy")))
    type_in(world, copy)

    # On the server.
    made = type_in(world, f"{init} --listen 127.0.0.1:{world.port} --metrics-listen 127.0.0.1:0")
    world.start("server", shlex.split(serve))
    operator = dict(re.findall(r"(AKPOLICY_\w+)=(\S+)", made))
    assert operator.keys() == {"AKPOLICY_SERVER", "AKPOLICY_API_KEY"}

    # On the host.
    [settings] = blocks(RUN_IT, "toml")
    anchor = re.search(r'keys = \["(ed25519:[^"]+)"\]', made)
    assert anchor is not None
    text = settings.text.replace("ed25519:...", anchor[1]).replace(":8180", f":{world.port}")
    text += '[sidecar]\nsocket = "s.sock"\nstate_dir = "state"\nmetrics_listen = "127.0.0.1:0"\n'
    (world.directory / "sidecar.toml").write_text(text, encoding="utf-8")
    create_key = re.search(r"from: (akpolicy apikey create .+)$", settings.text, re.MULTILINE)
    assert create_key is not None
    secret = re.search(r"^secret\s+(\S+)$", type_in(world, create_key[1], operator), re.MULTILINE)
    assert secret is not None
    world.start("sidecar", shlex.split(enforce), {"AKPOLICY_HOST_KEY": secret[1]})

    # Publish and ask.
    assert type_in(world, validate, operator).startswith("ok: ")
    assert "version 1" in type_in(world, publish, operator)
    with PolicyClient(world.directory / "s.sock") as client:
        # A person takes longer to type the next command than a policy takes to arrive.
        wait_until(client.ready, what="a sidecar with a policy")
    answer = type_in(world, ask, {"AKPOLICY_SOCKET": str(world.directory / "s.sock")})
    assert answer.startswith("allow  ")
    assert "developer-basics" in answer


def type_in(world: World, command: str, env: dict[str, str] | None = None) -> str:
    """Type a command into a shell and return its answer; it must succeed."""
    done = programs.run(["sh", "-c", command], env, cwd=world.directory)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout
