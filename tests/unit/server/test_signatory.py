"""Which keys sign for a role: as many as needed, those that are valid, the longest-lived first, from wherever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import KeyFileError, KeyNotAuthorised, SignersMissing
from akpolicy.keys import ANCHOR_PREFIX
from akpolicy.root import Role, Root, RootKey
from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import dump, load
from akpolicy_server.signatory import Signatory, bundles_of, quorum_end, rollbacks_of
from akpolicy_server.vault import Vault
from tests.simulators.org import OrgSimulator

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.keys import PublicKey
    from akpolicy.signing import Signer

NOW = 1_800_000_000
DUTY = bundles_of("org/acme")


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "data")


def root_of(*keys: tuple[PublicKey, int, int], revoked: tuple[str, ...] = ()) -> Root:
    """Return a root that lists keys with these windows, relative to now."""
    org = OrgSimulator()
    root = load(dump(org.root_document()), Root)
    listed = {
        key.key_id: RootKey(
            public_key=key.anchor.removeprefix(ANCHOR_PREFIX), valid_from=NOW + begin, valid_until=NOW + end
        )
        for key, begin, end in keys
    }
    return root.model_copy(update={"keys": {**root.keys, **listed}, "revoked": dict.fromkeys(revoked, 1)})


def role_of(*signers: Signer, threshold: int = 1) -> Role:
    return Role(keys=[signer.public_key.key_id for signer in signers], threshold=threshold)


def test_exactly_as_many_sign_as_must_and_the_longest_lived_first(vault: Vault) -> None:
    short, long, longer = (vault.create() for _ in range(3))
    windows = [(key.public_key, -9, end) for key, end in ((short, 10), (long, 20), (longer, 30))]
    quorum = Signatory(vault).quorum(root_of(*windows), role_of(short, long, longer, threshold=2), DUTY, NOW)
    assert [signer.public_key for signer in quorum.signers] == [longer.public_key, long.public_key]
    assert quorum.ends_at == NOW + 20


def test_of_equally_long_lived_keys_the_newest_signs(vault: Vault) -> None:
    old, new = vault.create(), vault.create()
    root = root_of((old.public_key, -20, 30), (new.public_key, -10, 30))
    quorum = Signatory(vault).quorum(root, role_of(old, new), DUTY, NOW)
    assert [signer.public_key for signer in quorum.signers] == [new.public_key]


@pytest.mark.parametrize(("begin", "end"), [(-20, 0), (61, 99)])
def test_a_key_outside_its_window_does_not_sign(vault: Vault, begin: int, end: int) -> None:
    good, bad = vault.create(), vault.create()
    root = root_of((good.public_key, -9, 9), (bad.public_key, begin, end))
    quorum = Signatory(vault).quorum(root, role_of(bad, good), DUTY, NOW)
    assert [signer.public_key for signer in quorum.signers] == [good.public_key]
    with pytest.raises(SignersMissing):
        Signatory(vault).quorum(root, role_of(bad), DUTY, NOW)
    assert quorum_end(root, role_of(bad), NOW) is None


def test_a_revoked_key_does_not_sign(vault: Vault) -> None:
    key = vault.create()
    root = root_of((key.public_key, -9, 9), revoked=(key.public_key.key_id,))
    with pytest.raises(SignersMissing):
        Signatory(vault).quorum(root, role_of(key), DUTY, NOW)


def test_keys_elsewhere_count_and_come_before_files(vault: Vault) -> None:
    kept, service = vault.create(), PrivateKeySigner.generate()

    class Service:
        """A key service."""

        public_key = kept.public_key

        def sign(self, message: bytes) -> bytes:
            return b""

        def close(self) -> None:
            """Nothing is open."""

    elsewhere = Service()
    root = root_of((kept.public_key, -9, 9), (service.public_key, -9, 9))
    signatory = Signatory(vault, [elsewhere, service])
    assert set(signatory.quorum(root, role_of(kept, service, threshold=2), DUTY, NOW).signers) == {elsewhere, service}


def test_too_few_keys_say_how_many_and_what_to_do(vault: Vault) -> None:
    own, foreign = vault.create(), PrivateKeySigner.generate()
    root = root_of((own.public_key, -9, 9), (foreign.public_key, -9, 9))
    with pytest.raises(SignersMissing) as refused:
        Signatory(vault).quorum(root, role_of(own, foreign, threshold=2), DUTY, NOW)
    assert refused.value.message == (
        "2 of 2 keys must sign bundles of `org/acme`, and this server holds 1 of them that are valid now; publish with "
        "--unsigned and have it signed by the keys' owners"
    )
    with pytest.raises(SignersMissing, match="publish the policies again instead"):
        Signatory(vault).quorum(root, role_of(foreign), rollbacks_of("org/acme"), NOW)
    with pytest.raises(KeyNotAuthorised, match="lets nobody sign bundles of `org/acme`"):
        Signatory(vault).quorum(root, None, DUTY, NOW)


def test_a_file_that_cannot_be_used_is_no_missing_key(vault: Vault) -> None:
    key = vault.create()
    vault.path(key.public_key.key_id).write_bytes(vault.create().to_pem())  # type: ignore[attr-defined]
    with pytest.raises(KeyFileError, match="restore the right file"):
        Signatory(vault).quorum(root_of((key.public_key, -9, 9)), role_of(key), DUTY, NOW)


def test_a_role_lasts_as_long_as_enough_of_its_keys(vault: Vault) -> None:
    keys = [PrivateKeySigner.generate() for _ in range(3)]
    root = root_of(*((key.public_key, -9, end) for key, end in zip(keys, (10, 20, 30), strict=True)))
    assert [quorum_end(root, role_of(*keys, threshold=n), NOW) for n in (1, 2, 3)] == [NOW + 30, NOW + 20, NOW + 10]
    assert quorum_end(root, role_of(*keys, threshold=3), NOW + 10) is None
