"""A connection is opened with what the files hold then, and a standing one is given up only for something usable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import AkpolicyError, ConfigError
from akpolicy.settings_types import SecretFromEnv
from akpolicy.tls_files import ClientTls, ClientTlsFiles
from akpolicy_sidecar.credentials import Credentials, CredentialSource
from tests.simulators.certificates import AuthoritySimulator, Identity
from tests.simulators.clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def authority(tmp_path: Path) -> AuthoritySimulator:
    return AuthoritySimulator(tmp_path)


@pytest.fixture
def identity(authority: AuthoritySimulator) -> Identity:
    return authority.issue("host")


class Host:
    """A host's key file and TLS files, and what the source of its credentials told."""

    def __init__(self, directory: Path, authority: AuthoritySimulator, identity: Identity) -> None:
        self.key_file = directory / "host.key.txt"
        self.write_key("first")
        self.told: list[AkpolicyError] = []
        self.loaded: list[Credentials] = []
        self.source = CredentialSource(
            self.key_file,
            ClientTlsFiles(authority.ca_file, identity.certificate, identity.key),
            clock=ManualClock(),
            failed=self.told.append,
            loaded=self.loaded.append,
        )

    def write_key(self, key: str) -> None:
        self.key_file.write_text(key + "\n", encoding="ascii")
        self.key_file.chmod(0o600)


@pytest.fixture
def host(tmp_path: Path, authority: AuthoritySimulator, identity: Identity) -> Host:
    return Host(tmp_path, authority, identity)


def test_a_connection_gets_what_the_files_hold(host: Host, identity: Identity, authority: AuthoritySimulator) -> None:
    credentials = host.source.load()
    assert credentials.api_key == "first"
    assert credentials.tls.roots == authority.ca_file.read_bytes()
    assert credentials.tls.identity is not None
    assert credentials.tls.identity.chain == identity.certificate.read_bytes()
    assert "first" not in repr(credentials)
    assert host.loaded == [credentials]
    host.write_key("second")
    assert host.source.load().api_key == "second"


def test_before_the_first_connection_there_is_nothing_to_replace(host: Host) -> None:
    assert not host.source.has_others()
    host.source.load()
    assert not host.source.has_others()


def test_each_of_the_files_makes_other_credentials(
    host: Host, tmp_path: Path, identity: Identity, authority: AuthoritySimulator
) -> None:
    host.source.load()
    assert not host.source.has_others()
    host.write_key("second")
    assert host.source.has_others()
    assert host.source.has_others(), "it was told, but nobody has connected yet"
    host.source.load()
    assert not host.source.has_others()
    authority.issue("new").move_to(identity)
    assert host.source.has_others()
    host.source.load()
    AuthoritySimulator(tmp_path, "others").ca_file.rename(authority.ca_file)
    assert host.source.has_others()
    host.source.load()
    assert not host.source.has_others()
    assert not host.told


def test_a_file_that_was_only_touched_is_no_reason_to_connect_anew(host: Host) -> None:
    host.source.load()
    host.write_key("first")
    assert not host.source.has_others()


def test_a_rotation_that_is_half_done_is_no_reason_to_give_up_a_connection(
    host: Host, identity: Identity, authority: AuthoritySimulator
) -> None:
    host.source.load()
    new = authority.issue("new")
    new.key.rename(identity.key)
    assert not host.source.has_others()
    assert len(host.told) == 1
    new.certificate.rename(identity.certificate)
    assert host.source.has_others()


def test_files_that_cannot_be_used_are_an_error_of_the_connection_and_nothing_older_is_shown(host: Host) -> None:
    host.source.load()
    host.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        host.source.load()
    assert not host.source.has_others()
    with pytest.raises(ConfigError):
        host.source.load()
    assert len(host.told) == 1
    # The old key is good again, and nobody is connected with it.
    host.key_file.chmod(0o600)
    assert host.source.has_others()
    assert host.source.load().api_key == "first"
    assert not host.source.has_others()


def test_nothing_is_usable_before_it_was_read(host: Host) -> None:
    host.key_file.unlink()
    with pytest.raises(ConfigError, match="is not there"):
        host.source.load()
    assert not host.source.has_others()
    host.write_key("late")
    assert host.source.has_others()
    assert host.loaded == []


def test_a_key_from_the_environment_stays_what_it_was() -> None:
    source = CredentialSource(
        SecretFromEnv("HOST_KEY", "from-env"),
        ClientTlsFiles(),
        clock=ManualClock(),
        failed=lambda _: None,
        loaded=lambda _: None,
    )
    assert source.load() == Credentials("from-env", ClientTls())
    assert not source.has_others()
