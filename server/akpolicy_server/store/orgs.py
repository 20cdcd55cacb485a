"""Orgs, their roots, and the platform's own key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Row, exists, insert, select

from akpolicy.keys import PublicKey
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from akpolicy_server.store.tables import orgs, platform, roots

if TYPE_CHECKING:
    from typing import Any

    from akpolicy.envelope import SignedEnvelope

_PLATFORM_ROW: Final = 1


@dataclass(frozen=True, slots=True)
class OrgRecord:
    """An org: `root_key` is its trust anchor, `bundle_key_id` names the key that signs its bundles."""

    org: str
    root_key: PublicKey
    bundle_key_id: str
    created_at_us: int


@dataclass(frozen=True, slots=True)
class RootRecord:
    """One root of an org; `expires_at` is in epoch seconds."""

    org: str
    version: int
    envelope: SignedEnvelope
    expires_at: int


def set_platform_key(connection: Connection, bundle_key_id: str, now_us: int) -> None:
    """Name the key that signs `global`; once, when the database is new."""
    connection.execute(
        insert(platform).values(id=_PLATFORM_ROW, bundle_key_id=bundle_key_id, created_at_us=now_us),
    )


def platform_key_id(connection: Connection) -> str | None:
    """Return the id of the key that signs `global`; None if the database was never set up."""
    return connection.scalar(select(platform.c.bundle_key_id).where(platform.c.id == _PLATFORM_ROW))


def insert_org(connection: Connection, record: OrgRecord) -> None:
    """Add an org; an existing name breaks a constraint."""
    connection.execute(
        insert(orgs).values(
            org=record.org,
            root_public_key=record.root_key.raw,
            bundle_key_id=record.bundle_key_id,
            created_at_us=record.created_at_us,
        )
    )


def insert_root(connection: Connection, record: RootRecord) -> None:
    """Add a root; an existing version breaks a constraint."""
    connection.execute(
        insert(roots).values(
            org=record.org,
            version=record.version,
            digest=record.envelope.digest(),
            envelope=envelope_to_bytes(record.envelope),
            expires_at=record.expires_at,
        )
    )


def org_exists(connection: Connection, org: str) -> bool:
    """Whether there is an org of that name."""
    return bool(connection.scalar(select(exists().where(orgs.c.org == org))))


def find_org(connection: Connection, org: str) -> OrgRecord | None:
    """Return the org, or None."""
    row = connection.execute(select(orgs).where(orgs.c.org == org)).first()
    return None if row is None else _org(row)


def all_orgs(connection: Connection) -> list[OrgRecord]:
    """Return every org, by name."""
    return [_org(row) for row in connection.execute(select(orgs).order_by(orgs.c.org))]


def roots_after(connection: Connection, org: str, version: int) -> list[RootRecord]:
    """Return the org's roots that are newer than `version`, oldest first."""
    query = select(roots).where(roots.c.org == org, roots.c.version > version).order_by(roots.c.version)
    return [
        RootRecord(row.org, row.version, envelope_from_bytes(row.envelope), row.expires_at)
        for row in connection.execute(query)
    ]


def _org(row: Row[Any]) -> OrgRecord:
    return OrgRecord(row.org, PublicKey.from_bytes(row.root_public_key), row.bundle_key_id, row.created_at_us)
