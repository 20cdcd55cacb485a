"""The kinds of values that both programs' settings are made of.

Each is an annotated type: pydantic calls its check, which takes what TOML gives and returns the value or raises
`ValueError` with a message that says what to write. The loader adds file, line, key and what was found. A check whose
input may be secret raises `SecretValueError`, and nothing of the input is shown. A value that is already of its type
passes, so that code and tests can build settings without a file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, StrictFloat, StrictStr, ValidationInfo
from pydantic.dataclasses import dataclass as settings_dataclass

from akpolicy.addresses import HostPort, SecretValueError, ServerUrl, check_https_url
from akpolicy.scope import HOST_ID_PATTERN, is_org_name

if TYPE_CHECKING:
    from collections.abc import Mapping

# Every settings class uses this: no key is accepted that nobody reads.
STRICT: Final = ConfigDict(extra="forbid")

MAX_SECONDS: Final = 86_400.0
MAX_ENV_NAME_CHARS: Final = 64

_HOST_ID = re.compile(HOST_ID_PATTERN)
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_MODE = re.compile(r"0?[0-7]{3}")


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What checks need besides the value: where relative paths start, and the environment."""

    base_dir: Path
    env: Mapping[str, str]


def load_context(info: ValidationInfo) -> LoadContext:
    """Return the context that `load_settings` hands to every check."""
    if not isinstance(info.context, LoadContext):
        msg = "settings are read by `load_settings`, which hands in a LoadContext"
        raise TypeError(msg)
    return info.context


# --- from text to value -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SecretFromEnv:
    """A secret that the environment holds: its variable is known, its value is shown nowhere."""

    name: str
    _value: str | None

    def __repr__(self) -> str:
        return f"SecretFromEnv(name={self.name!r})"

    @property
    def is_set(self) -> bool:
        """Whether the variable is there and not empty."""
        return bool(self._value)

    def reveal(self) -> str:
        """Return the secret; `RuntimeError` if it is not set (settings are refused before anybody gets to ask)."""
        if not self._value:
            msg = f"environment variable `{self.name}` is not set"
            raise RuntimeError(msg)
        return self._value


def _text(value: object, example: str) -> str:
    if not isinstance(value, str):
        msg = f'must be a string such as "{example}"'
        raise ValueError(msg)
    return value


def _listen_address(value: object) -> HostPort:
    return value if isinstance(value, HostPort) else HostPort.parse(_text(value, "127.0.0.1:8180"))


def _optional_address(value: object) -> HostPort | None:
    return None if value in ("", None) else _listen_address(value)


def _server_url(value: object) -> ServerUrl:
    return value if isinstance(value, ServerUrl) else ServerUrl.parse(_text(value, "https://policy.example.com:8180"))


def _optional_https_url(text: str) -> str:
    return check_https_url(text) if text else ""


def _mode(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        msg = 'must be a string such as "0660": TOML has no octal numbers of that form'
        raise ValueError(msg)
    text = _text(value, "0660")
    if not _MODE.fullmatch(text):
        msg = "must be three octal digits in a string, such as `0660`"
        raise ValueError(msg)
    return int(text, 8)


def _org_name(text: str) -> str:
    if not is_org_name(text):
        msg = "must be 1 to 63 of A-Z, a-z, 0-9, `_`, `-`, with a letter or digit at both ends"
        raise ValueError(msg)
    return text


def _host_id(text: str) -> str:
    if not _HOST_ID.fullmatch(text):
        msg = "must be 1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `-`"
        raise ValueError(msg)
    return text


def _secret_from_env(value: object, info: ValidationInfo) -> SecretFromEnv:
    if isinstance(value, SecretFromEnv):
        return value
    if not isinstance(value, str) or not _ENV_NAME.fullmatch(value) or len(value) > MAX_ENV_NAME_CHARS:
        msg = "must be the name of an environment variable (A-Z, 0-9, `_`), not the secret itself"
        raise SecretValueError(msg)
    return SecretFromEnv(value, load_context(info).env.get(value))


def resolve_path(value: object, info: ValidationInfo) -> Path:
    """Return a path; a relative one starts at the settings file's directory. Raises `ValueError`."""
    if isinstance(value, Path):
        return value
    text = _text(value, "/etc/akpolicy/file")
    if not text or "\0" in text:
        msg = "must be a path"
        raise ValueError(msg)
    return load_context(info).base_dir / text


def _existing_file(value: object, info: ValidationInfo) -> Path:
    path = resolve_path(value, info)
    if not path.exists():
        msg = f"`{path}` does not exist"
        raise ValueError(msg)
    if not path.is_file() or not os.access(path, os.R_OK):
        msg = f"`{path}` is not a file that this user can read"
        raise ValueError(msg)
    return path


ListenAddress = Annotated[HostPort, PlainValidator(_listen_address)]
OptionalAddress = Annotated[HostPort | None, PlainValidator(_optional_address)]
PolicyServerUrl = Annotated[ServerUrl, PlainValidator(_server_url)]
OptionalHttpsUrl = Annotated[StrictStr, AfterValidator(_optional_https_url)]
OctalMode = Annotated[int, PlainValidator(_mode)]
PositiveSeconds = Annotated[StrictFloat, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
OrgName = Annotated[StrictStr, AfterValidator(_org_name)]
HostId = Annotated[StrictStr, AfterValidator(_host_id)]
ResolvedPath = Annotated[Path, PlainValidator(resolve_path)]
ExistingFile = Annotated[Path, PlainValidator(_existing_file)]
EnvSecret = Annotated[SecretFromEnv, PlainValidator(_secret_from_env)]


# --- sections that both programs have ---------------------------------------------------------------------------------


@settings_dataclass(frozen=True, config=STRICT)
class TlsFiles:
    """A listener's certificate chain and key (PEM); with `client_ca_file`, clients must present a certificate too."""

    cert_file: ExistingFile
    key_file: ExistingFile
    client_ca_file: ExistingFile | None = None


@settings_dataclass(frozen=True, config=STRICT)
class LogSettings:
    """How much is logged, and as what; `auto` is `console` on a terminal, else `json`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
