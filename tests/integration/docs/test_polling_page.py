"""docs/operations/polling.md, typed as it stands there, against a real server."""

from __future__ import annotations

import hashlib
import json
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from akpolicy.envelope import from_dsse_json
from akpolicy.heartbeat import Heartbeat
from akpolicy.strict_json import load
from tests.integration.docs.pages import blocks, column, read, section, typed
from tests.integration.e2e import programs
from tests.integration.e2e.world import World, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = read("docs/operations/polling.md")
EXPORTS, BUNDLES, UNCHANGED, BLOB, HEARTBEAT, REPORT = (
    "\n".join(typed(block)) for block in blocks(section(PAGE, "## REST"), "console")
)
LEGACY: Final = section(PAGE, "## agentkernel's own hosts")
MAKE_KEY, POLICIES = ("\n".join(typed(block)) for block in blocks(LEGACY, "console"))

pytestmark = pytest.mark.needs_program("curl")


class Shell:
    """Runs what the page says in a directory, with the page's variables."""

    def __init__(self, world: World, rest: str) -> None:
        self._world = world
        self._environment = {"REST": f"http://{rest}", "AKPOLICY_HOST_KEY": world.host_key().secret}

    def __call__(self, commands: str) -> str:
        command = f"cd {shlex.quote(str(self._world.directory))} && set -e -o pipefail\n{commands}"
        done = programs.run(["bash", "-c", command], self._environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        made.init()
        made.server_tables["server"]["rest_listen"] = f"127.0.0.1:{programs.free_port()}"
        for command in MAKE_KEY.splitlines():
            done = made.cli(*shlex.split(command)[1:])
            assert done.returncode == 0, done.stderr
        [written] = [tomllib.loads(block.text)["server"] for block in blocks(LEGACY, "toml")]
        [name] = [Path(uri.removeprefix("file:")).name for uri in written["legacy_signers"].values()]
        made.server_tables["server.legacy_signers"] = {"acme": f"file:{made.directory / name}"}
        made.start_server()
        made.publish(permit("all"))
        yield made


@pytest.fixture(scope="module")
def shell(world: World) -> Shell:
    assert world.server is not None
    return Shell(world, world.server.ready["rest"])


def test_the_variables_are_those_that_the_commands_use() -> None:
    names = {line.removeprefix("export ").split("=")[0] for line in EXPORTS.splitlines()}
    assert names == {"REST", "AKPOLICY_HOST_KEY"}


def test_bundles_come_once_and_content_by_its_digest(world: World, shell: Shell) -> None:
    shell(BUNDLES)
    body = (world.directory / "bundles.json").read_bytes()
    assert f'etag: "{hashlib.sha256(body).hexdigest()}"' in (world.directory / "headers.txt").read_text()
    assert shell(UNCHANGED).split() == ["304"]
    (bundle,) = json.loads(body)["bundles"]
    assert shell(BLOB).split()[0] == bundle["content"]["digest"]


def test_a_heartbeat_answers_and_a_report_is_shown(world: World, shell: Shell) -> None:
    heartbeat = load(from_dsse_json(json.loads(shell(HEARTBEAT))).payload, Heartbeat)
    assert heartbeat.nonce is not None
    assert shell(REPORT) == ""

    def hosts() -> list[dict[str, Any]]:
        done = world.cli("fleet", "hosts", "--org", "acme", "--output", "json")
        listed: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
        return [host for host in listed if host["update_mode"] == "poll"]

    (host,) = wait_until(hosts, what="the polling host")
    assert host["software_version"] == "my-host 1.0"


def test_agentkernels_own_hosts_are_served(world: World, shell: Shell) -> None:
    answer = json.loads(shell(POLICIES))
    key = json.loads(world.cli("keys", "show", "legacy-acme.pem", "--output", "json").stdout)
    assert answer.keys() == {"policies", "version", "expires_at", "signature", "signer_key_id"}
    assert answer["signer_key_id"] == key["key_id"]
    assert '@id("all")' in answer["policies"]


def test_the_statuses_are_those_that_the_server_knows() -> None:
    assert column(PAGE, "Status") == ["400", "401", "403", "404", "409", "413", "429", "503"]
