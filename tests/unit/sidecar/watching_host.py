"""A watcher in this process, with the sidecar's inside behind it and a server's socket before it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from akpolicy.client import parse_server_url
from akpolicy.tls_files import ClientTlsFiles
from akpolicy_sidecar.credentials import CredentialSource
from akpolicy_sidecar.link import LinkHolder
from akpolicy_sidecar.servers import PolicyServers
from akpolicy_sidecar.update_modes import UpdateMode, UpdateModes
from akpolicy_sidecar.view import Viewer
from akpolicy_sidecar.watcher import Watcher
from tests.simulators.host import HostSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.simulators.policy_server import PolicyServerSimulator


class Links(LinkHolder):
    """Counts how often contact was lost."""

    losses = 0

    def lost(self) -> None:
        self.losses += 1
        super().lost()


class WatchingHost:
    """A watcher with its key in a file."""

    def __init__(self, directory: Path, modes: UpdateModes | None = None) -> None:
        self.scene = HostSimulator(directory / "state")
        # The views of the scene look at the watcher's link.
        self.links = Links()
        self.scene.viewer = Viewer(self.scene.clock, self.scene.snapshots, self.links)
        self.modes = modes or UpdateModes(UpdateMode.STREAM, 60.0)
        self.key_file = directory / "host.key"
        self.write_key("first")

    def write_key(self, key: str) -> None:
        self.key_file.write_text(key, encoding="ascii")
        self.key_file.chmod(0o600)

    @contextmanager
    def watching(self, *servers: PolicyServerSimulator) -> Iterator[Watcher]:
        scene = self.scene
        credentials = CredentialSource(
            self.key_file, ClientTlsFiles(), clock=scene.clock, failed=lambda _: None, loaded=lambda _: None
        )
        watcher = Watcher(
            org="acme",
            servers=PolicyServers([parse_server_url(server.url) for server in servers]),
            credentials=credentials,
            updater=scene.updater,
            links=self.links,
            clock=scene.clock,
            report=scene.report,
            modes=self.modes,
        )
        watcher.start()
        try:
            yield watcher
        finally:
            watcher.stop()
        assert not watcher._thread.is_alive()

    @property
    def trouble(self) -> str:
        found: str = self.scene.report.trouble["connection"]
        return found

    def is_live(self) -> bool:
        return self.links.current.is_live(self.scene.moment())
