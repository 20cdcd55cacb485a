"""Who is connected, and what they have yet to be told.

Rules:

- A stream is told *that* something changed, never *what*: it looks up the newest when it gets there. So the latest
  wins, and a slow stream keeps one bit here and delays nobody.
- A host may have so many streams at once and no more: the newest takes the place of the oldest, of the same credential
  if that has one. Whoever holds a stolen one can take places, but not keep a host out. A stream keeps its place for
  `PLACE_S` at the least: what comes meanwhile is refused, because each stream that begins costs a signature.
- A stream is ended when it is old, so that hosts spread over the servers there are. Its host comes back at once. That
  does not happen while the host has yet to enforce what it was sent, within `MAX_OVERTIME_S`.
- A stream ends when its API key is revoked, its client certificate expires, its host is refused, or the server stops.
  Then each host is told when to come back, so that they do not all come at once. In case the server is gone without a
  word they know before how far to spread.

Everything runs on the event loop, except `announce` and `end_key`, which any thread may call.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from contextlib import contextmanager
from enum import Enum
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

import structlog

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
# Streams that began together do not end together.
AGE_JITTER: Final = 0.1
# For how long an old stream may go on because its host has yet to enforce something; a refusal lasts longer than that.
MAX_OVERTIME_S: Final = 60.0
# Within how many seconds a host comes back whose stream was old, and one whose place was taken.
OLD_RETURN_S: Final = 0.5
SUPERSEDED_RETURN_S: Final = 4.0
PLACE_S: Final = 1.0


log = structlog.get_logger(__name__)


class End(Enum):
    """Why the server ends a stream."""

    KEY_REVOKED = "key revoked"
    CERTIFICATE_EXPIRED = "certificate expired"
    HOST_DENIED = "host denied"
    SUPERSEDED = "superseded"
    OLD = "old"
    STOPPING = "server stopping"


class Subscriber:
    """One open stream. `expires_at`: when what opened it expires, in epoch seconds; None: never."""

    def __init__(self, host: HostKey, key_id: str, expires_at: float | None = None) -> None:
        self.host = host
        self.key_id = key_id
        self.expires_at = expires_at
        self.joined_at = asyncio.get_running_loop().time()
        # When it is old, in the loop's time.
        self.old_at = math.inf
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

    @property
    def end(self) -> End | None:
        """Why the server ends the stream; None while it does not."""
        return self._end.result() if self._end.done() else None


class Fanout:
    """The open streams of this process."""

    def __init__(self, catalog: Catalog, *, max_streams_per_host: int, stream_age_s: float = math.inf) -> None:
        """`catalog` forgets what is announced before any stream hears of it; streams are old after `stream_age_s`."""
        self._catalog = catalog
        self._loop = asyncio.get_running_loop()
        self._max_streams_per_host = max_streams_per_host
        self._stream_age_s = stream_age_s
        self._by_org: defaultdict[str, set[Subscriber]] = defaultdict(set)
        # Oldest first.
        self._by_host: defaultdict[HostKey, dict[Subscriber, None]] = defaultdict(dict)
        self._by_key: defaultdict[str, set[Subscriber]] = defaultdict(set)
        self._stopping = False
        self._streams = 0
        self._streams_at_stop = 0
        self._random = SystemRandom()

    @contextmanager
    def joined(self, host: HostKey, key_id: str, expires_at: float | None = None) -> Iterator[Subscriber]:
        """Add a stream while the block runs; raise `TooManyStreams`. While the server stops it ends at once.

        `expires_at`: when what opened it expires, in epoch seconds.
        """
        self._make_room(host, key_id)
        subscriber = Subscriber(host, key_id, expires_at)
        subscriber.old_at = self._loop.time() + self._stream_age_s * self._random.uniform(
            1 - AGE_JITTER, 1 + AGE_JITTER
        )
        self._streams += 1
        self._by_host[host][subscriber] = None
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
            del self._by_host[host][subscriber]
            if not self._by_host[host]:
                del self._by_host[host]

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

    def end_old(self) -> None:
        """End the streams that are old, if that does not interrupt anything; on the event loop."""
        now = self._loop.time()
        for subscribers in self._by_org.values():
            for subscriber in subscribers:
                if subscriber.old_at + (MAX_OVERTIME_S if subscriber.lacking else 0.0) <= now:
                    subscriber.finish(End.OLD)

    def _make_room(self, host: HostKey, key_id: str) -> None:
        """End the stream whose place a new one of this host takes, if there is none left; raise `TooManyStreams`."""
        open_streams = [subscriber for subscriber in self._by_host.get(host, {}) if subscriber.end is None]
        if len(open_streams) < self._max_streams_per_host:
            return
        same = [subscriber for subscriber in open_streams if subscriber.key_id == key_id]
        oldest = (same or open_streams)[0]
        if self._loop.time() - oldest.joined_at < PLACE_S:
            raise TooManyStreams(
                f"the host `{host.host_id}` has just opened {self._max_streams_per_host} streams; "
                "does another machine use its API key or certificate?"
            )
        log.warning(
            "a new stream takes the place of the oldest one of its host; does another machine use its credential?",
            org=host.org,
            host_id=host.host_id,
            key_id=key_id,
            ended_key_id=oldest.key_id,
            streams=len(open_streams),
        )
        oldest.finish(End.SUPERSEDED)

    def return_after_s(self) -> float:
        """Return when a host whose stream ends because the server stops is to come back, in seconds.

        Spread at random, so that not more than about `RETURNS_A_SECOND` come back at once.
        """
        return self._random.uniform(0.0, max(MIN_SPREAD_S, _spread_s(self._streams_at_stop)))

    def spread_s(self) -> float:
        """Return over how many seconds the hosts of now are to spread their return, should the server be gone."""
        return _spread_s(self._streams)

    def pause_after(self, end: End) -> float | None:
        """Return how long a host whose stream ended so is to wait, in seconds; None if that is its own affair."""
        if end is End.STOPPING:
            return self.return_after_s()
        return_s = {End.OLD: OLD_RETURN_S, End.SUPERSEDED: SUPERSEDED_RETURN_S}.get(end)
        return None if return_s is None else self._random.uniform(0.0, return_s)

    def stop(self) -> None:
        """End every stream, and each that joins from now on."""
        self._stopping = True
        self._streams_at_stop = len(self)
        for subscribers in self._by_org.values():
            for subscriber in subscribers:
                subscriber.finish(End.STOPPING)

    def _indexes(self, subscriber: Subscriber) -> list[tuple[defaultdict[Any, set[Subscriber]], Any]]:
        return [(self._by_org, subscriber.host.org), (self._by_key, subscriber.key_id)]

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
    return min(MAX_SPREAD_S, streams / RETURNS_A_SECOND)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
