"""What the sidecar shows to the policy server, and trusts it by: API key, client certificate, CA file.

Rules:

- Each connection is opened with what the files hold then. Files that cannot be used are an error of that connection,
  and the next attempt reads them again; nothing older is shown to the server in their place.
- A connection that stands is given up for new credentials only when they can be used, and only when they are others:
  neither a half-finished rotation nor a touched file costs a stream.
- A key from the environment is as the program was started with. Without any API key the certificate is what the host
  is known by, and its key file must be as private as an API key's (`host_key_file`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from akpolicy.api_key_file import read_api_key_file
from akpolicy.errors import ConfigError
from akpolicy.settings_types import SecretFromEnv
from akpolicy.tls_files import ClientTls, read_client_tls
from akpolicy.watched_files import WatchedFiles
from akpolicy_sidecar.host_key_file import check_host_key_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.clock import Clock
    from akpolicy.errors import AkpolicyError
    from akpolicy.tls_files import ClientTlsFiles


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API key (None: the certificate is all) and TLS, as a connection is opened with."""

    api_key: str | None = field(repr=False)
    tls: ClientTls


class CredentialSource:
    """Follows the files that hold the credentials. `load` is for the connecting thread, `has_others` for any."""

    def __init__(
        self,
        api_key: SecretFromEnv | Path | None,
        tls_files: ClientTlsFiles,
        *,
        clock: Clock,
        failed: Callable[[AkpolicyError], None],
        loaded: Callable[[Credentials], None],
    ) -> None:
        """Read nothing yet. `failed` is told once of each change that cannot be used, `loaded` of what is in use."""
        self._api_key = api_key
        self._tls_files = tls_files
        self._loaded = loaded
        key_files = (api_key,) if isinstance(api_key, Path) else ()
        self._files = WatchedFiles((*key_files, *tls_files.paths), self._read, clock=clock, failed=failed)
        # Together: what the files hold, and what of that is in use.
        self._lock = threading.Lock()
        self._in_use: Credentials | None = None
        self._is_asked = False

    def load(self) -> Credentials:
        """Return the credentials for a new connection; raise `ConfigError`."""
        with self._lock:
            self._is_asked = True
            try:
                self._in_use = self._files.load()
            except ConfigError:
                self._in_use = None
                raise
            self._loaded(self._in_use)
            return self._in_use

    def has_others(self) -> bool:
        """Whether a connection that begins now would get others than the last attempt did. Costs a stat a file."""
        with self._lock:
            if not self._is_asked:
                return False
            found = self._files.refresh()
            return self._files.are_usable and found is not self._in_use

    def _read(self, previous: Credentials | None) -> Credentials:
        api_key = self._read_api_key()
        tls = read_client_tls(self._tls_files, previous.tls if previous else None)
        if previous and (previous.api_key, previous.tls) == (api_key, tls):
            return previous
        return Credentials(api_key, tls)

    def _read_api_key(self) -> str | None:
        if isinstance(self._api_key, SecretFromEnv):
            return self._api_key.reveal()
        if self._api_key is not None:
            return read_api_key_file(self._api_key)
        if self._tls_files.key_file is not None:
            check_host_key_file(self._tls_files.key_file)
        return None
