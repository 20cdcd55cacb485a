"""The server's private keys: one file each, named by key id.

Rules:

- A key is written, durably and readable by its owner only, before anything refers to it. A crash in between leaves a
  file that nothing names: harmless.
- A file is believed only if the key in it has the id that the file is named by.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from akpolicy.durable import check_private_directory, private_directory, write_new_file
from akpolicy.errors import CacheError, KeyFileError, StateDirUnusable
from akpolicy.signing import PrivateKeySigner, load_key_file

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.signing import Signer

KEYS_DIR: Final = "keys"


class Vault:
    """Keys in `<data dir>/keys/<key id>.pem`. Thread-safe: files are only ever added."""

    def __init__(self, data_dir: Path, *, make: bool = True) -> None:
        """Create the directories (0700) or check them; without `make` only check them. Raises `StateDirUnusable`."""
        self._data_dir = data_dir
        try:
            if make:
                private_directory(data_dir)
                private_directory(data_dir / KEYS_DIR)
                return
            check_private_directory(data_dir)
            # Without keys there may be none yet.
            if os.path.lexists(data_dir / KEYS_DIR):
                check_private_directory(data_dir / KEYS_DIR)
        except CacheError as error:
            raise StateDirUnusable(error.message) from error

    def create(self) -> Signer:
        """Make a key, keep it and return it; raise `KeyFileError`."""
        signer = PrivateKeySigner.generate()
        path = self.path(signer.public_key.key_id)
        try:
            write_new_file(path, signer.to_pem())
        except OSError as error:
            raise KeyFileError(f"cannot write the key `{path}`: {error.strerror}") from error
        return signer

    def find(self, key_id: str) -> Signer | None:
        """Return a kept key, or None if it is not kept here; raise `KeyFileError` if its file cannot be used."""
        return self.load(key_id) if os.path.lexists(self.path(key_id)) else None

    def load(self, key_id: str) -> Signer:
        """Return a kept key; raise `KeyFileError` if it is not there or not that key."""
        path = self.path(key_id)
        signer = load_key_file(path)
        if signer.public_key.key_id != key_id:
            raise KeyFileError(f"`{path}` holds the key {signer.public_key.key_id}; restore the right file")
        return signer

    def path(self, key_id: str) -> Path:
        """Return where a key lies, if it is kept here."""
        return self.file(self._data_dir, key_id)

    @staticmethod
    def file(data_dir: Path, key_id: str) -> Path:
        """Return where the vault of a data directory keeps a key."""
        return data_dir / KEYS_DIR / f"{key_id}.pem"
