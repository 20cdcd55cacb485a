"""A database of the first structure, with real keys and documents, under today's server."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from akpolicy.durable import write_new_file
from akpolicy.errors import KeyFileError, TrustError
from akpolicy.wire import envelope_to_bytes
from akpolicy_server.key_check import DAY_S, ROOT_ENDS_SOON_DAYS, inspect_keys
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.online import ensure_platform_keys
from akpolicy_server.renewal import Renewal
from akpolicy_server.settings import DATABASE_FILE
from akpolicy_server.store.engine import Database
from akpolicy_server.store.migrate import upgrade
from akpolicy_server.store.online_keys import KeyRole, newest_key
from akpolicy_server.store.revisions import RevisionKind
from akpolicy_server.threads import Threads
from akpolicy_server.vault import Vault
from tests.simulators.clock import ManualClock
from tests.simulators.org import OrgSimulator, delegation, role
from tests.unit.server.conftest import opened, order, policy
from tests.unit.server.follower import Follower, heartbeat_role, next_root, with_keys, with_role
from tests.unit.server.test_rollbacks import roll_back

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.envelope import SignedEnvelope
    from tests.unit.server.conftest import Core

SECRET: Final = "akp_0123456789abcdef_" + "A" * 43
ORGS: Final = ("acme", "globex")


def _insert_org(connection: Connection, org: OrgSimulator) -> None:
    """Write an org as the first version did: a root without heartbeat and rollback keys."""
    document = org.root_document()
    document["roles"] = {
        "root": role(org.root_signer),
        "bundle": [delegation(org.scope, org.bundle_signer), delegation("global", org.platform_signer)],
    }
    root = org.root_envelope(roles=document["roles"])
    connection.execute(
        text("INSERT INTO orgs VALUES (:org, :root, :bundle, 1)"),
        {"org": org.org, "root": org.root_signer.public_key.raw, "bundle": org.bundle_signer.public_key.key_id},
    )
    connection.execute(
        text("INSERT INTO roots VALUES (:org, 1, :digest, :envelope, :expires)"),
        {
            "org": org.org,
            "digest": root.digest(),
            "envelope": envelope_to_bytes(root),
            "expires": document["expires_at"],
        },
    )


def _insert_revision(
    connection: Connection, scope: str, version: int, made: tuple[SignedEnvelope, bytes], now: int
) -> None:
    envelope, blob = made
    digest = hashlib.sha256(blob).digest()
    connection.execute(
        text("INSERT OR IGNORE INTO blobs VALUES (:digest, :size, :data)"),
        {"digest": digest, "size": len(blob), "data": blob},
    )
    connection.execute(
        text(
            "INSERT INTO revisions VALUES (:scope, 1, :version, :digest, :envelope, :min, :us, :expires, "
            "'0123456789abcdef', 'why', 1, :content, :size, :owner, :key, :request)"
        ),
        {
            "scope": scope,
            "version": version,
            "digest": envelope.digest(),
            "envelope": envelope_to_bytes(envelope),
            "min": max(1, version - 1),
            "us": now * 1_000_000 + 999_999,
            "expires": now + 30 * 86_400,
            "content": digest,
            "size": len(blob),
            "owner": "",
            "key": f"{scope}-{version}",
            "request": secrets.token_bytes(32),
        },
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data directory of the first version: two orgs, two versions of each scope."""
    clock = ManualClock()
    now = int(clock.now())
    data = tmp_path / "data"
    vault = Vault(data)
    orgs = [OrgSimulator(name, clock) for name in ORGS]
    orgs[1].platform_signer = orgs[0].platform_signer
    for org in orgs:
        for signer in {org.root_signer, org.bundle_signer, *([org.platform_signer] if org is orgs[0] else [])}:
            write_new_file(vault.path(signer.public_key.key_id), signer.to_pem())
    with closing(Database(f"sqlite:///{data / DATABASE_FILE}", create=True)) as database:
        upgrade(database, "0001")
        with database.write() as connection:
            platform = orgs[0].platform_signer.public_key.key_id
            connection.execute(text("INSERT INTO platform VALUES (1, :key, 1)"), {"key": platform})
            connection.execute(
                text(
                    "INSERT INTO api_keys VALUES ('0123456789abcdef', :hash, NULL, 'admin', NULL, '', 1, 'init', NULL)"
                ),
                {"hash": hashlib.sha256(SECRET.encode()).digest()},
            )
            for org in orgs:
                _insert_org(connection, org)
            for version in (1, 2):
                _insert_revision(connection, "global", version, orgs[0].bundle_envelope("global"), now)
                for org in orgs:
                    made = org.bundle_envelope(org.scope, {f"v{version}": policy(f"v{version}")})
                    _insert_revision(connection, org.scope, version, made, now)
    (tmp_path / "anchors").write_text("\n".join(org.anchor for org in orgs))
    return data


@pytest.fixture
def upgraded(data: Path, schema: CedarSchema) -> Iterator[Core]:
    """Return today's server on that directory, begun as `app` begins it."""
    clock = ManualClock()
    anchors = dict(zip(ORGS, (data.parent / "anchors").read_text().splitlines(), strict=True))
    with closing(Database(f"sqlite:///{data / DATABASE_FILE}")) as database:
        upgrade(database)
        ensure_platform_keys(database, Vault(data), clock)
    with opened(data, clock, schema, SECRET, anchors) as core:
        yield core


def test_hosts_keep_what_they_had_and_follow_what_comes(upgraded: Core) -> None:
    hosts = [Follower(upgraded, org) for org in ORGS]
    for host, org in zip(hosts, ORGS, strict=True):
        view = host.follow()
        assert view.seq == 1
        assert {scope: r.version for scope, r in view.revisions.items()} == {"global": 2, f"org/{org}": 2}
        assert host.policies(f"org/{org}") == ["v2"]
    for scope in ("global", "org/acme"):
        revision = upgraded.publisher.publish(upgraded.admin, order(scope, policy("new"))).revision
        assert (revision.version, revision.min_version) == (3, 2)
    for host in hosts:
        host.follow()


def test_the_history_is_as_it_was(upgraded: Core) -> None:
    revisions = upgraded.history.page(upgraded.admin, "org/acme", page_size=9, token="").revisions
    assert [(r.version, r.kind, r.message, r.published_by) for r in revisions] == [
        (2, RevisionKind.PUBLISH, "why", "0123456789abcdef"),
        (1, RevisionKind.PUBLISH, "why", "0123456789abcdef"),
    ]
    assert revisions[0].lifetime_s == 30 * 86_400
    assert revisions[0].issued_at == int(upgraded.clock.now())
    assert [entry.id for entry in upgraded.history.get(upgraded.admin, "org/acme", 1)[1]] == ["v1"]


def test_what_is_due_is_renewed(upgraded: Core) -> None:
    upgraded.clock.advance(16 * 86_400)
    with closing(Threads()) as threads:
        Renewal(upgraded.database, upgraded.ledger, threads, upgraded.clock, ServerMetrics()).once()
    for org in ORGS:
        assert {r.version for r in Follower(upgraded, org).follow().revisions.values()} == {3}


def test_a_new_org_gets_all_keys(upgraded: Core) -> None:
    created = upgraded.orgs.create(upgraded.admin, "initech")
    host = Follower(upgraded, "initech", [created.trust_anchor])
    view = host.follow()
    assert view.revisions["global"].version == 2
    assert view.root.document.roles.heartbeat is not None
    upgraded.publisher.publish(upgraded.admin, order("global", policy("new")))
    host.follow()


def test_the_platform_gets_the_key_that_it_lacked_once(data: Path, upgraded: Core) -> None:
    with upgraded.database.read() as connection:
        before = {role: newest_key(connection, None, role) for role in (KeyRole.BUNDLE, KeyRole.ROLLBACK)}
    assert all(before.values())
    ensure_platform_keys(upgraded.database, upgraded.vault, upgraded.clock)
    with upgraded.database.read() as connection:
        assert before == {role: newest_key(connection, None, role) for role in before}


def said(core: Core, what: str) -> list[Any]:
    """Return what the check of the keys says about something."""
    with capture_logs() as logs:
        inspect_keys(core.database, core.signatory, core.clock.now())
    return [entry for entry in logs if what in entry["event"]]


def test_a_root_key_that_lies_here_is_said_until_it_is_gone(core: Core) -> None:
    found = said(core, "root key lies on this machine")
    assert [entry["org"] for entry in found] == list(ORGS)
    core.vault.path(found[0]["key"]).unlink()
    assert [entry["org"] for entry in said(core, "root key lies on this machine")] == list(ORGS[1:])


def test_a_root_that_ends_soon_is_said(core: Core) -> None:
    assert said(core, "the root expires") == []
    core.clock.advance((365 - ROOT_ENDS_SOON_DAYS) * DAY_S + 1)
    assert [entry["org"] for entry in said(core, "the root expires")] == list(ORGS)


def test_orgs_without_heartbeat_keys_are_named_until_a_root_names_some(upgraded: Core) -> None:
    logs = said(upgraded, "no heartbeats")
    assert [entry["org"] for entry in logs] == list(ORGS)
    assert all("akpolicy root propose" in entry["event"] for entry in logs)
    with pytest.raises(TrustError, match="lets nobody sign rollbacks"):
        roll_back(upgraded)
    heartbeat = upgraded.online_keys.create(upgraded.admin, "acme", KeyRole.HEARTBEAT)
    rollback = upgraded.online_keys.create(upgraded.admin, "acme", KeyRole.ROLLBACK)
    keys = with_keys(upgraded, "acme", heartbeat, rollback)
    roles = with_role(upgraded, "acme", "rollback", "org/acme", rollback) | {
        "heartbeat": heartbeat_role(upgraded, "acme", heartbeat)["heartbeat"]
    }
    published = upgraded.roots.publish(upgraded.admin, "acme", next_root(upgraded, keys=keys, roles=roles))
    assert (published.version, published.dropped) == (2, ())
    assert roll_back(upgraded).revision.restores_version == 1
    Follower(upgraded).follow()
    assert [entry["org"] for entry in said(upgraded, "no heartbeats")] == ["globex"]


def test_a_lost_key_is_said_and_one_that_cannot_be_used_prevents_the_start(core: Core) -> None:
    assert said(core, "missing") == []
    with core.database.read() as connection:
        key_id = newest_key(connection, "acme", KeyRole.BUNDLE)
        root_key = newest_key(connection, "acme", KeyRole.ROOT)
    assert key_id is not None
    assert root_key is not None
    core.vault.path(root_key).unlink()
    core.vault.path(key_id).chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        inspect_keys(core.database, core.signatory, core.clock.now())
    core.vault.path(key_id).unlink()
    assert [(entry["org"], entry["key"]) for entry in said(core, "missing")] == [("acme", key_id)]
