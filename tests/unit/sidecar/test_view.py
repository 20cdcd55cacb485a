"""A view taken while the watcher's thread replaces what it looks at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.clock import Moment
from akpolicy.decision import BundleVersion, PolicySource, Reason
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy.trusted_time import TimeProof
from akpolicy_sidecar.freshness import Confirmation, Freshness
from akpolicy_sidecar.link import LinkHolder
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Layer, Snapshot, SnapshotHolder
from akpolicy_sidecar.view import Viewer
from tests.simulators.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

LAX = OfflineRule(OfflineMode.CACHED_INDEFINITE, math.inf)
COMPILED = compile_layer("global", [PolicyText("p", "forbid (principal, action, resource);")], load_default_schema())


# A look reads the link, the snapshot and three clocks.
EVERY_PLACE = pytest.mark.parametrize("place", range(1, 6))


class Scene:
    """The state that a viewer looks at; `interrupt` is done once, right after `reads_before` reads of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.snapshots = SnapshotHolder(Snapshot.build([self.layer("org/acme")], local=LAX))
        self.links = LinkHolder()
        self.interrupt: Callable[[], None] | None = None
        self.reads_before = 0

    def layer(self, scope: str) -> Layer:
        return Layer(COMPILED, BundleVersion(scope, 1, 1, "0" * 64), int(self.clock.now()) + 1000, LAX)

    def deliver_the_rest(self) -> None:
        """Do what the watcher does: swap the snapshot, then note that the stream counts."""
        self.swap()
        self.links.proven(Moment.read(self.clock))

    def swap(self) -> None:
        """Enforce everything, with a heartbeat of now."""
        moment, now = Moment.read(self.clock), int(self.clock.now())
        seen = Confirmation(now, now + 300)
        self.snapshots.current = Snapshot.build(
            [self.layer("global"), self.layer("org/acme")],
            local=LAX,
            freshness=Freshness({"global": seen, "org/acme": seen}, seen),
            proof=TimeProof(float(now), moment),
        )

    def hear(self) -> None:
        self.clock.advance(1)
        self.links.heard(Moment.read(self.clock))

    def renew(self) -> None:
        """Take a later heartbeat."""
        self.clock.advance(1)
        self.swap()
        self.links.proven(Moment.read(self.clock))

    def lose(self) -> None:
        """Refuse something: a part cannot be enforced any more, and the stream does not count."""
        self.snapshots.current = Snapshot.build([self.layer("global")], local=LAX, missing=["org/acme"])
        self.links.lost()

    def viewer(self) -> Viewer:
        return Viewer(*(Interrupted(part, self) for part in (self.clock, self.snapshots, self.links)))  # type: ignore[arg-type]


class Interrupted:
    """Passes reads on, and lets the scene's interruption happen between two of them."""

    def __init__(self, part: object, scene: Scene) -> None:
        self._part = part
        self._scene = scene

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        self._scene.reads_before -= 1
        if self._scene.reads_before == 0 and self._scene.interrupt is not None:
            self._scene.interrupt()
        return value


@pytest.fixture
def scene() -> Scene:
    return Scene()


@EVERY_PLACE
def test_a_delivery_in_the_middle_of_a_look_never_decides_by_a_part_of_the_policies(scene: Scene, place: int) -> None:
    scene.interrupt, scene.reads_before = scene.deliver_the_rest, place

    view = scene.viewer().look()

    assert view.standing.denial is Reason.NO_POLICY or view.snapshot.scopes == {"global", "org/acme"}


@EVERY_PLACE
def test_a_delivery_in_the_middle_of_a_look_is_never_live_before_it_is_whole(scene: Scene, place: int) -> None:
    scene.interrupt, scene.reads_before = scene.deliver_the_rest, place

    view = scene.viewer().look()

    assert view.standing.source is not PolicySource.LIVE or view.snapshot.freshness.whole is not None


@EVERY_PLACE
@pytest.mark.parametrize("event", ["hear", "renew"])
def test_a_message_in_the_middle_of_a_look_never_makes_the_age_unknown(scene: Scene, place: int, event: str) -> None:
    scene.deliver_the_rest()
    scene.interrupt, scene.reads_before = getattr(scene, event), place

    view = scene.viewer().look()

    assert view.standing.denial is None
    assert view.standing.age_ms in {0, 1000}


@EVERY_PLACE
def test_a_loss_in_the_middle_of_a_look_never_decides_by_a_part_of_the_policies(scene: Scene, place: int) -> None:
    scene.deliver_the_rest()
    scene.interrupt, scene.reads_before = scene.lose, place

    view = scene.viewer().look()

    assert view.standing.denial is Reason.NO_POLICY or view.snapshot.scopes == {"global", "org/acme"}


def test_a_view_holds_although_everything_changes(scene: Scene) -> None:
    scene.deliver_the_rest()
    view = scene.viewer().look()

    scene.clock.advance(500)
    scene.lose()

    assert view.standing.ready
    assert view.snapshot.scopes == {"global", "org/acme"}
    assert view.moment.elapsed == scene.clock.elapsed() - 500
