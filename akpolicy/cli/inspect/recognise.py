"""What a file is: by its content alone, whatever its name.

Known are envelopes (protobuf, as caches and databases keep them, and DSSE JSON), proposals, what `root show` and
`policy show` print as JSON, payloads without an envelope, content blobs and indexes. Nothing is verified here; a part
that does not parse is remembered as a failure, so that the rest of the file can still be shown.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from akpolicy.bundle import Content, Manifest, PolicyEntry, encode_content
from akpolicy.envelope import PayloadType, SignedEnvelope, from_dsse_json
from akpolicy.errors import AkpolicyError, EnvelopeMalformed, PolicyError, TrustError, UsageError
from akpolicy.heartbeat import Heartbeat
from akpolicy.index import Index, parse_index
from akpolicy.limits import MAX_ROTATIONS
from akpolicy.proposal import FORMAT, Proposal, parse_proposal
from akpolicy.rollback import Rollback
from akpolicy.root import Root, parse_root
from akpolicy.strict_json import load, load_object
from akpolicy.wire import envelope_from_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

SignedDocument = Root | Manifest | Rollback | Heartbeat

KINDS: Final = {
    PayloadType.ROOT: "root",
    PayloadType.BUNDLE: "bundle",
    PayloadType.ROLLBACK: "rollback",
    PayloadType.HEARTBEAT: "heartbeat",
}


@dataclass(frozen=True, slots=True)
class Signed:
    """An envelope and what its payload says; `problem` if the payload does not parse."""

    envelope: SignedEnvelope
    document: SignedDocument | None
    problem: TrustError | None = None

    @property
    def kind(self) -> str:
        """What kind of document it says it is."""
        return _KINDS_BY_NAME.get(self.envelope.payload_type, "envelope of an unknown kind")


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload without an envelope."""

    document: SignedDocument


@dataclass(frozen=True, slots=True)
class Blob:
    """A content blob."""

    data: bytes = field(repr=False)
    content: Content


@dataclass(frozen=True, slots=True)
class IndexText:
    """An index."""

    index: Index


@dataclass(frozen=True, slots=True)
class Chain:
    """Several roots, oldest first."""

    roots: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that is meant to be something known, and is broken."""

    problem: AkpolicyError


@dataclass(frozen=True, slots=True)
class Revision:
    """A published revision as `policy show --output json` prints it."""

    signed: Signed
    original: Signed | None
    blob: Blob


Thing = Signed | Payload | Blob | IndexText | Chain | Revision | Broken | Proposal

_KINDS_BY_NAME = {str(payload_type): name for payload_type, name in KINDS.items()}


def recognise(data: bytes, name: str) -> Thing:
    """Return what the bytes are, `Broken` if they are meant to be something and are not.

    Raises `UsageError` if they are nothing known.
    """
    if not data:
        raise UsageError(f"`{name}` is empty")
    if data.lstrip()[:1] == b"{":
        try:
            return _from_json(data, name)
        except (TrustError, PolicyError) as error:
            return Broken(error)
    if (index := _index(data)) is not None:
        return IndexText(index)
    try:
        envelope = envelope_from_bytes(data)
    except TrustError:
        envelope = None
    if envelope is None or envelope.payload_type not in _KINDS_BY_NAME:
        raise UsageError(f"`{name}` is nothing that akpolicy signs or keeps")
    return read_signed(envelope)


def read_signed(envelope: SignedEnvelope) -> Signed:
    """Parse an envelope's payload as what its type says."""
    try:
        return Signed(envelope, _document(envelope.payload_type, envelope.payload))
    except TrustError as error:
        return Signed(envelope, None, error)


def _from_json(data: bytes, name: str) -> Thing:
    value = load_object(data)
    match value:
        case {"format": str(kind)} if kind.startswith(FORMAT.rpartition("/")[0]):
            return parse_proposal(data)
        case {"payloadType": _}:
            return read_signed(from_dsse_json(value))
        case {"chain": list(chain)}:
            return _chain(chain)
        case {"revision": dict(), "envelope": envelope, "policies": list(policies)}:
            return _revision(envelope, value.get("original"), policies, value.get("schema"))
        case {"type": str(kind)} if kind in KINDS.values():
            payload_type = next(key for key, known in KINDS.items() if known == kind)
            return Payload(_document(payload_type, data))
        case {"policies": list()}:
            return Blob(data, load(data, Content))
    raise UsageError(f"`{name}` is JSON, but nothing that akpolicy signs or keeps")


def _document(payload_type: str, payload: bytes) -> SignedDocument:
    match payload_type:
        case PayloadType.ROOT:
            return parse_root(payload)[0]
        case PayloadType.BUNDLE:
            return load(payload, Manifest)
        case PayloadType.ROLLBACK:
            return load(payload, Rollback)
        case PayloadType.HEARTBEAT:
            return load(payload, Heartbeat)
    msg = "the envelope is of a kind that this version of akpolicy does not know"
    raise EnvelopeMalformed(msg)


def _chain(values: list[Any]) -> Chain:
    if not values or len(values) > MAX_ROTATIONS:
        msg = f"a chain has 1 to {MAX_ROTATIONS} roots, this one has {len(values)}"
        raise EnvelopeMalformed(msg)
    return Chain(tuple(read_signed(from_dsse_json(value)) for value in values))


def _revision(envelope: object, original: object, policies: list[Any], schema: object) -> Revision:
    entries = [PolicyEntry.model_validate(entry) for entry in _entries(policies)]
    text = schema if isinstance(schema, str) else None
    data = encode_content([(entry.id, entry.text) for entry in entries], text)
    return Revision(
        read_signed(from_dsse_json(envelope)),
        None if original is None else read_signed(from_dsse_json(original)),
        Blob(data, Content.model_validate({"policies": entries, "schema": text})),
    )


def _entries(policies: list[Any]) -> list[Mapping[str, str]]:
    for entry in policies:
        match entry:
            case {"id": str(), "text": str()}:
                continue
        msg = "a policy of the revision has no `id` and `text`"
        raise EnvelopeMalformed(msg)
    return policies


def _index(data: bytes) -> Index | None:
    try:
        return parse_index(data)
    except AkpolicyError:
        return None


def sha256(data: bytes) -> str:
    """Return the hex SHA-256 by which blobs and indexes are named."""
    return hashlib.sha256(data).hexdigest()
