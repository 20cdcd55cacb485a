"""The root document: which keys may sign what for one org.

Rules (after TUF's root role, specification section 4.3, with roles per scope prefix):

- Each key is listed under its own id (recomputed here), with a validity window. A revoked key may be in no role.
- A role needs `threshold` signatures by distinct keys of its list; 1 <= threshold <= number of keys.
- Bundle roles are per scope prefix; the longest matching prefix alone counts. A root can only delegate `global` and
  scopes of its own org. `grants: false` lets a prefix publish forbids only.
- `heartbeat` and `rollback` name online keys for those documents; a root without them permits neither.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from akpolicy.errors import AnchorFormat, FieldInvalid, KeyIdMismatch
from akpolicy.fields import Counter, HexDigest, OrgName, ScopeText, Seconds, SoftwareVersion, SpecOne
from akpolicy.keys import PublicKey, decode_public_key
from akpolicy.scope import covers, org_of
from akpolicy.strict_json import Document, load

MAX_ROOT_KEYS = 256
MAX_DELEGATIONS = 4096


class RootKey(Document):
    """A public key (base64url) and when it may sign, in epoch seconds."""

    public_key: str
    valid_from: Seconds
    valid_until: Seconds


class Role(Document):
    """`threshold` distinct keys of `keys` must sign."""

    keys: Annotated[list[HexDigest], Field(min_length=1, max_length=MAX_ROOT_KEYS)]
    threshold: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _reachable(self) -> Role:
        if len(set(self.keys)) != len(self.keys):
            msg = "a role names a key twice"
            raise ValueError(msg)
        if self.threshold > len(self.keys):
            msg = "a role's threshold is above its number of keys"
            raise ValueError(msg)
        return self


class Delegation(Role):
    """The role for all scopes at and below `prefix`."""

    prefix: ScopeText
    grants: bool


class Roles(Document):
    """Who signs what."""

    root: Role
    bundle: Annotated[list[Delegation], Field(max_length=MAX_DELEGATIONS)]
    rollback: Annotated[list[Delegation], Field(max_length=MAX_DELEGATIONS, default_factory=list)]
    heartbeat: Role | None = None

    @field_validator("bundle", "rollback")
    @classmethod
    def _one_role_a_prefix(cls, value: list[Delegation]) -> list[Delegation]:
        if len({d.prefix for d in value}) != len(value):
            msg = "two roles have the same prefix"
            raise ValueError(msg)
        return value


class Root(Document):
    """The signed root of one org."""

    type: Literal["root"]
    spec: SpecOne
    org: OrgName
    version: Counter
    epoch: Counter
    issued_at: Seconds
    expires_at: Seconds
    min_sidecar: SoftwareVersion
    keys: Annotated[dict[HexDigest, RootKey], Field(min_length=1, max_length=MAX_ROOT_KEYS)]
    revoked: dict[HexDigest, Seconds]
    roles: Roles

    @model_validator(mode="after")
    def _consistent(self) -> Root:
        for role in self.all_roles():
            for key_id in role.keys:
                if key_id not in self.keys or key_id in self.revoked:
                    msg = f"a role names the key {key_id}, which is not listed or is revoked"
                    raise ValueError(msg)
        for delegation in (*self.roles.bundle, *self.roles.rollback):
            if org_of(delegation.prefix) not in (None, self.org):
                msg = f"the root of `{self.org}` cannot delegate `{delegation.prefix}`"
                raise ValueError(msg)
        return self

    def all_roles(self) -> list[Role]:
        """Return every role of this root."""
        heartbeat = [self.roles.heartbeat] if self.roles.heartbeat else []
        return [self.roles.root, *heartbeat, *self.roles.bundle, *self.roles.rollback]

    def bundle_role(self, scope: str) -> Delegation | None:
        """Return who may sign bundles of `scope`; None if nobody may."""
        return _closest(self.roles.bundle, scope)

    def rollback_role(self, scope: str) -> Delegation | None:
        """Return who may sign rollbacks of `scope`; None if nobody may."""
        return _closest(self.roles.rollback, scope)


def _closest(delegations: list[Delegation], scope: str) -> Delegation | None:
    """Return the delegation of the longest prefix that covers `scope`: it alone counts."""
    matching = [d for d in delegations if covers(d.prefix, scope)]
    return max(matching, key=lambda d: len(d.prefix), default=None)


def parse_root(payload: bytes) -> tuple[Root, dict[str, PublicKey]]:
    """Parse a root and load its keys; raise a payload error, `WeakKey` or `KeyIdMismatch`.

    Returns the document and its public keys by key id.
    """
    root = load(payload, Root)
    keys: dict[str, PublicKey] = {}
    for key_id, entry in root.keys.items():
        try:
            key = decode_public_key(entry.public_key)
        except AnchorFormat as error:
            msg = f"root key {key_id}: {error.message}"
            raise FieldInvalid(msg) from None
        if key.key_id != key_id:
            msg = f"root lists a key as {key_id}, but its id is {key.key_id}"
            raise KeyIdMismatch(msg)
        keys[key_id] = key
    return root, keys
