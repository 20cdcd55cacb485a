"""The key file of a certificate that a host is known by: a secret like an API key.

Rules:

- It is a regular file of the user that runs the program, without access for anybody else. A file of root may be
  readable by the group: that is how Kubernetes mounts secrets.
- Links are followed, because certificates are renewed by switching one (`akpolicy.watched_files`): who may change the
  directories on the way is for the operator to see to.
- Nothing of the file is ever in an error.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from akpolicy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ROOT_UID: Final = 0
_GROUP_READS: Final = stat.S_IRGRP
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def check_host_key_file(path: Path) -> None:
    """Raise `ConfigError` saying why the key file must not be used."""
    try:
        info = path.stat()
    except OSError as error:
        raise ConfigError(f"cannot look at the client key `{path}`: {error.strerror}") from error
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"the client key `{path}` is not a regular file")
    if info.st_uid not in (os.geteuid(), ROOT_UID):
        raise ConfigError(f"the client key `{path}` belongs to user {info.st_uid}; it must be yours or root's")
    tolerated = _GROUP_READS if info.st_uid == ROOT_UID else 0
    if info.st_mode & _OTHERS & ~tolerated:
        raise ConfigError(
            f"others have access to the client key `{path}`, and it is all that tells this host; chmod 600 it"
        )
