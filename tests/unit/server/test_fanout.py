"""Who is told what, and who may listen."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import pytest

from akpolicy.errors import TooManyStreams
from akpolicy_server import fanout as fanout_module
from akpolicy_server.fanout import MIN_SPREAD_S, End, Fanout
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from akpolicy_server.catalog import Catalog


class _Forgetful:
    """Stands where the catalog is: remembers what it was told to forget."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def forget(self, org: str) -> None:
        self.forgotten.append(org)


def _fanout(catalog: _Forgetful | None = None, *, limit: int = 2) -> Fanout:
    return Fanout(cast("Catalog", catalog or _Forgetful()), max_streams_per_host=limit)


def test_a_change_is_told_to_the_hosts_of_its_orgs_and_no_others() -> None:
    async def scenario() -> None:
        fanout = _fanout()
        with ExitStack() as stack:
            acme, globex = (
                stack.enter_context(fanout.joined(HostKey(org, "h"), f"key-{org}")) for org in ("acme", "globex")
            )
            fanout.announce(["acme"])
            await asyncio.sleep(0)
            assert (acme.take_news(), globex.take_news()) == (True, False)
            fanout.announce(["acme", "globex"])
            await asyncio.sleep(0)
            assert (acme.take_news(), globex.take_news()) == (True, True)
            assert (acme.take_news(), globex.take_news()) == (False, False)

    asyncio.run(scenario())


def test_what_is_kept_in_memory_is_forgotten_before_anybody_hears() -> None:
    async def scenario() -> None:
        catalog = _Forgetful()
        fanout = _fanout(catalog)
        with fanout.joined(HostKey("acme", "h"), "k") as subscriber:
            known: list[list[str]] = []
            subscriber.on_news = lambda: known.append(list(catalog.forgotten))
            fanout.announce(["acme"])
            await asyncio.sleep(0)
            assert known == [["acme"]]

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["in time", "never", "fails", "is cancelled"])
def test_what_all_streams_will_ask_for_is_made_before_they_are_told(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(fanout_module, "PREPARED_WITHIN_S", 30.0 if how == "in time" else 0.01)

    async def scenario() -> None:
        asked: list[str] = []
        told, made = asyncio.Event(), asyncio.Event()

        async def prepare(org: str) -> None:
            asked.append(org)
            if how == "fails":
                raise ValueError("no such thing")
            if how == "is cancelled":
                raise asyncio.CancelledError
            await made.wait()

        fanout = Fanout(cast("Catalog", _Forgetful()), max_streams_per_host=1, prepare=prepare)
        with fanout.joined(HostKey("acme", "h"), "k") as subscriber:
            subscriber.on_news = told.set
            # Nobody listens for the other.
            fanout.announce(["acme", "globex"])
            if how == "in time":
                for _ in range(10):
                    await asyncio.sleep(0)
                assert (asked, subscriber.take_news()) == (["acme"], False)
                made.set()
            await asyncio.wait_for(told.wait(), 30)
            assert (asked, subscriber.take_news()) == (["acme"], True)

    asyncio.run(scenario())


def test_another_thread_may_announce() -> None:
    async def scenario() -> None:
        fanout = _fanout()
        with fanout.joined(HostKey("acme", "h"), "k") as subscriber:
            told = asyncio.Event()
            subscriber.on_news = told.set
            threading.Thread(target=fanout.announce, args=(["acme"],)).start()
            await asyncio.wait_for(told.wait(), 30)
            assert subscriber.take_news()

    asyncio.run(scenario())


def test_a_stream_keeps_its_place_for_a_moment() -> None:
    async def scenario() -> None:
        fanout = _fanout(limit=1)
        host = HostKey("acme", "h")
        with fanout.joined(host, "k") as first:
            with pytest.raises(TooManyStreams, match="has just opened 1 streams"), fanout.joined(host, "k"):
                pass
            assert (first.end, len(fanout), fanout.hosts) == (None, 1, [host])

    asyncio.run(scenario())


def test_a_new_stream_takes_the_place_of_the_oldest_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_module, "PLACE_S", 0.0)

    async def scenario() -> None:
        fanout = _fanout(limit=2)
        host = HostKey("acme", "h")
        with ExitStack() as stack:
            first, second, other = (
                stack.enter_context(fanout.joined(HostKey(org, "h"), "k")) for org in ("acme", "acme", "globex")
            )
            third = stack.enter_context(fanout.joined(host, "k"))
            assert (first.end, second.end, third.end, other.end) == (End.SUPERSEDED, None, None, None)
            # One with another credential gives way only where the newcomer's own has none.
            fourth = stack.enter_context(fanout.joined(host, "stolen"))
            assert (second.end, third.end) == (End.SUPERSEDED, None)
            stack.enter_context(fanout.joined(host, "stolen"))
            assert (third.end, fourth.end) == (None, End.SUPERSEDED)
        assert len(fanout) == 0
        assert (fanout.key_ids, fanout.hosts) == ([], [])

    asyncio.run(scenario())


def test_an_old_stream_ends_unless_its_host_has_yet_to_enforce_something() -> None:
    async def scenario() -> None:
        fanout = Fanout(cast("Catalog", _Forgetful()), max_streams_per_host=2, stream_age_s=1000)
        host = HostKey("acme", "h")
        with fanout.joined(host, "k") as idle, fanout.joined(host, "k") as busy:
            now = asyncio.get_running_loop().time()
            assert 890 < idle.old_at - now < 1101
            fanout.end_old()
            assert [stream.end for stream in (idle, busy)] == [None, None]
            idle.old_at = busy.old_at = now
            busy.lacking["org/acme"] = now
            fanout.end_old()
            assert (idle.end, busy.end) == (End.OLD, None)
            busy.old_at = now - 61
            fanout.end_old()
            assert busy.end is End.OLD

    asyncio.run(scenario())


def test_a_revoked_keys_streams_end_and_no_others() -> None:
    async def scenario() -> None:
        fanout = _fanout()
        with fanout.joined(HostKey("acme", "a"), "k1") as first, fanout.joined(HostKey("acme", "b"), "k2") as second:
            fanout.end_key("k1")
            assert await asyncio.wait_for(first.ended(), 30) is End.KEY_REVOKED
            assert second.end is None

    asyncio.run(scenario())


def test_stopping_ends_every_stream_and_those_that_come_later() -> None:
    async def scenario() -> None:
        fanout = _fanout()
        with fanout.joined(HostKey("acme", "a"), "k1") as first:
            fanout.stop()
            assert await asyncio.wait_for(first.ended(), 30) is End.STOPPING
            with fanout.joined(HostKey("acme", "b"), "k2") as late:
                assert await asyncio.wait_for(late.ended(), 30) is End.STOPPING

    asyncio.run(scenario())


@pytest.mark.parametrize(("streams", "spread_s"), [(0, 0), (100, 0.8), (3000, 24), (100_000, 60)])
def test_the_return_of_hosts_is_spread_over_a_time_that_grows_with_their_number(streams: int, spread_s: float) -> None:
    async def scenario() -> list[float]:
        fanout = _fanout()
        with ExitStack() as stack:
            for number in range(streams):
                stack.enter_context(fanout.joined(HostKey("acme", f"h{number}"), "k"))
            assert fanout.spread_s() == spread_s
            fanout.stop()
            return [fanout.return_after_s() for _ in range(2000)]

    found = asyncio.run(scenario())
    # One that stops in good order needs a moment until it is back.
    longest_s = max(MIN_SPREAD_S, spread_s)
    assert 0 <= min(found) < 0.1 * longest_s
    assert 0.9 * longest_s < max(found) <= longest_s
