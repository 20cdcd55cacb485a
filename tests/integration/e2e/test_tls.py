"""TLS everywhere: server, sidecar and operator know each other by certificates, and runtimes ask over TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.client import PolicyClient, ServerEndpoint, SidecarUnreachable
from tests.integration.e2e.world import ASK_TIMEOUT_S, ORG, Tables, World, ask, decided_by, permit
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from tests.simulators.certificates import Identity


@pytest.fixture
def authority(world: World) -> AuthoritySimulator:
    return AuthoritySimulator(world.directory)


@pytest.fixture
def stranger(world: World) -> AuthoritySimulator:
    return AuthoritySimulator(world.directory, "another authority")


@pytest.fixture
def secured(world: World, authority: AuthoritySimulator) -> World:
    """A server with mutual TLS, an operator with a certificate, and a published policy."""
    identity = authority.issue("server")
    world.init()
    world.server_tables["server.tls"] = {
        "cert_file": str(identity.certificate),
        "key_file": str(identity.key),
        "client_ca_file": str(authority.ca_file),
    }
    world.url = world.url.replace("http:", "https:")
    world.ca_file = authority.ca_file
    world.operator = authority.issue("operator")
    world.start_server()
    world.publish(permit("first"))
    return world


def with_tls(tables: Tables, authority: AuthoritySimulator, host: Identity) -> Tables:
    """Add what a host needs to be let in by a server with mutual TLS, and its own listener over TLS."""
    tables["sidecar"] |= {
        "ca_file": str(authority.ca_file),
        "client_cert_file": str(host.certificate),
        "client_key_file": str(host.key),
    }
    tables["sidecar.tcp"] = {
        "listen": "127.0.0.1:0",
        "cert_file": str(host.certificate),
        "key_file": str(host.key),
        "client_ca_file": str(authority.ca_file),
    }
    return tables


def test_policy_travels_over_mutual_tls_and_a_runtime_asks_over_mutual_tls(
    secured: World, authority: AuthoritySimulator, stranger: AuthoritySimulator
) -> None:
    host, runtime = authority.issue("host"), authority.issue("runtime")
    sidecar = secured.start_sidecar(tables=with_tls(secured.sidecar_tables(), authority, host))
    secured.wait_decided_by("first")
    endpoint = ServerEndpoint(
        sidecar.ready["tcp"],
        ca_file=authority.ca_file,
        client_cert_file=runtime.certificate,
        client_key_file=runtime.key,
    )
    with PolicyClient(endpoint, timeout=ASK_TIMEOUT_S) as client:
        decision = ask(client)
        assert (decided_by(decision), decision.source.value) == ("first", "live")

    # No certificate, one of another authority, and a runtime that trusts another authority: nobody is answered.
    other = stranger.issue("other")
    for refused in (
        ServerEndpoint(endpoint.target, ca_file=authority.ca_file),
        ServerEndpoint(
            endpoint.target, ca_file=authority.ca_file, client_cert_file=other.certificate, client_key_file=other.key
        ),
        ServerEndpoint(
            endpoint.target,
            ca_file=stranger.ca_file,
            client_cert_file=runtime.certificate,
            client_key_file=runtime.key,
        ),
    ):
        with PolicyClient(refused, timeout=ASK_TIMEOUT_S) as client, pytest.raises(SidecarUnreachable):
            ask(client)


def test_an_operator_publishes_over_mutual_tls_and_is_told_what_is_wrong_with_the_certificates(
    secured: World, stranger: AuthoritySimulator
) -> None:
    assert secured.operator is not None
    mine = ("--client-cert-file", secured.operator.certificate, "--client-key-file", secured.operator.key)
    policies = secured.directory / "second.cedar"
    policies.write_text(permit("second"), encoding="utf-8")
    command = ("policy", "publish", policies, "--org", ORG)

    done = secured.cli(*command, "--ca-file", str(secured.ca_file), *mine)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"published org/{ORG} version 2"), done.stderr

    wrong_ca = secured.cli(*command, "--ca-file", stranger.ca_file, *mine)
    assert wrong_ca.returncode == 1
    assert f"\nerror: cannot reach the policy server at `127.0.0.1:{secured.port}`" in f"\n{wrong_ca.stderr}"
    assert "CERTIFICATE_VERIFY_FAILED" in wrong_ca.stderr
    assert "check the address, the CA file" in wrong_ca.stderr
    assert "ssl_transport_security" not in wrong_ca.stderr, "gRPC speaks where an operator reads"

    no_certificate = secured.cli(*command, "--ca-file", str(secured.ca_file))
    assert no_certificate.returncode == 1
    assert "cannot reach the policy server" in no_certificate.stderr
    assert [revision.version for revision in secured.history()] == [2, 1]


def test_a_sidecar_that_does_not_trust_the_server_says_so_and_gets_no_policy(
    secured: World, authority: AuthoritySimulator, stranger: AuthoritySimulator
) -> None:
    tables = with_tls(secured.sidecar_tables(), authority, authority.issue("host"))
    tables["sidecar"]["ca_file"] = str(stranger.ca_file)
    sidecar = secured.start_sidecar(tables=tables)
    trouble = sidecar.wait_for_record("no connection to the policy server")
    assert trouble["status"] == "UNAVAILABLE"
    assert "CERTIFICATE_VERIFY_FAILED" in trouble["detail"]
    assert len(sidecar.log.read_text(encoding="utf-8").splitlines()) == len(sidecar.records()), "not all lines are JSON"
    assert decided_by(secured.ask()) == "NO_POLICY"

    # A plaintext URL to a server with TLS gets nowhere either.
    sidecar.stop()
    plain = secured.sidecar_tables()
    plain["enterprise"]["policy_server"] = secured.url.replace("https:", "http:")
    seen = len(sidecar.records())
    again = secured.start_sidecar(tables=plain)
    again.wait_for_record("no connection to the policy server")
    assert not any(record["event"] == "update applied" for record in again.records()[seen:])
    assert decided_by(secured.ask()) == "NO_POLICY"
