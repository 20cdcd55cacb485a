"""From options to a connected client."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from akpolicy.cli.option_groups import OptionGroup
from akpolicy.cli.options import (
    ApiKeyFileOption,
    CaFileOption,
    ClientCertFileOption,
    ClientKeyFileOption,
    ServerOption,
)
from akpolicy.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from akpolicy.client.publishing import PublishingClient

MAX_API_KEY_FILE_BYTES: Final = 4096


@dataclass(frozen=True)
class Connection(OptionGroup):
    """The options that say how to reach the policy server, and as whom."""

    server: ServerOption = None
    api_key_file: ApiKeyFileOption = None
    ca_file: CaFileOption = None
    client_cert_file: ClientCertFileOption = None
    client_key_file: ClientKeyFileOption = None

    def open(self) -> PublishingClient:
        """Return a client; raise `UsageError` or `ConfigError` saying which option is missing or wrong."""
        from akpolicy.client.channel import parse_server_url
        from akpolicy.client.publishing import PublishingClient

        if not self.server:
            raise UsageError("no server is named; give `--server URL` or set AKPOLICY_SERVER")
        endpoint = parse_server_url(
            self.server,
            ca_file=self.ca_file,
            client_cert_file=self.client_cert_file,
            client_key_file=self.client_key_file,
        )
        return PublishingClient(endpoint, read_api_key(self.api_key_file))


def read_api_key(file: Path | None) -> str:
    """Return the API key from `file`, else from the environment; it is never an option's value."""
    if file is None:
        key = os.environ.get("AKPOLICY_API_KEY", "").strip()
        if not key:
            raise UsageError("no API key is given; set AKPOLICY_API_KEY or give `--api-key-file FILE`")
        return key
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_API_KEY_FILE_BYTES)
        return data.decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the API key file `{file}`: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"`{file}` is no API key file: it has bytes that are no ASCII") from None
