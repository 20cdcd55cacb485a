"""The bundle: a signed manifest, and the content that it names by digest.

Rules:

- The manifest stays small (a KMS can sign it); content is a separate blob named by its SHA-256.
- Times are whole epoch seconds, versions and epochs count from 1; `min_version` says how far back a rollback may go.
- `deleted` removes a layer and has no content; every other manifest has content.
- `offline` is a floor: the most lenient mode a host may use and the greatest age, in seconds. Hosts may be stricter.
- Content has one policy an entry, with an id that is unique; ids match [A-Za-z0-9_.-]{1,128}.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import FailFast, Field, TypeAdapter, model_validator

from akpolicy.errors import (
    ContentDigestMismatch,
    ContentTooLarge,
    EmptyPolicySet,
    EncodingNotAllowed,
    PolicyCountMismatch,
    PolicyIdDuplicate,
    PolicyIdInvalid,
    PolicyTooLarge,
    TooManyPolicies,
)
from akpolicy.fields import Counter, HexDigest, ScopeText, Seconds, SpecOne
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_JSON_INT, MAX_POLICIES, MAX_POLICY_BYTES, MAX_SCHEMA_BYTES
from akpolicy.stepwise_json import load_with_list
from akpolicy.strict_json import Document, dump, shown, validate, validate_entries

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_MEDIA: Final = "application/vnd.akpolicy.content.v1+json"
POLICY_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
DEFAULT_OFFLINE_MAX_AGE_S: Final = 86_400
DEFAULT_LIFETIME_S: Final = 30 * 86_400

_COMPRESSED_MAGIC = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"PK\x03\x04")


class OfflineMode(StrEnum):
    """What a host does without its server; the values are those of the configuration and of the manifest."""

    FAIL_CLOSED = "fail_closed"
    CACHED_WITH_EXPIRY = "cached_with_expiry"
    CACHED_INDEFINITE = "cached_indefinite"
    DEFAULT_POLICY = "default_policy"


class OfflineFloor(Document):
    """The most lenient offline behaviour that a bundle permits."""

    mode: Literal["fail_closed", "cached_with_expiry", "cached_indefinite", "default_policy"]
    max_age_s: Seconds


class ContentReference(Document):
    """What the content blob must be."""

    digest: HexDigest
    size: Annotated[int, Field(ge=1, le=MAX_JSON_INT)]
    media: str
    policies: Annotated[int, Field(ge=0, le=MAX_JSON_INT)]


class Manifest(Document):
    """The signed description of one version of one scope."""

    type: Literal["bundle"]
    spec: SpecOne
    scope: ScopeText
    epoch: Counter
    version: Counter
    issued_at: Seconds
    not_before: Seconds
    expires_at: Seconds
    min_version: Counter
    deleted: bool = False
    offline: OfflineFloor
    content: ContentReference | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.deleted == (self.content is not None):
            msg = "a manifest has content unless it is deleted"
            raise ValueError(msg)
        if self.min_version > self.version:
            msg = "min_version is above version"
            raise ValueError(msg)
        if not self.not_before < self.expires_at:
            msg = "expires_at is not after not_before"
            raise ValueError(msg)
        return self


class PolicyEntry(Document):
    """One policy of a content blob."""

    id: str
    text: str


class Content(Document):
    """The policies of a bundle; `schema` (Cedar schema text) only where the scope may bring its own."""

    # Fail fast: each wrong entry would cost a message.
    policies: Annotated[list[PolicyEntry], FailFast()]
    schema_text: Annotated[str | None, Field(alias="schema", max_length=MAX_SCHEMA_BYTES)] = None


_ENTRIES: Final = TypeAdapter(Annotated[list[PolicyEntry], FailFast()])


@dataclass(frozen=True, slots=True)
class OpenedContent:
    """A content blob that is what its manifest says. The Cedar text is not parsed yet."""

    content: Content
    blob: bytes
    digest: str


def encode_content(policies: list[tuple[str, str]], schema: str | None = None) -> bytes:
    """Return the blob of `(id, text)` pairs, with a schema where the scope brings its own."""
    content = Content.model_validate({"policies": [PolicyEntry(id=i, text=t) for i, t in policies], "schema": schema})
    # Entry by entry, what `to_bytes` returns: that has three copies of up to 32 MiB on the way. `getvalue` has none.
    blob = BytesIO()
    blob.write(b'{"policies":[')
    for number, entry in enumerate(content.policies):
        if number:
            blob.write(b",")
        blob.write(entry.to_bytes())
    blob.write(b"]")
    if content.schema_text is not None:
        blob.write(b',"schema":' + dump(content.schema_text))
    blob.write(b"}")
    return blob.getvalue()


def describe_content(blob: bytes, policies: int) -> ContentReference:
    """Return what a manifest says of `blob`."""
    digest = hashlib.sha256(blob).hexdigest()
    return ContentReference(digest=digest, size=len(blob), media=CONTENT_MEDIA, policies=policies)


def check_reference(reference: ContentReference) -> None:
    """Refuse content by what its manifest says of it, before a byte is fetched."""
    if reference.media != CONTENT_MEDIA:
        msg = f"content has the media type `{shown(reference.media)}`, only `{CONTENT_MEDIA}` is allowed"
        raise EncodingNotAllowed(msg)
    if reference.size > MAX_CONTENT_BYTES:
        msg = f"content has {reference.size} bytes, more than {MAX_CONTENT_BYTES}"
        raise ContentTooLarge(msg)
    if reference.policies == 0:
        msg = "content has no policy; publish at least one, or delete the scope"
        raise EmptyPolicySet(msg)
    if reference.policies > MAX_POLICIES:
        msg = f"content has {reference.policies} policies, more than {MAX_POLICIES}"
        raise TooManyPolicies(msg)


def open_content(blob: bytes, reference: ContentReference) -> OpenedContent:
    """Check `blob` against what the manifest says, then parse it.

    Raises `ContentTooLarge`, `ContentDigestMismatch`, `EncodingNotAllowed`, a payload error, or the `PolicyError` that
    says which entry is wrong.
    """
    policies: list[PolicyEntry] = []
    content, digest = _opened(blob, reference, policies.extend)
    content.policies.extend(policies)
    return OpenedContent(content, blob, digest)


def examine_content(blob: bytes, reference: ContentReference) -> None:
    """Raise what `open_content` raises, without ever having all policies in memory."""
    _opened(blob, reference, lambda _: None)


def _opened(blob: bytes, reference: ContentReference, keep: Callable[[list[PolicyEntry]], None]) -> tuple[Content, str]:
    """Return content without its policies, which `keep` gets, and its digest."""
    digest = _checked_digest(blob, reference)
    check = _EntryCheck(reference.policies)

    def take(entries: list[PolicyEntry]) -> None:
        check.take(entries)
        keep(entries)

    content = parse_content(blob, take)
    check.end()
    return content, digest


def _checked_digest(blob: bytes, reference: ContentReference) -> str:
    """Return the digest of `blob`, which is what the manifest says; raise why it cannot be opened."""
    check_reference(reference)
    if len(blob) > reference.size:
        msg = f"content has {len(blob)} bytes, the manifest says {reference.size}"
        raise ContentTooLarge(msg)
    digest = hashlib.sha256(blob).hexdigest()
    if digest != reference.digest:
        msg = f"content has the digest {digest}, the manifest says {reference.digest}"
        raise ContentDigestMismatch(msg)
    if blob.startswith(_COMPRESSED_MAGIC):
        msg = "content is compressed; nothing inside the trust boundary is decompressed"
        raise EncodingNotAllowed(msg)
    return digest


def parse_content(blob: bytes, take: Callable[[list[PolicyEntry]], None]) -> Content:
    """Parse a blob step by step; `take` gets the policies, and the content that is returned has none.

    Raises a payload error, or what `take` raises.
    """
    count = 0

    def take_step(step: list[object]) -> None:
        nonlocal count
        take(validate_entries(step, _ENTRIES, Content, "policies", count))
        count += len(step)

    return validate(load_with_list(blob, "policies", take_step), Content)


def load_content(blob: bytes) -> Content:
    """Parse a blob that is believed; raise a payload error."""
    policies: list[PolicyEntry] = []
    content = parse_content(blob, policies.extend)
    content.policies.extend(policies)
    return content


class _EntryCheck:
    """Judges policies as they come, and their number at the end."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._seen: set[str] = set()

    def take(self, entries: list[PolicyEntry]) -> None:
        """Raise the `PolicyError` of the first entry that is wrong."""
        for entry in entries:
            self._check(entry)
            self._seen.add(entry.id)

    def end(self) -> None:
        """Raise `PolicyCountMismatch` unless there were as many as expected."""
        if len(self._seen) != self._expected:
            msg = f"content has {len(self._seen)} policies, the manifest says {self._expected}"
            raise PolicyCountMismatch(msg)

    def _check(self, entry: PolicyEntry) -> None:
        if not POLICY_ID.fullmatch(entry.id):
            msg = f"policy id `{shown(entry.id)}` is not allowed; use 1 to 128 of [A-Za-z0-9_.-]"
            raise PolicyIdInvalid(msg, policy_id=shown(entry.id))
        if entry.id in self._seen:
            msg = "the id is used twice; give each policy its own @id"
            raise PolicyIdDuplicate(msg, policy_id=entry.id)
        if len(entry.text.encode("utf-8")) > MAX_POLICY_BYTES:
            msg = f"the policy has more than {MAX_POLICY_BYTES} bytes; split it"
            raise PolicyTooLarge(msg, policy_id=entry.id)
        if not entry.text.strip():
            msg = "the policy is blank"
            raise EmptyPolicySet(msg, policy_id=entry.id)
