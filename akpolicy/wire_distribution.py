"""What both ends of a distribution stream make of its messages.

Rule: a batch means what its parts mean one after the other, and has no batches in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import StreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from akpolicy.v1 import distribution_pb2 as pb


def unpacked(responses: Iterable[pb.SubscribeResponse]) -> Iterator[pb.SubscribeResponse]:
    """Yield messages, and those of a batch one by one; raise `StreamProtocolError` for a batch within a batch."""
    for response in responses:
        if response.WhichOneof("message") != "batch":
            yield response
            continue
        for message in response.batch.messages:
            if message.WhichOneof("message") == "batch":
                msg = "a batch within a batch"
                raise StreamProtocolError(msg)
            yield message
