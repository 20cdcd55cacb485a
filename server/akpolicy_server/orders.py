"""What a publisher asks for, and what may be asked.

`digest` is what two requests share exactly if they ask for the same; whether it is a dry run does not count.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import OfflineMode
from akpolicy.errors import InvalidField, VersionConflict
from akpolicy.limits import MAX_BUNDLE_LIFETIME_S, MAX_JSON_INT
from akpolicy.scope import GLOBAL, is_member_scope
from akpolicy.strict_json import dump

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from akpolicy.engine.files import PolicyFile
    from akpolicy.envelope import SignedEnvelope

MAX_IDEMPOTENCY_KEY_CHARS: Final = 128
MAX_MESSAGE_CHARS: Final = 1000
MAX_OFFLINE_AGE_S: Final = MAX_BUNDLE_LIFETIME_S


class SchemaChoice(StrEnum):
    """Which schema an org's scope is to have: the one that it has, the packaged one, or another of its own."""

    KEPT = "kept"
    DEFAULT = "default"
    OWN = "own"


class Sources:
    """Policy files that are taken over once: nobody keeps up to 32 MiB for longer than it takes to cut them."""

    def __init__(self, files: Iterable[PolicyFile]) -> None:
        self._files: deque[PolicyFile] | None = deque(files)
        self._digests: list[list[str]] = []

    @property
    def digests(self) -> list[list[str]]:
        """The name of each file and the hex SHA-256 of what is in it."""
        if self._files and not self._digests:
            self._digests = [[file.name, hashlib.sha256(file.data).hexdigest()] for file in self._files]
        return self._digests

    def drain(self) -> Iterator[PolicyFile]:
        """Yield each file and forget it; raise `RuntimeError` the second time."""
        if self._files is None:
            raise RuntimeError("the files were taken over before")
        self._digests = self.digests
        files, self._files = self._files, None
        while files:
            yield files.popleft()


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """What to publish and under which conditions; 0 stands for the default of a number of seconds."""

    scope: str
    sources: Sources = field(repr=False)
    expected_version: int | None = None
    idempotency_key: str = ""
    message: str = ""
    offline_mode: OfflineMode = OfflineMode.CACHED_WITH_EXPIRY
    offline_max_age_s: int = 0
    lifetime_s: int = 0
    no_rollback: bool = False
    dry_run: bool = False
    schema: SchemaChoice = SchemaChoice.KEPT
    schema_text: str = field(default="", repr=False)

    def digest(self) -> bytes:
        """Return what names this request."""
        return _digest(
            self.scope,
            self.expected_version,
            self.message,
            self.offline_mode,
            self.offline_max_age_s,
            self.lifetime_s,
            self.no_rollback,
            self.sources.digests,
            self.schema,
            hashlib.sha256(self.schema_text.encode("utf-8")).hexdigest(),
        )

    def check(self) -> None:
        """Raise `InvalidField` for a field out of bounds; the scope and the policies are judged elsewhere."""
        check_request(self.idempotency_key, self.message)
        check_number("expected_version", self.expected_version or 0, MAX_JSON_INT)
        check_number("lifetime_s", self.lifetime_s, MAX_BUNDLE_LIFETIME_S)
        check_number("offline_max_age_s", self.offline_max_age_s, MAX_OFFLINE_AGE_S)
        if self.schema is not SchemaChoice.KEPT and (self.scope == GLOBAL or is_member_scope(self.scope)):
            raise InvalidField(f"`{self.scope}` has no schema of its own; publish it with the policies of the org")
        if (self.schema is SchemaChoice.OWN) != bool(self.schema_text.strip()):
            raise InvalidField("the text of a schema must come exactly with the choice of an own one, and not be blank")


@dataclass(frozen=True, slots=True)
class EnvelopeOrder:
    """A bundle that was signed elsewhere, with its content."""

    envelope: SignedEnvelope
    content: bytes = field(repr=False)
    idempotency_key: str = ""
    message: str = ""
    dry_run: bool = False

    def digest(self) -> bytes:
        """Return what names this request."""
        return _digest("envelope", self.envelope.digest().hex(), self.message)

    def check(self) -> None:
        """Raise `InvalidField` for a field out of bounds."""
        check_request(self.idempotency_key, self.message)


@dataclass(frozen=True, slots=True)
class RollbackOrder:
    """What to return to; version 0 is the one before the current content."""

    scope: str
    to_version: int = 0
    expected_version: int | None = None
    idempotency_key: str = ""
    message: str = ""
    dry_run: bool = False

    def digest(self) -> bytes:
        """Return what names this request."""
        return _digest("rollback", self.scope, self.to_version, self.expected_version, self.message)

    def check(self) -> None:
        """Raise `InvalidField` for a field out of bounds."""
        check_request(self.idempotency_key, self.message)
        check_number("expected_version", self.expected_version or 0, MAX_JSON_INT)
        check_number("to_version", self.to_version, MAX_JSON_INT)


def check_request(idempotency_key: str, message: str) -> None:
    """Raise `InvalidField` for what every request has, out of bounds."""
    if len(idempotency_key) > MAX_IDEMPOTENCY_KEY_CHARS or not (
        idempotency_key.isascii() and idempotency_key.isprintable()
    ):
        raise InvalidField(f"idempotency_key must be at most {MAX_IDEMPOTENCY_KEY_CHARS} printable ASCII characters")
    if len(message) > MAX_MESSAGE_CHARS or "\0" in message:
        raise InvalidField(f"message must be at most {MAX_MESSAGE_CHARS} characters, without NUL")


def check_number(name: str, value: int, limit: int) -> None:
    """Raise `InvalidField` for a number above its limit."""
    if value > limit:
        raise InvalidField(f"{name} is {value}; the limit is {limit}")


def check_expected(scope: str, expected: int | None, current: int) -> None:
    """Raise `VersionConflict` if a version is expected and another one is current."""
    if expected is not None and expected != current:
        raise VersionConflict(
            f"`{scope}` is at version {current}, not at {expected}; look at what changed, then ask again with expected "
            f"version {current}",
            current=current,
        )


def _digest(*fields: object) -> bytes:
    return hashlib.sha256(dump(list(fields))).digest()
