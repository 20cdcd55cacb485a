"""What a publisher asks for, and what may be asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import OfflineMode
from akpolicy.errors import InvalidField
from akpolicy.limits import MAX_BUNDLE_LIFETIME_S, MAX_JSON_INT
from akpolicy.strict_json import dump

if TYPE_CHECKING:
    from akpolicy.engine.files import PolicyFile

MAX_IDEMPOTENCY_KEY_CHARS: Final = 128
MAX_MESSAGE_CHARS: Final = 1000
MAX_OFFLINE_AGE_S: Final = MAX_BUNDLE_LIFETIME_S


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """What to publish and under which conditions; 0 stands for the default of a number of seconds."""

    scope: str
    files: tuple[PolicyFile, ...] = field(repr=False)
    expected_version: int | None = None
    idempotency_key: str = ""
    message: str = ""
    offline_mode: OfflineMode = OfflineMode.CACHED_WITH_EXPIRY
    offline_max_age_s: int = 0
    lifetime_s: int = 0
    no_rollback: bool = False

    def digest(self) -> bytes:
        """Return what two requests share exactly if they ask for the same."""
        files = [[file.name, hashlib.sha256(file.data).hexdigest()] for file in self.files]
        return hashlib.sha256(
            dump(
                [
                    self.scope,
                    self.expected_version,
                    self.message,
                    self.offline_mode,
                    self.offline_max_age_s,
                    self.lifetime_s,
                    self.no_rollback,
                    files,
                ]
            )
        ).digest()

    def check(self) -> None:
        """Raise `InvalidField` for a field out of bounds; the scope and the policies are judged elsewhere."""
        key = self.idempotency_key
        if len(key) > MAX_IDEMPOTENCY_KEY_CHARS or not (key.isascii() and key.isprintable()):
            raise InvalidField(
                f"idempotency_key must be at most {MAX_IDEMPOTENCY_KEY_CHARS} printable ASCII characters"
            )
        if len(self.message) > MAX_MESSAGE_CHARS or "\0" in self.message:
            raise InvalidField(f"message must be at most {MAX_MESSAGE_CHARS} characters, without NUL")
        if self.lifetime_s > MAX_BUNDLE_LIFETIME_S:
            raise InvalidField(f"lifetime_s is {self.lifetime_s}; the limit is {MAX_BUNDLE_LIFETIME_S}")
        if self.offline_max_age_s > MAX_OFFLINE_AGE_S:
            raise InvalidField(f"offline_max_age_s is {self.offline_max_age_s}; the limit is {MAX_OFFLINE_AGE_S}")
        if self.expected_version is not None and self.expected_version > MAX_JSON_INT:
            raise InvalidField(f"expected_version is {self.expected_version}; the limit is {MAX_JSON_INT}")
