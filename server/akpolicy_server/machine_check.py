"""What `akpolicy-server check` says of expiries, the clock, files and the disk, beside the keys (`key_check`).

Rules:

- Nothing here prevents a start; what does is found before.
- Policies that end soon are those that the server should have renewed: it renews at half of their lives, so that one
  with less than a quarter of its life left is not being renewed, whatever the reason.
- Signing keys count as those of a role: it ends when too few of its keys are valid, and what they signed with it.
- Signed time is compared with the clock: what was signed or published later than now was so by a clock that was ahead,
  or this one is behind. Hosts take `CLOCK_SKEW_S`.
- Room on the disk: for the database once more and then some, because a migration, a backup and a full write-ahead log
  each may take that.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from akpolicy.instants import rfc3339_of
from akpolicy.limits import CLOCK_SKEW_S, MIB
from akpolicy_server.audience import trusted
from akpolicy_server.key_check import DAY_S, ROOT_ENDS_SOON_DAYS, Concern
from akpolicy_server.settings import SQLITE_PREFIX
from akpolicy_server.signatory import quorum_end
from akpolicy_server.store.layers import IS_REVISION
from akpolicy_server.store.roots import newest_roots
from akpolicy_server.store.tables import layers, revisions
from akpolicy_server.times import MICROSECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from akpolicy.root import Role, Root
    from akpolicy_server.settings import ServerSettings

LEAST_FREE_BYTES: Final = 256 * MIB
# Of what is free, for a database of that size.
FREE_TIMES_DATABASE: Final = 2
MAX_NAMED: Final = 20
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def concerns_of_machine(settings: ServerSettings, connection: Connection, now: float) -> Iterator[Concern]:
    """Yield what there is to see to."""
    for record in newest_roots(connection):
        yield from _of_roles(trusted(record).document, now)
    yield from _of_bundles(connection, int(now))
    yield from _of_clock(connection, now)
    yield from _of_files(settings)
    yield from _of_disk(settings)


# --- expiries ---------------------------------------------------------------------------------------------------------


def _of_roles(root: Root, now: float) -> Iterator[Concern]:
    for name, role in _roles(root):
        ends_at = quorum_end(root, role, now)
        if ends_at is None:
            message = f"the role {name} has too few valid keys; propose a root that names others"
        elif ends_at - now < ROOT_ENDS_SOON_DAYS * DAY_S and ends_at < root.expires_at:
            message = (
                f"the role {name} runs out of valid keys at {rfc3339_of(ends_at)}; "
                "propose a root that names newer ones with `akpolicy root propose`"
            )
        else:
            continue
        yield Concern(message, root.org)


def _roles(root: Root) -> Iterator[tuple[str, Role]]:
    if root.roles.heartbeat is not None:
        yield "heartbeat", root.roles.heartbeat
    for kind, delegations in (("bundle", root.roles.bundle), ("rollback", root.roles.rollback)):
        for delegation in delegations:
            yield f"{kind}:{delegation.prefix}", delegation


def _of_bundles(connection: Connection, now: int) -> Iterator[Concern]:
    is_late = 4 * (revisions.c.expires_at - now) < revisions.c.expires_at - revisions.c.issued_at
    query = select(layers.c.org, layers.c.scope, revisions.c.expires_at).join(revisions, IS_REVISION)
    late = connection.execute(query.where(layers.c.in_force, is_late).order_by(revisions.c.expires_at).limit(MAX_NAMED))
    for row in late:
        ends = "expired" if row.expires_at <= now else "expire"
        message = (
            f"the policies of `{row.scope}` {ends} at {rfc3339_of(row.expires_at)} and are not renewed; publish them "
            "again, and see in the log of the server why it does not"
        )
        yield Concern(message, row.org)


# --- the clock --------------------------------------------------------------------------------------------------------


def _of_clock(connection: Connection, now: float) -> Iterator[Concern]:
    published_us = connection.scalar(select(func.max(revisions.c.published_at_us))) or 0
    signed = connection.scalar(select(func.max(revisions.c.issued_at))) or 0
    ahead = max(published_us / MICROSECONDS, signed) - now
    if ahead > CLOCK_SKEW_S:
        message = (
            f"something was published {int(ahead)} seconds after the time of this machine's clock: set it; hosts "
            f"refuse what is signed more than {CLOCK_SKEW_S} seconds apart from theirs"
        )
        yield Concern(message, "")


# --- files and the disk -----------------------------------------------------------------------------------------------


def _of_files(settings: ServerSettings) -> Iterator[Concern]:
    tls = settings.server.tls
    private = [tls.key_file] if tls is not None else []
    if (database := _database_file(settings)) is not None:
        private.append(database)
    for path in private:
        info = os.stat(path)  # noqa: PTH116 - a TLS key may be a link, and its target counts
        if info.st_mode & _OTHERS:
            mode = stat.S_IMODE(info.st_mode)
            yield Concern(f"`{path}` has mode {mode:04o}, and others can read or change it; chmod 600 it", "")
        if info.st_uid not in (0, os.geteuid()):
            message = f"`{path}` belongs to user {info.st_uid}, and not to user {os.geteuid()}, who runs this; chown it"
            yield Concern(message, "")


def _of_disk(settings: ServerSettings) -> Iterator[Concern]:
    database = _database_file(settings)
    place = database.parent if database is not None else settings.server.data_dir
    size = database.stat().st_size if database is not None else 0
    free, wanted = shutil.disk_usage(place).free, max(LEAST_FREE_BYTES, FREE_TIMES_DATABASE * size)
    if free < wanted:
        message = f"the disk of `{place}` has {free // MIB} MiB free and should have {wanted // MIB}; make room"
        yield Concern(message, "")


def _database_file(settings: ServerSettings) -> Path | None:
    url = settings.server.resolved_database_url
    return Path(url.removeprefix(SQLITE_PREFIX)) if url.startswith(SQLITE_PREFIX) else None
