"""Who signs for the server: from a role of a root to the private keys that can fill it.

Rules:

- The root alone says which keys may sign. The server signs with those of them that it holds: in its vault, or through
  the signers that the settings name (tokens, key services), which come first.
- Exactly as many sign as the role's threshold asks for: keys that are valid now, those that stay so the longest first,
  then those that began last, so that a new key takes over from an old one.
- Too few keys at hand is `SignersMissing`, with what to do instead. A key whose file is there but cannot be used is an
  error of its own: it must not look like one that was moved away on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from akpolicy.errors import KeyNotAuthorised, SignersMissing
from akpolicy.limits import CLOCK_SKEW_S
from akpolicy_server.store.online_keys import KeyRole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.root import Role, Root, RootKey
    from akpolicy.signing import Signer
    from akpolicy_server.vault import Vault


class Duty(NamedTuple):
    """What a role signs; for messages, how that is called and what to do where the server cannot."""

    role: KeyRole
    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Quorum:
    """Keys that fill a role. `ends_at` is when the first of them ends, in epoch seconds."""

    signers: tuple[Signer, ...]
    ends_at: int


class Signatory:
    """The private keys that this server can use. Thread-safe; blocks."""

    def __init__(self, vault: Vault, signers: Iterable[Signer] = ()) -> None:
        """`signers` are those that the settings name."""
        self._vault = vault
        self._configured = {signer.public_key.key_id: signer for signer in signers}

    def find(self, key_id: str) -> Signer | None:
        """Return a key that this server holds, or None; raise `KeyFileError` for a file that cannot be used."""
        return self._configured.get(key_id) or self._vault.find(key_id)

    def quorum(self, root: Root, role: Role | None, duty: Duty, now: float) -> Quorum:
        """Return the keys that sign for a role of the root.

        Raises `KeyNotAuthorised` if the root has no such role, `SignersMissing`, or `KeyFileError`.
        """
        if role is None:
            raise KeyNotAuthorised(f"root version {root.version} of `{root.org}` lets nobody sign {duty.what}")
        held: list[Signer] = []
        for key_id in _by_preference(root, role, now):
            signer = self.find(key_id)
            if signer is not None:
                held.append(signer)
            if len(held) == role.threshold:
                ends_at = min(root.keys[signer.public_key.key_id].valid_until for signer in held)
                return Quorum(tuple(held), ends_at)
        raise SignersMissing(
            f"{role.threshold} of {len(role.keys)} keys must sign {duty.what}, and this server holds {len(held)} of "
            f"them that are valid now; {duty.advice}"
        )


def quorum_end(root: Root, role: Role, now: float) -> int | None:
    """Return until when the role can be filled by keys that are valid now, held here or not; None if it cannot."""
    windows = [root.keys[key_id].valid_until for key_id in _by_preference(root, role, now)]
    return windows[role.threshold - 1] if len(windows) >= role.threshold else None


def bundles_of(scope: str) -> Duty:
    """Return the duty of signing bundles of a scope."""
    advice = "publish with --unsigned and have it signed by the keys' owners"
    return Duty(KeyRole.BUNDLE, f"bundles of `{scope}`", advice)


def rollbacks_of(scope: str) -> Duty:
    """Return the duty of signing rollbacks of a scope."""
    advice = "publish the policies again instead, with --unsigned, and have them signed"
    return Duty(KeyRole.ROLLBACK, f"rollbacks of `{scope}`", advice)


def heartbeats_of(org: str) -> Duty:
    """Return the duty of signing heartbeats of an org."""
    return Duty(KeyRole.HEARTBEAT, f"heartbeats of `{org}`", "make an online key for them and name it in the next root")


def _by_preference(root: Root, role: Role, now: float) -> Sequence[str]:
    def rank(key_id: str) -> tuple[int, int, str]:
        window = root.keys[key_id]
        return (-window.valid_until, -window.valid_from, key_id)

    usable = [key_id for key_id in role.keys if key_id not in root.revoked and _is_valid(root.keys[key_id], now)]
    return sorted(usable, key=rank)


def _is_valid(window: RootKey, now: float) -> bool:
    # As hosts have it: their clocks and this one may differ a little.
    return window.valid_from - CLOCK_SKEW_S <= now < window.valid_until
