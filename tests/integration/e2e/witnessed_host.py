"""A sidecar's real parts in this process, watched at every swap: what was enforced newer is never enforced older again.

The watcher, session, judge, journal and layers are those of the program; its sockets and its metrics page are left out,
so that many hosts fit in a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.client import parse_server_url
from akpolicy.clock import Moment, SystemClock
from akpolicy.tls_files import ClientTlsFiles
from akpolicy_sidecar.cache import StateDirectory
from akpolicy_sidecar.credentials import CredentialSource
from akpolicy_sidecar.enforcement import Enforcement
from akpolicy_sidecar.layers import LayerBuilder
from akpolicy_sidecar.link import LinkHolder
from akpolicy_sidecar.metrics import SidecarMetrics
from akpolicy_sidecar.report import Reporter
from akpolicy_sidecar.servers import PolicyServers
from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder
from akpolicy_sidecar.update_modes import UpdateMode, UpdateModes
from akpolicy_sidecar.updater import Updater
from akpolicy_sidecar.watcher import Watcher
from tests.simulators.host import LAX, SCHEMA, OpenGate

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.keys import AnchorSet


# Of hosts that fell back to polling.
POLL_INTERVAL_S: Final = 0.3


class Witness(SnapshotHolder):
    """Remembers the highest revision of each scope, over restarts too, and whatever fell below it."""

    __slots__ = ("_highest", "_wrong")

    def __init__(self, snapshot: Snapshot, highest: dict[str, tuple[int, int]], wrong: list[str]) -> None:
        """Begin with `snapshot`; `highest` and `wrong` are the host's, whichever process it is."""
        self._highest = highest
        self._wrong = wrong
        super().__init__(snapshot)

    def __setattr__(self, name: str, value: object) -> None:
        """Look at each snapshot before it is in force."""
        if name == "current":
            assert isinstance(value, Snapshot)
            self._look(value)
        super().__setattr__(name, value)

    def _look(self, snapshot: Snapshot) -> None:
        for scope, layer in snapshot.by_scope.items():
            now = (layer.bundle.epoch, layer.bundle.version)
            before = self._highest.get(scope, (0, 0))
            if now < before:
                self._wrong.append(f"{scope}: {now} after {before}")
            self._highest[scope] = max(now, before)


class WitnessedHost:
    """One host, between `start` and `stop`, as often as one likes."""

    def __init__(self, place: Path, org: str, anchors: AnchorSet, url: str, key: str) -> None:
        """Keep everything in the directory `place`; nothing runs yet."""
        place.mkdir()
        self._place = place
        self._org = org
        self._anchors = anchors
        self._url = url
        self._key_file = place / "host.key"
        self._key_file.touch(0o600)
        self._key_file.write_text(key, encoding="ascii")
        self.highest: dict[str, tuple[int, int]] = {}
        self.wrong: list[str] = []
        # The refusals of all its lives, by the error's code.
        self.metrics = SidecarMetrics()

    def start(self) -> None:
        """Start from what is on disk, and connect."""
        clock = SystemClock()
        report = Reporter(self.metrics)
        self._directory = StateDirectory.open(self._place / "state", self._org)
        self._snapshots = Witness(Snapshot.build((), local=LAX), self.highest, self.wrong)
        self._links = LinkHolder()
        updater = Updater(
            org=self._org,
            anchors=self._anchors,
            directory=self._directory,
            builder=LayerBuilder(SCHEMA, OpenGate()),
            clock=clock,
            enforcement=Enforcement(self._snapshots, LAX),
            watch=report,
        )
        self.not_loaded = [trouble.subject for trouble in updater.load_from_cache()]
        self.watcher = Watcher(
            org=self._org,
            servers=PolicyServers([parse_server_url(self._url)]),
            credentials=CredentialSource(
                self._key_file, ClientTlsFiles(), clock=clock, failed=lambda _: None, loaded=lambda _: None
            ),
            updater=updater,
            links=self._links,
            clock=clock,
            report=report,
            modes=UpdateModes(UpdateMode.STREAM, POLL_INTERVAL_S),
        )
        self.watcher.start()

    def stop(self) -> None:
        """Disconnect, and leave the state directory to the next life."""
        self.watcher.stop()
        self._directory.close()

    @property
    def enforced(self) -> dict[str, int]:
        """The version of each scope that is in force."""
        return {scope: layer.bundle.version for scope, layer in self._snapshots.current.by_scope.items()}

    @property
    def is_live(self) -> bool:
        """Whether the stream counts."""
        return self._links.current.is_live(Moment.read(SystemClock()))
