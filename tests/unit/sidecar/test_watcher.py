"""The stream follows the credentials on disk, without a wait and without losing contact; on a real server's socket."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from akpolicy.client import parse_server_url
from akpolicy.tls_files import ClientTlsFiles
from akpolicy_sidecar import watcher as module
from akpolicy_sidecar.credentials import CredentialSource
from akpolicy_sidecar.status import LinkHolder
from akpolicy_sidecar.watcher import Watcher
from tests.simulators.policy_server import PolicyServerSimulator
from tests.simulators.waiting import wait_until
from tests.unit.sidecar.test_session import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Links(LinkHolder):
    """Counts how often contact was lost."""

    losses = 0

    def lost(self) -> None:
        self.losses += 1
        super().lost()


class Host:
    """A watcher with its key in a file."""

    def __init__(self, directory: Path) -> None:
        self.scene = Scene(directory / "state")
        self.links = Links(self.scene.links.current)
        self.key_file = directory / "host.key"
        self.write_key("first")

    def write_key(self, key: str) -> None:
        self.key_file.write_text(key, encoding="ascii")
        self.key_file.chmod(0o600)

    @contextmanager
    def watching(self, server: PolicyServerSimulator) -> Iterator[Watcher]:
        scene = self.scene
        credentials = CredentialSource(
            self.key_file, ClientTlsFiles(), clock=scene.clock, failed=lambda _: None, loaded=lambda _: None
        )
        watcher = Watcher(
            org="acme",
            endpoint=parse_server_url(server.url),
            credentials=credentials,
            updater=scene.updater,
            links=self.links,
            clock=scene.clock,
            report=scene.report,
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
        return self.links.current.caught_up


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def server(host: Host) -> Iterator[PolicyServerSimulator]:
    with PolicyServerSimulator(host.scene.org, keep_alive_s=0.1, api_key="first") as running:
        running.publish()
        yield running


@pytest.fixture
def no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the wait between attempts longer than any test."""
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 1e9)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 1e9)


def test_a_new_key_ends_the_wait_after_a_refusal(host: Host, server: PolicyServerSimulator, no_retry: None) -> None:
    server.accept(api_key="second")
    with host.watching(server) as watcher:
        wait_until(lambda: host.trouble == "UNAUTHENTICATED")
        watcher.check_credentials()
        assert not host.links.current.caught_up
        host.write_key("second")

        def is_live() -> bool:
            watcher.check_credentials()
            return host.is_live()

        wait_until(is_live)
        assert host.trouble == ""


def test_a_key_file_that_becomes_usable_ends_the_wait(
    host: Host, server: PolicyServerSimulator, no_retry: None
) -> None:
    host.key_file.chmod(0o644)
    with host.watching(server) as watcher:
        wait_until(lambda: host.trouble == "ConfigError")
        assert server.hellos == []
        host.key_file.chmod(0o600)

        def is_live() -> bool:
            watcher.check_credentials()
            return host.is_live()

        wait_until(is_live)


def test_stop_ends_the_wait(host: Host, server: PolicyServerSimulator, no_retry: None) -> None:
    server.refuse()
    with host.watching(server):
        wait_until(lambda: host.trouble == "UNAUTHENTICATED")


def test_a_new_key_replaces_an_open_stream_and_contact_is_not_lost(host: Host, server: PolicyServerSimulator) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        losses = host.links.losses
        for number, key in enumerate(("second", "third"), start=2):
            server.accept(api_key=key)
            host.write_key(key)
            watcher.check_credentials()
            watcher.check_credentials()
            assert host.is_live()
            server.wait_for(lambda s, number=number: len(s.hellos) == number)  # type: ignore[misc]
            server.publish()
            server.wait_enforced("global", number)
            assert host.is_live()
        assert host.links.losses == losses
        assert host.trouble == ""
        wait_until(lambda: server.open_streams == 1)


def test_a_new_key_that_is_refused_loses_contact_and_what_is_enforced_stays(
    host: Host, server: PolicyServerSimulator
) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        enforced = host.scene.versions()
        host.write_key("wrong")
        watcher.check_credentials()
        wait_until(lambda: host.trouble == "UNAUTHENTICATED")
        assert not host.is_live()
        assert host.scene.versions() == enforced == {"global": 1}


def test_a_key_that_cannot_be_used_leaves_the_open_stream_alone(host: Host, server: PolicyServerSimulator) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        for content in ("", "two words", "first"):
            host.write_key(content)
            watcher.check_credentials()
        server.publish()
        server.wait_enforced("global", 2)
        assert len(server.hellos) == 1
