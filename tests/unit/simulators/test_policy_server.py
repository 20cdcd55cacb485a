from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.envelope import PayloadType
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.trust import Judge
from akpolicy.v1 import bundle_pb2, distribution_pb2, distribution_pb2_grpc
from akpolicy.wire import envelope_from_proto
from tests.simulators.org import OrgSimulator
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

    def close(self) -> None:
        self._outgoing.put(None)
        self.call.cancel()
        self.channel.close()


@pytest.fixture
def server() -> Iterator[PolicyServerSimulator]:
    with PolicyServerSimulator(OrgSimulator(), keep_alive_s=0.05) as running:
        yield running


def hello(**fields: object) -> distribution_pb2.Hello:
    return distribution_pb2.Hello(org="acme", nonce=b"n" * 16, **fields)  # type: ignore[arg-type]


def kinds(messages: list[Response]) -> list[str | None]:
    return [m.WhichOneof("message") for m in messages]


def test_a_new_host_gets_the_root_then_each_bundle_with_its_content(server: PolicyServerSimulator) -> None:
    large = "permit (principal, action, resource); //" + "x" * 10_000
    server.publish({f"p{i}": large for i in range(60)}, scope="org/acme")
    host = Host(server, hello())
    messages = host.until_keep_alive()
    host.close()
    assert kinds(messages[:2]) == ["root", "bundle"]
    assert set(kinds(messages[2:])) == {"chunk"}
    assert all(len(m.chunk.data) <= MAX_CHUNK_BYTES for m in messages[2:])
    blob = b"".join(m.chunk.data for m in messages[2:])
    assert messages[1].bundle.content_size == len(blob)
    judge, now = Judge("acme", server.org.anchors), server.org.clock.now()
    judge.trust_root(envelope_from_proto(messages[0].root.envelope), now)
    manifest = judge.judge_manifest(envelope_from_proto(messages[1].bundle.envelope), now)
    assert judge.judge_content(manifest, blob).manifest.scope == "org/acme"


def test_a_host_that_has_everything_gets_only_keep_alives(server: PolicyServerSimulator) -> None:
    envelope, blob = server.org.bundle_envelope()
    server.offer(envelope, blob)
    enforced = bundle_pb2.Revision(scope="global", epoch=1, version=1, digest=envelope.digest())
    host = Host(server, hello(root_version=1, enforced=[enforced]))
    assert host.until_keep_alive() == []
    server.publish()
    assert kinds(host.next_update()) == ["bundle", "chunk"]
    host.close()


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


def test_messages_can_be_tampered_with_on_the_way(server: PolicyServerSimulator) -> None:
    server.publish()

    def without_roots(response: Response) -> list[Response]:
        return [] if response.WhichOneof("message") == "root" else [response]

    server.tamper(without_roots)
    host = Host(server, hello())
    assert kinds(host.until_keep_alive()) == ["bundle", "chunk"]
    host.close()


def test_a_silent_server_sends_nothing_until_it_speaks(server: PolicyServerSimulator) -> None:
    server.go_silent()
    server.publish()
    host = Host(server, hello(root_version=1))
    server.wait_for(lambda s: s.open_streams == 1)
    server.speak()
    assert kinds(host.until_keep_alive()) == ["bundle", "chunk"]
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
    assert kinds(Host(server, hello(), token="only-this").until_keep_alive()) == ["root"]


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
