"""The messages of a stream as they come, alone or in batches, and content in pieces among them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from akpolicy.errors import StreamProtocolError, UpdateTooSlow
from akpolicy_sidecar.chunks import ChunkAssembler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from akpolicy.bundle import ContentReference
    from akpolicy.clock import Clock
    from akpolicy.v1 import distribution_pb2 as pb

MAX_CONTENT_SECONDS: Final = 300.0


class Inbox:
    """The messages of a stream; one that was read too early can be put back."""

    def __init__(
        self, responses: Iterator[pb.SubscribeResponse], *, before: Callable[[], None], after: Callable[[], None]
    ) -> None:
        """Take messages from `responses`; call `before` and `after` around each wait for one."""
        self._responses = responses
        self._before = before
        self._after = after
        self._returned: deque[pb.SubscribeResponse] = deque()

    def __iter__(self) -> Inbox:
        return self

    def __next__(self) -> pb.SubscribeResponse:
        if self._returned:
            return self._returned.popleft()
        self._before()
        message = next(self._responses)
        self._after()
        return message

    def put_back(self, message: pb.SubscribeResponse) -> None:
        """Have `message` come next again."""
        self._returned.append(message)


def receive_content(inbox: Inbox, reference: ContentReference, announced: int, clock: Clock) -> bytes:
    """Take `announced` bytes of content from the chunks that come next.

    Raises `ContentTooLarge`, `StreamProtocolError` if something else comes, or `UpdateTooSlow`.
    """
    assembler = ChunkAssembler(reference, announced)
    begun = clock.elapsed()
    while not assembler.is_complete:
        message = next(inbox, None)
        if message is None or message.WhichOneof("message") != "chunk":
            if message is not None:
                inbox.put_back(message)
            msg = f"content ended after {assembler.progress}"
            raise StreamProtocolError(msg)
        if clock.elapsed() - begun > MAX_CONTENT_SECONDS:
            msg = f"only {assembler.progress} of content came within {MAX_CONTENT_SECONDS:.0f} seconds"
            raise UpdateTooSlow(msg)
        assembler.add(message.chunk.digest, message.chunk.offset, message.chunk.data)
    return assembler.content()
