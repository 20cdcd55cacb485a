"""SIGKILL at any time: what was acknowledged is still there, what was enforced never becomes older."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.errors import ServerUnreachable
from tests.integration.e2e.world import ORG, decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.e2e.world import World

KILLS = 10
PUBLISHERS = 3
SCOPE = f"org/{ORG}"
REPEAT_PAUSE_S = 0.02
CAUGHT_UP_SHARE = 0.7


@dataclass
class Publishing:
    """What publishers were told: version and digest of each change, by its idempotency key."""

    stop: threading.Event = field(default_factory=threading.Event)
    acknowledged: dict[str, tuple[int, str]] = field(default_factory=dict)
    failures: list[BaseException] = field(default_factory=list)

    def publish_until_stopped(self, world: World, name: str) -> None:
        """Publish one change after the other; repeat each until the server acknowledges it."""
        number = 0
        try:
            while not self.stop.is_set():
                number += 1
                self._publish(world, f"{name}-{number}")
        except BaseException as error:
            self.failures.append(error)
            raise

    def _publish(self, world: World, key: str) -> None:
        while True:
            try:
                with world.publishing() as client:
                    files = [PolicyFile("policies.cedar", permit(key).encode())]
                    revision = client.publish(SCOPE, files, PublishTerms(idempotency_key=key)).revision
            except ServerUnreachable:
                if self.stop.wait(REPEAT_PAUSE_S):
                    return
            else:
                self.acknowledged[key] = (revision.version, revision.digest)
                return


@contextmanager
def publishing(world: World, publishers: int) -> Iterator[Publishing]:
    """Have that many publishers at work while the block runs."""
    work = Publishing()
    threads = [
        threading.Thread(target=work.publish_until_stopped, args=(world, f"publisher-{n}"), daemon=True)
        for n in range(publishers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield work
    finally:
        work.stop.set()
        for thread in threads:
            thread.join()
    assert work.failures == []


def published(world: World) -> dict[int, str]:
    """Return the digest of every version in the server's history."""
    return {revision.version: revision.digest for revision in world.history()}


# Five times ten kills, so that they can go on beside each other.
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3, 4, 5, 6])
def test_a_sidecar_killed_during_updates_comes_back_with_a_published_version_and_never_an_older_one(
    enforcing: World, seed: int
) -> None:
    moments = random.Random(seed)
    enforced = progressed = 0
    kept: list[tuple[int, str]] = []
    with publishing(enforcing, 1):
        for _ in range(KILLS):
            sidecar = enforcing.sidecars["host-1"]
            # Sometimes while it is still catching up, sometimes in the middle of the updates that follow.
            if moments.random() < CAUGHT_UP_SHARE:
                progressed += 1
                enforcing.wait_for_decision(lambda d, old=enforced: d.bundles[0].version > old)  # type: ignore[misc]
            threading.Event().wait(moments.uniform(0, 0.2))
            [bundle] = enforcing.ask().bundles
            enforced = max(enforced, bundle.version)
            threading.Event().wait(moments.uniform(0, 0.05))
            sidecar.kill()
            state = enforcing.state()[SCOPE]
            assert state["version"] >= enforced, "an older version is on disk than was enforced"
            enforced = state["version"]
            kept.append((state["version"], state["digest"]))
            seen = len(sidecar.records())
            restarted = enforcing.start_sidecar()
            [loaded] = [r for r in restarted.records()[seen:] if r["event"] == "loaded from cache"]
            assert (loaded["scopes"], loaded["missing"]) == ({SCOPE: enforced}, [])
            [bundle] = enforcing.ask().bundles
            assert bundle.version >= enforced, "an older version is enforced than before the kill"
    history = published(enforcing)
    assert [history[version] for version, _ in kept] == [digest for _, digest in kept]
    assert len({version for version, _ in kept}) >= progressed > 0
    last = enforcing.wait_for_decision(lambda d: d.bundles[0].version == max(history), what="the last version")
    assert last.bundles[0].digest == history[max(history)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2])
def test_a_server_killed_during_publishes_forgets_nothing_that_it_acknowledged(enforcing: World, seed: int) -> None:
    moments = random.Random(seed)
    with publishing(enforcing, PUBLISHERS) as work:
        for round_ in range(KILLS):
            before = len(work.acknowledged)
            wait_until(lambda before=before: len(work.acknowledged) > before, what="a publish")  # type: ignore[misc]
            threading.Event().wait(moments.uniform(0, 0.2))
            assert enforcing.server is not None
            enforcing.server.kill()
            promised = dict(work.acknowledged)
            enforcing.start_server()
            history = published(enforcing)
            assert {version: history.get(version) for version, _ in promised.values()} == dict(promised.values())
            assert sorted(history) == list(range(1, max(history) + 1)), f"a gap after kill {round_}"
    history = published(enforcing)
    versions = [version for version, _ in work.acknowledged.values()]
    assert len(set(versions)) == len(versions), "two changes were told the same version"
    # Each change was repeated until it was acknowledged, and is there once: only the one that a publisher was at when
    # it was stopped may be there without an acknowledgement. Version 1 was there before.
    assert 0 <= max(history) - 1 - len(versions) <= PUBLISHERS
    assert history == {**history, **dict(work.acknowledged.values())}
    enforcing.wait_for_decision(
        lambda d: d.bundles[0].digest == history[max(history)], what="the sidecar at the last version"
    )


@pytest.mark.slow
def test_server_and_sidecar_killed_together_restart_into_the_same_state(enforcing: World) -> None:
    enforcing.publish(permit("second"))
    before = enforcing.wait_decided_by("second")
    history, state = published(enforcing), enforcing.state()
    assert enforcing.server is not None
    enforcing.server.kill()
    enforcing.sidecars["host-1"].kill()
    assert enforcing.state() == state

    enforcing.start_sidecar()
    offline = enforcing.ask()
    assert (decided_by(offline), offline.bundles, offline.source.value) == ("second", before.bundles, "cache")

    enforcing.start_server()
    assert published(enforcing) == history
    online = enforcing.wait_for_decision(lambda d: d.source.value == "live", what="a live stream")
    assert (decided_by(online), online.bundles) == ("second", before.bundles)
    assert enforcing.state() == state
