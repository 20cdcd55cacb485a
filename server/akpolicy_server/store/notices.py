"""Notices: how servers that share a PostgreSQL database tell each other what they wrote.

Rules:

- A notice is part of the transaction that it is about: it reaches the others when, and only if, that commits.
- It says *that* something changed, never what: whoever hears it reads the database. So a notice that is lost, late,
  doubled or forged costs a look at the database, and nothing else.
- A notice is text: who sent it, its kind, and names. PostgreSQL takes less than 8,000 bytes: long lists become several.
- SQLite has no other servers, and gets none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Connection

CHANNEL: Final = "akpolicy"
MAX_NOTICE_CHARS: Final = 7_000

# The execution option of a write transaction that says which server writes.
ORIGIN: Final = "akpolicy_origin"
ORIGIN_BYTES: Final = 8

_NOTIFY: Final = text("SELECT pg_notify(:channel, :notice)")


class NoticeKind(StrEnum):
    """What the names in a notice are."""

    ORGS = "orgs"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Notice:
    """What another server wrote: the orgs that changed, or the ids of the API keys that were revoked."""

    origin: str
    kind: NoticeKind
    names: tuple[str, ...]


def tell_changed(connection: Connection, orgs: Collection[str]) -> None:
    """Tell the other servers, with the commit, that something changed for these orgs."""
    _tell(connection, NoticeKind.ORGS, orgs)


def tell_revoked(connection: Connection, key_id: str) -> None:
    """Tell the other servers, with the commit, that an API key was revoked."""
    _tell(connection, NoticeKind.REVOKED, [key_id])


def read_notice(payload: str) -> Notice | None:
    """Return a notice, or None for what has not the form of one: a newer version may send others."""
    parts = payload.split(" ")
    if len(parts) < 3 or parts[1] not in set(NoticeKind) or not all(parts):  # noqa: PLR2004 - sender, kind, a name
        return None
    return Notice(parts[0], NoticeKind(parts[1]), tuple(parts[2:]))


def _tell(connection: Connection, kind: NoticeKind, names: Collection[str]) -> None:
    if connection.dialect.name != "postgresql":
        return
    origin = connection.get_execution_options().get(ORIGIN, "-")
    for notice in _notices(f"{origin} {kind}", sorted(names)):
        connection.execute(_NOTIFY, {"channel": CHANNEL, "notice": notice})


def _notices(head: str, names: Collection[str]) -> Iterator[str]:
    """Yield texts of at most `MAX_NOTICE_CHARS`; names are of ASCII and have no spaces."""
    text_ = head
    for name in names:
        if text_ != head and len(text_) + 1 + len(name) > MAX_NOTICE_CHARS:
            yield text_
            text_ = head
        text_ += f" {name}"
    if text_ != head:
        yield text_
