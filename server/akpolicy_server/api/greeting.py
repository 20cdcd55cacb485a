"""What a host says, checked: Hello, and the revisions that it enforces.

Rules:

- Every list and every string is bounded. Revisions are of scopes that the host gets, one a scope.
- The org must be that of the host's API key; who the host is comes from the key alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.errors import FieldInvalid, InvalidField, PermissionDenied
from akpolicy.limits import MAX_INDEX_SCOPES, MAX_JSON_INT
from akpolicy.scope import check_scope, org_of
from akpolicy_server.store.hosts import HostRevision

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.v1 import bundle_pb2, distribution_pb2

NONCE_BYTES: Final = 16
DIGEST_BYTES: Final = 32
MAX_SOFTWARE_VERSION_CHARS: Final = 64
MAX_ENFORCED: Final = MAX_INDEX_SCOPES
MAX_HELD_BLOBS: Final = 1024


@dataclass(frozen=True, slots=True)
class Greeting:
    """A Hello within its bounds; `index_digest` is empty if the host has no index.

    `takes_index_changes`: it can make an index from the last one. `takes_batches`: several messages may come as one.
    """

    software_version: str
    root_version: int
    enforced: tuple[HostRevision, ...]
    held_blobs: frozenset[bytes]
    nonce: bytes
    index_digest: bytes
    takes_index_changes: bool = False
    takes_batches: bool = False


def read_greeting(hello: distribution_pb2.Hello, org: str) -> Greeting:
    """Return the Hello of a host of `org`; raise `PermissionDenied` or `InvalidField`."""
    if hello.org != org:
        raise PermissionDenied(f"this API key is of the org `{org}`, not of `{hello.org[:64]}`; correct `org_id`")
    version = read_software_version(hello.software_version)
    if hello.root_version > MAX_JSON_INT:
        raise InvalidField(f"root_version is above {MAX_JSON_INT}")
    if len(hello.nonce) != NONCE_BYTES:
        raise InvalidField(f"nonce must have {NONCE_BYTES} bytes")
    if len(hello.held_blobs) > MAX_HELD_BLOBS or any(len(digest) != DIGEST_BYTES for digest in hello.held_blobs):
        raise InvalidField(f"held_blobs must be at most {MAX_HELD_BLOBS} digests of {DIGEST_BYTES} bytes")
    if len(hello.index_digest) not in (0, DIGEST_BYTES):
        raise InvalidField(f"index_digest must have {DIGEST_BYTES} bytes, or none")
    return Greeting(
        software_version=version,
        root_version=hello.root_version,
        enforced=read_enforced(hello.enforced, org),
        held_blobs=frozenset(hello.held_blobs),
        nonce=hello.nonce,
        index_digest=hello.index_digest,
        takes_index_changes=hello.takes_index_changes,
        takes_batches=hello.takes_batches,
    )


def read_software_version(version: str) -> str:
    """Return the version that a host says; raise `InvalidField`."""
    if not 0 < len(version) <= MAX_SOFTWARE_VERSION_CHARS or not version.isprintable():
        raise InvalidField(f"software_version must be 1 to {MAX_SOFTWARE_VERSION_CHARS} printable characters")
    return version


def read_changes(
    answer: distribution_pb2.Ack | distribution_pb2.Nack | distribution_pb2.ReportRequest, org: str
) -> dict[str, HostRevision | None]:
    """Return what is different by now of what a host of `org` enforces, None for what ended; raise `InvalidField`."""
    changes: dict[str, HostRevision | None] = {read_scope(text, org): None for text in answer.ended}
    for revision in read_enforced(answer.enforced, org):
        if revision.scope in changes:
            raise InvalidField(f"enforced names `{revision.scope}`, which ended")
        changes[revision.scope] = revision
    return changes


def read_enforced(revisions: Iterable[bundle_pb2.Revision], org: str) -> tuple[HostRevision, ...]:
    """Return what a host of `org` says it enforces; raise `InvalidField`."""
    enforced: dict[str, HostRevision] = {}
    for revision in revisions:
        scope = read_scope(revision.scope, org)
        if scope in enforced or len(enforced) >= MAX_ENFORCED:
            raise InvalidField(f"enforced must have at most {MAX_ENFORCED} entries, one a scope")
        if len(revision.digest) != DIGEST_BYTES or max(revision.epoch, revision.version) > MAX_JSON_INT:
            raise InvalidField(f"enforced names no revision of `{scope}`")
        enforced[scope] = HostRevision(scope, revision.epoch, revision.version, revision.digest)
    return tuple(enforced.values())


def read_scope(text: str, org: str, field: str = "enforced") -> str:
    """Return a scope that hosts of `org` get; raise `InvalidField`."""
    try:
        scope = check_scope(text)
    except FieldInvalid as error:
        raise InvalidField(f"{field}: {error.message}") from None
    if org_of(scope) not in (None, org):
        raise InvalidField(f"{field} has `{scope}`, which is not a scope of `{org}`")
    return scope
