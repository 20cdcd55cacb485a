"""The rollback: a new, higher version of a scope with the content of an earlier one.

Rules:

- It is signed by a key that can do only this, and can be online: it brings no content of its own. It names the original
  manifest, which the bundle role's threshold has signed, and must come with it.
- Content and offline floor are the original's. It may not live longer than the original, nor go back further than what
  is enforced permits (`min_version`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from akpolicy.bundle import ContentReference, Manifest
from akpolicy.fields import Counter, HexDigest, ScopeText, Seconds, SpecOne
from akpolicy.strict_json import Document

if TYPE_CHECKING:
    from typing import Self


class Restored(Document):
    """The original: its version and the digest of its signed manifest."""

    version: Counter
    digest: HexDigest


class Rollback(Document):
    """The signed return to an earlier content of one scope."""

    type: Literal["rollback"]
    spec: SpecOne
    scope: ScopeText
    epoch: Counter
    version: Counter
    issued_at: Seconds
    expires_at: Seconds
    restores: Restored
    content: ContentReference

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.issued_at < self.expires_at:
            msg = "expires_at is not after issued_at"
            raise ValueError(msg)
        if not self.restores.version < self.version:
            msg = "restores.version is not before version"
            raise ValueError(msg)
        return self

    def manifest(self, original: Manifest) -> Manifest:
        """Return what takes effect: this version and life, with what `original` says of content and offline floor.

        A later rollback may go back to what this one restores, and no further.
        """
        return Manifest(
            type="bundle",
            spec=1,
            scope=self.scope,
            epoch=self.epoch,
            version=self.version,
            issued_at=self.issued_at,
            not_before=self.issued_at,
            expires_at=self.expires_at,
            min_version=self.restores.version,
            offline=original.offline,
            content=original.content,
        )
