"""Who is connected, and what they have yet to be told.

Rules:

- A stream is told *that* something changed, never *what*: it looks up the newest when it gets there. So the latest
  wins, and a slow stream keeps one bit here and delays nobody.
- A host may have so many streams at once and no more.
- A stream ends when its API key is revoked, its client certificate expires, its host is refused, or the server stops.
  Then each host is told when to come back, so that they do not all come at once.

Everything runs on the event loop, except `announce` and `end_key`, which any thread may call.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager, suppress
from enum import Enum
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import TooManyStreams

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from akpolicy_server.catalog import Catalog
    from akpolicy_server.store.hosts import HostKey

# How the return of hosts is spread when the server stops.
RETURNS_A_SECOND: Final = 200
MIN_SPREAD_S: Final = 1.0
MAX_SPREAD_S: Final = 60.0


class End(Enum):
    """Why the server ends a stream."""

    KEY_REVOKED = "key revoked"
    CERTIFICATE_EXPIRED = "certificate expired"
    HOST_DENIED = "host denied"
    STOPPING = "server stopping"


class Subscriber:
    """One open stream. `expires_at`: when what opened it expires, in epoch seconds; None: never."""

    def __init__(self, host: HostKey, key_id: str, expires_at: float | None = None) -> None:
        self.host = host
        self.key_id = key_id
        self.expires_at = expires_at
        # What the host was sent and does not enforce yet: since when, in the loop's time.
        self.lacking: dict[str, float] = {}
        self._news = asyncio.Event()
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def lag_s(self, now: float) -> float:
        """Return for how long the host has been without something that it was sent, in seconds; 0 for nothing."""
        return max(0.0, now - min(self.lacking.values())) if self.lacking else 0.0

    def wake(self) -> None:
        """Say that there may be something new."""
        self._news.set()

    def take_news(self) -> bool:
        """Return whether there may be something new since the last call."""
        had_news = self._news.is_set()
        self._news.clear()
        return had_news

    async def wait_for_news(self, timeout_s: float) -> None:
        """Wait until there may be something new, at most `timeout_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

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
        self._streams_at_stop = 0
        self._random = SystemRandom()

    @contextmanager
    def joined(self, host: HostKey, key_id: str, expires_at: float | None = None) -> Iterator[Subscriber]:
        """Add a stream while the block runs; raise `TooManyStreams`. While the server stops it ends at once.

        `expires_at`: when what opened it expires, in epoch seconds.
        """
        if len(self._by_host.get(host, ())) >= self._max_streams_per_host:
            raise TooManyStreams(
                f"the host `{host.host_id}` has {self._max_streams_per_host} open streams already; "
                "does another machine use the same API key?"
            )
        subscriber = Subscriber(host, key_id, expires_at)
        for index, key in self._indexes(subscriber):
            index[key].add(subscriber)
        if self._stopping:
            subscriber.finish(End.STOPPING)
        try:
            yield subscriber
        finally:
            for index, key in self._indexes(subscriber):
                index[key].discard(subscriber)
                if not index[key]:
                    del index[key]

    def __len__(self) -> int:
        return sum(len(subscribers) for subscribers in self._by_org.values())

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

    def end_host(self, host: HostKey) -> None:
        """End the streams of a host that is refused; on the event loop."""
        for subscriber in self._by_host.get(host, ()):
            subscriber.finish(End.HOST_DENIED)

    def end_expired(self, now: float) -> None:
        """End the streams that were opened with what has expired at `now` (epoch seconds); on the event loop."""
        for subscribers in self._by_org.values():
            for subscriber in subscribers:
                if subscriber.expires_at is not None and subscriber.expires_at <= now:
                    subscriber.finish(End.CERTIFICATE_EXPIRED)

    def return_after_s(self) -> float:
        """Return when a host whose stream ends because the server stops is to come back, in seconds.

        Spread at random, so that not more than about `RETURNS_A_SECOND` come back at once.
        """
        spread_s = min(MAX_SPREAD_S, max(MIN_SPREAD_S, self._streams_at_stop / RETURNS_A_SECOND))
        return self._random.uniform(0.0, spread_s)

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
