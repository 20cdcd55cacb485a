"""Orgs: what their hosts are given to trust."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import (
    InvalidField,
    KeyFileError,
    OrgExists,
    PermissionDenied,
    RootExpired,
    SignerUnavailable,
    StateDirUnusable,
    Unauthenticated,
)
from akpolicy.keys import AnchorSet, TrustAnchor, parse_anchor
from akpolicy.trust import Judge
from akpolicy_server.access import Role
from akpolicy_server.first_root import ROOT_LIFETIME_S
from akpolicy_server.ledger import Ledger
from akpolicy_server.orgs import Orgs
from akpolicy_server.signatory import Signatory
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.store.orgs import find_org
from akpolicy_server.store.roots import roots_after
from akpolicy_server.vault import Vault
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import Follower

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.signing import Signer
    from tests.unit.server.conftest import Core


def _judge(core: Core, org: str, anchor: str) -> Judge:
    judge = Judge(org, AnchorSet((TrustAnchor(parse_anchor(anchor)),)))
    with core.database.read() as connection:
        for root in roots_after(connection, org, 0):
            judge.trust_root(root.envelope, core.clock.now())
    return judge


def test_a_new_orgs_root_is_believed_by_its_anchor(core: Core) -> None:
    created = core.orgs.create(core.admin, "initech")
    judge = _judge(core, "initech", created.trust_anchor)
    assert judge.root is not None
    document = judge.root.document
    assert (document.version, document.epoch, document.min_sidecar) == (1, 1, "0.1.0")
    assert {(d.prefix, d.threshold, d.grants) for d in document.roles.bundle} == {
        ("org/initech", 1, True),
        ("global", 1, True),
    }
    assert {d.prefix for d in document.roles.rollback} == {"org/initech", "global"}
    assert document.roles.heartbeat is not None
    assert document.expires_at - document.issued_at == 365 * 86_400


def test_orgs_share_the_platforms_keys_and_nothing_else(core: Core) -> None:
    acme, globex = (_judge(core, org, core.anchors[org]).root for org in ("acme", "globex"))
    assert acme is not None
    assert globex is not None
    shared = set(acme.document.keys) & set(globex.document.keys)
    roles = acme.document.bundle_role("global"), acme.document.rollback_role("global")
    assert shared == {key_id for role in roles if role for key_id in role.keys}
    assert len(shared) == 2


def test_a_new_org_gets_a_global_bundle_of_before_it(core: Core) -> None:
    published = core.publisher.publish(core.admin, order("global", policy("p"))).revision
    core.clock.advance(3600)
    created = core.orgs.create(core.admin, "initech")
    judge = _judge(core, "initech", created.trust_anchor)
    assert judge.judge_manifest(published.envelope, core.clock.now()).manifest.version == 1


def test_a_name_is_taken_once(core: Core) -> None:
    with pytest.raises(OrgExists):
        core.orgs.create(core.admin, "acme")


@pytest.mark.parametrize("name", ["", "-a", "a-", "a/b", "a b", "ä", "x" * 64, "a\n"])
def test_what_is_no_name_is_refused(core: Core, name: str) -> None:
    with pytest.raises(InvalidField):
        core.orgs.create(core.admin, name)


def test_private_keys_are_for_their_owner_alone(core: Core, tmp_path: Path) -> None:
    files = list((tmp_path / "server" / "data" / "keys").iterdir())
    assert len(files) == 10  # the platform's two, and for each org those for roots, bundles, rollbacks and heartbeats
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_key_file_under_another_keys_name_is_refused(core: Core, tmp_path: Path) -> None:
    first, second, *_ = sorted((tmp_path / "server" / "data" / "keys").iterdir())
    second.write_bytes(first.read_bytes())
    with pytest.raises(KeyFileError, match="restore the right file"):
        core.vault.load(second.stem)


def test_a_missing_key_is_said(core: Core) -> None:
    with pytest.raises(KeyFileError, match="is not there"):
        core.vault.load("0" * 64)


def test_a_data_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    with pytest.raises(StateDirUnusable, match="chmod 700"):
        Vault(directory)


def test_nothing_is_published_under_an_expired_root(core: Core) -> None:
    core.clock.advance(ROOT_LIFETIME_S)
    with pytest.raises(RootExpired, match=r"^hosts of the org `acme` would refuse it: root version 1 expired"):
        core.publisher.publish(core.admin, order("org/acme", policy("p")))
    assert core.announced == []


def test_an_orgs_keys_go_with_its_own_admin(core: Core) -> None:
    created = core.orgs.create(core.admin, "initech")
    made = core.api_keys.create(core.admin, org=created.org, role=Role.ADMIN, host_id="", description="")
    assert core.api_keys.authenticate(made.secret).org == "initech"


def test_only_a_platform_admin_creates_orgs(core: Core) -> None:
    with pytest.raises(PermissionDenied):
        core.orgs.create(core.publisher_of(None), "initech")


def test_an_admin_whose_key_is_revoked_while_keys_are_made_creates_no_org(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = core.api_keys.create(core.admin, org=None, role=Role.ADMIN, host_id="", description="")
    caller = core.api_keys.authenticate(made.secret)
    make_key = core.vault.create

    def make_slowly() -> Signer:
        core.api_keys.revoke(core.admin, caller.key_id)
        return make_key()

    monkeypatch.setattr(core.vault, "create", make_slowly)
    with pytest.raises(Unauthenticated, match="revoked"):
        core.orgs.create(caller, "initech")
    with core.database.read() as connection:
        assert find_org(connection, "initech") is None


def test_an_org_whose_hosts_could_not_begin_with_the_current_global_is_not_created(core: Core) -> None:
    core.publisher.publish(core.admin, order("global", policy("p")))
    core.clock.advance(1)
    # From now on new orgs name this key of the platform, and `global` has to be signed with it.
    newest = core.vault.load(core.online_keys.create(core.admin, None, KeyRole.BUNDLE).key_id)

    class Unreachable:
        """A key service that is away."""

        public_key = newest.public_key

        def sign(self, message: bytes) -> bytes:
            raise SignerUnavailable("the key service does not answer")

        def close(self) -> None:
            """Nothing is open."""

    signatory = Signatory(core.vault, [Unreachable()])
    ledger = Ledger(core.database, signatory, core.clock, announce=core.announced.extend)
    core.announced.clear()
    with pytest.raises(SignerUnavailable):
        Orgs(core.database, core.vault, signatory, ledger, core.clock).create(core.admin, "initech")
    with core.database.read() as connection:
        assert find_org(connection, "initech") is None
    assert core.announced == []
    created = core.orgs.create(core.admin, "initech")
    view = Follower(core, "initech", [created.trust_anchor]).follow()
    assert view.revisions["global"].version == 2
