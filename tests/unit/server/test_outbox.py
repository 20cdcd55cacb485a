"""Messages go out in their order, as few as the host allows and no larger than agreed."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from akpolicy.limits import MAX_BATCH_BYTES, MAX_CHUNK_BYTES
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy_server.api.outbox import Outbox

# Sizes of content; None is a flush.
STEPS = st.lists(st.one_of(st.none(), st.integers(0, MAX_CHUNK_BYTES)), max_size=30)


def _sent(steps: list[int | None], *, takes_batches: bool) -> tuple[list[pb.SubscribeResponse], list[int]]:
    """Return what is written, and how much was written after each flush."""
    written: list[pb.SubscribeResponse] = []
    flushed: list[int] = []

    async def write(message: bytes) -> None:
        written.append(pb.SubscribeResponse.FromString(message))

    async def scenario() -> None:
        outbox = Outbox(write, takes_batches=takes_batches)
        for number, size in enumerate(steps):
            if size is None:
                await outbox.flush()
                flushed.append(len(_parts(written)))
            else:
                whole = _message(number, size).SerializeToString()
                # In pieces, as content comes.
                await outbox.add(whole[:number], memoryview(whole)[number:])
        await outbox.flush()

    asyncio.run(scenario())
    return written, flushed


def _message(number: int, size: int) -> pb.SubscribeResponse:
    return pb.SubscribeResponse(chunk=pb.BlobChunk(offset=number, data=bytes(size)))


def _parts(written: list[pb.SubscribeResponse]) -> list[pb.SubscribeResponse]:
    return [
        part for message in written for part in (message.batch.messages if message.HasField("batch") else [message])
    ]


@given(steps=STEPS)
def test_batches_say_the_same_in_the_same_order_and_are_bounded(steps: list[int | None]) -> None:
    alone, _ = _sent(steps, takes_batches=False)
    together, flushed = _sent(steps, takes_batches=True)

    assert _parts(together) == alone
    assert not any(message.HasField("batch") for message in alone)
    for message in together:
        if message.HasField("batch"):
            assert len(message.batch.messages) > 1
            assert sum(part.ByteSize() for part in message.batch.messages) <= MAX_BATCH_BYTES
    assert flushed == [
        sum(size is not None for size in steps[:index]) for index, size in enumerate(steps) if size is None
    ]


def test_what_fits_goes_as_one() -> None:
    written, _ = _sent([10, 20, 30], takes_batches=True)
    assert [len(message.batch.messages) for message in written] == [3]


def test_nothing_is_written_before_it_must_be() -> None:
    written, flushed = _sent([10, 20, None, MAX_CHUNK_BYTES - 100, 200], takes_batches=True)
    assert flushed == [2]
    assert [len(message.batch.messages) for message in written] == [2, 0, 0]
