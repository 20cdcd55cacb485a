"""The steps that only rollbacks need: whether this may restore that.

An online key signs rollbacks, so everything that they bring was decided before by the keys that sign bundles: the
original comes along and is verified as a bundle; the rollback may name it and end it sooner, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import RollbackNotAuthorised

if TYPE_CHECKING:
    from akpolicy.bundle import Manifest
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.rollback import Rollback
    from akpolicy.trust.verdicts import Mark


def require_original(rollback: Rollback, original: SignedEnvelope | None) -> SignedEnvelope:
    """Return the original if it is the one that the rollback names; raise `RollbackNotAuthorised`."""
    if original is None:
        msg = f"rollback of `{rollback.scope}` comes without the manifest that it restores"
        raise RollbackNotAuthorised(msg)
    if original.digest().hex() != rollback.restores.digest:
        msg = f"rollback of `{rollback.scope}` comes with another manifest than the one that it restores"
        raise RollbackNotAuthorised(msg)
    return original


def check_restores(rollback: Rollback, original: Manifest) -> None:
    """Raise `RollbackNotAuthorised` unless the rollback says of the original what the original says of itself."""
    if original.scope != rollback.scope:
        _refuse(rollback, f"restores a manifest of `{original.scope}`")
    if (original.epoch, original.version) != (rollback.epoch, rollback.restores.version):
        named = f"{rollback.epoch}/{rollback.restores.version}"
        _refuse(rollback, f"names the original {named}, which says it is {original.epoch}/{original.version}")
    if original.content is None or original.content != rollback.content:
        _refuse(rollback, "brings another content than the original's")
    if rollback.expires_at > original.expires_at:
        _refuse(rollback, f"would live until {rollback.expires_at}, longer than the original ({original.expires_at})")


def check_floor(rollback: Rollback, mark: Mark | None) -> None:
    """Raise `RollbackNotAuthorised` if it goes back further than what is enforced permits."""
    if mark is not None and mark.epoch == rollback.epoch and rollback.restores.version < mark.min_version:
        _refuse(
            rollback, f"restores version {rollback.restores.version}; what is enforced permits {mark.min_version} on"
        )


def _refuse(rollback: Rollback, what: str) -> None:
    msg = f"rollback of `{rollback.scope}` to version {rollback.version} {what}"
    raise RollbackNotAuthorised(msg)
