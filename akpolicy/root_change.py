"""The next root of an org: the current one with changes.

Rules:

- Pure: documents and a time in, a document out. Nothing is signed here.
- Changes apply in the order given. A revocation is never undone, the epoch never falls, the version is the next one.
- A change that cannot be made is a `UsageError` that says what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.errors import UsageError
from akpolicy.role_name import BUNDLE, ROOT, RoleName
from akpolicy.root_draft import Draft, draft_of, finished

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.keys import PublicKey
    from akpolicy.root import Root

DAY_S: Final = 86_400
ROOT_LIFETIME_S: Final = 365 * DAY_S
KEY_LIFETIME_S: Final = 730 * DAY_S


# --- changes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddKey:
    """Put a key into a role; a role that is not there yet is made, with threshold 1."""

    role: RoleName
    key: PublicKey

    def apply(self, draft: Draft) -> None:
        """Change the draft."""
        draft.add_key(self.role, self.key)


@dataclass(frozen=True, slots=True)
class RemoveKey:
    """Take a key out of a role."""

    role: RoleName
    key_id: str

    def apply(self, draft: Draft) -> None:
        """Change the draft; raise `UsageError` if the key is not in the role."""
        membership = draft.role(self.role)
        if self.key_id not in membership.keys:
            raise UsageError(f"the role `{self.role}` has no key {self.key_id}; `akpolicy root show` lists its keys")
        membership.keys.remove(self.key_id)


@dataclass(frozen=True, slots=True)
class SetThreshold:
    """Let so many keys of a role have to sign."""

    role: RoleName
    threshold: int

    def apply(self, draft: Draft) -> None:
        """Change the draft."""
        draft.role(self.role).threshold = self.threshold


@dataclass(frozen=True, slots=True)
class SetGrants:
    """Let the bundles of a prefix permit, or only forbid."""

    prefix: str
    grants: bool

    def apply(self, draft: Draft) -> None:
        """Change the draft."""
        draft.role(RoleName(BUNDLE, self.prefix)).grants = self.grants


@dataclass(frozen=True, slots=True)
class DropRole:
    """Let nobody sign what this role signed. The root role stays."""

    role: RoleName

    def apply(self, draft: Draft) -> None:
        """Change the draft."""
        if self.role.kind == ROOT:
            raise UsageError("the root role cannot be dropped: nobody could ever change this root again")
        draft.role(self.role)
        del draft.roles[self.role]


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Take a key out of every role, for good; what it signed alone is dropped by hosts."""

    key_id: str

    def apply(self, draft: Draft) -> None:
        """Change the draft; raise `UsageError` if the key is revoked already."""
        if self.key_id in draft.revoked:
            raise UsageError(f"the key {self.key_id} is revoked already")
        for name in draft.roles_of(self.key_id):
            draft.roles[name].keys.remove(self.key_id)
        draft.revoked[self.key_id] = draft.now


@dataclass(frozen=True, slots=True)
class ExtendKey:
    """Let a listed key be valid for the key lifetime from now on."""

    key_id: str

    def apply(self, draft: Draft) -> None:
        """Change the draft; raise `UsageError` if no role has the key."""
        if not draft.roles_of(self.key_id):
            raise UsageError(f"no role has the key {self.key_id}; `akpolicy root show` lists the keys")
        draft.keys[self.key_id]["valid_until"] = draft.now + draft.key_lifetime_s


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """Begin a new epoch, in which all versions count from 1 again."""

    def apply(self, draft: Draft) -> None:
        """Change the draft."""
        draft.epoch += 1


@dataclass(frozen=True, slots=True)
class SetMinSidecar:
    """Let no older sidecar follow this root; `version` as in `0.2.0`."""

    version: str

    def apply(self, draft: Draft) -> None:
        """Change the draft."""
        draft.min_sidecar = self.version


Change = AddKey | RemoveKey | SetThreshold | SetGrants | DropRole | RevokeKey | ExtendKey | NewEpoch | SetMinSidecar


# --- the next root ----------------------------------------------------------------------------------------------------


def next_root(
    current: Root,
    changes: Iterable[Change],
    now: int,
    *,
    lifetime_s: int = ROOT_LIFETIME_S,
    key_lifetime_s: int = KEY_LIFETIME_S,
) -> Root:
    """Return the root that follows `current`, issued at `now` (epoch seconds), with the changes.

    Raises `UsageError` for a change that cannot be made, or the `TrustError` with which a host would refuse the
    document.
    """
    draft = draft_of(current, now, key_lifetime_s)
    for change in changes:
        change.apply(draft)
    return finished(draft, lifetime_s, current)
