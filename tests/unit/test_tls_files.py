"""Certificates and keys are used together or not at all, and followed when they change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akpolicy.errors import AkpolicyError, ConfigError
from akpolicy.settings_types import TlsFiles
from akpolicy.tls_files import (
    MAX_PEM_BYTES,
    ClientTls,
    ClientTlsFiles,
    ListenerTls,
    read_client_tls,
    read_server_tls,
)
from akpolicy.watched_files import SETTLING_S
from tests.simulators.certificates import AuthoritySimulator, Identity
from tests.simulators.clock import ManualClock
from tests.simulators.mounted_secret import MountedSecret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def authority(tmp_path: Path) -> AuthoritySimulator:
    return AuthoritySimulator(tmp_path)


@pytest.fixture
def identity(authority: AuthoritySimulator) -> Identity:
    return authority.issue("server")


@pytest.fixture
def files(authority: AuthoritySimulator, identity: Identity) -> TlsFiles:
    return TlsFiles(identity.certificate, identity.key, authority.ca_file)


def pem(key: Any, *, password: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    content: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return content


# --- one reading ------------------------------------------------------------------------------------------------------


def test_a_listeners_files_are_read_and_the_key_is_not_shown(
    files: TlsFiles, identity: Identity, authority: AuthoritySimulator
) -> None:
    read = read_server_tls(files)
    assert (read.identity.chain, read.identity.key) == (identity.certificate.read_bytes(), identity.key.read_bytes())
    assert read.client_ca == authority.ca_file.read_bytes()
    expiry = x509.load_pem_x509_certificate(read.identity.chain).not_valid_after_utc
    assert read.identity.expires_at == expiry.timestamp()
    assert "PRIVATE" not in repr(read)
    assert read_server_tls(TlsFiles(identity.certificate, identity.key)).client_ca is None


def test_a_clients_files_are_read_and_the_key_is_not_shown(identity: Identity, authority: AuthoritySimulator) -> None:
    read = read_client_tls(ClientTlsFiles(authority.ca_file, identity.certificate, identity.key))
    assert read.roots == authority.ca_file.read_bytes()
    assert read.identity is not None
    assert read.identity.key == identity.key.read_bytes()
    assert "PRIVATE" not in repr(read)
    assert read_client_tls(ClientTlsFiles(authority.ca_file)).identity is None
    assert read_client_tls(ClientTlsFiles()) == ClientTls()


def test_the_same_content_is_the_same_object(
    files: TlsFiles, identity: Identity, authority: AuthoritySimulator
) -> None:
    first = read_server_tls(files)
    assert read_server_tls(files, first) is first
    assert read_server_tls(TlsFiles(files.cert_file, files.key_file), first) is not first
    mine = ClientTlsFiles(authority.ca_file, identity.certificate, identity.key)
    read = read_client_tls(mine)
    assert read_client_tls(mine, read) is read
    assert read_client_tls(replace(mine, ca_file=None), read) is not read


def test_a_key_of_another_certificate_is_refused_and_both_are_named(
    authority: AuthoritySimulator, identity: Identity
) -> None:
    other = authority.issue("other")
    for read in (
        lambda: read_server_tls(TlsFiles(identity.certificate, other.key)),
        lambda: read_client_tls(ClientTlsFiles(None, identity.certificate, other.key)),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        assert f"`{other.key}` is not the key of" in caught.value.message
        assert f"`{identity.certificate}`" in caught.value.message


def test_a_certificate_without_its_key_is_refused(identity: Identity) -> None:
    for half in (ClientTlsFiles(cert_file=identity.certificate), ClientTlsFiles(key_file=identity.key)):
        with pytest.raises(ConfigError, match="both files or neither"):
            read_client_tls(half)


@pytest.mark.parametrize("name", ["cert_file", "key_file", "client_ca_file"])
@pytest.mark.parametrize(
    "content", [None, b"", b"nonsense", bytes(MAX_PEM_BYTES + 1)], ids=["none", "0", "text", "big"]
)
def test_what_is_no_pem_is_refused_by_its_name(files: TlsFiles, name: str, content: bytes | None) -> None:
    path: Path = getattr(files, name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"`{path}`"):
        read_server_tls(files)


def test_a_chain_that_is_cut_off_is_refused(files: TlsFiles, authority: AuthoritySimulator) -> None:
    leaf, issuer = files.cert_file.read_bytes(), authority.ca_file.read_bytes()
    files.cert_file.write_bytes(leaf + issuer)
    assert read_server_tls(files).identity.chain == leaf + issuer
    files.cert_file.write_bytes(leaf + issuer[:-40])
    with pytest.raises(ConfigError, match="ends in the middle"):
        read_server_tls(files)


def test_keys_as_openssl_and_others_write_them_are_read(files: TlsFiles, identity: Identity) -> None:
    key = identity.key.read_bytes()
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    for content in (parameters + key, b"Bag Attributes: none\n" + key, identity.certificate.read_bytes() + key):
        files.key_file.write_bytes(content)
        assert read_server_tls(files).identity.key == content


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (pem(ec.generate_private_key(ec.SECP256R1()), password=b"secret"), "no unencrypted private key"),
        (pem(ec.generate_private_key(ec.SECP224R1())), "gRPC cannot use"),
        (pem(ec.generate_private_key(ec.BrainpoolP256R1())), "gRPC cannot use"),
        (pem(ed448.Ed448PrivateKey.generate()), "gRPC cannot use"),
        (pem(dsa.generate_private_key(1024)), "gRPC cannot use"),
        (pem(rsa.generate_private_key(65537, 2048)), "is not the key of"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "is not the key of"),
    ],
    ids=["encrypted", "p-224", "brainpool", "ed448", "dsa", "rsa", "p-384"],
)
def test_a_key_that_cannot_be_used_is_refused_as_what_it_is(files: TlsFiles, key: bytes, said: str) -> None:
    files.key_file.write_bytes(key)
    with pytest.raises(ConfigError, match=said):
        read_server_tls(files)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from(["cert_file", "key_file", "client_ca_file"]),
    at=st.integers(0, 10_000),
    change=st.one_of(st.none(), st.binary(max_size=8)),
)
def test_damaged_files_are_configuration_errors_and_nothing_else(
    tmp_path: Path, files: TlsFiles, which: str, at: int, change: bytes | None
) -> None:
    path: Path = getattr(files, which)
    content = path.read_bytes()
    place = at % len(content)
    damaged = content[:place] if change is None else content[:place] + change + content[place + len(change) :]
    copy = tmp_path / "damaged"
    copy.write_bytes(damaged)
    try:
        read_server_tls(replace(files, **{which: copy}))
        said = str(copy)
    except ConfigError as error:
        said = error.message
    assert str(copy) in said


# --- a listener that follows ------------------------------------------------------------------------------------------


class Following:
    """A listener's files, and what it was told."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.told: list[AkpolicyError] = []
        self.clock = ManualClock()
        self.tls = ListenerTls(files, clock=self.clock, failed=self.told.append)

    def settle(self) -> None:
        self.clock.advance(SETTLING_S)
        assert self.tls.renewed() is None
        self.clock.advance(SETTLING_S)


def test_a_listener_does_not_begin_with_files_that_cannot_be_used(files: TlsFiles) -> None:
    files.key_file.write_bytes(b"")
    with pytest.raises(ConfigError):
        Following(files)


def test_a_rotation_by_two_renames_takes_effect_with_the_second(
    files: TlsFiles, authority: AuthoritySimulator, identity: Identity
) -> None:
    following = Following(files)
    following.settle()
    assert following.tls.renewed() is None
    new = authority.issue("new", days=2)
    new.certificate.rename(identity.certificate)
    assert following.tls.renewed() is None
    assert [f"`{identity.key}` is not the key of" in error.message for error in following.told] == [True]
    assert following.tls.expires_at() == following.tls.initial.identity.expires_at
    new.key.rename(identity.key)
    renewed = following.tls.renewed()
    assert renewed is not None
    assert renewed.identity.key == identity.key.read_bytes()
    assert following.tls.expires_at() == renewed.identity.expires_at > following.tls.initial.identity.expires_at
    assert following.tls.renewed() is None
    assert len(following.told) == 1


def test_what_a_metric_saw_first_is_still_new_to_the_listener(
    files: TlsFiles, authority: AuthoritySimulator, identity: Identity
) -> None:
    following = Following(files)
    authority.issue("new", days=2).move_to(identity)
    assert following.tls.expires_at() > following.tls.initial.identity.expires_at
    assert following.tls.renewed() is not None


def empty(identity: Identity) -> None:
    identity.certificate.write_bytes(b"")


def remove(identity: Identity) -> None:
    identity.key.unlink()


def cut_off(identity: Identity) -> None:
    identity.key.write_bytes(identity.key.read_bytes()[:-30])


def directory(identity: Identity) -> None:
    identity.key.unlink()
    identity.key.mkdir()


@pytest.mark.parametrize("damage", [empty, remove, cut_off, directory])
def test_files_that_cannot_be_used_leave_the_old_pair_in_use(
    files: TlsFiles, authority: AuthoritySimulator, identity: Identity, damage: Callable[[Identity], None]
) -> None:
    following = Following(files)
    following.settle()
    damage(identity)
    for _ in range(5):
        assert following.tls.renewed() is None
    assert following.tls.expires_at() == following.tls.initial.identity.expires_at
    assert len(following.told) == 1
    if identity.key.is_dir():
        identity.key.rmdir()
    authority.issue("new").move_to(identity)
    renewed = following.tls.renewed()
    assert renewed is not None
    assert renewed.identity.chain == identity.certificate.read_bytes()


def test_another_client_ca_is_taken_over_with_the_same_pair(tmp_path: Path, files: TlsFiles) -> None:
    following = Following(files)
    assert files.client_ca_file is not None
    AuthoritySimulator(tmp_path, "others").ca_file.rename(files.client_ca_file)
    renewed = following.tls.renewed()
    assert renewed is not None
    assert renewed.identity.chain == following.tls.initial.identity.chain
    assert renewed.client_ca == files.client_ca_file.read_bytes() != following.tls.initial.client_ca


def test_a_mounted_secret_is_followed_switch_by_switch(tmp_path: Path, authority: AuthoritySimulator) -> None:
    def content(name: str) -> dict[str, bytes]:
        made = authority.issue(name)
        return {"tls.crt": made.certificate.read_bytes(), "tls.key": made.key.read_bytes()}

    secret = MountedSecret(tmp_path / "mount", content("first"))
    following = Following(TlsFiles(secret.directory / "tls.crt", secret.directory / "tls.key"))
    for name in ("second", "third", "fourth"):
        new = content(name)
        secret.switch(new)
        renewed = following.tls.renewed()
        assert renewed is not None
        assert (renewed.identity.chain, renewed.identity.key) == (new["tls.crt"], new["tls.key"])
    assert not following.told
