"""How the server ends what it sends to a host, and what it says to it then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from grpc import StatusCode

from akpolicy_server.api.call import Ended
from akpolicy_server.fanout import End

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from akpolicy_server.fanout import Fanout, Subscriber
    from akpolicy_server.metrics import ServerMetrics

_ENDINGS: Final = {
    End.KEY_REVOKED: (StatusCode.UNAUTHENTICATED, "the API key was revoked"),
    End.CERTIFICATE_EXPIRED: (StatusCode.UNAUTHENTICATED, "the client certificate has expired"),
    End.HOST_DENIED: (StatusCode.PERMISSION_DENIED, "this host is refused by this server's operator"),
    End.SUPERSEDED: (
        StatusCode.RESOURCE_EXHAUSTED,
        "a newer stream of this host took this one's place; does another machine use its API key or certificate?",
    ),
    End.OLD: (StatusCode.UNAVAILABLE, "the stream is old; open another one"),
    End.STOPPING: (StatusCode.UNAVAILABLE, "the server is shutting down; come back later"),
}


async def end_of(fanout: Fanout, subscriber: Subscriber, metrics: ServerMetrics) -> None:
    """Wait until the server ends the stream, and raise `Ended`."""
    raise counted_end(fanout, await subscriber.ended(), metrics)


def counted_end(fanout: Fanout, why: End, metrics: ServerMetrics) -> Ended:
    """Count that the server ends a stream; return what its host is told."""
    metrics.streams_ended.labels(reason=why.name.lower()).inc()
    status, message = _ENDINGS[why]
    return Ended(status, message, retry_after_s=fanout.pause_after(why), reopen=why is End.OLD)


async def until_one_ends(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all parts until the first one ends, and end the others; raise what one raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
