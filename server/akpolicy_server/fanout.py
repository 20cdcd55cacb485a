"""Who is connected, and what they have yet to be told.

Rules:

- A stream is told *that* something changed, never *what*: it looks up the newest when it gets there. So the latest
  wins, and a slow stream keeps one bit here and delays nobody.
- What all streams of an org will ask for at once (`prepare`) is made before they are told, within `PREPARED_WITHIN_S`:
  thousands that wait for one thing cost more than the thing.
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
from enum import Enum
from functools import partial
from itertools import chain
from random import SystemRandom
from typing import TYPE_CHECKING, Final, cast

import structlog

from akpolicy.errors import TooManyStreams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator
    from contextlib import AbstractContextManager

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
PREPARED_WITHIN_S: Final = 0.1


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
    """One open stream. `expires_at`: when what opened it expires, in epoch seconds; None: never.

    `on_news` is called when there may be something new, `on_end` when the server ends the stream; both on the event
    loop. Thousands of streams wait at once: what waits here is no task and no future.
    """

    __slots__ = (
        "_has_news",
        "end",
        "expires_at",
        "host",
        "joined_at",
        "key_id",
        "lacking",
        "old_at",
        "on_end",
        "on_news",
    )

    def __init__(self, host: HostKey, key_id: str, expires_at: float | None = None) -> None:
        self.host = host
        self.key_id = key_id
        self.expires_at = expires_at
        self.joined_at = asyncio.get_running_loop().time()
        # When it is old, in the loop's time.
        self.old_at = math.inf
        # What the host was sent and does not enforce yet: since when, in the loop's time.
        self.lacking: dict[str, float] = {}
        # Why the server ends the stream; None while it does not.
        self.end: End | None = None
        self.on_news: Callable[[], None] = _nobody
        self.on_end: Callable[[], None] = _nobody
        self._has_news = False

    def lag_s(self, now: float) -> float:
        """Return for how long the host has been without something that it was sent, in seconds; 0 for nothing."""
        return max(0.0, now - min(self.lacking.values())) if self.lacking else 0.0

    def enforces(self, scope: str) -> None:
        """Note that the host no longer lacks what it was sent of a scope."""
        self.lacking.pop(scope, None)
        if not self.lacking:
            # A dictionary keeps the room that it once took.
            self.lacking = {}

    def wake(self) -> None:
        """Say that there may be something new."""
        self._has_news = True
        self.on_news()

    @property
    def has_news(self) -> bool:
        """Whether there may be something new since news were taken."""
        return self._has_news

    def take_news(self) -> bool:
        """Return whether there may be something new since the last call."""
        had_news, self._has_news = self._has_news, False
        return had_news

    def finish(self, end: End) -> None:
        """End the stream, unless it ends already."""
        if self.end is None:
            self.end = end
            self.on_end()

    def forget(self) -> None:
        """Call nobody any more: whoever was called may go then without a look for garbage."""
        self.on_news = self.on_end = _nobody

    async def ended(self) -> End:
        """Wait until the server ends the stream; for one at a time."""
        if self.end is None:
            told = asyncio.get_running_loop().create_future()
            self.on_end = partial(_release, told)
            try:
                await told
            finally:
                self.on_end = _nobody
        return cast("End", self.end)


class Fanout:
    """The open streams of this process."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        max_streams_per_host: int,
        stream_age_s: float = math.inf,
        prepare: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        """`catalog` forgets what is announced before any stream hears of it; streams are old after `stream_age_s`.

        `prepare` makes what the streams of an org will ask for.
        """
        self._catalog = catalog
        self._prepare = prepare
        # The event loop alone would forget them.
        self._preparing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._max_streams_per_host = max_streams_per_host
        self._stream_age_s = stream_age_s
        self._by_org: defaultdict[str, set[Subscriber]] = defaultdict(set)
        # Oldest first. A host has one stream as a rule, and a tuple of one is small.
        self._by_host: dict[HostKey, tuple[Subscriber, ...]] = {}
        self._stopping = False
        self._streams = 0
        self._streams_at_stop = 0
        self._random = SystemRandom()

    def joined(self, host: HostKey, key_id: str, expires_at: float | None = None) -> AbstractContextManager[Subscriber]:
        """Add a stream while the block runs; raise `TooManyStreams`. While the server stops it ends at once.

        `expires_at`: when what opened it expires, in epoch seconds.
        """
        self._make_room(host, key_id)
        subscriber = Subscriber(host, key_id, expires_at)
        subscriber.old_at = self._loop.time() + self._stream_age_s * self._random.uniform(
            1 - AGE_JITTER, 1 + AGE_JITTER
        )
        return _Place(self, subscriber)

    def add(self, subscriber: Subscriber) -> None:
        """Add a stream that has a place."""
        host = subscriber.host
        self._streams += 1
        self._by_host[host] = (*self._by_host.get(host, ()), subscriber)
        self._by_org[host.org].add(subscriber)
        if self._stopping:
            subscriber.finish(End.STOPPING)

    def remove(self, subscriber: Subscriber) -> None:
        """Take a stream away that was added."""
        host = subscriber.host
        self._streams -= 1
        self._by_org[host.org].discard(subscriber)
        if not self._by_org[host.org]:
            del self._by_org[host.org]
        others = tuple(other for other in self._by_host[host] if other is not subscriber)
        if others:
            self._by_host[host] = others
        else:
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
        return [subscriber.lag_s(now) for subscriber in self._all()]

    @property
    def key_ids(self) -> list[str]:
        """The API keys that opened streams."""
        return list({subscriber.key_id: None for subscriber in self._all()})

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
        for subscriber in self._all():
            if subscriber.expires_at is not None and subscriber.expires_at <= now:
                subscriber.finish(End.CERTIFICATE_EXPIRED)

    def end_old(self) -> None:
        """End the streams that are old, if that does not interrupt anything; on the event loop."""
        now = self._loop.time()
        for subscriber in self._all():
            if subscriber.old_at + (MAX_OVERTIME_S if subscriber.lacking else 0.0) <= now:
                subscriber.finish(End.OLD)

    def _make_room(self, host: HostKey, key_id: str) -> None:
        """End the stream whose place a new one of this host takes, if there is none left; raise `TooManyStreams`."""
        open_streams = [subscriber for subscriber in self._by_host.get(host, ()) if subscriber.end is None]
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
        for subscriber in self._all():
            subscriber.finish(End.STOPPING)

    def _all(self) -> Iterator[Subscriber]:
        return chain.from_iterable(self._by_org.values())

    def _announce(self, orgs: tuple[str, ...]) -> None:
        for org in orgs:
            self._catalog.forget(org)
        for org in orgs:
            if self._prepare is None:
                self._wake(org)
            elif org in self._by_org:
                task = self._loop.create_task(self._prepared(org, self._prepare(org)))
                self._preparing.add(task)
                task.add_done_callback(self._preparing.discard)

    async def _prepared(self, org: str, preparation: Awaitable[object]) -> None:
        """Tell the streams of an org once what they will ask for is there, or does not come."""
        try:
            async with asyncio.timeout(PREPARED_WITHIN_S):
                await preparation
        except Exception as error:  # noqa: BLE001 - each stream meets it again, and says so
            log.debug("streams are told before what they will ask for is there", org=org, reason=repr(error))
        finally:
            # Also if what it waits for was cancelled: nobody may miss a change.
            self._wake(org)

    def _wake(self, org: str) -> None:
        for subscriber in self._by_org.get(org, ()):
            subscriber.wake()

    def _end_key(self, key_id: str) -> None:
        # Rare enough to look at every stream: an index of keys would cost each of them more than this.
        for subscriber in self._all():
            if subscriber.key_id == key_id:
                subscriber.finish(End.KEY_REVOKED)


class _Place:
    """The place of one stream among all, while a block runs."""

    __slots__ = ("_fanout", "_subscriber")

    def __init__(self, fanout: Fanout, subscriber: Subscriber) -> None:
        self._fanout = fanout
        self._subscriber = subscriber

    def __enter__(self) -> Subscriber:
        self._fanout.add(self._subscriber)
        return self._subscriber

    def __exit__(self, *_: object) -> None:
        self._fanout.remove(self._subscriber)


def _spread_s(streams: int) -> float:
    return min(MAX_SPREAD_S, streams / RETURNS_A_SECOND)


def _nobody() -> None:
    """Stand where nobody waits."""


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
