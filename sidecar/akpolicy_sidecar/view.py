"""One look at everything that a decision depends on besides the request.

The order of reading matters, because the watcher replaces these meanwhile. It swaps the snapshot before it says that
the stream counts, so the link is read before the snapshot: a link that says so is never seen beside an older snapshot.
The clock is read last: nothing in the view is younger than its moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.clock import Moment
from akpolicy_sidecar.status import Standing, stand

if TYPE_CHECKING:
    from collections.abc import Collection

    from akpolicy.clock import Clock
    from akpolicy_sidecar.link import Link, LinkHolder
    from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder


class View:
    """The snapshot in force at a moment, and whether it may decide."""

    __slots__ = ("_standing", "link", "moment", "snapshot")

    def __init__(self, moment: Moment, link: Link, snapshot: Snapshot) -> None:
        """Hold what was read."""
        self.moment = moment
        self.link = link
        self.snapshot = snapshot
        self._standing: Standing | None = None

    @property
    def standing(self) -> Standing:
        """Whether the whole snapshot may decide."""
        if self._standing is None:
            self._standing = stand(self.snapshot, self.link, self.moment)
        return self._standing

    def select(self, scopes: Collection[str]) -> View:
        """Return the view of the part that a request with these scopes is judged by."""
        return self._of(self.snapshot.select(scopes), self.link.concerning(scopes))

    @property
    def base(self) -> View:
        """The view of the part that concerns everybody."""
        return self._of(self.snapshot.base, self.link)

    def _of(self, part: Snapshot, link: Link) -> View:
        return self if part is self.snapshot and link is self.link else View(self.moment, link, part)


class Viewer:
    """Takes views. Safe to use from several threads."""

    def __init__(self, clock: Clock, snapshots: SnapshotHolder, links: LinkHolder) -> None:
        """Look at these."""
        self._clock = clock
        self._snapshots = snapshots
        self._links = links

    def look(self) -> View:
        """Read the link, the snapshot and the clocks, in this order and each once."""
        link = self._links.current
        snapshot = self._snapshots.current
        moment = Moment.read(self._clock)
        return View(moment, link, snapshot)
