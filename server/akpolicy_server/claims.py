"""Repeats: a request with an idempotency key is done once, and answered again as the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import IdempotencyKeyReused
from akpolicy_server.store.revisions import IdempotencyClaim, find_by_claim

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy_server.access import Caller
    from akpolicy_server.store.revisions import RevisionRecord


def claim_of(caller: Caller, key: str, request_digest: bytes) -> IdempotencyClaim | None:
    """Return the claim of a request; None without a key. Keys of different orgs do not meet."""
    return IdempotencyClaim(caller.org or "", key, request_digest) if key else None


def first_answer(connection: Connection, claim: IdempotencyClaim | None) -> RevisionRecord | None:
    """Return what the same request made before; None if it is new.

    Raises `IdempotencyKeyReused` if the key was used for another request.
    """
    found = None if claim is None else find_by_claim(connection, claim)
    if claim is None or found is None:
        return None
    revision, request_digest = found
    if request_digest != claim.request_digest:
        raise IdempotencyKeyReused(
            f"the idempotency key `{claim.key}` was used for another request, which made version {revision.version} "
            f"of `{revision.scope}`; choose a new key for a new change"
        )
    return revision
