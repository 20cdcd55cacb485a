"""Hosts that poll over gRPC: what they fetch, and what the fleet view says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.envelope import PayloadType
from akpolicy.heartbeat import Heartbeat
from akpolicy.strict_json import load
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy.v1.distribution_pb2_grpc import DistributionServiceStub
from akpolicy.wire import envelope_from_proto
from tests.integration.server.conftest import DEADLINE_S, Update, bearer, large_policies, policy
from tests.integration.server.test_fleet import host_when, own, status_when

if TYPE_CHECKING:
    from akpolicy.client.publishing import PublishingClient
    from tests.integration.server.conftest import LiveServer

OWN = "org/acme"
NONCE = b"0123456789abcdef"


class Host:
    """A polling host, spoken by hand."""

    def __init__(self, server: LiveServer, host_id: str = "host-1") -> None:
        self.stub = DistributionServiceStub(server.channel)
        self.key = server.admin.create_key("acme", "host", host_id)
        self.metadata = bearer(self.key.secret)

    def fetch(self, interval_ms: int = 0, *, enforces_index: bool = False, **hello: Any) -> list[tuple[str, Any]]:
        """Poll once; return the messages with their kinds."""
        values = {"org": "acme", "software_version": "0.1.0", "nonce": NONCE} | hello
        request = dist.FetchRequest(
            hello=dist.Hello(**values), poll_interval_ms=interval_ms, enforces_index=enforces_index
        )
        responses = list(self.stub.Fetch(request, metadata=self.metadata, timeout=DEADLINE_S))
        if any(response.index_unknown for response in responses):
            assert [response.HasField("update") for response in responses] == [False]
            return [("index_unknown", True)]
        found = [response.update for response in responses]
        return [(kind, getattr(message, kind)) for message in found if (kind := message.WhichOneof("message"))]

    def by_index(self, index: bytes, **hello: Any) -> list[tuple[str, Any]]:
        """Poll as a host that enforces just what an index names."""
        values: dict[str, Any] = {"index_digest": index, "root_version": 1, "takes_index_changes": True} | hello
        return self.fetch(enforces_index=True, **values)

    def index(self, messages: list[tuple[str, Any]]) -> bytes:
        """Return the digest of the index that the heartbeat among these names."""
        payload = envelope_from_proto(messages[-1][1].envelope).payload
        return bytes.fromhex(load(payload, Heartbeat).index.digest)

    def report(self, **fields: Any) -> None:
        """Report once."""
        values = {"org": "acme", "software_version": "0.1.0"} | fields
        self.stub.Report(dist.ReportRequest(**values), metadata=self.metadata, timeout=DEADLINE_S)


@pytest.fixture
def host(server: LiveServer) -> Host:
    return Host(server)


def updates(messages: list[tuple[str, Any]]) -> list[Update]:
    """Return the bundles with their chunks."""
    found: list[Update] = []
    for kind, message in messages:
        if kind == "bundle":
            found.append(Update(message))
        elif kind == "chunk":
            found[-1].chunks.append(message)
    return found


def test_a_poll_brings_roots_bundles_content_and_an_answer_to_the_nonce(server: LiveServer, host: Host) -> None:
    server.admin.publish(OWN, large_policies(60))
    server.admin.publish("global", policy("everywhere"))
    messages = host.fetch()
    assert [kind for kind, _ in messages if kind != "chunk"] == ["root", "bundle", "bundle", "heartbeat"]
    everywhere, ours = updates(messages)
    assert [update.bundle.revision.scope for update in (everywhere, ours)] == ["global", OWN]
    assert len(ours.chunks) > 1
    assert len(ours.content) == ours.bundle.content_size
    heartbeat = messages[-1][1]
    envelope = envelope_from_proto(heartbeat.envelope)
    assert envelope.payload_type == PayloadType.HEARTBEAT
    assert load(envelope.payload, Heartbeat).nonce == NONCE.hex()
    assert heartbeat.index.count(b"\n") >= 2


def test_what_the_host_has_is_not_sent_again(server: LiveServer, host: Host) -> None:
    server.admin.publish(OWN, policy("one"))
    first = host.fetch()
    revision, heartbeat = updates(first)[0].bundle.revision, first[-1][1]
    index = load(envelope_from_proto(heartbeat.envelope).payload, Heartbeat).index.digest
    again = host.fetch(root_version=1, enforced=[revision], index_digest=bytes.fromhex(index))
    assert [kind for kind, _ in again] == ["heartbeat"]
    assert again[0][1].index == b""

    second = server.admin.publish(OWN, policy("two"))
    newest = host.fetch(root_version=1, enforced=[revision], index_digest=bytes.fromhex(index))
    assert [kind for kind, _ in newest] == ["bundle", "chunk", "heartbeat"]
    assert newest[0][1].revision.version == second.revision.revision.version
    digest = newest[1][1].digest
    held = host.fetch(root_version=1, enforced=[revision], held_blobs=[digest])
    assert [kind for kind, _ in held] == ["bundle", "heartbeat"]
    assert held[0][1].content_size == 0


def test_a_host_that_enforces_an_index_names_it_and_gets_what_changed_since(server: LiveServer, host: Host) -> None:
    scopes = [OWN, *(f"org/acme/team/team-{number}" for number in range(30))]
    for scope in scopes:
        server.admin.publish(scope, policy("one"))
    first = host.fetch()
    assert len(updates(first)) == len(scopes)
    index = host.index(first)
    assert [kind for kind, _ in host.by_index(index)] == ["heartbeat"]

    server.admin.publish(scopes[7], policy("two"))
    changed = host.by_index(index)
    assert [kind for kind, _ in changed] == ["bundle", "chunk", "heartbeat"]
    assert changed[0][1].revision.scope == scopes[7]
    heartbeat = changed[-1][1]
    assert (heartbeat.index, heartbeat.index_changes.base) == (b"", index)
    assert heartbeat.index_changes.lines.count(b"\n") == 1
    # Content that stays is held; and the index that came of it is known in turn.
    assert [kind for kind, _ in host.by_index(host.index(changed))] == ["heartbeat"]


def test_an_index_that_nobody_remembers_is_said_to_be_unknown(server: LiveServer, host: Host) -> None:
    server.admin.publish(OWN, policy("one"))
    assert host.by_index(b"i" * 32) == [("index_unknown", True)]
    # It is the org's, whichever host got it.
    other = Host(server, "host-2")
    index = host.index(host.fetch())
    assert other.by_index(index)[0][0] == "heartbeat"
    for wrong in (
        {"index_digest": b""},
        {"held_blobs": [b"d" * 32]},
        {"enforced": [{"scope": OWN, "epoch": 1, "version": 1, "digest": b"d" * 32}]},
        {"takes_index_changes": False},
    ):
        with pytest.raises(grpc.RpcError, match="enforces_index") as caught:
            host.by_index(index, **wrong)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_polling_host_is_connected_as_one_that_polls(
    server: LiveServer, client: PublishingClient, host: Host
) -> None:
    server.admin.publish(OWN, policy("one"))
    (update,) = updates(host.fetch(interval_ms=60_000))
    seen = host_when(client, "host-1", lambda h: h.connected)
    assert (seen.update_mode, seen.scopes_behind) == ("poll", 1)
    host.report(enforced=[update.bundle.revision], root_version=1)
    status = status_when(client, lambda s: own(s).hosts_current == 1)
    assert (status.hosts_connected, status.hosts_gone) == (1, 0)
    assert host_when(client, "host-1", lambda h: h.root_version == 1).update_mode == "poll"


def test_a_host_that_misses_its_polls_is_gone_until_it_polls_again(
    server: LiveServer, client: PublishingClient, host: Host
) -> None:
    host.fetch(interval_ms=1)
    status = status_when(client, lambda s: s.hosts_gone == 1)
    assert status.hosts_connected == 0
    assert not host_when(client, "host-1", lambda h: h.update_mode == "poll").connected
    host.fetch(interval_ms=60_000)
    status_when(client, lambda s: s.hosts_connected == 1)


def test_a_refusal_is_shown_until_the_host_takes_an_update(
    server: LiveServer, client: PublishingClient, host: Host
) -> None:
    server.admin.publish(OWN, policy("one"))
    (update,) = updates(host.fetch())
    refused = dist.RefusedUpdate(scope=OWN, epoch=1, version=1, code="SignatureInvalid", detail="x", policy_id="one")
    host.report(refused=[refused])
    (refusal,) = host_when(client, "host-1", lambda h: h.refusals).refusals
    assert (refusal.scope, refusal.version, refusal.code) == (OWN, 1, "SignatureInvalid")
    host.report(enforced=[update.bundle.revision])
    assert host_when(client, "host-1", lambda h: not h.refusals).scopes_behind == 0


def test_a_host_that_streams_again_is_shown_as_streaming(
    server: LiveServer, client: PublishingClient, host: Host
) -> None:
    host.fetch()
    assert host_when(client, "host-1", lambda h: h.connected).update_mode == "poll"
    stream = server.stream(host.key.secret).hello()
    assert host_when(client, "host-1", lambda h: h.update_mode == "stream").connected
    stream.call.cancel()
    host_when(client, "host-1", lambda h: not h.connected)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"enforced": [{"scope": "org/globex", "epoch": 1, "version": 1, "digest": b"d" * 32}]}, "not a scope"),
        ({"refused": [{"scope": "org/globex", "code": "A"}]}, "not a scope"),
        ({"refused": [{"scope": OWN, "code": "not a code"}]}, "code must be"),
        ({"refused": [{"scope": OWN, "code": "A", "version": 2**60}]}, "names no revision"),
        ({"refused": [{"scope": OWN, "code": "A"}] * 1025}, "at most 1024"),
        ({"poll_interval_ms": 300_001}, "poll_interval_ms"),
        ({"software_version": ""}, "software_version"),
        ({"root_version": 2**60}, "root_version"),
    ],
)
def test_a_report_out_of_bounds_is_refused(host: Host, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(grpc.RpcError, match=says) as caught:
        host.report(**fields)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_nobody_polls_for_another_org_or_without_a_host_key(server: LiveServer, host: Host) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        host.fetch(org="globex")
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as caught:
        host.report(org="globex")
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    host.metadata = bearer(server.made.admin_api_key)
    with pytest.raises(grpc.RpcError) as caught:
        host.fetch()
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    host.metadata = ()
    with pytest.raises(grpc.RpcError) as caught:
        host.fetch()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    host.metadata = bearer(host.key.secret)
    server.admin.revoke_key(host.key.key_id)
    with pytest.raises(grpc.RpcError) as caught:
        host.fetch()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_an_empty_poll_is_refused(host: Host) -> None:
    with pytest.raises(grpc.RpcError, match="hello is missing"):
        list(host.stub.Fetch(dist.FetchRequest(), metadata=host.metadata, timeout=DEADLINE_S))
