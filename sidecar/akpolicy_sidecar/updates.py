"""What comes out of applying documents."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from akpolicy.errors import CacheError, PolicyError, TrustError

if TYPE_CHECKING:
    from akpolicy.decision import BundleVersion
    from akpolicy.errors import AkpolicyError

# What makes a document unusable, without being a fault of this program.
REFUSALS: Final = (TrustError, PolicyError, CacheError)

# Subjects of refusals beside the scopes.
ROOT: Final = "root"
HEARTBEAT: Final = "heartbeat"
UNKNOWN: Final = ""


class Outcome(Enum):
    """What became of a document that was not refused.

    PASSED_OVER is a root from before the first one that the anchors signed.
    """

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    PASSED_OVER = "passed over"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A bundle that was not refused: what became of it, and which one it is by its signed manifest."""

    outcome: Outcome
    scope: str
    version: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something kept or enforced that cannot be enforced; `subject` is its scope, `root` or `state`."""

    subject: str
    error: AkpolicyError


@dataclass(frozen=True, slots=True)
class AcceptedRoot:
    """A root that was not refused, its version, and what had to be dropped because of it.

    `not_kept` is why it is not on disk, if it is not.
    """

    outcome: Outcome
    version: int
    dropped: tuple[Trouble, ...] = ()
    not_kept: CacheError | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this host has: the newest root's version (0: none), each enforced revision, digests of content (hex).

    `index_digest` is that of the index that it knows, empty for none.
    """

    root_version: int
    enforced: tuple[BundleVersion, ...]
    blobs: tuple[str, ...]
    index_digest: str
