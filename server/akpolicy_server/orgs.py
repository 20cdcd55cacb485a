"""Orgs: created with their online keys and their first root.

Rules:

- An org begins with new online keys of its own. If its root keys belong to others, the first root is only made and
  handed out: until they have signed it and brought it back (`roots`), the org waits. Otherwise this server makes the
  root key too, and signs that one root with it.
- The public halves of the root keys are the trust anchors that the org's hosts are configured with.
- The first root that the server signs is judged by the judge that the hosts use, and so is the `global` bundle that
  they would get first: an org whose hosts could not start is not created.
- Key files are written before the database names them (`vault`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import IntegrityError

from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import InvalidField, OrgExists, TrustError
from akpolicy.keys import MAX_ANCHORS, parse_anchor
from akpolicy.limits import MAX_SIGNATURES
from akpolicy.scope import is_org_name
from akpolicy.signing import sign_document
from akpolicy_server.access import Caller, require_platform_admin
from akpolicy_server.first_root import FirstKeys, first_root
from akpolicy_server.online import platform_key
from akpolicy_server.roots import judge_first, store_root
from akpolicy_server.store.online_keys import KeyRole, OnlineKey, insert_online_key
from akpolicy_server.store.orgs import OrgRecord, find_org, insert_org
from akpolicy_server.store.roots import newest_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.clock import Clock
    from akpolicy.keys import PublicKey
    from akpolicy.root import Root
    from akpolicy.signing import Signer
    from akpolicy_server.ledger import Change, Ledger
    from akpolicy_server.signatory import Signatory
    from akpolicy_server.store.engine import Database
    from akpolicy_server.vault import Vault

# A root is signed by at most so many.
MAX_ROOT_THRESHOLD: Final = MAX_SIGNATURES


@dataclass(frozen=True, slots=True)
class CreatedOrg:
    """A new org; `trust_anchor` is what its sidecars are configured with.

    `root_key_id` names the root key in this server's vault, if it made one. `root_version` is 0, and `unsigned_root`
    there, while the first root waits for the signatures of others.
    """

    org: str
    trust_anchor: str
    root_version: int
    root_key_id: str | None = None
    unsigned_root: SignedEnvelope | None = None


class Orgs:
    """Creates orgs. Thread-safe; blocks."""

    def __init__(self, database: Database, vault: Vault, signatory: Signatory, ledger: Ledger, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._signatory = signatory
        self._ledger = ledger
        self._clock = clock

    def create(self, caller: Caller, org: str, root_keys: Sequence[str] = (), root_threshold: int = 0) -> CreatedOrg:
        """Create an org, with the root keys of others if any are given.

        Raises `PermissionDenied` unless the caller is a platform admin, `Unauthenticated` if its key was revoked
        meanwhile, `InvalidField`, `OrgExists`, a `SignerError`, or a `TrustError` of the first judgement.
        """
        require_platform_admin(caller)
        if not is_org_name(org):
            raise InvalidField(
                f"`{org[:64]}` is not an org name; use 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends"
            )
        owners = _parse_owners(root_keys, root_threshold)
        if (there := self._existing(org, owners, root_threshold or 1)) is not None:
            return there
        root_signer = None if owners else self._vault.create()
        own = {role: self._vault.create() for role in (KeyRole.BUNDLE, KeyRole.ROLLBACK, KeyRole.HEARTBEAT)}
        try:
            with self._ledger.change(caller) as change:
                keys = self._first_keys(change, owners, root_threshold or 1, root_signer, own)
                document = first_root(org, keys, change.now)
                record = OrgRecord(
                    org, keys.root, keys.threshold, document.to_bytes() if owners else None, change.now_us
                )
                insert_org(change.connection, record)
                made = own if root_signer is None else {KeyRole.ROOT: root_signer, **own}
                for role, signer in made.items():
                    insert_online_key(change.connection, OnlineKey(signer.public_key.key_id, org, role, change.now_us))
                if root_signer is None:
                    return _waiting(record)
                self._begin(change, record, document, root_signer)
        except IntegrityError:
            # Somebody else was first; with the same request, he gets the same answer.
            if (there := self._existing(org, owners, root_threshold or 1)) is None:
                raise
            return there
        return CreatedOrg(org, record.anchors[0].anchor, document.version, root_signer.public_key.key_id)

    def _existing(self, org: str, owners: tuple[PublicKey, ...], threshold: int) -> CreatedOrg | None:
        """Return the first answer if this request was made before; raise `OrgExists` if another one was."""
        with self._database.read() as connection:
            record = find_org(connection, org)
            newest = newest_root(connection, org)
        if record is None:
            return None
        if record.first_root is None or (record.anchors, record.threshold) != (owners, threshold):
            raise OrgExists(f"the org `{org}` exists already; `akpolicy root show --org {org}` has its trust anchors")
        if newest is None:
            return _waiting(record)
        return CreatedOrg(org, record.anchors[0].anchor, newest.version)

    def _first_keys(
        self,
        change: Change,
        owners: tuple[PublicKey, ...],
        threshold: int,
        root_signer: Signer | None,
        own: dict[KeyRole, Signer],
    ) -> FirstKeys:
        return FirstKeys(
            root=owners if root_signer is None else (root_signer.public_key,),
            threshold=threshold,
            bundle=own[KeyRole.BUNDLE].public_key,
            rollback=own[KeyRole.ROLLBACK].public_key,
            heartbeat=own[KeyRole.HEARTBEAT].public_key,
            platform_bundle=platform_key(change.connection, self._signatory, KeyRole.BUNDLE),
            platform_rollback=platform_key(change.connection, self._signatory, KeyRole.ROLLBACK),
        )

    def _begin(self, change: Change, record: OrgRecord, document: Root, root_signer: Signer) -> None:
        """Sign, judge and store the first root; raise why hosts could not begin with it."""
        envelope = sign_document(PayloadType.ROOT, document.to_bytes(), [root_signer])
        outcome = store_root(change, self._ledger, judge_first(record, envelope, change.now), is_first=True)
        for reason in outcome.dropped.values():
            raise reason


def _waiting(record: OrgRecord) -> CreatedOrg:
    if record.first_root is None:
        raise RuntimeError("an org that waits for a root that nobody was given")
    unsigned = SignedEnvelope(PayloadType.ROOT, record.first_root, ())
    return CreatedOrg(record.org, record.anchors[0].anchor, root_version=0, unsigned_root=unsigned)


def _parse_owners(root_keys: Sequence[str], threshold: int) -> tuple[PublicKey, ...]:
    """Return the root keys of others; raise `InvalidField`."""
    if len(root_keys) > MAX_ANCHORS:
        raise InvalidField(f"root_keys has {len(root_keys)} keys; the limit is {MAX_ANCHORS}")
    try:
        keys = tuple(parse_anchor(text) for text in root_keys)
    except TrustError as error:
        raise InvalidField(f"root_keys: {error.message}") from None
    if len({key.raw for key in keys}) != len(keys):
        raise InvalidField("root_keys has a key twice; a threshold counts it once: remove one")
    if threshold > min(len(keys) or 1, MAX_ROOT_THRESHOLD):
        raise InvalidField(
            f"root_threshold is {threshold}; it must be at most the number of root keys, and at most "
            f"{MAX_ROOT_THRESHOLD}"
        )
    return keys
