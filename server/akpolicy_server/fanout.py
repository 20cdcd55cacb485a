"""Who is connected, and what they have yet to be told.

Rules:

- A stream is told *that* something changed, never *what*: it looks up the newest when it gets there. So the latest
  wins, and a slow stream keeps one bit here and delays nobody.
- A host may have so many streams at once and no more.
- A stream ends when its API key is revoked, or when the server stops. Then each host is told when to come back, so
  that they do not all come at once. In case the server is gone without a word they know before how far to spread.

Everything runs on the event loop, except `announce` and `end_key`, which any thread may call.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager
from enum import Enum
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import TooManyStreams

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from akpolicy_server.catalog import Catalog
    from akpolicy_server.store.hosts import HostKey

# How the return of hosts is spread when the server stops, or is gone. At this pace, and at 2,000 hosts, fewer than a
# tenth come in any second, those who have to try twice among them, and all within half a minute.
RETURNS_A_SECOND: Final = 125
MIN_SPREAD_S: Final = 1.0
MAX_SPREAD_S: Final = 60.0


class End(Enum):
    """Why the server ends a stream."""

    KEY_REVOKED = "key revoked"
    STOPPING = "server stopping"


class Subscriber:
    """One open stream."""

    def __init__(self, host: HostKey, key_id: str) -> None:
        self.host = host
        self.key_id = key_id
        # What the host was sent and does not enforce yet: since when, in the loop's time.
        self.lacking: dict[str, float] = {}
        self._has_news = False
        self._waiter: asyncio.Future[None] | None = None
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def lag_s(self, now: float) -> float:
        """Return for how long the host has been without something that it was sent, in seconds; 0 for nothing."""
        return max(0.0, now - min(self.lacking.values())) if self.lacking else 0.0

    def wake(self) -> None:
        """Say that there may be something new."""
        self._has_news = True
        if self._waiter is not None:
            _release(self._waiter)

    def take_news(self) -> bool:
        """Return whether there may be something new since the last call."""
        had_news, self._has_news = self._has_news, False
        return had_news

    async def wait_for_news(self, timeout_s: float) -> None:
        """Wait until there may be something new, at most `timeout_s` seconds."""
        if self._has_news:
            return
        # Thousands of streams wait here: no event, task or context for each, but a future and a timer.
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(timeout_s, _release, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def finish(self, end: End) -> None:
        """Let `ended` return."""
        if not self._end.done():
            self._end.set_result(end)

    async def ended(self) -> End:
        """Wait until the server ends the stream."""
        return await asyncio.shield(self._end)


class Fanout:
    """The open streams of this process."""

    def __init__(self, catalog: Catalog, *, max_streams_per_host: int) -> None:
        """`catalog` forgets what is announced before any stream hears of it."""
        self._catalog = catalog
        self._loop = asyncio.get_running_loop()
        self._max_streams_per_host = max_streams_per_host
        self._by_org: defaultdict[str, set[Subscriber]] = defaultdict(set)
        self._by_host: defaultdict[HostKey, set[Subscriber]] = defaultdict(set)
        self._by_key: defaultdict[str, set[Subscriber]] = defaultdict(set)
        self._stopping = False
        self._streams = 0
        self._streams_at_stop = 0
        self._random = SystemRandom()

    @contextmanager
    def joined(self, host: HostKey, key_id: str) -> Iterator[Subscriber]:
        """Add a stream while the block runs; raise `TooManyStreams`. While the server stops it ends at once."""
        if len(self._by_host.get(host, ())) >= self._max_streams_per_host:
            raise TooManyStreams(
                f"the host `{host.host_id}` has {self._max_streams_per_host} open streams already; "
                "does another machine use the same API key?"
            )
        subscriber = Subscriber(host, key_id)
        self._streams += 1
        for index, key in self._indexes(subscriber):
            index[key].add(subscriber)
        if self._stopping:
            subscriber.finish(End.STOPPING)
        try:
            yield subscriber
        finally:
            self._streams -= 1
            for index, key in self._indexes(subscriber):
                index[key].discard(subscriber)
                if not index[key]:
                    del index[key]

    def __len__(self) -> int:
        return self._streams

    @property
    def is_stopping(self) -> bool:
        """Whether the server ends its streams."""
        return self._stopping

    @property
    def hosts(self) -> list[HostKey]:
        """The hosts that have streams."""
        return list(self._by_host)

    def lags_s(self) -> list[float]:
        """Return of each stream for how long its host has been without something that it was sent, in seconds."""
        now = self._loop.time()
        return [subscriber.lag_s(now) for subscribers in self._by_org.values() for subscriber in subscribers]

    @property
    def key_ids(self) -> list[str]:
        """The API keys that opened streams."""
        return list(self._by_key)

    def announce(self, orgs: Collection[str]) -> None:
        """Tell every stream of these orgs that something changed; from any thread."""
        self._loop.call_soon_threadsafe(self._announce, tuple(orgs))

    def end_key(self, key_id: str) -> None:
        """End the streams of a revoked API key; from any thread."""
        self._loop.call_soon_threadsafe(self._end_key, key_id)

    def return_after_s(self) -> float:
        """Return when a host whose stream ends because the server stops is to come back, in seconds.

        Spread at random, so that not more than about `RETURNS_A_SECOND` come back at once.
        """
        return self._random.uniform(0.0, _spread_s(self._streams_at_stop))

    def spread_s(self) -> float:
        """Return over how many seconds the hosts of now are to spread their return, should the server be gone."""
        return _spread_s(self._streams)

    def stop(self) -> None:
        """End every stream, and each that joins from now on."""
        self._stopping = True
        self._streams_at_stop = len(self)
        for subscribers in self._by_org.values():
            for subscriber in subscribers:
                subscriber.finish(End.STOPPING)

    def _indexes(self, subscriber: Subscriber) -> list[tuple[defaultdict[Any, set[Subscriber]], Any]]:
        host = subscriber.host
        return [(self._by_org, host.org), (self._by_host, host), (self._by_key, subscriber.key_id)]

    def _announce(self, orgs: tuple[str, ...]) -> None:
        for org in orgs:
            self._catalog.forget(org)
        for org in orgs:
            for subscriber in self._by_org.get(org, ()):
                subscriber.wake()

    def _end_key(self, key_id: str) -> None:
        for subscriber in self._by_key.get(key_id, ()):
            subscriber.finish(End.KEY_REVOKED)


def _spread_s(streams: int) -> float:
    return min(MAX_SPREAD_S, max(MIN_SPREAD_S, streams / RETURNS_A_SECOND))


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
