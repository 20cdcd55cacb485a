"""`GET /v1/policies`, as agentkernel's own hosts ask for it."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.errors import ConfigError, ServerRefused, StartupError
from akpolicy.legacy import signed_bytes
from akpolicy.signing import PrivateKeySigner
from akpolicy_server.settings import ServerSettings
from tests.integration.server.conftest import ANY_PORT, LiveServer, live_server, policy
from tests.simulators.http_host import HttpHost
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = "org/acme"
PATH = "/v1/policies"
CONTEXT = (
    '@id("ctx") forbid (principal, action == AgentKernel::Action::"Exec", resource) when { context.source == "x" };'
)


def key_file(directory: Path, name: str = "legacy") -> tuple[PrivateKeySigner, str]:
    signer = PrivateKeySigner.generate()
    path = directory / f"{name}.pem"
    path.write_bytes(signer.to_pem())
    path.chmod(0o600)
    return signer, f"file:{path}"


@pytest.fixture
def signer(tmp_path: Path) -> tuple[PrivateKeySigner, str]:
    return key_file(tmp_path)


@pytest.fixture
def server(tmp_path: Path, signer: tuple[PrivateKeySigner, str]) -> Iterator[LiveServer]:
    with live_server(tmp_path, rest_listen=ANY_PORT, legacy_signers={"acme": signer[1]}) as running:
        yield running


@pytest.fixture
def host(server: LiveServer) -> HttpHost:
    return HttpHost(str(server.serving.rest_listen), server.admin.create_key("acme", "host", "host-1").secret)


def restarted(before: LiveServer, uri: str) -> LiveServer:
    """Return the server anew, which serves agentkernel's own hosts of `acme` now."""
    settings = ServerSettings.load(before.made.config, env={})
    section = replace(settings.server, rest_listen=ANY_PORT, legacy_signers={"acme": uri})
    return LiveServer(replace(settings, server=section), before.made)


def verified(answer: dict[str, Any], signer: PrivateKeySigner) -> str:
    """Return the policies, verified as agentkernel does."""
    message = signed_bytes(answer["version"], answer["expires_at"], answer["policies"])
    assert signer.public_key.verifies(base64.b64decode(answer["signature"], validate=True), message)
    assert answer["signer_key_id"] == signer.public_key.key_id
    return str(answer["policies"])


def test_the_org_of_the_key_is_served_whole_and_signed(
    server: LiveServer, host: HttpHost, signer: tuple[PrivateKeySigner, str]
) -> None:
    server.admin.publish("global", policy("everywhere") + policy("both"))
    server.admin.publish(OWN, policy("both", role="admin"))
    first = host.get(PATH)
    assert (first.status, first.headers["cache-control"]) == (200, "no-store")
    text = verified(first.json, signer[0])
    # The org's policy replaces the permit of the same id.
    assert (text.count('@id("both")'), text.count('@id("everywhere")')) == (1, 1)
    assert '"admin"' in text
    until = datetime.fromisoformat(first.json["expires_at"])
    assert first.json["expires_at"] == until.isoformat(timespec="seconds")
    assert first.json["expires_at"].endswith("+00:00")
    # Never 304, whatever it is asked with; and the same while nothing changes.
    assert host.get(PATH, If_None_Match="*").json == first.json
    server.admin.publish(OWN, policy("newer"))
    wait_until(lambda: "newer" in host.get(PATH).json["policies"], what="the new text")
    second = host.get(PATH).json
    verified(second, signer[0])
    assert second["version"] > first.json["version"]


def test_a_replaced_forbid_is_served_still(
    server: LiveServer, host: HttpHost, signer: tuple[PrivateKeySigner, str]
) -> None:
    server.admin.publish("global", '@id("stop") forbid (principal, action, resource) when { !principal.mfa_verified };')
    server.admin.publish(OWN, policy("stop"))
    text = verified(host.get(PATH).json, signer[0])
    assert (text.count("forbid"), text.count("permit")) == (1, 1)


def test_nothing_published_is_a_signed_text_that_permits_nothing(
    host: HttpHost, signer: tuple[PrivateKeySigner, str]
) -> None:
    answer = host.get(PATH)
    assert answer.status == 200
    assert verified(answer.json, signer[0]) == ""
    assert answer.json["expires_at"]


def test_a_bad_key_is_refused_and_so_is_an_org_that_is_not_served(server: LiveServer, host: HttpHost) -> None:
    for secret in ("", "akp_" + "0" * 16 + "_" + "A" * 43, "nonsense"):
        refused = HttpHost(host.address, secret).get(PATH)
        assert (refused.status, refused.code) == (401, "Unauthenticated")
    other = HttpHost(host.address, server.admin.create_key("globex", "host", "host-1").secret).get(PATH)
    assert (other.status, other.code) == (404, "LegacyNotServed")
    assert HttpHost(host.address, server.made.admin_api_key).get(PATH).status == 403


@pytest.mark.parametrize("scope", [OWN, "global"])
def test_what_such_hosts_would_not_understand_is_refused_at_publish(server: LiveServer, scope: str) -> None:
    with pytest.raises(grpc.RpcError, match="agentkernel's own hosts of `acme`") as caught:
        server.admin.publish(scope, CONTEXT)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    # Of an org without such hosts it is taken.
    server.admin.publish("org/globex", CONTEXT)


def test_layers_of_teams_are_refused_at_publish(server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError, match="know no teams and users") as caught:
        server.admin.publish("org/acme/team/red", policy("one"))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_a_rollback_is_held_to_it_too(tmp_path: Path, signer: tuple[PrivateKeySigner, str]) -> None:
    with live_server(tmp_path, rest_listen=ANY_PORT) as before:
        before.admin.publish(OWN, CONTEXT)
        before.admin.publish(OWN, policy("fine"))
    with (
        restarted(before, signer[1]) as server,
        server.client() as client,
        pytest.raises(ServerRefused, match="agentkernel's own hosts of `acme`"),
    ):
        client.rollback(OWN, 1)


@pytest.mark.parametrize(("scope", "text"), [(OWN, CONTEXT), ("org/acme/user/alice", policy("one"))])
def test_what_was_published_before_is_looked_at_again_when_it_is_served(
    tmp_path: Path, signer: tuple[PrivateKeySigner, str], scope: str, text: str
) -> None:
    with live_server(tmp_path) as before:
        before.admin.publish(scope, text)
    with restarted(before, signer[1]) as server:
        host = HttpHost(str(server.serving.rest_listen), server.admin.create_key("acme", "host", "h").secret)
        refused = host.get(PATH)
        assert (refused.status, refused.code) == (409, "LegacyUnsupported")
        assert "cannot be served" in refused.json["error"]["message"]


def test_a_legacy_key_is_for_one_org_and_nothing_else(tmp_path: Path, signer: tuple[PrivateKeySigner, str]) -> None:
    _, uri = signer
    with (
        pytest.raises(StartupError, match="for something else too"),
        live_server(tmp_path / "one", rest_listen=ANY_PORT, legacy_signers={"acme": uri, "globex": uri}),
    ):
        pass
    with (
        pytest.raises(StartupError, match="for something else too"),
        live_server(tmp_path / "two", rest_listen=ANY_PORT, legacy_signers={"acme": uri}, signers=(uri,)),
    ):
        pass


def test_legacy_signers_without_an_address_are_a_mistake(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[server]\ndata_dir = "data"\n[server.legacy_signers]\nacme = "env:KEY"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="of no use without rest_listen"):
        ServerSettings.load(config, env={})
