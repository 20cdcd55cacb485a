"""A host without an API key: its certificate is all that it shows, from the first contact to being refused."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.e2e import programs
from tests.integration.e2e.world import ORG, Tables, World, decided_by, permit
from tests.simulators.certificates import AuthoritySimulator, Identity
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    import subprocess

    from tests.integration.e2e.programs import Program

HOST = "laptop-1"
DOMAIN = "hosts.example.com"
REACHED = "policy server reached"
REFUSES = "policy server refuses the API key or certificate"


@pytest.fixture
def authority(world: World) -> AuthoritySimulator:
    return AuthoritySimulator(world.directory)


@pytest.fixture
def secured(world: World, authority: AuthoritySimulator) -> World:
    """A server with a listener for hosts with certificates, and a published policy."""
    identity = authority.issue("server")
    world.init()
    world.server_tables["server.tls"] = {"cert_file": str(identity.certificate), "key_file": str(identity.key)}
    world.server_tables["server.host_certificates"] = {
        "listen": "127.0.0.1:0",
        "client_ca_file": str(authority.ca_file),
        "trust_domain": DOMAIN,
        "orgs": [ORG],
    }
    world.url = world.url.replace("http:", "https:")
    world.ca_file = authority.ca_file
    world.start_server()
    world.publish(permit("first"))
    return world


def issue(authority: AuthoritySimulator, name: str, host_id: str = HOST) -> Identity:
    return authority.issue(name, uris=[f"spiffe://{DOMAIN}/org/{ORG}/host/{host_id}"])


def tables(world: World, authority: AuthoritySimulator, identity: Identity) -> Tables:
    """Return the configuration of a host that has a certificate and no API key."""
    assert world.server is not None
    made = world.sidecar_tables(HOST)
    made["enterprise"]["policy_server"] = f"https://{world.server.ready['hosts']}"
    made["enterprise"]["offline_mode"] = "fail_closed"
    del made["enterprise"]["api_key_env"]
    made["sidecar"] |= {
        "ca_file": str(authority.ca_file),
        "client_cert_file": str(identity.certificate),
        "client_key_file": str(identity.key),
    }
    return made


def opened_by(server: Program) -> list[str]:
    return [record["key_id"] for record in server.records() if record["event"] == "stream opened"]


def hosts_command(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = str(world.server_dir / "server.toml")
    return programs.run([sys.executable, "-m", "akpolicy_server", "hosts", *arguments, "--config", config])


def test_a_host_is_known_by_its_certificate_and_follows_a_renewed_one(
    secured: World, authority: AuthoritySimulator
) -> None:
    identity = issue(authority, "host")
    sidecar = secured.start_sidecar(HOST, tables=tables(secured, authority, identity), secret="")
    secured.wait_decided_by("first", HOST)
    server = secured.server
    assert server is not None
    [first] = opened_by(server)
    issue(authority, "next").move_to(identity)
    wait_until(lambda: len(opened_by(server)) == 2, what="a stream that the new certificate opened")
    assert first.startswith("x509:")
    assert first not in opened_by(server)[1:]
    secured.publish(permit("second"))
    secured.wait_decided_by("second", HOST)
    assert sidecar.metric("akpolicy_sidecar_reconnects_total") == 0

    listed = secured.cli("fleet", "hosts", "--org", ORG, "--output", "json", "--ca-file", str(authority.ca_file))
    assert [(host["host_id"], host["connected"]) for host in json.loads(listed.stdout)] == [(HOST, True)], listed.stderr


def test_a_refused_host_is_let_go_and_let_in_again(secured: World, authority: AuthoritySimulator) -> None:
    identity = issue(authority, "host")
    sidecar = secured.start_sidecar(HOST, tables=tables(secured, authority, identity), secret="")
    secured.wait_decided_by("first", HOST)
    mine = ("--org", ORG, "--host-id", HOST)
    denied = hosts_command(secured, "deny", *mine, "--reason", "stolen")
    assert denied.returncode == 0, denied.stderr
    said = sidecar.wait_for_record(REFUSES)
    assert said["status"] == "PERMISSION_DENIED"
    assert "refused by this server's operator" in said["detail"]
    # It was asked to deny when it has no contact.
    secured.wait_for_decision(lambda d: decided_by(d) == "POLICY_STALE", HOST)
    [listed] = json.loads(hosts_command(secured, "denied", "--output", "json").stdout)
    assert (listed["org"], listed["host_id"], listed["reason"]) == (ORG, HOST, "stolen")
    assert "stolen" in hosts_command(secured, "denied").stdout

    assert hosts_command(secured, "allow", *mine).returncode == 0
    secured.wait_decided_by("first", HOST)
    again = hosts_command(secured, "allow", *mine)
    assert (again.returncode, again.stderr) == (1, f"error: the host `{HOST}` of `{ORG}` is not refused\n")


def test_a_certificate_of_another_host_id_or_authority_gets_nothing(
    secured: World, authority: AuthoritySimulator
) -> None:
    stranger = AuthoritySimulator(secured.directory, "another authority")
    sidecar = secured.start_sidecar(HOST, tables=tables(secured, authority, issue(stranger, "stranger")), secret="")
    sidecar.wait_for_record("no connection to the policy server", status="UNAVAILABLE")
    assert decided_by(secured.ask(HOST)) == "NO_POLICY"
    sidecar.stop()
    foreign = authority.issue("foreign", uris=[f"spiffe://{DOMAIN}/org/globex/host/{HOST}"])
    again = secured.start_sidecar(HOST, tables=tables(secured, authority, foreign), secret="")
    assert again.wait_for_record(REFUSES)["status"] == "PERMISSION_DENIED"
    assert not any(record["event"].startswith(REACHED) for record in again.records())


def test_a_key_that_others_can_read_is_no_identity(secured: World, authority: AuthoritySimulator) -> None:
    identity = issue(authority, "host")
    identity.key.chmod(0o604)
    done = secured.run_sidecar(tables(secured, authority, identity))
    assert done.returncode == 2
    assert "sidecar.client_key_file: others have access to the client key" in done.stderr
