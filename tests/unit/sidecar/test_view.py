"""A view taken while the watcher's thread replaces what it looks at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.decision import BundleVersion, Reason
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Layer, Snapshot, SnapshotHolder
from akpolicy_sidecar.status import Link, LinkHolder, Moment
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
        self.links = LinkHolder(Link())
        self.interrupt: Callable[[], None] | None = None
        self.reads_before = 0

    def layer(self, scope: str) -> Layer:
        return Layer(COMPILED, BundleVersion(scope, 1, 1, "0" * 64), int(self.clock.now()) + 1000, LAX)

    def deliver_the_rest(self) -> None:
        """Do what the watcher does: swap the snapshot, then note that all is delivered."""
        self.snapshots.current = Snapshot.build([self.layer("global"), self.layer("org/acme")], local=LAX)
        self.links.caught_up(Moment.read(self.clock), 10.0)

    def hear(self) -> None:
        self.clock.advance(1)
        self.links.heard(Moment.read(self.clock))

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
def test_a_message_in_the_middle_of_a_look_never_makes_the_age_unknown(scene: Scene, place: int) -> None:
    scene.deliver_the_rest()
    scene.interrupt, scene.reads_before = scene.hear, place

    view = scene.viewer().look()

    assert view.standing.denial is None
    assert view.standing.age_ms in {0, 1000}
