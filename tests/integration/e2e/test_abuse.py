"""Clients that mean no good, against a real server: each gets a clear end, memory stays, and others hear of changes.

What single messages may not say is in `tests/integration/server/test_subscribing.py`; here it is about how much.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

from akpolicy.client.channel import bearer
from akpolicy.v1 import bundle_pb2, distribution_pb2_grpc
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy_server.api.distribution import HELLO_TIMEOUT_S
from tests.integration.e2e.world import ORG, World, permit

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB: Final = 1024 * 1024
MAX_GROWTH_MIB: Final = 48.0
SUBSCRIPTIONS: Final = 10_000
CHANNELS: Final = 50
TIMEOUT_S: Final = 60.0
# The server's default.
MAX_STREAMS: Final = 4
PUBLISHES: Final = 200
COMPLAINTS: Final = 5000
_LIBRARYS_OWN: Final = "Internal error from Core"
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@pytest.fixture
def target(enforcing: World) -> Iterator[str]:
    """Yield where the server of a host that enforces listens; afterwards the host must still hear of a change."""
    before = _resident_mib(enforcing)
    yield f"127.0.0.1:{enforcing.port}"
    enforcing.publish(permit("after"))
    enforcing.wait_decided_by("after")
    growth = _resident_mib(enforcing) - before
    sys.stdout.write(f"the server grew by {growth:.1f} MiB\n")
    assert growth < MAX_GROWTH_MIB
    # Nothing of it was a surprise to the server.
    assert enforcing.server is not None
    assert enforcing.server.metric("akpolicy_server_rpcs_total", status="INTERNAL") == 0


def _resident_mib(world: World) -> float:
    assert world.server is not None
    pages = int(Path(f"/proc/{world.server.pid}/statm").read_text("ascii").split()[1])
    return pages * 4096 / MIB


def _abuser(world: World) -> Any:
    return bearer(world.host_key("abuser").secret)


def _hello(**fields: Any) -> pb.SubscribeRequest:
    values: dict[str, Any] = {"org": ORG, "software_version": "0.1.0", "nonce": b"n" * 16, "root_version": 1} | fields
    return pb.SubscribeRequest(hello=pb.Hello(**values))


def test_bytes_that_are_no_http2_and_connections_that_say_nothing(enforcing: World, target: str) -> None:
    host, port = target.split(":")
    noise = random.Random(7)
    with ExitStack() as stack:
        for number in range(200):
            stranger = stack.enter_context(socket.create_connection((host, int(port)), TIMEOUT_S))
            if number % 2:
                beginning = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if number % 4 == 1 else b"GET / HTTP/1.1\r\n\r\n"
                try:
                    stranger.sendall(beginning + noise.randbytes(64 * 1024))
                except ConnectionError:
                    # It would not hear more of it.
                    continue
        enforcing.publish(permit("meanwhile"))
        enforcing.wait_decided_by("meanwhile")


@pytest.mark.slow
def test_ten_thousand_subscriptions_with_one_identity(enforcing: World, target: str) -> None:
    codes = asyncio.run(_subscribe(target, _abuser(enforcing), SUBSCRIPTIONS))
    assert set(codes) <= {grpc.StatusCode.RESOURCE_EXHAUSTED, None}
    assert sum(code is None for code in codes) <= MAX_STREAMS * CHANNELS
    assert len(codes) == SUBSCRIPTIONS


async def _subscribe(target: str, metadata: Any, count: int) -> list[grpc.StatusCode | None]:
    """Open so many streams; return the status with which each was refused, None for those that were not."""
    found = await asyncio.gather(*(_on_one_channel(target, metadata, count // CHANNELS) for _ in range(CHANNELS)))
    return [code for codes in found for code in codes]


async def _on_one_channel(target: str, metadata: Any, some: int) -> list[grpc.StatusCode | None]:
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        stub = distribution_pb2_grpc.DistributionServiceStub(channel)
        codes: list[grpc.StatusCode | None] = []
        kept = []
        for _ in range(some):
            call: Any = stub.Subscribe(metadata=metadata)
            code = await _first_status(call)
            codes.append(code)
            if code is None:
                kept.append(call)
        return codes


async def _first_status(call: Any) -> grpc.StatusCode | None:
    """Say Hello; return with what the call ended at once, None if it goes on."""
    try:
        await call.write(_hello())
        if await call.read() is not grpc.aio.EOF:
            return None
    except grpc.aio.AioRpcError as error:
        if _LIBRARYS_OWN in str(error.details()):
            # Written to a call that was refused by then: grpcio forgets the status. The server counts its own.
            return grpc.StatusCode.RESOURCE_EXHAUSTED
    status: grpc.StatusCode = await call.code()
    return status


@pytest.mark.slow
def test_a_host_that_never_reads_while_much_is_published(enforcing: World, target: str) -> None:
    padding = "".join(
        f'@id("x{n}") forbid (principal == AgentKernel::User::"{"x" * 2000}", action, resource);\n' for n in range(40)
    )
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        stub = distribution_pb2_grpc.DistributionServiceStub(channel)
        call: Any = stub.Subscribe(iter([_hello(takes_batches=True)]), metadata=_abuser(enforcing))
        for number in range(PUBLISHES):
            enforcing.publish(permit(f"p{number}") + padding)
        enforcing.wait_decided_by(f"p{PUBLISHES - 1}")
        call.cancel()


def test_complaints_without_end(enforcing: World, target: str) -> None:
    nack = pb.Nack(code="HeartbeatStale", detail="d" * 1024)
    complaints = [_hello(), *(pb.SubscribeRequest(nack=nack) for _ in range(COMPLAINTS))]
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        stub = distribution_pb2_grpc.DistributionServiceStub(channel)
        call: Any = stub.Subscribe(iter(complaints), metadata=_abuser(enforcing))
        # The host's side ends with the last one, and with it the stream.
        assert _ending(call)[0] is grpc.StatusCode.OK


@pytest.mark.slow
def test_streams_that_say_nothing_end_with_a_reason_and_make_room(enforcing: World, target: str) -> None:
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        stub = distribution_pb2_grpc.DistributionServiceStub(channel)
        with ExitStack() as stack:
            silent: list[Any] = []
            for _ in range(MAX_STREAMS):
                said = threading.Event()
                stack.callback(said.set)
                silent.append(stub.Subscribe(_nothing_until(said), metadata=_abuser(enforcing), timeout=TIMEOUT_S))
            enforcing.publish(permit("meanwhile"))
            enforcing.wait_decided_by("meanwhile")
            for call in silent:
                assert _ending(call) == (grpc.StatusCode.INVALID_ARGUMENT, f"no Hello within {HELLO_TIMEOUT_S} seconds")
        again: Any = stub.Subscribe(iter([_hello()]), metadata=_abuser(enforcing), timeout=TIMEOUT_S)
        assert _ending(again)[0] is grpc.StatusCode.OK


def _nothing_until(said: threading.Event) -> Iterator[pb.SubscribeRequest]:
    said.wait(TIMEOUT_S)
    yield from ()


def _ending(call: Any) -> tuple[grpc.StatusCode, str]:
    """Read a stream to its end; return its status."""
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    return call.code(), call.details()


@pytest.mark.parametrize("after_hello", [False, True], ids=["first", "after Hello"])
def test_messages_that_are_no_protobuf(enforcing: World, target: str, *, after_hello: bool) -> None:
    noise = random.Random(11)
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        subscribe: Any = channel.stream_stream("/akpolicy.v1.DistributionService/Subscribe")
        for size in (1, 100, 1000, 500_000):
            garbage = [b"\xff" + noise.randbytes(size)]
            sent = [_hello().SerializeToString(), *garbage] if after_hello else garbage
            status, details = _ending(subscribe(iter(sent), metadata=_abuser(enforcing), timeout=TIMEOUT_S))
            assert status is grpc.StatusCode.INVALID_ARGUMENT, details


@pytest.mark.parametrize("answer", [{"ack": pb.Ack(nonce=b"n" * 16)}, {"nack": pb.Nack(nonce=b"n" * 16, code="X")}])
def test_answers_to_what_was_never_sent(enforcing: World, target: str, answer: dict[str, Any]) -> None:
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        stub = distribution_pb2_grpc.DistributionServiceStub(channel)
        for _ in range(50):
            answers = [_hello(), *(pb.SubscribeRequest(**answer) for _ in range(100))]
            status, details = _ending(stub.Subscribe(iter(answers), metadata=_abuser(enforcing), timeout=TIMEOUT_S))
            assert status is grpc.StatusCode.INVALID_ARGUMENT
            assert "names no update of this stream" in details


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"held_blobs": [bytes(32)] * 20_000}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"held_blobs": [bytes(32)] * 100_000}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (
            {"enforced": [bundle_pb2.Revision(scope=f"org/{ORG}/user/u{n}", digest=bytes(32)) for n in range(9000)]},
            grpc.StatusCode.OK,
        ),
        ({"enforced": [bundle_pb2.Revision(scope="org/globex", digest=bytes(32))]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"org": "globex"}, grpc.StatusCode.PERMISSION_DENIED),
    ],
    ids=["many held", "too long", "as much as may be", "another org's scope", "another org"],
)
def test_a_hello_that_says_too_much_or_what_is_not_its_own(
    enforcing: World, target: str, fields: dict[str, Any], status: grpc.StatusCode
) -> None:
    for _ in range(20):
        with grpc.insecure_channel(target, options=_OPTIONS) as channel:
            stub = distribution_pb2_grpc.DistributionServiceStub(channel)
            call: Any = stub.Subscribe(iter([_hello(**fields)]), metadata=_abuser(enforcing))
            assert _ending(call)[0] is status, call.details()
