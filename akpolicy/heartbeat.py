"""The heartbeat: what is current for an org, signed a moment ago.

Rules (after TUF's timestamp role, specification section 4.6):

- It names the newest root and the index of all scopes by digest. A host believes nothing to be current but what a
  heartbeat that has not expired names.
- `seq` is the generation of the index: it rises with every publish of a bundle, a rollback or a root. An equal `seq`
  with a later `issued_at` is a renewal.
- It lives for minutes. The first one of a connection carries the nonce that the host sent: it was signed after that, so
  it cannot be an old one. Later ones are the same for all hosts of the org and carry none.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from akpolicy.fields import Counter, HexDigest, HexNonce, OrgName, Seconds, SpecOne
from akpolicy.limits import MAX_INDEX_BYTES
from akpolicy.strict_json import Document


class RootReference(Document):
    """The newest root: its version and the digest of its signed payload."""

    version: Counter
    digest: HexDigest


class IndexReference(Document):
    """What the index must be; `size` is in bytes."""

    digest: HexDigest
    size: Annotated[int, Field(ge=0, le=MAX_INDEX_BYTES)]


class Heartbeat(Document):
    """The signed statement of what is current."""

    type: Literal["heartbeat"]
    spec: SpecOne
    org: OrgName
    seq: Counter
    issued_at: Seconds
    expires_at: Seconds
    root: RootReference
    index: IndexReference
    nonce: HexNonce | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Heartbeat:
        if not self.issued_at < self.expires_at:
            msg = "expires_at is not after issued_at"
            raise ValueError(msg)
        return self
