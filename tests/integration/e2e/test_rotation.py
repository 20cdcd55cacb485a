"""Certificates and API keys are renewed under running programs: nothing is restarted, and no call is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from akpolicy.client import Decision, PolicyClient, PolicySource, ServerEndpoint
from akpolicy.errors import ServerUnreachable
from tests.integration.e2e.repeating import Repeating
from tests.integration.e2e.world import ASK_TIMEOUT_S, HOST, ORG, Tables, World, ask, decided_by, permit
from tests.simulators.certificates import AuthoritySimulator, Identity, shown_serial
from tests.simulators.mounted_secret import MountedSecret
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.e2e.programs import Program

CHANGED = "credentials changed on disk"
REACHED = "policy server reached"
UNUSABLE = "TLS files cannot be used"


@pytest.fixture
def authority(world: World) -> AuthoritySimulator:
    return AuthoritySimulator(world.directory)


@pytest.fixture
def other(world: World) -> AuthoritySimulator:
    return AuthoritySimulator(world.directory, "another authority")


@pytest.fixture
def server_files(authority: AuthoritySimulator) -> Identity:
    return authority.issue("server")


@pytest.fixture
def secured(world: World, authority: AuthoritySimulator, server_files: Identity) -> World:
    """A server with mutual TLS, an operator with a certificate, and a published policy."""
    clients = world.directory / "clients.pem"
    clients.write_bytes(authority.ca_file.read_bytes())
    serve(world, server_files.certificate, server_files.key, clients)
    world.ca_file = authority.ca_file
    world.operator = authority.issue("operator")
    world.publish(permit("first"))
    return world


def init(world: World) -> None:
    """Make a server whose streams do not count as silent on a busy machine."""
    world.init()
    world.server_tables["server"]["keep_alive_seconds"] = 10.0


def serve(world: World, certificate: Path, key: Path, client_ca: Path) -> None:
    """Start a new server with mutual TLS."""
    init(world)
    world.server_tables["server.tls"] = {
        "cert_file": str(certificate),
        "key_file": str(key),
        "client_ca_file": str(client_ca),
    }
    world.url = world.url.replace("http:", "https:")
    world.start_server()


def enforce(world: World, trusting: Path, host: Identity, **sidecar: object) -> Program:
    """Start a sidecar with mutual TLS, whose policy is void as soon as contact is lost, and wait for its policy."""
    tables = world.sidecar_tables()
    tables["enterprise"]["offline_mode"] = "fail_closed"
    tables["sidecar"] |= {
        "ca_file": str(trusting),
        "client_cert_file": str(host.certificate),
        "client_key_file": str(host.key),
    }
    if sidecar:
        tables["sidecar.tcp"] = sidecar
    program = world.start_sidecar(tables=tables)
    world.wait_decided_by("first")
    return program


def expiry(identity: Identity) -> float:
    return x509.load_pem_x509_certificate(identity.certificate.read_bytes()).not_valid_after_utc.timestamp()


def replace_file(path: Path, content: bytes) -> None:
    """Put new content in place of a file at once, private as it is."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.rename(path)


def all_live(decisions: list[Decision]) -> bool:
    return all(decision.allowed and decision.source is PolicySource.LIVE for decision in decisions)


def count(program: Program, event: str) -> int:
    return sum(record["event"].startswith(event) for record in program.records())


# --- the server's certificate -----------------------------------------------------------------------------------------


def test_new_handshakes_get_the_servers_new_certificate_and_an_open_stream_lives_on(
    secured: World, authority: AuthoritySimulator, server_files: Identity
) -> None:
    sidecar = enforce(secured, authority.ca_file, authority.issue("host"))
    server, address = secured.server, f"127.0.0.1:{secured.port}"
    assert server is not None
    # Each reading of the history opens a connection.
    with Repeating(secured.history) as connecting, Repeating(secured.ask) as asking:
        for days in (2, 3):
            connecting.more()
            new = authority.issue("next", days=days)
            serial = new.serial
            new.move_to(server_files)
            assert shown_serial(address, authority) == serial
            assert server.metric("akpolicy_server_tls_certificate_expiry_timestamp_seconds") == expiry(server_files)
            connecting.more()
        secured.publish(permit("second"))
        secured.wait_decided_by("second")
        asking.more()
    assert all_live(asking.results)
    assert sidecar.metric("akpolicy_sidecar_reconnects_total") == 0
    assert count(sidecar, REACHED) == 1
    assert count(server, "changed TLS files are in use") == 2


def test_half_a_rotation_leaves_the_old_pair_in_use(
    secured: World, authority: AuthoritySimulator, server_files: Identity
) -> None:
    server, address = secured.server, f"127.0.0.1:{secured.port}"
    assert server is not None
    old, new = server_files.serial, authority.issue("next", days=2)
    old_expiry, new_serial = expiry(server_files), new.serial
    with Repeating(secured.history) as connecting:
        new.certificate.rename(server_files.certificate)
        for _ in range(3):
            assert shown_serial(address, authority) == old
        connecting.more()
        assert server.metric("akpolicy_server_credential_reload_failures_total") == 1
        assert server.metric("akpolicy_server_tls_certificate_expiry_timestamp_seconds") == old_expiry
        assert str(server_files.key) in server.wait_for_record(UNUSABLE, level="error")["error"]
        assert count(server, UNUSABLE) == 1
        new.key.rename(server_files.key)
        assert shown_serial(address, authority) == new_serial
        connecting.more()
    assert server.metric("akpolicy_server_credential_reload_failures_total") == 1


def test_a_mounted_secret_with_another_client_authority_lets_its_clients_in_and_the_old_ones_no_more(
    world: World, authority: AuthoritySimulator, other: AuthoritySimulator
) -> None:
    def content(name: str, clients: bytes) -> dict[str, bytes]:
        made = authority.issue(name)
        files = {"tls.crt": made.certificate, "tls.key": made.key}
        return {"clients.crt": clients, **{file: path.read_bytes() for file, path in files.items()}}

    secret = MountedSecret(world.directory / "secret", content("first-server", authority.ca_file.read_bytes()))
    serve(world, *(secret.directory / name for name in ("tls.crt", "tls.key", "clients.crt")))
    world.ca_file = authority.ca_file
    world.operator = before = authority.issue("operator")
    world.publish(permit("first"))
    enforce(world, authority.ca_file, authority.issue("host"))
    after = other.issue("new-operator")

    with Repeating(world.ask) as asking:
        # Both are let in, then the new ones alone.
        secret.switch(content("second-server", authority.ca_file.read_bytes() + other.ca_file.read_bytes()))
        for operator in (before, after):
            world.operator = operator
            assert len(world.history()) == 1
        secret.switch(content("third-server", other.ca_file.read_bytes()))
        assert len(world.history()) == 1
        world.operator = before
        with pytest.raises(ServerUnreachable):
            world.history()
        # A stream that stands is not touched.
        world.operator = after
        world.publish(permit("second"))
        world.wait_decided_by("second")
        asking.more()
    assert all_live(asking.results)


# --- what a sidecar shows to the server, and trusts it by -------------------------------------------------------------


def with_key_file(world: World, secret: str) -> tuple[Tables, Path]:
    """Return a host's configuration with its API key in a file, and that file."""
    tables, path = world.sidecar_tables(), world.directory / "host.key"
    replace_file(path, secret.encode())
    del tables["enterprise"]["api_key_env"]
    tables["enterprise"]["api_key_file"] = str(path)
    return tables, path


def another_key(world: World) -> str:
    with world.publishing() as client:
        return client.create_api_key(org=ORG, role="host", host_id=HOST).secret


@pytest.fixture
def open_world(world: World) -> World:
    """A server without TLS, and a published policy."""
    init(world)
    world.start_server()
    world.publish(permit("first"))
    return world


def test_a_host_whose_key_is_revoked_connects_with_the_new_one_in_its_file(open_world: World) -> None:
    first = open_world.host_key()
    tables, path = with_key_file(open_world, first.secret)
    sidecar = open_world.start_sidecar(tables=tables, secret="unused")
    open_world.wait_decided_by("first")
    with Repeating(open_world.ask) as asking:
        with open_world.publishing() as client:
            client.revoke_api_key(first.key_id)
        sidecar.wait_for_record("policy server refuses the API key")
        second = another_key(open_world)
        replace_file(path, second.encode() + b"\n")
        wait_until(lambda: sidecar.metric("akpolicy_sidecar_connected") == 1)
        open_world.publish(permit("second"))
        open_world.wait_decided_by("second")
        asking.more()
    assert all(decision.allowed for decision in asking.results)
    log = sidecar.log.read_text(encoding="utf-8")
    assert not any(secret in log for secret in (first.secret, second))


def test_a_key_that_is_replaced_before_it_is_revoked_costs_no_moment_of_contact(open_world: World) -> None:
    first = open_world.host_key()
    tables, path = with_key_file(open_world, first.secret)
    tables["enterprise"]["offline_mode"] = "fail_closed"
    sidecar = open_world.start_sidecar(tables=tables, secret="unused")
    open_world.wait_decided_by("first")
    with Repeating(open_world.ask) as asking:
        for number in (2, 3):
            replace_file(path, another_key(open_world).encode())
            wait_until(lambda number=number: count(sidecar, REACHED) == number)  # type: ignore[misc]
        with open_world.publishing() as client:
            client.revoke_api_key(first.key_id)
        open_world.publish(permit("second"))
        open_world.wait_decided_by("second")
        asking.more()
    assert all_live(asking.results)
    assert count(sidecar, CHANGED) == 2
    assert sidecar.metric("akpolicy_sidecar_reconnects_total") == 0


def test_a_key_file_that_others_can_read_is_trouble_and_no_crash(open_world: World) -> None:
    tables, path = with_key_file(open_world, open_world.host_key().secret)
    sidecar = open_world.start_sidecar(tables=tables, secret="unused")
    open_world.wait_decided_by("first")
    with Repeating(open_world.ask) as asking:
        path.chmod(0o644)
        said = sidecar.wait_for_record("TLS or API key files cannot be used")
        assert (said["use"], said["code"]) == ("client", "ConfigError")
        assert sidecar.metric("akpolicy_sidecar_credential_reload_failures_total", use="client") == 1
        # The stream stands until it is lost for another reason.
        assert sidecar.metric("akpolicy_sidecar_connected") == 1
        assert open_world.server is not None
        open_world.server.stop()
        open_world.start_server()
        wait_until(lambda: sidecar.readiness()[1]["connection"] == "ConfigError")
        path.chmod(0o600)
        wait_until(lambda: sidecar.metric("akpolicy_sidecar_connected") == 1)
        asking.more()
    assert all(decision.allowed for decision in asking.results)
    assert count(sidecar, "TLS or API key files cannot be used") == 1


def test_a_host_goes_over_to_another_authority_without_losing_contact(
    secured: World, authority: AuthoritySimulator, other: AuthoritySimulator, server_files: Identity
) -> None:
    roots, host = secured.directory / "roots.pem", authority.issue("host")
    roots.write_bytes(authority.ca_file.read_bytes())
    sidecar = enforce(secured, roots, host)
    both = authority.ca_file.read_bytes() + other.ca_file.read_bytes()
    with Repeating(secured.ask) as asking:
        # Trust first, then what is shown, then the end of the old: each step is one that the other end bears.
        replace_file(roots, both)
        wait_until(lambda: count(sidecar, REACHED) == 2)
        replace_file(secured.directory / "clients.pem", both)
        other.issue("other-server").move_to(server_files)
        other.issue("other-host", days=2).move_to(host)
        wait_until(lambda: count(sidecar, REACHED) == 3)
        metric = "akpolicy_sidecar_tls_certificate_expiry_timestamp_seconds"
        assert sidecar.metric(metric, use="client") == expiry(host)
        replace_file(roots, other.ca_file.read_bytes())
        wait_until(lambda: count(sidecar, REACHED) == 4)
        replace_file(secured.directory / "clients.pem", other.ca_file.read_bytes())
        secured.ca_file, secured.operator = other.ca_file, other.issue("other-operator")
        secured.publish(permit("second"))
        secured.wait_decided_by("second")
        asking.more()
    assert all_live(asking.results)
    assert sidecar.metric("akpolicy_sidecar_reconnects_total") == 0


# --- a sidecar's listener ---------------------------------------------------------------------------------------------


def test_runtimes_are_answered_while_the_sidecars_certificate_is_renewed(
    secured: World, authority: AuthoritySimulator
) -> None:
    shown, runtime = authority.issue("shown"), authority.issue("runtime")
    sidecar = enforce(
        secured,
        authority.ca_file,
        authority.issue("host"),
        listen="127.0.0.1:0",
        cert_file=str(shown.certificate),
        key_file=str(shown.key),
        client_ca_file=str(authority.ca_file),
    )
    address = sidecar.ready["tcp"]
    endpoint = ServerEndpoint(address, True, authority.ca_file, runtime.certificate, runtime.key)
    metric = "akpolicy_sidecar_tls_certificate_expiry_timestamp_seconds"

    def ask_anew() -> Decision:
        with PolicyClient(endpoint, timeout=ASK_TIMEOUT_S) as client:
            return ask(client)

    with PolicyClient(endpoint, timeout=ASK_TIMEOUT_S) as standing:
        with Repeating(lambda: ask(standing)) as asking, Repeating(ask_anew) as connecting:
            new = authority.issue("next", days=2)
            old_serial, new_serial = shown.serial, new.serial
            assert shown_serial(address, authority) == old_serial
            assert sidecar.metric(metric, use="listener") == expiry(shown)
            new.key.rename(shown.key)
            assert shown_serial(address, authority) == old_serial
            connecting.more()
            new.certificate.rename(shown.certificate)
            assert shown_serial(address, authority) == new_serial
            assert sidecar.metric(metric, use="listener") == expiry(shown)
            asking.more()
            connecting.more()
        assert decided_by(ask(standing)) == "first"
    assert all_live(asking.results + connecting.results)
    assert sidecar.metric("akpolicy_sidecar_credential_reload_failures_total", use="listener") == 1
