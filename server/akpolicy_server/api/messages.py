"""Between the domain's types and the messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypedDict

from google.protobuf.timestamp_pb2 import Timestamp

from akpolicy.bundle import OfflineMode
from akpolicy.errors import InvalidField
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import bundle_pb2, publishing_pb2
from akpolicy.wire import envelope_from_proto, envelope_to_proto
from akpolicy_server.access import Role
from akpolicy_server.orders import PublishOrder, RollbackOrder, SchemaChoice, Sources
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.store.revisions import RevisionKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from akpolicy.bundle import PolicyEntry
    from akpolicy.envelope import SignedEnvelope
    from akpolicy_server.api.upload import Upload
    from akpolicy_server.replacements import Replacements
    from akpolicy_server.store.revisions import RevisionRecord

# Names have up to 641 characters: this stays well below the 4 MiB of a message.
MAX_LISTED_REPLACEMENTS: Final = 1000

_ROLES: Final[dict[int, Role]] = {
    publishing_pb2.API_KEY_ROLE_ADMIN: Role.ADMIN,
    publishing_pb2.API_KEY_ROLE_PUBLISHER: Role.PUBLISHER,
    publishing_pb2.API_KEY_ROLE_HOST: Role.HOST,
}
_OFFLINE_MODES: Final[dict[int, OfflineMode]] = {
    bundle_pb2.OFFLINE_MODE_UNSPECIFIED: OfflineMode.CACHED_WITH_EXPIRY,
    bundle_pb2.OFFLINE_MODE_FAIL_CLOSED: OfflineMode.FAIL_CLOSED,
    bundle_pb2.OFFLINE_MODE_CACHED_WITH_EXPIRY: OfflineMode.CACHED_WITH_EXPIRY,
    bundle_pb2.OFFLINE_MODE_CACHED_INDEFINITE: OfflineMode.CACHED_INDEFINITE,
    bundle_pb2.OFFLINE_MODE_DEFAULT_POLICY: OfflineMode.DEFAULT_POLICY,
}


_KINDS: Final = {
    RevisionKind.PUBLISH: publishing_pb2.REVISION_KIND_PUBLISH,
    RevisionKind.RENEWAL: publishing_pb2.REVISION_KIND_RENEWAL,
    RevisionKind.ROLLBACK: publishing_pb2.REVISION_KIND_ROLLBACK,
    RevisionKind.FREEZE: publishing_pb2.REVISION_KIND_FREEZE,
    RevisionKind.UNFREEZE: publishing_pb2.REVISION_KIND_UNFREEZE,
}
_SCHEMAS: Final[dict[int, SchemaChoice]] = {
    publishing_pb2.SCHEMA_CHOICE_UNSPECIFIED: SchemaChoice.KEPT,
    publishing_pb2.SCHEMA_CHOICE_DEFAULT: SchemaChoice.DEFAULT,
    publishing_pb2.SCHEMA_CHOICE_OWN: SchemaChoice.OWN,
}
_ONLINE_ROLES: Final[dict[int, KeyRole]] = {
    publishing_pb2.ONLINE_ROLE_BUNDLE: KeyRole.BUNDLE,
    publishing_pb2.ONLINE_ROLE_ROLLBACK: KeyRole.ROLLBACK,
    publishing_pb2.ONLINE_ROLE_HEARTBEAT: KeyRole.HEARTBEAT,
}


class ReplacementFields(TypedDict):
    """Fields that the answers to a publish have in common."""

    replaces: tuple[str, ...]
    unshadows: tuple[str, ...]
    replaces_count: int
    unshadows_count: int


def timestamp(microseconds: int) -> Timestamp:
    """Return epoch microseconds as a message."""
    message = Timestamp()
    message.FromMicroseconds(microseconds)
    return message


def timestamp_of_seconds(seconds: int) -> Timestamp:
    """Return epoch seconds as a message."""
    return Timestamp(seconds=seconds)


def role_of(value: int) -> Role:
    """Return the role of an `ApiKeyRole`; raise `InvalidField` for what is none."""
    if value not in _ROLES:
        raise InvalidField("role must be API_KEY_ROLE_ADMIN, API_KEY_ROLE_PUBLISHER or API_KEY_ROLE_HOST")
    return _ROLES[value]


def online_role_of(value: int) -> KeyRole:
    """Return the role of an `OnlineRole`; raise `InvalidField` for what is none."""
    if value not in _ONLINE_ROLES:
        raise InvalidField("role must be ONLINE_ROLE_BUNDLE, ONLINE_ROLE_ROLLBACK or ONLINE_ROLE_HEARTBEAT")
    return _ONLINE_ROLES[value]


def envelope_in(message: publishing_pb2.PublishRootRequest | publishing_pb2.EnvelopeHeader) -> SignedEnvelope:
    """Return the envelope of a request; raise `InvalidField` if it has none."""
    if not message.HasField("envelope"):
        raise InvalidField("envelope is missing; send the signed document")
    return envelope_from_proto(message.envelope)


def rollback_order_of(request: publishing_pb2.RollbackRequest) -> RollbackOrder:
    """Return what a rollback asks for."""
    return RollbackOrder(
        scope=request.scope,
        to_version=request.to_version,
        expected_version=request.expected_version if request.HasField("expected_version") else None,
        idempotency_key=request.idempotency_key,
        message=request.message,
        dry_run=request.dry_run,
    )


def order_of(header: publishing_pb2.PublishHeader, upload: Upload) -> PublishOrder:
    """Return what a header asks for; raise `InvalidField` for an unknown offline mode or choice of a schema."""
    if header.schema not in _SCHEMAS:
        raise InvalidField(f"schema {header.schema} is no choice of this version")
    if header.offline_mode not in _OFFLINE_MODES:
        raise InvalidField(f"offline_mode {header.offline_mode} is none of this version")
    return PublishOrder(
        scope=header.scope,
        sources=Sources(upload.files),
        schema=_SCHEMAS[header.schema],
        schema_text=upload.schema,
        expected_version=header.expected_version if header.HasField("expected_version") else None,
        idempotency_key=header.idempotency_key,
        message=header.message,
        offline_mode=_OFFLINE_MODES[header.offline_mode],
        offline_max_age_s=header.offline_max_age_s,
        lifetime_s=header.lifetime_s,
        no_rollback=header.no_rollback,
        dry_run=header.dry_run,
    )


def revision_message(record: RevisionRecord) -> bundle_pb2.Revision:
    """Return a revision's name."""
    return bundle_pb2.Revision(scope=record.scope, epoch=record.epoch, version=record.version, digest=record.digest)


def details_message(record: RevisionRecord) -> publishing_pb2.RevisionDetails:
    """Return a revision, for people and pipelines."""
    return publishing_pb2.RevisionDetails(
        revision=revision_message(record),
        published_at=timestamp(record.published_at_us),
        expires_at=timestamp_of_seconds(record.expires_at),
        published_by=record.published_by or "",
        message=record.message,
        policy_count=record.policy_count,
        content_size=record.content_size,
        content_digest=record.content_digest,
        kind=_KINDS[record.kind],
        restores_version=record.restores_version or 0,
        min_version=record.min_version,
    )


def replacement_fields(replacements: Replacements) -> ReplacementFields:
    """Return the fields of an answer that say what a publish replaces and lets count again."""
    return {
        "replaces": replacements.replaces[:MAX_LISTED_REPLACEMENTS],
        "unshadows": replacements.unshadows[:MAX_LISTED_REPLACEMENTS],
        "replaces_count": len(replacements.replaces),
        "unshadows_count": len(replacements.unshadows),
    }


def document_message(record: RevisionRecord, schema: str) -> publishing_pb2.GetRevisionResponse:
    """Return a revision with what was signed for it."""
    document = publishing_pb2.RevisionDocument(
        details=details_message(record),
        envelope=envelope_to_proto(record.envelope),
        original=None if record.original is None else envelope_to_proto(record.original),
        schema=schema,
    )
    return publishing_pb2.GetRevisionResponse(document=document)


def policy_messages(policies: Iterable[PolicyEntry]) -> Iterator[publishing_pb2.GetRevisionResponse]:
    """Yield the policies in order, as many a message as fit into a chunk."""
    pending = publishing_pb2.PolicyList()
    size = 0
    for policy in policies:
        message = publishing_pb2.Policy(id=policy.id, text=policy.text)
        if pending.policies and size + message.ByteSize() > MAX_CHUNK_BYTES:
            yield publishing_pb2.GetRevisionResponse(policies=pending)
            pending, size = publishing_pb2.PolicyList(), 0
        pending.policies.append(message)
        size += message.ByteSize()
    if pending.policies:
        yield publishing_pb2.GetRevisionResponse(policies=pending)
