"""Proposals: the file in which a document travels between those who sign it.

Rules:

- Strict JSON (`akpolicy.strict_json`) with a format name: the document as a DSSE envelope that may lack signatures, the
  content that a bundle names, and the signed root that says whose signatures are waited for: for a bundle the newest
  one, for a root the one before it (the first one has none).
- What comes in is bounded, and fits together: the content is what the manifest names, the root is of the same org, a
  next root follows the one before it. Otherwise nobody is asked to sign it.
- The file proves nothing by itself. Its root is only as good as where it came from, until an anchor verifies it.
- A signature is added only if its key can count, and only after it verified.
- Who signed and whether that is enough is said by `akpolicy.trust`, as on a host (`akpolicy.proposal_progress`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from akpolicy.bundle import Manifest, open_content
from akpolicy.envelope import PayloadType, SignedEnvelope, from_dsse_json
from akpolicy.errors import (
    EnvelopeMalformed,
    FieldInvalid,
    KeyNotAuthorised,
    OrgMismatch,
    PayloadMalformed,
    PayloadTypeMismatch,
)
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_ROOT_ENVELOPE_BYTES
from akpolicy.root import Root, parse_root
from akpolicy.scope import org_of
from akpolicy.signing import sign_document
from akpolicy.strict_json import Document, dump, load, shown
from akpolicy.trust.signatures import check_role, verified_signers

if TYPE_CHECKING:
    from akpolicy.bundle import OpenedContent
    from akpolicy.keys import PublicKey
    from akpolicy.root import Role
    from akpolicy.signing import Signer

FORMAT: Final = "akpolicy/proposal/v1"

# Inside a JSON string, content takes at most two bytes for each of its own (a quotation mark); two envelopes in base64.
MAX_PROPOSAL_BYTES: Final = 2 * MAX_CONTENT_BYTES + 3 * MAX_ROOT_ENVELOPE_BYTES


@dataclass(frozen=True, slots=True)
class ClaimedRoot:
    """A root that came with a proposal: its own root keys signed it, and nobody verified that these are right."""

    envelope: SignedEnvelope
    document: Root
    keys: dict[str, PublicKey]

    @classmethod
    def read(cls, envelope: SignedEnvelope) -> ClaimedRoot:
        """Read a signed root; raise a `TrustError` if it is none or if its own root role did not sign it."""
        envelope.check_limits()
        if envelope.payload_type != PayloadType.ROOT:
            msg = f"the root of the proposal is `{shown(envelope.payload_type)}`, expected `{PayloadType.ROOT}`"
            raise PayloadTypeMismatch(msg)
        document, keys = parse_root(envelope.payload)
        check_role(document.roles.root, verified_signers(envelope, keys), "the root in the proposal")
        return cls(envelope, document, keys)


@dataclass(frozen=True, slots=True)
class SignerRole:
    """A role that must sign: its name for people, who is in it, and the keys that its root lists."""

    name: str
    role: Role
    keys: dict[str, PublicKey]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A document that waits for signatures. Everything in it fits together; nothing in it is verified.

    `root` is the one whose keys must sign, None for a first root; `content` is there for a bundle that has some.
    """

    envelope: SignedEnvelope
    document: Root | Manifest
    root: ClaimedRoot | None
    content: OpenedContent | None

    @property
    def org(self) -> str:
        """The org whose root says who signs."""
        return self.root.document.org if self.root else org_of_document(self.document)

    @property
    def is_root(self) -> bool:
        """Whether this is of a root, not of a bundle."""
        return isinstance(self.document, Root)

    @property
    def subject(self) -> str:
        """What is to be signed: `root of acme, version 2`, `bundle of org/acme, version 7`."""
        if isinstance(self.document, Root):
            return f"root of {self.document.org}, version {self.document.version}"
        return f"bundle of {self.document.scope}, version {self.document.version}"

    def signer_roles(self) -> list[SignerRole]:
        """Return the roles whose thresholds must sign: for a next root two, that of the one before and its own.

        Raises `KeyNotAuthorised` if nobody may sign bundles of the scope.
        """
        if isinstance(self.document, Root):
            own = SignerRole("root role", self.document.roles.root, parse_root(self.envelope.payload)[1])
            if self.root is None:
                return [own]
            old = SignerRole("root role (old)", self.root.document.roles.root, self.root.keys)
            return [old, replace(own, name="root role (new)")]
        scope = self.document.scope
        role = self.root.document.bundle_role(scope) if self.root else None
        if role is None or self.root is None:
            msg = f"the root in the proposal lets nobody sign bundles for `{scope}`"
            raise KeyNotAuthorised(msg)
        return [SignerRole(f"bundles of {role.prefix}", role, self.root.keys)]

    def to_bytes(self) -> bytes:
        """Return the file."""
        value: dict[str, Any] = {"format": FORMAT, "envelope": self.envelope.to_dsse_json()}
        if self.root is not None:
            value["root"] = self.root.envelope.to_dsse_json()
        if self.content is not None:
            value["content"] = self.content.blob.decode("utf-8")
        return dump(value) + b"\n"


class _ProposalFile(Document):
    format: Annotated[str, Field(max_length=64)]
    envelope: dict[str, Any]
    content: str | None = None
    root: dict[str, Any] | None = None


def org_of_document(document: Root | Manifest) -> str:
    """Return the org that a document is of; empty for a bundle of `global`."""
    return document.org if isinstance(document, Root) else org_of(document.scope) or ""


def make_proposal(
    envelope: SignedEnvelope, *, root: SignedEnvelope | None = None, content: bytes | None = None
) -> Proposal:
    """Put a document, the root whose keys must sign it, and a bundle's content together.

    Raises a `TrustError` that says what does not fit, or the `PolicyError` of a wrong content.
    """
    envelope.check_sizes()
    claimed = None if root is None else ClaimedRoot.read(root)
    match envelope.payload_type:
        case PayloadType.ROOT:
            return _root_proposal(envelope, claimed, content)
        case PayloadType.BUNDLE:
            return _bundle_proposal(envelope, claimed, content)
    msg = f"`{shown(envelope.payload_type)}` does not travel between signers; a proposal has a root or a bundle"
    raise PayloadTypeMismatch(msg)


def parse_proposal(data: bytes) -> Proposal:
    """Read a proposal file; raises as `make_proposal`, or a payload error."""
    if len(data) > MAX_PROPOSAL_BYTES:
        msg = f"proposal has {len(data)} bytes, more than {MAX_PROPOSAL_BYTES}"
        raise PayloadMalformed(msg)
    file = load(data, _ProposalFile)
    if file.format != FORMAT:
        msg = f"proposal has the format `{shown(file.format)}`, this version of akpolicy reads `{FORMAT}`"
        raise FieldInvalid(msg)
    return make_proposal(
        from_dsse_json(file.envelope),
        root=None if file.root is None else from_dsse_json(file.root),
        content=None if file.content is None else file.content.encode("utf-8"),
    )


def add_signature(proposal: Proposal, signer: Signer) -> Proposal:
    """Sign with one key; a signature that this key made before is replaced.

    Raises `KeyNotAuthorised` if the key cannot count, `EnvelopeTooLarge` if there are too many signatures, or what
    `sign_document` raises.
    """
    key = signer.public_key
    wanted = {key_id for role in proposal.signer_roles() for key_id in role.role.keys}
    if key.key_id not in wanted:
        msg = f"the key {key.key_id} cannot sign this; one of these can: {', '.join(sorted(wanted))}"
        raise KeyNotAuthorised(msg)
    signed = sign_document(PayloadType(proposal.envelope.payload_type), proposal.envelope.payload, [signer])
    others = tuple(entry for entry in proposal.envelope.signatures if entry.key_id != key.key_id)
    envelope = replace(proposal.envelope, signatures=(*others, *signed.signatures))
    envelope.check_sizes()
    return replace(proposal, envelope=envelope)


def with_signatures_of(proposal: Proposal, other: Proposal) -> Proposal:
    """Return the proposal with the signatures of another copy of it; those replace older ones by the same keys.

    Raises `FieldInvalid` if the other one is not the same document, `EnvelopeTooLarge` for too many signatures.
    """
    if replace(other, envelope=proposal.envelope) != proposal or other.envelope.pae() != proposal.envelope.pae():
        msg = f"the other proposal is not the same {proposal.subject}"
        raise FieldInvalid(msg)
    newer = {entry.key_id for entry in other.envelope.signatures}
    kept = tuple(entry for entry in proposal.envelope.signatures if entry.key_id not in newer)
    envelope = replace(proposal.envelope, signatures=(*kept, *other.envelope.signatures))
    envelope.check_sizes()
    return replace(proposal, envelope=envelope)


# --- what fits together -----------------------------------------------------------------------------------------------


def _root_proposal(envelope: SignedEnvelope, before: ClaimedRoot | None, content: bytes | None) -> Proposal:
    document, _ = parse_root(envelope.payload)
    if content is not None:
        msg = "the proposal of a root has content, which no root has"
        raise PayloadMalformed(msg)
    if before is not None and before.document.org != document.org:
        msg = f"the proposed root is of `{document.org}`, the root before it of `{before.document.org}`"
        raise OrgMismatch(msg)
    if before is not None and document.version != before.document.version + 1:
        msg = f"the proposed root has version {document.version}, the root before it {before.document.version}"
        raise FieldInvalid(msg)
    return Proposal(envelope, document, before, None)


def _bundle_proposal(envelope: SignedEnvelope, root: ClaimedRoot | None, content: bytes | None) -> Proposal:
    manifest = load(envelope.payload, Manifest)
    if root is None:
        msg = "the proposal of a bundle lacks the root that says who must sign it"
        raise EnvelopeMalformed(msg)
    if org_of(manifest.scope) not in (None, root.document.org):
        msg = f"the proposed bundle is for `{manifest.scope}`, the root in the file is of `{root.document.org}`"
        raise OrgMismatch(msg)
    if (manifest.content is None) != (content is None):
        msg = "the proposal of a bundle has its content with it, unless it deletes the scope"
        raise PayloadMalformed(msg)
    opened = open_content(content, manifest.content) if manifest.content and content is not None else None
    proposal = Proposal(envelope, manifest, root, opened)
    proposal.signer_roles()
    return proposal
