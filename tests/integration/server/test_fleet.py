"""What hosts enforce: counted, listed and watched over a real connection."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from sqlalchemy import update

from akpolicy import metrics_names as names
from akpolicy.errors import ServerRefused
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy.v1 import fleet_pb2
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.store.tables import hosts
from akpolicy_server.times import GONE_AFTER_S
from tests.integration.server.conftest import DEADLINE_S, policy
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.client.fleet_types import FleetStatus, HostStatus, ScopeStatus
    from akpolicy.client.publishing import PublishingClient
    from tests.integration.server.conftest import LiveServer, Stream

OWN = "org/acme"
MICROSECONDS = 1_000_000


def enforcing(server: LiveServer, host_id: str) -> Stream:
    """Return the stream of a host that enforces what there is."""
    stream = server.host(host_id).hello()
    for found in stream.updates():
        stream.ack(found)
    return stream


def status_when(client: PublishingClient, check: Callable[[FleetStatus], object], *scopes: str) -> FleetStatus:
    """Return the first status for which `check` holds."""
    found: list[FleetStatus] = []

    def holds() -> bool:
        found.append(client.fleet_status("acme", scopes))
        return bool(check(found[-1]))

    wait_until(holds, what="the status")
    return found[-1]


def own(status: FleetStatus) -> ScopeStatus:
    return next(scope for scope in status.scopes if scope.scope == OWN)


def host_when(client: PublishingClient, host_id: str, check: Callable[[HostStatus], object]) -> HostStatus:
    """Return the host as soon as `check` holds for it."""
    found: list[HostStatus] = []

    def holds() -> bool:
        found.extend(host for host in client.hosts("acme") if host.host_id == host_id and check(host))
        return bool(found)

    wait_until(holds, what="the host")
    return found[-1]


def test_hosts_are_counted_by_what_they_enforce(server: LiveServer, client: PublishingClient) -> None:
    assert client.fleet_status("acme").to_json()["scopes"] == [
        {
            "scope": scope,
            "epoch": 0,
            "version": 0,
            "digest": "",
            "published_at": None,
            "hosts_current": 0,
            "hosts_behind": 0,
            "hosts_refusing": 0,
            "oldest_version": 0,
        }
        for scope in ("global", OWN)
    ]
    server.admin.publish(OWN, policy("one"))
    streams = [enforcing(server, name) for name in ("a", "b")]
    status = status_when(client, lambda s: own(s).hosts_current == 2)
    assert (status.hosts_connected, status.hosts_gone, status.software) == (2, 0, {"0.1.0": 2})
    assert status.enforces(OWN, 1)
    assert not status.enforces(OWN, 2)

    server.admin.publish(OWN, policy("two"))
    streams[0].ack(streams[0].next_update())
    status = status_when(client, lambda s: own(s).hosts_current == 1)
    scope = own(status)
    assert (scope.hosts_behind, scope.hosts_refusing, scope.oldest_version) == (1, 0, 1)
    assert scope.current is not None
    assert scope.current.version == 2
    assert not status.enforces(OWN, 2)
    for stream in streams:
        stream.call.cancel()


def test_a_host_that_enforces_nothing_is_behind(server: LiveServer, client: PublishingClient) -> None:
    server.admin.publish(OWN, policy("one"))
    stream = server.host().hello()
    assert len(stream.updates()) == 1
    scope = own(status_when(client, lambda s: s.hosts_connected == 1))
    assert (scope.hosts_current, scope.hosts_behind, scope.oldest_version) == (0, 1, 0)
    stream.call.cancel()


def test_a_refusal_is_counted_and_told(server: LiveServer, client: PublishingClient) -> None:
    server.admin.publish(OWN, policy("one"))
    stream = server.host().hello()
    (found,) = stream.updates()
    stream.send(nack=dist.Nack(nonce=found.bundle.nonce, code="SignatureInvalid", detail="by nobody", policy_id="one"))
    assert own(status_when(client, lambda s: own(s).hosts_refusing == 1)).hosts_behind == 1
    host = host_when(client, "host-1", lambda h: h.refusals)
    refusal = host.refusals[0]
    assert (refusal.scope, refusal.version, refusal.code, refusal.detail) == (OWN, 1, "SignatureInvalid", "by nobody")
    assert [(lag.wanted.scope, lag.wanted.version, lag.enforced) for lag in host.behind] == [(OWN, 1, None)]
    assert (host.connected, host.update_mode, host.scopes, host.scopes_behind) == (True, "stream", 1, 1)
    stream.call.cancel()


def test_a_host_that_leaves_is_gone_and_one_that_comes_back_is_there(
    server: LiveServer, client: PublishingClient
) -> None:
    server.admin.publish(OWN, policy("one"))
    secret = server.admin.create_key("acme", "host", "host-1").secret
    stream = server.stream(secret).hello()
    stream.ack(stream.next_update())
    status_when(client, lambda s: own(s).hosts_current == 1)
    stream.call.cancel()
    status = status_when(client, lambda s: s.hosts_gone == 1)
    assert (status.hosts_connected, own(status).hosts_current) == (0, 0)
    assert not status.enforces(OWN, 1)
    assert not host_when(client, "host-1", lambda h: not h.connected).connected
    again = server.stream(secret).hello()
    assert status_when(client, lambda s: s.hosts_connected == 1).hosts_gone == 0
    again.call.cancel()


def test_the_late_end_of_an_old_connection_does_not_hide_the_new_one(
    server: LiveServer, client: PublishingClient
) -> None:
    secret = server.admin.create_key("acme", "host", "host-1").secret
    old = server.stream(secret).hello()
    old.until_keep_alive()
    new = server.stream(secret).hello()
    new.until_keep_alive()
    old.call.cancel()
    wait_until(lambda: len(server.serving.fanout) == 1, what="the end of the old stream")
    server.admin.publish(OWN, policy("one"))
    new.ack(new.next_update())
    assert own(status_when(client, lambda s: own(s).hosts_current == 1)).hosts_behind == 0
    new.call.cancel()


def test_a_host_whose_server_was_killed_ends_as_gone(server: LiveServer, client: PublishingClient) -> None:
    stream = server.host().hello()
    stream.until_keep_alive()
    status_when(client, lambda s: s.hosts_connected == 1)
    long_ago = int((time.time() - GONE_AFTER_S - 1) * MICROSECONDS)
    with server.serving.database.write() as connection:
        connection.execute(update(hosts).values(last_seen_at_us=long_ago))
    assert client.fleet_status("acme").hosts_gone == 1
    # Until whoever has its stream says that it is there.
    server.on_loop(lambda: asyncio.ensure_future(server.serving.presence.renew()))
    status_when(client, lambda s: s.hosts_connected == 1)
    stream.call.cancel()


def test_a_watcher_is_told_at_once_and_of_each_change(server: LiveServer, client: PublishingClient) -> None:
    server.admin.publish(OWN, policy("one"))
    watched = client.watch_fleet("acme", [OWN], timeout=DEADLINE_S)
    assert next(watched).hosts_connected == 0
    stream = enforcing(server, "a")
    assert next(status for status in watched if status.enforces(OWN, 1)).hosts_connected == 1
    stream.call.cancel()
    assert next(status for status in watched if status.hosts_gone).hosts_connected == 0


def test_a_watcher_does_not_keep_the_server_from_stopping(server: LiveServer, client: PublishingClient) -> None:
    stub, metadata = server.admin.stub, server.admin.metadata
    call = stub.WatchFleet(fleet_pb2.WatchFleetRequest(org="acme"), metadata=metadata, timeout=DEADLINE_S)
    next(call)
    server.stop()
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_watch_ends_when_its_key_is_revoked(server: LiveServer) -> None:
    key = server.admin.create_key("acme", "publisher")
    with server.client(key.secret) as reader:
        watched = reader.watch_fleet("acme", timeout=DEADLINE_S)
        next(watched)
        server.admin.revoke_key(key.key_id)
        with pytest.raises(ServerRefused, match="UNAUTHENTICATED"):
            list(watched)


def test_hosts_come_in_pages(server: LiveServer, client: PublishingClient) -> None:
    streams = [server.host(f"host-{number}").hello() for number in range(5)]
    status_when(client, lambda s: s.hosts_connected == len(streams))
    stub, metadata = server.admin.stub, server.admin.metadata
    found: list[list[str]] = []
    token = ""
    while not found or token:
        request = fleet_pb2.ListHostsRequest(org="acme", page_size=2, page_token=token)
        page = stub.ListHosts(request, metadata=metadata, timeout=DEADLINE_S)
        found.append([host.host_id for host in page.hosts])
        token = page.next_page_token
    assert found == [["host-0", "host-1"], ["host-2", "host-3"], ["host-4"]]
    for stream in streams:
        stream.call.cancel()


@pytest.mark.parametrize(
    ("org", "scopes", "status"),
    [
        ("nobody", (), "NOT_FOUND"),
        ("a/b", (), "INVALID_ARGUMENT"),
        ("acme", ("org/globex",), "INVALID_ARGUMENT"),
        ("acme", ("org",), "INVALID_ARGUMENT"),
        ("acme", tuple(f"org/acme/team/t{n}" for n in range(101)), "INVALID_ARGUMENT"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(
    client: PublishingClient, org: str, scopes: tuple[str, ...], status: str
) -> None:
    with pytest.raises(ServerRefused, match=status):
        client.fleet_status(org, scopes)
    with pytest.raises(ServerRefused, match=status):
        next(client.watch_fleet(org, scopes, timeout=DEADLINE_S))


@pytest.mark.parametrize("role", ["host", "publisher"])
def test_other_orgs_and_hosts_see_nothing(server: LiveServer, role: str) -> None:
    secret = server.admin.create_key("globex", role, "h" if role == "host" else "").secret
    with server.client(secret) as stranger:
        for ask in (lambda: stranger.fleet_status("acme"), lambda: list(stranger.hosts("acme"))):
            with pytest.raises(ServerRefused, match="PERMISSION_DENIED"):
                ask()


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_the_time_from_publish_to_enforced_is_measured_for_hosts_that_were_there(server: LiveServer) -> None:
    metrics = server.serving.metrics

    def exposed(suffix: str) -> float:
        found = re.search(
            rf"^akpolicy_server_propagation_seconds_{suffix} (\S+)$", metrics.expose()[1].decode(), re.MULTILINE
        )
        assert found
        return float(found[1])

    server.admin.publish(OWN, policy("before"))
    stream = enforcing(server, "a")
    wait_until(lambda: metrics.value(names.SERVER_ACKS) == 1, what="an ack")
    assert exposed("count") == 0
    server.admin.publish(OWN, policy("after"))
    stream.ack(stream.next_update())
    wait_until(lambda: exposed("count") == 1, what="an observation")
    assert 0 < exposed("sum") < DEADLINE_S
    stream.call.cancel()


def lags(metrics: ServerMetrics) -> list[float]:
    return [metrics.value(names.SERVER_HOSTS_BY_LAG, lag=lag) for lag in ("none", "under_1m", "under_1h", "over_1h")]


def test_hosts_are_counted_by_how_long_they_lack_something(server: LiveServer) -> None:
    def counts() -> list[float]:
        server.on_loop(server.serving.presence.count)
        return lags(server.serving.metrics)

    server.admin.publish(OWN, policy("one"))
    ready = enforcing(server, "a")
    lacking = server.host("b").hello()
    lacking.updates()
    wait_until(lambda: counts() == [1, 1, 0, 0], what="counts")
    # A newer revision takes effect: the one whose place it took is not lacked.
    server.admin.publish(OWN, policy("two"))
    for stream in (ready, lacking):
        stream.ack(stream.next_update())
    wait_until(lambda: counts() == [2, 0, 0, 0], what="counts")
    for stream in (ready, lacking):
        stream.call.cancel()


def test_lags_are_told_apart() -> None:
    metrics = ServerMetrics()
    metrics.count_lags([0.0, 0.001, 59.9, 60.0, 3599.0, 3600.0, 1e9])
    assert lags(metrics) == [1, 2, 2, 2]
