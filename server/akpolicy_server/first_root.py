"""The first root of an org: which keys sign what from the beginning.

The root key or keys are 1 of 1 or as their owners want. Everything else is online and 1 of 1: the org's own keys for
its bundles, rollbacks and heartbeats, the platform's for bundles and rollbacks of `global`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.keys import ANCHOR_PREFIX
from akpolicy.root import Delegation, Role, Roles, Root, RootKey
from akpolicy.scope import GLOBAL, org_scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.keys import PublicKey

DAY_S: Final = 86_400
ROOT_LIFETIME_S: Final = 365 * DAY_S
KEY_LIFETIME_S: Final = 730 * DAY_S
FIRST_ROOT_VERSION: Final = 1
FIRST_EPOCH: Final = 1
MIN_SIDECAR: Final = "0.1.0"


@dataclass(frozen=True, slots=True)
class FirstKeys:
    """The keys of a new org: `threshold` of `root` sign roots."""

    root: tuple[PublicKey, ...]
    threshold: int
    bundle: PublicKey
    rollback: PublicKey
    heartbeat: PublicKey
    platform_bundle: PublicKey
    platform_rollback: PublicKey

    def all(self) -> list[PublicKey]:
        """Return every key."""
        online = [self.bundle, self.rollback, self.heartbeat, self.platform_bundle, self.platform_rollback]
        return [*self.root, *online]


def first_root(org: str, keys: FirstKeys, now: int) -> Root:
    """Return the first root of an org; `now` is in epoch seconds."""
    return Root(
        type="root",
        spec=1,
        org=org,
        version=FIRST_ROOT_VERSION,
        epoch=FIRST_EPOCH,
        issued_at=now,
        expires_at=now + ROOT_LIFETIME_S,
        min_sidecar=MIN_SIDECAR,
        keys={key.key_id: _window(key, now) for key in keys.all()},
        revoked={},
        roles=Roles(
            root=_role(keys.root, keys.threshold),
            bundle=[_delegation(org_scope(org), keys.bundle), _delegation(GLOBAL, keys.platform_bundle)],
            rollback=[_delegation(org_scope(org), keys.rollback), _delegation(GLOBAL, keys.platform_rollback)],
            heartbeat=_role([keys.heartbeat], 1),
        ),
    )


def _window(key: PublicKey, now: int) -> RootKey:
    encoded = key.anchor.removeprefix(ANCHOR_PREFIX)
    return RootKey(public_key=encoded, valid_from=now, valid_until=now + KEY_LIFETIME_S)


def _role(keys: Sequence[PublicKey], threshold: int) -> Role:
    return Role(keys=[key.key_id for key in keys], threshold=threshold)


def _delegation(prefix: str, key: PublicKey) -> Delegation:
    return Delegation(prefix=prefix, keys=[key.key_id], threshold=1, grants=True)
