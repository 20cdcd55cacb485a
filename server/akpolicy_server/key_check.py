"""The keys, looked at when the server starts: better now than at the next publish.

Rules:

- A key file that is there and cannot be used (others can read it, it is another key) prevents the start.
- A key that the server made, that a newest root names and that is gone, is said and not more: the way out of a loss is
  a new key and a new root, and both need a running server.
- An org whose root names no heartbeat key is said too: its hosts cannot tell fresh policy from old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from akpolicy_server.audience import trusted
from akpolicy_server.store.online_keys import online_key_ids
from akpolicy_server.store.roots import newest_roots

if TYPE_CHECKING:
    from akpolicy.root import Root
    from akpolicy_server.signatory import Signatory
    from akpolicy_server.store.engine import Database

log = structlog.get_logger(__name__)


def inspect_keys(database: Database, signatory: Signatory) -> None:
    """Say what is missing; raise `KeyFileError` for a key file that cannot be used."""
    with database.read() as connection:
        made_here = set(online_key_ids(connection))
        roots = [trusted(record).document for record in newest_roots(connection)]
    checked: dict[str, bool] = {}
    for root in roots:
        for key_id in sorted(_online(root) & made_here):
            if key_id not in checked:
                checked[key_id] = signatory.find(key_id) is not None
            if not checked[key_id]:
                log.warning(
                    "a signing key is missing; restore it, or make a new one and have a root name it",
                    org=root.org,
                    key=key_id,
                )
        if root.roles.heartbeat is None:
            log.warning(
                "hosts of an org get no heartbeats: its root names no heartbeat key; "
                "make one and propose the next root with `akpolicy root propose`",
                org=root.org,
            )


def _online(root: Root) -> set[str]:
    """Return the keys of every role but the root's own."""
    return {key_id for role in root.all_roles()[1:] for key_id in role.keys}
