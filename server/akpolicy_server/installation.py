"""A new installation: everything that a server needs, in one directory, made at once.

Rules:

- Nothing that exists is touched: a directory that holds a configuration or data is refused before anything is written.
- The data is made under a temporary name and renamed when it is complete; the configuration comes last. An interrupted
  run leaves nothing that a server would start with; in a PostgreSQL database it leaves tables, as the next run says.
- The admin key is returned once. Every signing key is 1-of-1 and lies on this machine, the root keys too, until a next
  root names others.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.durable import private_directory, sync_directory, write_new_file
from akpolicy.errors import CacheError, StateDirUnusable, UsageError
from akpolicy.scope import is_org_name
from akpolicy_server.access import Caller, Role
from akpolicy_server.api_keys import make_key
from akpolicy_server.ledger import Ledger
from akpolicy_server.online import ensure_platform_keys
from akpolicy_server.orgs import CreatedOrg, Orgs
from akpolicy_server.settings import DATABASE_FILE
from akpolicy_server.signatory import Signatory
from akpolicy_server.store.engine import SQLITE_PREFIX, Database
from akpolicy_server.store.migrate import upgrade
from akpolicy_server.store.orgs import set_up_platform
from akpolicy_server.times import now_us
from akpolicy_server.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from akpolicy.addresses import HostPort
    from akpolicy.clock import Clock

CONFIG_FILE: Final = "server.toml"
DATA_DIR: Final = "data"
UNFINISHED_DIR: Final = ".data-unfinished"
CREATED_BY: Final = "init"

_CONFIG: Final = """\
# akpolicy-server. Every option: docs/configuration.md
[server]
data_dir = "{data_dir}"
listen = "{listen}"
metrics_listen = "{metrics_listen}"
{database}
[log]
level = "info"
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """What was made; `admin_api_key` is a platform admin's, and is shown nowhere else.

    `root_key_files` has the private root key of each org.
    """

    config: Path
    server: str
    orgs: tuple[CreatedOrg, ...]
    root_key_files: Mapping[str, Path]
    admin_api_key: str = field(repr=False)


def install(
    directory: Path,
    orgs: tuple[str, ...],
    *,
    listen: HostPort,
    metrics_listen: HostPort | None,
    clock: Clock,
    database_url: str = "",
) -> Installation:
    """Set up a server in `directory` (created 0700), with a file there or with an empty PostgreSQL database.

    Raises `UsageError` for what was asked, `StateDirUnusable` for the directory; then nothing was changed. Raises
    `StartupError` or `StoreUnavailable` for the database.
    """
    _check_request(orgs, listen)
    directory = directory.absolute()
    config, data = directory / CONFIG_FILE, directory / DATA_DIR
    for existing in (config, data):
        if existing.exists():
            raise StateDirUnusable(
                f"`{existing}` exists; nothing was changed: choose another directory for a new server"
            )
    unfinished = directory / UNFINISHED_DIR
    try:
        private_directory(directory)
        # What an interrupted run left; nothing refers to it.
        shutil.rmtree(unfinished, ignore_errors=True)
        created, admin_api_key = _make_data(unfinished, orgs, clock, database_url)
        unfinished.rename(data)
        sync_directory(directory)
        # What JSON writes as a string, TOML reads as one.
        database = f"database_url = {json.dumps(database_url)}\n" if database_url else ""
        text = _CONFIG.format(data_dir=DATA_DIR, listen=listen, metrics_listen=metrics_listen or "", database=database)
        write_new_file(config, text.encode("utf-8"))
    except CacheError as error:
        raise StateDirUnusable(error.message) from error
    except OSError as error:
        raise StateDirUnusable(f"cannot set up `{directory}`: {error.strerror}") from error
    files = {made.org: Vault.file(data, made.root_key_id or "") for made in created}
    return Installation(config, f"http://{listen}", created, files, admin_api_key)


def _check_request(orgs: tuple[str, ...], listen: HostPort) -> None:
    for org in orgs:
        if not is_org_name(org):
            raise UsageError(f"`{org}` is not an org name; use 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends")
    if len(set(orgs)) != len(orgs):
        raise UsageError("an org is named twice; name each once")
    if not listen.is_loopback:
        raise UsageError(
            f"`{listen}` is reachable from other machines and needs TLS; set up with a loopback address, then change "
            "listen and add [server.tls] in server.toml"
        )


def _make_data(
    directory: Path, orgs: tuple[str, ...], clock: Clock, database_url: str
) -> tuple[tuple[CreatedOrg, ...], str]:
    vault = Vault(directory)
    url = database_url or f"{SQLITE_PREFIX}{directory / DATABASE_FILE}"
    with closing(Database(url, create=True)) as database:
        upgrade(database)
        ensure_platform_keys(database, vault, clock)
        with database.write() as connection:
            set_up_platform(connection, now_us(clock))
            admin = make_key(
                connection,
                now=now_us(clock),
                org=None,
                role=Role.ADMIN,
                description="made by akpolicy-server init",
                created_by=CREATED_BY,
            )
        signatory = Signatory(vault)
        ledger = Ledger(database, signatory, clock, announce=lambda _: None)
        service = Orgs(database, vault, signatory, ledger, clock)
        caller = Caller(admin.key_id, Role.ADMIN, None)
        return tuple(service.create(caller, org) for org in orgs), admin.secret
