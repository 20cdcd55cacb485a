"""One look at everything that a decision depends on besides the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from akpolicy_sidecar.status import Moment, Standing, stand

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder
    from akpolicy_sidecar.status import LinkHolder


@dataclass(frozen=True, slots=True)
class View:
    """The snapshot in force at a moment, and whether it may decide."""

    moment: Moment
    snapshot: Snapshot
    standing: Standing


class Viewer:
    """Takes views. Safe to use from several threads."""

    def __init__(self, clock: Clock, snapshots: SnapshotHolder, links: LinkHolder) -> None:
        """Look at these."""
        self._clock = clock
        self._snapshots = snapshots
        self._links = links

    def look(self) -> View:
        """Read the clocks, the snapshot and the link, each once."""
        moment = Moment.read(self._clock)
        snapshot = self._snapshots.current
        return View(moment, snapshot, stand(snapshot, self._links.current, moment))
