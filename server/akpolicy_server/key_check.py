"""The keys, looked at when the server starts, and by `akpolicy-server check`: better now than at the next publish.

Rules:

- A key file that is there and cannot be used (others can read it, it is another key) prevents the start.
- A key that the server made, that a newest root names and that is gone, is said and not more: the way out of a loss is
  a new key and a new root, and both need a running server.
- An org whose root names no heartbeat key is said too: its hosts cannot tell fresh policy from old.
- So is a root key that lies here: who owns this machine then owns the org.
- A root that ends soon takes every host of the org with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.instants import rfc3339_of
from akpolicy_server.audience import trusted
from akpolicy_server.store.online_keys import online_key_ids
from akpolicy_server.store.roots import newest_roots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.root import Root
    from akpolicy_server.signatory import Signatory
    from akpolicy_server.store.engine import Database

log = structlog.get_logger(__name__)

DAY_S: Final = 86_400
ROOT_ENDS_SOON_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that does not prevent the start, and that somebody has to see to.

    `org` is empty for what concerns all; `key` is a key id, or empty.
    """

    message: str
    org: str
    key: str = ""


def inspect_keys(database: Database, signatory: Signatory, now: float) -> None:
    """Say what there is to see to; raise `KeyFileError` for a key file that cannot be used."""
    for concern in concerns_of(database, signatory, now):
        log.warning(concern.message, org=concern.org, **({"key": concern.key} if concern.key else {}))


def concerns_of(database: Database, signatory: Signatory, now: float) -> tuple[Concern, ...]:
    """Return what there is to see to, by org; raise `KeyFileError` for a key file that cannot be used."""
    with database.read() as connection:
        made_here = set(online_key_ids(connection))
        roots = [trusted(record).document for record in newest_roots(connection)]
    held: dict[str, bool] = {}
    for key_id in sorted(
        {key_id for root in roots for key_id in (*root.roles.root.keys, *(_online(root) & made_here))}
    ):
        held[key_id] = signatory.find(key_id) is not None
    return tuple(concern for root in roots for concern in _concerns(root, held, now))


def _concerns(root: Root, held: dict[str, bool], now: float) -> Iterator[Concern]:
    """Yield what there is to see to of an org; `held` says of each key that matters whether it is here."""
    for key_id in sorted(_online(root) & held.keys()):
        if not held[key_id]:
            message = "a signing key is missing; restore it, or make a new one and have a root name it"
            yield Concern(message, root.org, key_id)
    if root.roles.heartbeat is None:
        message = (
            "hosts of an org get no heartbeats: its root names no heartbeat key; "
            "make one and propose the next root with `akpolicy root propose`"
        )
        yield Concern(message, root.org)
    for key_id in sorted(root.roles.root.keys):
        if held[key_id]:
            message = "a root key lies on this machine; replace it by one that does not, with `akpolicy root rotate`"
            yield Concern(message, root.org, key_id)
    if root.expires_at - now < ROOT_ENDS_SOON_DAYS * DAY_S:
        message = (
            f"the root expires at {rfc3339_of(root.expires_at)}, and its hosts deny everything from then on; "
            "propose the next one with `akpolicy root propose`"
        )
        yield Concern(message, root.org)


def _online(root: Root) -> set[str]:
    """Return the keys of every role but the root's own."""
    return {key_id for role in root.all_roles()[1:] for key_id in role.keys}
