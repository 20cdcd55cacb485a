"""What was published: pages of revisions, and single ones with their policies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import load_content
from akpolicy.errors import InvalidField, RevisionNotFound
from akpolicy.limits import MAX_JSON_INT
from akpolicy_server.access import Caller, check_publishable_scope, require_publisher
from akpolicy_server.audience import require_scope
from akpolicy_server.store.revisions import (
    RevisionRecord,
    current_revision,
    find_revision,
    list_revisions,
    read_content,
)

if TYPE_CHECKING:
    from akpolicy.bundle import PolicyEntry
    from akpolicy_server.store.engine import Database

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 500

_TOKEN: Final = re.compile(r"s([1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class Page:
    """Some revisions, newest first; `next_token` is empty at the end."""

    revisions: tuple[RevisionRecord, ...]
    next_token: str


class History:
    """Reads what was published. Thread-safe; blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, caller: Caller, scope: str, *, page_size: int, token: str) -> Page:
        """Return a page; raise `PermissionDenied`, `InvalidField` or `OrgNotFound`."""
        require_publisher(caller, check_publishable_scope(scope))
        before = _parse_token(token)
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        with self._database.read() as connection:
            require_scope(connection, scope)
            # One more than asked for tells whether there is a next page.
            found = list_revisions(connection, scope, before=before, limit=size + 1)
        page = tuple(found[:size])
        more = len(found) > size
        return Page(page, f"s{page[-1].serial}" if more else "")

    def get(self, caller: Caller, scope: str, version: int) -> tuple[RevisionRecord, list[PolicyEntry], str]:
        """Return a revision (0: the newest), its policies, and the schema that its content brings (empty for none).

        Raises `PermissionDenied`, `InvalidField`, `OrgNotFound` or `RevisionNotFound`.
        """
        require_publisher(caller, check_publishable_scope(scope))
        with self._database.read() as connection:
            require_scope(connection, scope)
            revision = current_revision(connection, scope)
            if version and revision is not None:
                revision = find_revision(connection, scope, version) if version <= MAX_JSON_INT else None
            if revision is None:
                what = f"no version {version} of `{scope}`" if version else f"nothing published for `{scope}`"
                raise RevisionNotFound(f"there is {what}")
            blob = read_content(connection, revision)
        content = load_content(blob)
        return revision, content.policies, content.schema_text or ""


def _parse_token(token: str) -> int | None:
    """Return the serial before which a page begins."""
    if not token:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidField("page_token is not one that an earlier answer gave; begin without it")
    return int(match[1])
