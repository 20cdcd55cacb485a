"""The server's settings: defaults, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.addresses import HostPort
from akpolicy.client.channel import KEEPALIVE_TIME_MS
from akpolicy.errors import ConfigError
from akpolicy_server.listener import MAX_PING_INTERVAL_S, MAX_PING_TIMEOUT_S, MIN_PING_S, grpc_options
from akpolicy_server.settings import ServerSettings
from akpolicy_sidecar.link import SILENT_INTERVALS

if TYPE_CHECKING:
    from pathlib import Path


def load(tmp_path: Path, text: str) -> ServerSettings:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return ServerSettings.load(path, env={})


def test_a_data_directory_is_all_that_is_needed(tmp_path: Path) -> None:
    server = load(tmp_path, '[server]\ndata_dir = "data"\n').server
    assert server.data_dir == tmp_path / "data"
    assert server.listen == HostPort("127.0.0.1", 8180)
    assert server.metrics_listen == HostPort("127.0.0.1", 8181)
    assert server.resolved_database_url == f"sqlite:///{tmp_path}/data/akpolicy.sqlite3"
    assert (server.keep_alive_seconds, server.shutdown_grace_seconds) == (10, 5)
    # A host that does not answer is gone within three keep-alives.
    assert (server.ping_interval_seconds, server.ping_timeout_seconds) == (20, 10)
    assert server.ping_interval_seconds + server.ping_timeout_seconds <= SILENT_INTERVALS * server.keep_alive_seconds
    assert (server.max_streams_per_host, server.bundle_lifetime_days) == (4, 30)
    assert (server.heartbeat_lifetime_seconds, server.signers) == (300, ())
    assert server.tls is None
    assert not server.allow_plaintext


def test_pings_are_as_frequent_as_bounds_permit(tmp_path: Path) -> None:
    text = '[server]\ndata_dir = "d"\nping_interval_seconds = {}\nping_timeout_seconds = {}\n'
    for interval_s, timeout_s in ((MIN_PING_S, MIN_PING_S), (MAX_PING_INTERVAL_S, MAX_PING_TIMEOUT_S)):
        server = load(tmp_path, text.format(interval_s, timeout_s)).server
        assert (server.ping_interval_seconds, server.ping_timeout_seconds) == (interval_s, timeout_s)


@pytest.mark.parametrize("value", ["0.0", "0.49", "-1.0", "300.5", "inf", "nan", "true", '"1"'])
@pytest.mark.parametrize("key", ["ping_interval_seconds", "ping_timeout_seconds"])
def test_pings_that_find_nobody_or_everybody_dead_are_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"server.toml:3: server.{key}"):
        load(tmp_path, f'[server]\ndata_dir = "d"\n{key} = {value}\n')


def test_what_sidecars_ping_is_tolerated_at_every_interval() -> None:
    for interval_s in (MIN_PING_S, MAX_PING_INTERVAL_S):
        tolerated_ms = dict(grpc_options(interval_s))["grpc.http2.min_ping_interval_without_data_ms"]
        assert 0 < tolerated_ms < KEEPALIVE_TIME_MS


def test_metrics_can_be_turned_off(tmp_path: Path) -> None:
    assert load(tmp_path, '[server]\ndata_dir = "d"\nmetrics_listen = ""\n').server.metrics_listen is None


def test_tls_serves_other_machines(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).touch()
    text = (
        '[server]\ndata_dir = "d"\nlisten = "0.0.0.0:443"\n[server.tls]\ncert_file = "cert.pem"\nkey_file = "key.pem"\n'
    )
    tls = load(tmp_path, text + 'client_ca_file = "ca.pem"\n').server.tls
    assert tls is not None
    assert tls.client_ca_file == tmp_path / "ca.pem"


HOSTS = """
[server.host_certificates]
client_ca_file = "ca.pem"
trust_domain = "hosts.example.com"
orgs = ["acme"]
"""
WITH_TLS = '[server]\ndata_dir = "d"\n[server.tls]\ncert_file = "ca.pem"\nkey_file = "ca.pem"\n'


def test_hosts_with_certificates_have_a_listener_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    hosts = load(tmp_path, WITH_TLS + HOSTS).server.host_certificates
    assert hosts is not None
    assert (hosts.listen, hosts.path) == (HostPort("127.0.0.1", 8184), "/org/{org}/host/{host_id}")
    assert hosts.rest_listen is None
    assert load(tmp_path, WITH_TLS + HOSTS + 'rest_listen = ""\n').server.host_certificates == hosts
    beside = load(tmp_path, WITH_TLS + HOSTS + 'rest_listen = "0.0.0.0:8186"\n').server.host_certificates
    assert beside is not None
    assert beside.rest_listen == HostPort("0.0.0.0", 8186)
    # Any free port is no one port.
    load(tmp_path, WITH_TLS + HOSTS + 'listen = "127.0.0.1:0"\nrest_listen = "127.0.0.1:0"\n')
    assert hosts.naming.names_in("spiffe://hosts.example.com/org/acme/host/h") == ("acme", "h")
    load(tmp_path, WITH_TLS + HOSTS + 'path = "/sa/{host_id}"\n')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server]\ndata_dir = "d"\n' + HOSTS, r"host_certificates.listen: needs \[server.tls\]"),
        (WITH_TLS + HOSTS + 'listen = "127.0.0.1:8180"\n', "is server.listen; hosts .* need an address of their own"),
        (WITH_TLS + HOSTS + 'rest_listen = "127.0.0.1:8180"\n', r"rest_listen: `127.0.0.1:8180` is server.listen;"),
        (WITH_TLS + HOSTS + 'rest_listen = "127.0.0.1:8181"\n', r"is server.metrics_listen; hosts .* of their own"),
        (WITH_TLS + HOSTS + 'rest_listen = "127.0.0.1:8184"\n', r"is server.host_certificates.listen; hosts"),
        (
            WITH_TLS.replace("[server]", '[server]\nrest_listen = "127.0.0.1:8184"') + HOSTS,
            r"host_certificates.listen: `127.0.0.1:8184` is server.rest_listen;",
        ),
        (WITH_TLS + HOSTS + 'path = "/{org}"\n', "must have `{host_id}` once"),
        (WITH_TLS + HOSTS.replace('["acme"]', '["*"]') + 'path = "/sa/{host_id}"\n', "must name the one org"),
        (WITH_TLS + HOSTS.replace('["acme"]', '["a", "b"]') + 'path = "/sa/{host_id}"\n', "must name the one org"),
        (WITH_TLS + HOSTS.replace('["acme"]', "[]"), "host_certificates.orgs"),
        (WITH_TLS + HOSTS.replace('["acme"]', '["-"]'), "must be the name of an org"),
        (WITH_TLS + HOSTS.replace("hosts.example.com", "Hosts.example.com"), "must be a name such as"),
        (WITH_TLS + HOSTS.replace("ca.pem", "gone.pem"), "does not exist"),
    ],
)
def test_certificates_that_could_name_anybody_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ca.pem").touch()
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, text)


def test_plaintext_beyond_this_machine_must_be_asked_for(tmp_path: Path) -> None:
    text = '[server]\ndata_dir = "d"\nlisten = "0.0.0.0:80"\n'
    with pytest.raises(ConfigError, match=r"server.toml:3: server.listen: .*plaintext"):
        load(tmp_path, text)
    assert load(tmp_path, text + "allow_plaintext = true\n").server.listen.port == 80


def test_metrics_beyond_this_machine_must_be_asked_for(tmp_path: Path) -> None:
    text = '[server]\ndata_dir = "d"\nmetrics_listen = "[::]:81"\n'
    with pytest.raises(ConfigError, match=r"server.toml:3: server.metrics_listen: .*metrics_allow_remote"):
        load(tmp_path, text)
    assert load(tmp_path, text + "metrics_allow_remote = true\n").server.metrics_listen == HostPort("::", 81)


@pytest.mark.parametrize(
    "url", ["mysql://me:hunter2@db/x", "postgresql://me:hunter2@db/x?sslmod=require", "postgresql://me:hunter2@[/x"]
)
def test_other_databases_are_refused_and_a_password_is_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://") as caught:
        load(tmp_path, f'[server]\ndata_dir = "d"\ndatabase_url = "{url}"\n')
    assert "hunter2" not in str(caught.value)


def test_a_postgresql_url_is_taken_as_it_is(tmp_path: Path) -> None:
    url = "postgresql://me@one:5432,two/x?sslmode=verify-full&target_session_attrs=read-write"
    loaded = load(tmp_path, f'[server]\ndata_dir = "d"\ndatabase_url = "{url}"\n')
    assert loaded.server.resolved_database_url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[server]",
        '[server]\ndata_dir = "d"\nmax_streams_per_host = 0',
        '[server]\ndata_dir = "d"\nbundle_lifetime_days = 367',
        '[server]\ndata_dir = "d"\n[log]\nlevel = "loud"',
        '[server]\ndata_dir = "d"\n[log]\nformat = "xml"',
        '[server]\ndata_dir = "d"\n[server.tls]\ncert_file = "gone"',
        '[server]\ndata_dir = ""',
    ],
)
def test_what_is_missing_or_out_of_bounds_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.toml:\d+: "):
        load(tmp_path, text)


@pytest.mark.parametrize("value", ["0", "3601", "1.5", '"300"'])
def test_a_heartbeat_lives_from_a_second_to_an_hour(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.heartbeat_lifetime_seconds"):
        load(tmp_path, f'[server]\ndata_dir = "d"\nheartbeat_lifetime_seconds = {value}\n')
    server = load(tmp_path, '[server]\ndata_dir = "d"\nheartbeat_lifetime_seconds = 3600\n').server
    assert server.heartbeat_lifetime_seconds == 3600


def test_signers_are_uris(tmp_path: Path) -> None:
    server = load(tmp_path, '[server]\ndata_dir = "d"\nsigners = ["file:/a.pem", "file:/b.pem"]\n').server
    assert server.signers == ("file:/a.pem", "file:/b.pem")
    with pytest.raises(ConfigError, match=r"server\.signers"):
        load(tmp_path, '[server]\ndata_dir = "d"\nsigners = "file:/a.pem"\n')
