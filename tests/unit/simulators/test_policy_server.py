from __future__ import annotations

import hashlib
import queue
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.envelope import PayloadType
from akpolicy.heartbeat import Heartbeat
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.strict_json import load
from akpolicy.trust import Judge
from akpolicy.v1 import bundle_pb2, distribution_pb2, distribution_pb2_grpc
from akpolicy.wire import envelope_from_proto
from tests.simulators.clock import ManualClock
from tests.simulators.org import HEARTBEAT_LIFETIME_S, OrgSimulator
from tests.simulators.policy_server import PolicyServerSimulator
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

Request = distribution_pb2.SubscribeRequest
Response = distribution_pb2.SubscribeResponse


class Host:
    """A host's side of one stream, without any judgement."""

    def __init__(self, server: PolicyServerSimulator, hello: distribution_pb2.Hello, token: str = "key") -> None:
        self.channel = grpc.insecure_channel(server.target)
        self._outgoing: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.say(Request(hello=hello))
        stub = distribution_pb2_grpc.DistributionServiceStub(self.channel)
        self.call = stub.Subscribe(
            iter(self._outgoing.get, None), metadata=(("authorization", f"Bearer {token}"),), timeout=60
        )

    def say(self, request: Request) -> None:
        self._outgoing.put(request)

    def until_keep_alive(self) -> list[Response]:
        messages: list[Response] = []
        for message in self.call:
            if message.WhichOneof("message") == "keep_alive":
                return messages
            messages.append(message)
        raise AssertionError(messages)

    def next_update(self) -> list[Response]:
        while not (messages := self.until_keep_alive()):
            pass
        return messages

    def enough_keep_alives(self) -> list[Response]:
        """Return what comes while several heartbeats would be due."""
        return [message for _ in range(3) for message in self.until_keep_alive()]

    def close(self) -> None:
        self._outgoing.put(None)
        self.call.cancel()
        self.channel.close()


@pytest.fixture
def server() -> Iterator[PolicyServerSimulator]:
    with PolicyServerSimulator(OrgSimulator(), keep_alive_s=0.05, heartbeat_s=0.01) as running:
        yield running


@pytest.fixture
def clock(server: PolicyServerSimulator) -> ManualClock:
    assert isinstance(server.org.clock, ManualClock)
    return server.org.clock


def hello(**fields: object) -> distribution_pb2.Hello:
    return distribution_pb2.Hello(org="acme", nonce=b"n" * 16, **fields)  # type: ignore[arg-type]


def kinds(messages: list[Response]) -> list[str | None]:
    return [m.WhichOneof("message") for m in messages]


def heartbeats(messages: list[Response]) -> list[Heartbeat]:
    return [load(m.heartbeat.envelope.payload, Heartbeat) for m in messages if m.HasField("heartbeat")]


def test_a_new_host_gets_the_root_each_bundle_with_its_content_and_a_heartbeat(server: PolicyServerSimulator) -> None:
    large = "permit (principal, action, resource); //" + "x" * 10_000
    server.publish({f"p{i}": large for i in range(60)}, scope="org/acme")
    host = Host(server, hello())
    messages = host.until_keep_alive()
    host.close()
    assert kinds(messages[:2]) == ["root", "bundle"]
    assert kinds(messages[-1:]) == ["heartbeat"]
    chunks = messages[2:-1]
    assert set(kinds(chunks)) == {"chunk"}
    assert all(len(m.chunk.data) <= MAX_CHUNK_BYTES for m in chunks)
    blob = b"".join(m.chunk.data for m in chunks)
    assert messages[1].bundle.content_size == len(blob)
    judge, now = Judge("acme", server.org.anchors), server.org.clock.now()
    judge.trust_root(envelope_from_proto(messages[0].root.envelope), now)
    manifest = judge.judge_manifest(envelope_from_proto(messages[1].bundle.envelope), now)
    bundle = judge.judge_content(manifest, blob)
    heartbeat = messages[-1].heartbeat
    judged = judge.judge_heartbeat(
        envelope_from_proto(heartbeat.envelope), heartbeat.index, now, nonce=(b"n" * 16).hex()
    )
    assert judged.index.lines["org/acme"].digest == bundle.digest


def test_every_update_has_a_nonce_of_its_own(server: PolicyServerSimulator) -> None:
    server.offer_root(server.org.root_envelope(version=2))
    server.publish()
    host = Host(server, hello())
    root, next_root, bundle, _, heartbeat = host.until_keep_alive()
    host.close()
    nonces = {root.root.nonce, next_root.root.nonce, bundle.bundle.nonce, heartbeat.heartbeat.nonce}
    assert [len(nonce) for nonce in nonces] == [16] * 4


def test_a_host_that_has_everything_gets_only_the_answer_to_its_nonce(server: PolicyServerSimulator) -> None:
    envelope, blob = server.org.bundle_envelope()
    server.offer(envelope, blob)
    enforced = bundle_pb2.Revision(scope="global", epoch=1, version=1, digest=envelope.digest())
    host = Host(server, hello(root_version=1, enforced=[enforced]))
    assert kinds(host.until_keep_alive()) == ["heartbeat"]
    server.publish()
    assert kinds(host.next_update()) == ["bundle", "chunk", "heartbeat"]
    host.close()


def test_a_root_reaches_streams_that_are_open(server: PolicyServerSimulator) -> None:
    host = Host(server, hello(root_version=1))
    host.until_keep_alive()
    server.offer_root(server.org.root_envelope(version=2), server.org.root_envelope(version=3))
    messages = host.next_update()
    host.close()
    assert [m.root.version for m in messages if m.HasField("root")] == [2, 3]
    assert [beat.root.version for beat in heartbeats(messages)] == [3]


def test_a_rollback_comes_with_its_original(server: PolicyServerSimulator) -> None:
    server.publish({"old": "permit (principal, action, resource);"})
    old = server.current()
    server.publish()
    server.roll_back(old)
    host = Host(server, hello(root_version=1))
    update, *_ = host.until_keep_alive()
    host.close()
    assert update.bundle.envelope.payload_type == PayloadType.ROLLBACK
    judge, now = Judge("acme", server.org.anchors), server.org.clock.now()
    judge.trust_root(server.org.root_envelope(), now)
    original = envelope_from_proto(update.bundle.original)
    restored = judge.judge_manifest(envelope_from_proto(update.bundle.envelope), now, original=original)
    assert (original, restored.manifest.version) == (old.envelope, 3)


def test_a_deletion_is_sent_without_content(server: PolicyServerSimulator) -> None:
    server.publish(scope="org/acme")
    server.delete("org/acme")
    host = Host(server, hello(root_version=1))
    assert kinds(host.until_keep_alive()) == ["bundle", "heartbeat"]
    host.close()


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_the_first_heartbeat_answers_the_nonce_and_the_next_are_for_all(
    server: PolicyServerSimulator, clock: ManualClock
) -> None:
    host = Host(server, hello(root_version=1))
    first = heartbeats(host.until_keep_alive())
    server.publish()
    after_a_change = heartbeats(host.next_update())
    clock.advance(1)
    renewed = heartbeats(host.next_update())
    host.close()
    beats = [*first, *after_a_change, *renewed]
    assert [beat.nonce for beat in beats] == [(b"n" * 16).hex(), None, None]
    assert [beat.seq for beat in beats] == [1, 2, 2]
    assert [beat.issued_at - beats[0].issued_at for beat in beats] == [0, 0, 1]


def test_no_heartbeat_is_repeated_within_its_second(server: PolicyServerSimulator) -> None:
    host = Host(server, hello(root_version=1))
    host.until_keep_alive()
    assert host.enough_keep_alives() == []
    host.close()


def test_the_index_is_sent_only_where_the_host_lacks_it(server: PolicyServerSimulator, clock: ManualClock) -> None:
    server.publish()
    host = Host(server, hello(root_version=1))
    first = host.until_keep_alive()[-1].heartbeat
    clock.advance(1)
    second = host.next_update()[-1].heartbeat
    host.close()
    again = Host(server, hello(root_version=1, index_digest=hashlib.sha256(first.index).digest()))
    known = again.until_keep_alive()[-1].heartbeat
    again.close()
    assert first.index.startswith(b"global 1 1 ")
    assert (second.index, known.index) == (b"", b"")


def test_heartbeats_live_as_long_as_the_server_is_told(server: PolicyServerSimulator, clock: ManualClock) -> None:
    host = Host(server, hello(root_version=1))
    (usual,) = heartbeats(host.until_keep_alive())
    server.deliver_heartbeats(lifetime_s=7)
    clock.advance(1)
    (short,) = heartbeats(host.next_update())
    host.close()
    assert (usual.expires_at - usual.issued_at, short.expires_at - short.issued_at) == (HEARTBEAT_LIFETIME_S, 7)


def test_withheld_heartbeats_leave_everything_else_as_it_is(server: PolicyServerSimulator) -> None:
    server.withhold_heartbeats()
    server.publish()
    host = Host(server, hello(root_version=1))
    assert kinds(host.until_keep_alive()) == ["bundle", "chunk"]
    server.publish()
    assert kinds(host.next_update()) == ["bundle", "chunk"]
    assert host.enough_keep_alives() == []
    server.deliver_heartbeats()
    (answer,) = heartbeats(host.next_update())
    host.close()
    assert answer.nonce == (b"n" * 16).hex()


# --- what hosts say, and misbehaviour ---------------------------------------------------------------------------------


def test_what_the_host_says_is_recorded(server: PolicyServerSimulator) -> None:
    host = Host(server, hello(), token="secret")
    host.say(Request(ack=distribution_pb2.Ack(enforced=[bundle_pb2.Revision(scope="global", version=7)])))
    host.say(Request(nack=distribution_pb2.Nack(code="SignatureInvalid", detail="no")))
    server.wait_enforced("global", 7)
    assert server.wait_nack("SignatureInvalid").detail == "no"
    assert [h.org for h in server.hellos] == ["acme"]
    assert {r.token for r in server.received} == {"secret"}
    host.close()
    wait_until(lambda: server.open_streams == 0, what="the end of the stream")


def test_a_hello_without_a_nonce_is_refused(server: PolicyServerSimulator) -> None:
    host = Host(server, distribution_pb2.Hello(org="acme"))
    with pytest.raises(grpc.RpcError) as error:
        host.until_keep_alive()
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_messages_can_be_tampered_with_on_the_way(server: PolicyServerSimulator) -> None:
    server.publish()

    def without_roots(response: Response) -> list[Response]:
        return [] if response.WhichOneof("message") == "root" else [response]

    server.tamper(without_roots)
    host = Host(server, hello())
    assert kinds(host.until_keep_alive()) == ["bundle", "chunk", "heartbeat"]
    host.close()


def test_a_silent_server_sends_nothing_until_it_speaks(server: PolicyServerSimulator) -> None:
    server.go_silent()
    server.publish()
    host = Host(server, hello(root_version=1))
    server.wait_for(lambda s: s.open_streams == 1)
    server.speak()
    assert kinds(host.until_keep_alive()) == ["bundle", "chunk", "heartbeat"]
    server.go_silent()
    server.speak()
    assert host.enough_keep_alives() == []
    host.close()


def test_refused_credentials_end_open_streams_and_keep_new_ones_out(server: PolicyServerSimulator) -> None:
    host = Host(server, hello())
    host.until_keep_alive()
    server.refuse()
    for call in (host.call, Host(server, hello()).call):
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    server.accept("only-this")
    with pytest.raises(grpc.RpcError):
        Host(server, hello(), token="another").until_keep_alive()
    assert kinds(Host(server, hello(), token="only-this").until_keep_alive()) == ["root", "heartbeat"]


def test_a_dropped_stream_is_unavailable_and_a_restart_keeps_the_port(server: PolicyServerSimulator) -> None:
    host = Host(server, hello())
    host.until_keep_alive()
    server.drop_streams()
    with pytest.raises(grpc.RpcError) as error:
        list(host.call)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    target = server.target
    server.stop()
    server.start()
    assert server.target == target
    again = Host(server, hello())
    assert again.until_keep_alive()[0].root.envelope.payload_type == PayloadType.ROOT
    again.close()
