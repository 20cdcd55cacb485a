"""Bring a database to the newest structure, at start and inside this process.

Rules:

- Migrations ship with the package and run in one write transaction: either all took place or none did. Two servers that
  start at once do it one after the other.
- A step runs on both engines. PostgreSQL came with the fourth: there the steps before it find empty tables.
- A database that a newer version of this program wrote is refused, never guessed at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from akpolicy.errors import StartupError
from akpolicy_server.store.postgresql import compare_by_bytes

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy_server.store.engine import Database

CONNECTION: Final = "connection"
NEWEST: Final = "head"

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def upgrade(database: Database, revision: str = NEWEST) -> None:
    """Upgrade to a structure; raise `StartupError` for a database of a newer version, `StoreUnavailable`."""
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    with database.write() as connection:
        for present in MigrationContext.configure(connection).get_current_heads():
            _require_known(scripts, present)
        config.attributes[CONNECTION] = connection
        command.upgrade(config, revision)
        if database.is_shared:
            compare_by_bytes(connection)


def is_newest(connection: Connection) -> bool:
    """Whether the database has the newest structure."""
    newest = ScriptDirectory.from_config(_config()).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(newest)


def require_known(connection: Connection) -> None:
    """Raise `StartupError` for a database of a newer version."""
    scripts = ScriptDirectory.from_config(_config())
    for present in MigrationContext.configure(connection).get_current_heads():
        _require_known(scripts, present)


def _config() -> Config:
    config = Config()
    # ConfigParser interpolates `%`, and a path may have one.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _require_known(scripts: ScriptDirectory, revision: str) -> None:
    try:
        scripts.get_revision(revision)
    except CommandError:
        raise StartupError(
            f"the database has structure `{revision}`, which this version does not know; "
            "it was written by a newer version: upgrade akpolicy-server or restore the backup of before"
        ) from None
