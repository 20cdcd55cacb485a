"""What a start would find, without starting: `akpolicy-server check`.

Rules:

- Nothing is changed: a database of an older structure is not upgraded, no key is made, no directory or file created,
  not even one of SQLite's.
- What would prevent the start is the same error; TLS files are read and checked as for serving. What would only be
  logged is returned, and what only this looks at: a certificate that ends soon, and the machine (`machine_check`).
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final

from akpolicy.errors import StartupError, StateDirUnusable
from akpolicy.instants import rfc3339_of
from akpolicy.signing import open_signer
from akpolicy.tls_files import read_server_tls
from akpolicy_server.key_check import DAY_S, Concern, concerns_of
from akpolicy_server.legacy import require_legacy_keys_apart
from akpolicy_server.machine_check import concerns_of_machine
from akpolicy_server.signatory import Signatory
from akpolicy_server.store.engine import Database
from akpolicy_server.store.migrate import is_newest
from akpolicy_server.store.orgs import is_set_up
from akpolicy_server.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.clock import Clock
    from akpolicy.settings_types import TlsFiles
    from akpolicy_server.settings import ServerSettings
    from akpolicy_server.settings_hosts import HostCertificates

CERTIFICATE_ENDS_SOON_DAYS: Final = 14


def look_through(settings: ServerSettings, clock: Clock) -> tuple[Concern, ...]:
    """Return what there is to see to; raise the error that would prevent the start."""
    section = settings.server
    if not section.data_dir.is_dir():
        raise StateDirUnusable(f"`{section.data_dir}` is not there; set up a server with `akpolicy-server init`")
    with ExitStack() as stack:
        database = stack.enter_context(closing(Database(section.resolved_database_url, read_only=True)))
        with database.read() as connection:
            if not is_newest(connection):
                raise StartupError("the database is not of this version; start the server once, and check again")
            if not is_set_up(connection):
                raise StartupError("the database is empty; set up a server with `akpolicy-server init --dir DIR`")
        vault = Vault(section.data_dir, make=False)
        signers = [stack.enter_context(closing(open_signer(uri))) for uri in section.signers]
        now = clock.now()
        legacy = {org: stack.enter_context(closing(open_signer(uri))) for org, uri in section.legacy_signers.items()}
        require_legacy_keys_apart(database, legacy, signers)
        of_keys = concerns_of(database, Signatory(vault, signers), now)
        # After the TLS files have been read, because those that cannot be are a reason not to start.
        of_tls = tuple(_concerns_of_tls(section.tls, section.host_certificates, now))
        with database.read() as connection:
            of_machine = tuple(concerns_of_machine(settings, connection, now))
    return (*of_tls, *of_keys, *of_machine)


def _concerns_of_tls(files: TlsFiles | None, hosts: HostCertificates | None, now: float) -> Iterator[Concern]:
    """Yield what there is to see to of the TLS files; raise `ConfigError` for files that cannot be served with."""
    if files is None:
        return
    expires_at = read_server_tls(files).identity.expires_at
    if hosts is not None:
        read_server_tls(hosts.files_beside(files))
    if expires_at - now < CERTIFICATE_ENDS_SOON_DAYS * DAY_S:
        ends = "expired" if expires_at <= now else "expires"
        message = f"the certificate `{files.cert_file}` {ends} at {rfc3339_of(int(expires_at))}; renew it"
        yield Concern(message, org="")
