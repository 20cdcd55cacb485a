"""What a root changes, in the words of the person who is asked to sign it.

Rules:

- Everything that differs is said, one line each: keys, roles, thresholds, rights, revocations, epoch, times. Two roots
  with no line between them say the same.
- A key that a root brings in is named in full, so that it can be compared with what its owner says; keys that were
  there before are named by the beginning of their id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.instants import duration, rfc3339_of
from akpolicy.root_draft import roles_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from akpolicy.role_name import RoleName
    from akpolicy.root import Role, Root

SHORT_ID_CHARS: Final = 12


def short_id(key_id: str) -> str:
    """Return as much of a key id as people need to tell keys apart."""
    return key_id[:SHORT_ID_CHARS]


def differences(old: Root | None, new: Root) -> list[str]:
    """Return what `new` changes, one line each; with no root before it, all that it says."""
    return [*_life(old, new), *_roles(old, new), *_revocations(old, new), *_windows(old, new)]


def _life(old: Root | None, new: Root) -> Iterator[str]:
    if old is None:
        yield f"first root of `{new.org}`, version {new.version}, epoch {new.epoch}"
    elif old.org != new.org:
        yield f"org: `{old.org}` -> `{new.org}`"
    if old is not None and old.version != new.version:
        yield f"version: {old.version} -> {new.version}"
    if old is not None and old.epoch != new.epoch:
        yield f"epoch: {old.epoch} -> {new.epoch}; hosts take no bundle of an earlier epoch any more"
    life = f"{rfc3339_of(new.expires_at)}, {duration(max(0, new.expires_at - new.issued_at))} after it was issued"
    if old is None:
        yield f"expires: {life}"
    elif old.expires_at != new.expires_at:
        yield f"expires: {rfc3339_of(old.expires_at)} -> {life}"
    if old is None or old.min_sidecar != new.min_sidecar:
        yield f"sidecars: {new.min_sidecar} or newer"


def _roles(old: Root | None, new: Root) -> Iterator[str]:
    before: Mapping[RoleName, Role] = roles_of(old) if old else {}
    after = roles_of(new)
    for name in sorted({*before, *after}, key=str):
        yield from _role(name, before.get(name), after.get(name), new)


def _role(name: RoleName, old: Role | None, new: Role | None, root: Root) -> Iterator[str]:
    if new is None:
        yield f"role `{name}`: dropped; nobody may sign this any more"
        return
    if old is None:
        yield f"role `{name}`: new, {new.threshold} of {len(new.keys)} must sign"
    elif (old.threshold, len(old.keys)) != (new.threshold, len(new.keys)):
        yield f"role `{name}`: {old.threshold} of {len(old.keys)} -> {new.threshold} of {len(new.keys)} must sign"
    grants = getattr(new, "grants", True)
    if grants != getattr(old, "grants", True):
        yield f"role `{name}`: {'may permit from now on' if grants else 'may only forbid'}"
    held = set(old.keys) if old else set()
    for key_id in new.keys:
        if key_id not in held:
            yield f"role `{name}`: + key {key_id}, valid until {rfc3339_of(root.keys[key_id].valid_until)}"
    for key_id in sorted(held - set(new.keys)):
        yield f"role `{name}`: - key {short_id(key_id)}"


def _revocations(old: Root | None, new: Root) -> Iterator[str]:
    before = old.revoked if old else {}
    for key_id in sorted({*before, *new.revoked}):
        if key_id not in new.revoked:
            yield f"revocation undone: key {key_id}; no host accepts that"
        elif key_id not in before:
            yield f"revoked for good: key {key_id}, since {rfc3339_of(new.revoked[key_id])}"
        elif before[key_id] != new.revoked[key_id]:
            yield f"revocation moved: key {key_id}; no host accepts that"


def _windows(old: Root | None, new: Root) -> Iterator[str]:
    """Say which keys that stay get another validity."""
    for key_id, entry in sorted(new.keys.items()):
        before = old.keys.get(key_id) if old else None
        if before is not None and (before.valid_from, before.valid_until) != (entry.valid_from, entry.valid_until):
            yield (
                f"key {short_id(key_id)}: valid {rfc3339_of(entry.valid_from)} to {rfc3339_of(entry.valid_until)}, "
                f"before to {rfc3339_of(before.valid_until)}"
            )
