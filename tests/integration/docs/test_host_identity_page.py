"""docs/operations/host-identity.md, typed as it stands there, against a real server and a real host."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.integration.docs.pages import blocks, column, read, typed
from tests.integration.e2e import programs
from tests.integration.e2e.world import Tables, World, decided_by, permit
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = read("docs/operations/host-identity.md")
CA, ISSUE, FLEET, EXPORTS, REST, STOP = (typed(block) for block in blocks(PAGE, "console"))
SERVER, SIDECAR = (tomllib.loads(block.text) for block in blocks(PAGE, "toml"))
DENY, DENIED, ALLOW = STOP
HOST: Final = "laptop-1"

pytestmark = pytest.mark.needs_program("openssl")


def type_in(world: World, command: str) -> str:
    """Type a command in the directory with all the files, and return what it printed."""
    text = command.replace("akpolicy-server ", f"{sys.executable} -m akpolicy_server ")
    text = text.replace("--config server.toml", f"--config {world.server_dir}/server.toml")
    environment = {
        "AKPOLICY_SERVER": world.url,
        "AKPOLICY_API_KEY": world.admin_key,
        "AKPOLICY_CA_FILE": str(world.ca_file),
        "REST": f"https://{world.server.ready['hosts_rest']}" if world.server is not None else "",
    }
    done = programs.run(["sh", "-c", text], environment, cwd=world.directory)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def tables_of(world: World, settings: dict[str, Any]) -> Tables:
    """Return the page's sidecar.toml, with this world's address, anchors and paths."""
    assert world.server is not None
    tables = world.sidecar_tables(HOST)
    shown = {name: value for name, value in settings["enterprise"].items() if name != "trust_anchors"}
    assert shown.pop("policy_server").endswith(":8184")
    tables["enterprise"] = {**shown, "policy_server": f"https://{world.server.ready['hosts']}"}
    tables["sidecar"] |= settings["sidecar"]
    return tables


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A server as the page configures it, and a host that got its certificate as the page has it."""
    with World() as world:
        for command in (*CA, *ISSUE):
            type_in(world, command)
        authority = AuthoritySimulator(world.directory, "server ca")
        identity = authority.issue("server")
        authority.ca_file.rename(world.directory / "server-ca.crt")
        world.ca_file = world.directory / "server-ca.crt"
        world.init()
        hosts = dict(SERVER["server"]["host_certificates"])
        hosts |= {"listen": "127.0.0.1:0", "rest_listen": "127.0.0.1:0"}
        hosts |= {"client_ca_file": str(world.directory / hosts["client_ca_file"])}
        world.server_tables["server.tls"] = {"cert_file": str(identity.certificate), "key_file": str(identity.key)}
        world.server_tables["server.host_certificates"] = hosts
        world.url = world.url.replace("http:", "https:")
        world.start_server()
        world.publish(permit("first"))
        world.start_sidecar(HOST, tables=tables_of(world, SIDECAR), secret="")
        world.wait_decided_by("first", HOST)
        yield world


def test_the_host_is_in_the_fleet_under_the_id_of_its_certificate(world: World) -> None:
    [command] = FLEET
    assert [line.split()[:2] for line in type_in(world, command).splitlines()[1:]] == [[HOST, "connected"]]


def test_a_stolen_certificate_is_stopped_and_the_host_let_in_again(world: World) -> None:
    assert type_in(world, DENY).startswith("acme/laptop-1 is refused since ")
    said = world.sidecars[HOST].wait_for_record("policy server refuses the API key or certificate")
    assert f"`{said['status']}`" in column(PAGE, "The sidecar's log says")
    assert re.fullmatch(r"acme/laptop-1 +\S+Z +stolen\n", type_in(world, DENIED))
    assert decided_by(world.ask(HOST)) == "first"
    assert type_in(world, ALLOW) == "acme/laptop-1 is refused no more\n"
    world.wait_for_decision(lambda decision: decision.source.value == "live", HOST)


@pytest.mark.needs_program("curl")
def test_a_host_that_only_has_http_shows_the_same_certificate(world: World) -> None:
    assert [line.split("=")[0] for line in EXPORTS] == ["export REST"]
    bundles, unchanged, report = REST
    type_in(world, bundles)
    body = (world.directory / "bundles.json").read_bytes()
    assert f'etag: "{hashlib.sha256(body).hexdigest()}"' in (world.directory / "headers.txt").read_text()
    assert type_in(world, unchanged).split() == ["304"]
    assert type_in(world, report) == ""
    assert type_in(world, DENY)
    code = unchanged.replace("If-None-Match", "X-None")
    assert type_in(world, code).split() == ["403"]
    type_in(world, ALLOW)
    assert type_in(world, code).split() == ["200"]


def test_what_the_page_says_of_a_certificate_is_what_is_issued() -> None:
    [shown] = [block.text.splitlines()[0] for block in blocks(PAGE, "text")]
    assert any(f"URI:{shown}" in command for command in ISSUE)
