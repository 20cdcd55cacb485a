"""API keys as text: what one may look like, and the file that holds one for a program that runs.

The file is private: a regular file (no link), of the user that runs the program, 0600. Space around the key is not part
of it. Neither the key nor anything of the file is ever in an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from akpolicy.durable import read_private_file
from akpolicy.errors import CacheError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MAX_API_KEY_FILE_BYTES: Final = 4096

_API_KEY = re.compile(r"[!-~]{1,512}")


def check_api_key(api_key: str) -> str:
    """Return the key; raise `ConfigError` (without the key) if it cannot be one."""
    if not _API_KEY.fullmatch(api_key):
        raise ConfigError("the API key is empty or has spaces or control characters; copy it as it was printed")
    return api_key


def read_api_key_file(path: Path) -> str:
    """Return the API key in a private file; raise `ConfigError` saying why it must not or cannot be used."""
    try:
        content = read_private_file(path, max_bytes=MAX_API_KEY_FILE_BYTES)
    except CacheError as error:
        raise ConfigError(f"the API key file cannot be used: {error.message}") from error
    try:
        return check_api_key(content.decode("ascii").strip())
    except (UnicodeDecodeError, ConfigError):
        raise ConfigError(f"`{path}` holds no API key; write the key into it as it was printed") from None
