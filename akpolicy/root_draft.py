"""A root while it is put together: keys, roles and revocations, checked as a whole when it is finished.

Rules:

- What must hold of the whole (every role reaches its threshold) is checked once, at the end, so that a key may be
  exchanged in any order.
- What the judge would refuse is not made: no root needs more signatures than an envelope carries, and no revoked key is
  in a role.
- A key that no role names is dropped from the list. A revoked one stays listed while it would have been valid, so that
  a document which it signed is refused as `KeyRevoked` and not as signed by a stranger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from akpolicy.envelope import PayloadType, pae
from akpolicy.errors import TrustError, UsageError
from akpolicy.keys import ANCHOR_PREFIX
from akpolicy.limits import MAX_ROOT_PAE_BYTES, MAX_SIGNATURES
from akpolicy.role_name import BUNDLE, HEARTBEAT, ROLLBACK, ROOT, RoleName
from akpolicy.root import Role, Root, parse_root
from akpolicy.strict_json import dump

if TYPE_CHECKING:
    from akpolicy.keys import PublicKey

# A root lists at most 256 keys; of those that are revoked, so many of the newest.
MAX_REVOKED_LISTED: Final = 64


@dataclass(slots=True)
class Membership:
    """A role while it is changed."""

    keys: list[str]
    threshold: int = 1
    grants: bool = True


@dataclass(slots=True)
class Draft:
    """A root while it is changed; times are epoch seconds, `key_lifetime_s` is that of added keys."""

    org: str
    now: int
    key_lifetime_s: int
    epoch: int
    min_sidecar: str
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    roles: dict[RoleName, Membership] = field(default_factory=dict)

    def role(self, name: RoleName) -> Membership:
        """Return a role that must be there; raise `UsageError`."""
        if name not in self.roles:
            known = ", ".join(f"`{role}`" for role in sorted(self.roles, key=str))
            raise UsageError(f"the root has no role `{name}`; it has {known}")
        return self.roles[name]

    def add_key(self, name: RoleName, key: PublicKey) -> None:
        """List a key and put it into a role, which begins with threshold 1 if it is new; raise `UsageError`."""
        if key.key_id in self.revoked:
            raise UsageError(f"the key {key.key_id} was revoked, which is never undone; make a new key")
        membership = self.roles.setdefault(name, Membership([]))
        if key.key_id in membership.keys:
            raise UsageError(f"the role `{name}` has the key {key.key_id} already")
        membership.keys.append(key.key_id)
        entry = self.keys.setdefault(
            key.key_id,
            {"public_key": key.anchor.removeprefix(ANCHOR_PREFIX), "valid_from": self.now, "valid_until": 0},
        )
        entry["valid_until"] = max(entry["valid_until"], self.now + self.key_lifetime_s)

    def roles_of(self, key_id: str) -> list[RoleName]:
        """Return the roles that have the key."""
        return [name for name, membership in self.roles.items() if key_id in membership.keys]


def draft_of(current: Root, now: int, key_lifetime_s: int) -> Draft:
    """Return the draft that changes nothing of `current`."""
    draft = Draft(current.org, now, key_lifetime_s, current.epoch, current.min_sidecar)
    draft.keys = {key_id: entry.model_dump() for key_id, entry in current.keys.items()}
    draft.revoked = dict(current.revoked)
    draft.roles = {
        name: Membership(list(role.keys), role.threshold, getattr(role, "grants", True))
        for name, role in roles_of(current).items()
    }
    return draft


def roles_of(root: Root) -> dict[RoleName, Role]:
    """Return the roles of a root by name."""
    named: dict[RoleName, Role] = {RoleName(ROOT): root.roles.root}
    named |= {RoleName(BUNDLE, role.prefix): role for role in root.roles.bundle}
    named |= {RoleName(ROLLBACK, role.prefix): role for role in root.roles.rollback}
    return named | ({RoleName(HEARTBEAT): root.roles.heartbeat} if root.roles.heartbeat else {})


def finished(draft: Draft, lifetime_s: int, current: Root) -> Root:
    """Return the draft as the root after `current`.

    Raises `UsageError` if a role cannot reach its threshold, nobody could sign the root, or no host would read it.
    """
    for name, membership in draft.roles.items():
        _check_reachable(name, membership)
    _check_signable(draft.roles[RoleName(ROOT)], current)
    document = {
        "type": "root",
        "spec": 1,
        "org": draft.org,
        "version": current.version + 1,
        "epoch": draft.epoch,
        "issued_at": draft.now,
        "expires_at": draft.now + lifetime_s,
        "min_sidecar": draft.min_sidecar,
        "keys": _listed(draft),
        "revoked": draft.revoked,
        "roles": _roles_json(draft),
    }
    payload = dump(document)
    if len(pae(PayloadType.ROOT, payload)) > MAX_ROOT_PAE_BYTES:
        raise UsageError(f"the root would have more than {MAX_ROOT_PAE_BYTES} bytes; name fewer keys and prefixes")
    try:
        root, _ = parse_root(payload)
    except TrustError as error:
        raise UsageError(f"no such root can be: {error.message}") from error
    return root


def _check_reachable(name: RoleName, membership: Membership) -> None:
    if membership.threshold < 1:
        raise UsageError(f"the role `{name}` cannot have the threshold {membership.threshold}; it begins at 1")
    if membership.threshold > MAX_SIGNATURES:
        raise UsageError(
            f"the role `{name}` cannot have the threshold {membership.threshold}: "
            f"an envelope carries at most {MAX_SIGNATURES} signatures"
        )
    if len(membership.keys) < membership.threshold:
        lower = ", or lower its threshold" if membership.keys else ""
        drop = "" if name.kind == ROOT else ", or drop the role"
        raise UsageError(
            f"the role `{name}` would have {len(membership.keys)} of the {membership.threshold} keys that must sign; "
            f"add a key to `{name}`{lower}{drop}"
        )


def _check_signable(root_role: Membership, current: Root) -> None:
    """Refuse a root that the old and the new root role could not sign together."""
    old = current.roles.root
    shared = min(len(set(old.keys) & set(root_role.keys)), old.threshold, root_role.threshold)
    needed = old.threshold + root_role.threshold - shared
    if needed > MAX_SIGNATURES:
        raise UsageError(
            f"old and new root keys would have to make {needed} signatures, more than {MAX_SIGNATURES}; "
            "exchange some of the keys now and the others with the root after this one"
        )


def _listed(draft: Draft) -> dict[str, dict[str, Any]]:
    used = {key_id for membership in draft.roles.values() for key_id in membership.keys}
    recent = sorted(
        (key_id for key_id in draft.revoked if key_id in draft.keys and draft.keys[key_id]["valid_until"] > draft.now),
        key=lambda key_id: draft.revoked[key_id],
    )
    kept = used | set(recent[-MAX_REVOKED_LISTED:])
    return {key_id: entry for key_id, entry in draft.keys.items() if key_id in kept}


def _roles_json(draft: Draft) -> dict[str, Any]:
    result: dict[str, Any] = {BUNDLE: [], ROLLBACK: []}
    for name, membership in draft.roles.items():
        role: dict[str, Any] = {"keys": membership.keys, "threshold": membership.threshold}
        if name.kind in (BUNDLE, ROLLBACK):
            result[name.kind].append({**role, "prefix": name.prefix, "grants": membership.grants})
        else:
            result[name.kind] = role
    return result
