"""What a start would find, without starting: `akpolicy-server check`.

Rules:

- Nothing is changed: a database of an older structure is not upgraded, no key is made, no directory created.
- What would prevent the start is the same error. What would only be logged is returned.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from akpolicy.errors import StartupError, StateDirUnusable
from akpolicy.signing import open_signer
from akpolicy_server.key_check import concerns_of
from akpolicy_server.signatory import Signatory
from akpolicy_server.store.engine import Database
from akpolicy_server.store.migrate import is_newest
from akpolicy_server.store.orgs import is_set_up
from akpolicy_server.vault import Vault

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_server.key_check import Concern
    from akpolicy_server.settings import ServerSettings


def look_through(settings: ServerSettings, clock: Clock) -> tuple[Concern, ...]:
    """Return what there is to see to; raise the error that would prevent the start."""
    section = settings.server
    if not section.data_dir.is_dir():
        raise StateDirUnusable(f"`{section.data_dir}` is not there; set up a server with `akpolicy-server init`")
    with ExitStack() as stack:
        database = stack.enter_context(closing(Database(section.resolved_database_url)))
        with database.read() as connection:
            if not is_newest(connection):
                raise StartupError("the database is not of this version; start the server once, and check again")
            if not is_set_up(connection):
                raise StartupError("the database is empty; set up a server with `akpolicy-server init --dir DIR`")
        signers = [stack.enter_context(closing(open_signer(uri))) for uri in section.signers]
        return concerns_of(database, Signatory(Vault(section.data_dir), signers), clock.now())
