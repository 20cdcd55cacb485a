"""An org with real keys: makes every document of it, right or wrong.

It has one key each for the root, the org's bundles, the platform's `global` bundles, rollbacks and heartbeats.

Documents are built as plain dictionaries, signed exactly as given. `**overrides` replace fields of a right document;
the value `ABSENT` leaves one out. So a test writes only what is wrong with its document.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from akpolicy.bundle import Manifest, describe_content, encode_content
from akpolicy.envelope import EnvelopeSignature, PayloadType, SignedEnvelope, pae
from akpolicy.index import Index, IndexLine, build_index
from akpolicy.keys import AnchorSet
from akpolicy.limits import DEFAULT_HEARTBEAT_LIFETIME_S
from akpolicy.scope import GLOBAL, org_scope
from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import dump, load
from tests.simulators.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from akpolicy.clock import Clock
    from akpolicy.signing import Signer

DAY: Final = 86_400
ROOT_LIFETIME_S: Final = 365 * DAY
BUNDLE_LIFETIME_S: Final = 30 * DAY
HEARTBEAT_LIFETIME_S: Final = DEFAULT_HEARTBEAT_LIFETIME_S
PERMIT_ALL: Final = {"allow-all": '@id("allow-all")\npermit (principal, action, resource);'}
ABSENT: Final = object()


@dataclass(frozen=True)
class ConfiguredAnchor:
    """An anchor as a configuration has it."""

    key: str
    valid_from: int | None = None
    valid_until: int | None = None


class OrgSimulator:
    """An org's keys and documents."""

    def __init__(self, org: str = "acme", clock: Clock | None = None) -> None:
        """Make fresh keys; `clock` gives the documents' times."""
        self.org = org
        self.clock: Clock = clock or ManualClock()
        self.root_signer = PrivateKeySigner.generate()
        self.bundle_signer = PrivateKeySigner.generate()
        self.platform_signer = PrivateKeySigner.generate()
        self.rollback_signer = PrivateKeySigner.generate()
        self.heartbeat_signer = PrivateKeySigner.generate()
        self._versions: dict[str, int] = {}
        self._seq = 0

    @property
    def scope(self) -> str:
        """The scope of the whole org."""
        return org_scope(self.org)

    @property
    def anchor(self) -> str:
        """The line that goes into a host's configuration."""
        return self.root_signer.public_key.anchor

    @property
    def anchors(self) -> AnchorSet:
        """The anchors of a host that trusts this org's root key alone."""
        return AnchorSet.parse([ConfiguredAnchor(self.anchor)])

    # --- roots --------------------------------------------------------------------------------------------------------

    def root_document(self, *, signers: Sequence[Signer] | None = None, **overrides: Any) -> dict[str, Any]:
        """Return a root that names the org's keys, 1 of 1 each; `signers` are more keys to list."""
        now = int(self.clock.now())
        known = (
            self.root_signer,
            self.bundle_signer,
            self.platform_signer,
            self.rollback_signer,
            self.heartbeat_signer,
            *(signers or ()),
        )
        document = {
            "type": "root",
            "spec": 1,
            "org": self.org,
            "version": 1,
            "epoch": 1,
            "issued_at": now,
            "expires_at": now + ROOT_LIFETIME_S,
            "min_sidecar": "0.1.0",
            "keys": {s.public_key.key_id: self.key_entry(s) for s in known},
            "revoked": {},
            "roles": {
                "root": role(self.root_signer),
                "bundle": [
                    delegation(GLOBAL, self.platform_signer),
                    delegation(self.scope, self.bundle_signer),
                ],
                "rollback": [
                    delegation(GLOBAL, self.rollback_signer),
                    delegation(self.scope, self.rollback_signer),
                ],
                "heartbeat": role(self.heartbeat_signer),
            },
        }
        return overridden(document, overrides)

    def key_entry(self, signer: Signer, **overrides: Any) -> dict[str, Any]:
        """Return what a root says of a key; it is valid from a year ago until two years ahead."""
        now = int(self.clock.now())
        entry = {
            "public_key": base64.urlsafe_b64encode(signer.public_key.raw).decode("ascii"),
            "valid_from": now - ROOT_LIFETIME_S,
            "valid_until": now + 2 * ROOT_LIFETIME_S,
        }
        return overridden(entry, overrides)

    def root_envelope(self, *, signed_by: Sequence[Signer] | None = None, **overrides: Any) -> SignedEnvelope:
        """Return the signed root; by default the root key signs."""
        signers = [self.root_signer] if signed_by is None else signed_by
        return sign(PayloadType.ROOT, dump(self.root_document(**overrides)), signers)

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def heartbeat_document(self, root: SignedEnvelope, index: Index, **overrides: Any) -> dict[str, Any]:
        """Return a heartbeat that names a root and an index; `seq` counts up unless it is given."""
        now = int(self.clock.now())
        self._seq = overrides["seq"] if isinstance(overrides.get("seq"), int) else self._seq + 1
        document = {
            "type": "heartbeat",
            "spec": 1,
            "org": self.org,
            "seq": self._seq,
            "issued_at": now,
            "expires_at": now + HEARTBEAT_LIFETIME_S,
            "root": {"version": _claimed(root, "version"), "digest": root.digest().hex()},
            "index": {"digest": index.digest, "size": len(index.text)},
        }
        return overridden(document, overrides)

    def heartbeat_envelope(
        self,
        root: SignedEnvelope,
        current: Iterable[SignedEnvelope],
        *,
        signed_by: Sequence[Signer] | None = None,
        **overrides: Any,
    ) -> tuple[SignedEnvelope, bytes]:
        """Return a signed heartbeat and its index: `current` has the envelope of each scope's bundle or rollback."""
        index = index_of(current)
        document = self.heartbeat_document(root, index, **overrides)
        signers = [self.heartbeat_signer] if signed_by is None else signed_by
        return sign(PayloadType.HEARTBEAT, dump(document), signers), index.text

    # --- bundles ------------------------------------------------------------------------------------------------------

    def next_version(self, scope: str) -> int:
        """Return the version after the highest that a manifest of the scope had."""
        return self._versions.get(scope, 0) + 1

    def manifest_document(self, scope: str, blob: bytes | None, policies: int, **overrides: Any) -> dict[str, Any]:
        """Return the manifest of `blob`, which has that many policies; None deletes the scope."""
        now = int(self.clock.now())
        version = overrides["version"] if "version" in overrides else self.next_version(scope)
        if isinstance(version, int):
            self._versions[scope] = max(version, self._versions.get(scope, 0))
        document: dict[str, Any] = {
            "type": "bundle",
            "spec": 1,
            "scope": scope,
            "epoch": 1,
            "version": version,
            "issued_at": now,
            "not_before": now,
            "expires_at": now + BUNDLE_LIFETIME_S,
            "min_version": max(1, version - 1) if isinstance(version, int) else 1,
            "offline": {"mode": "cached_with_expiry", "max_age_s": DAY},
        }
        if blob is None:
            document["deleted"] = True
        else:
            document["content"] = describe_content(blob, policies).model_dump()
        return overridden(document, overrides)

    def bundle_envelope(
        self,
        scope: str = GLOBAL,
        policies: Mapping[str, str] | bytes | None = None,
        *,
        signed_by: Sequence[Signer] | None = None,
        policy_count: int | None = None,
        **overrides: Any,
    ) -> tuple[SignedEnvelope, bytes]:
        """Return a signed manifest and its content.

        `policies` are texts by id, or a ready blob (then `policy_count` says how many it has, 1 by default). The
        version counts up for each scope; the key that the root names for the scope signs.
        """
        given = PERMIT_ALL if policies is None else policies
        blob = given if isinstance(given, bytes) else encode_content(list(given.items()))
        count = policy_count if policy_count is not None else (1 if isinstance(given, bytes) else len(given))
        document = self.manifest_document(scope, blob, count, **overrides)
        return self.sign_manifest(document, signed_by), blob

    def deletion_envelope(
        self, scope: str, *, signed_by: Sequence[Signer] | None = None, **overrides: Any
    ) -> SignedEnvelope:
        """Return the signed manifest that removes a scope's layer."""
        return self.sign_manifest(self.manifest_document(scope, None, 0, **overrides), signed_by)

    def rollback_document(self, original: SignedEnvelope, **overrides: Any) -> dict[str, Any]:
        """Return a rollback to `original`, which must be a sound manifest; the version counts up for its scope."""
        now = int(self.clock.now())
        restored = load(original.payload, Manifest)
        version = overrides.get("version", self.next_version(restored.scope))
        self._versions[restored.scope] = max(version, self._versions.get(restored.scope, 0))
        document = {
            "type": "rollback",
            "spec": 1,
            "scope": restored.scope,
            "epoch": restored.epoch,
            "version": version,
            "issued_at": now,
            "expires_at": restored.expires_at,
            "restores": {"version": restored.version, "digest": original.digest().hex()},
            "content": restored.content.model_dump() if restored.content else None,
        }
        return overridden(document, overrides)

    def rollback_envelope(
        self, original: SignedEnvelope, *, signed_by: Sequence[Signer] | None = None, **overrides: Any
    ) -> SignedEnvelope:
        """Return a signed rollback to `original`; by default the rollback key signs."""
        document = self.rollback_document(original, **overrides)
        signers = [self.rollback_signer] if signed_by is None else signed_by
        return sign(PayloadType.ROLLBACK, dump(document), signers)

    def sign_manifest(
        self, document: Mapping[str, Any] | bytes, signed_by: Sequence[Signer] | None = None
    ) -> SignedEnvelope:
        """Sign a manifest as it is, or any bytes in its place; by default with the key of its scope."""
        if signed_by is None:
            is_global = not isinstance(document, bytes) and document.get("scope") == GLOBAL
            signed_by = [self.platform_signer if is_global else self.bundle_signer]
        payload = document if isinstance(document, bytes) else dump(document)
        return sign(PayloadType.BUNDLE, payload, signed_by)


def sign(payload_type: str, payload: bytes, signers: Sequence[Signer]) -> SignedEnvelope:
    """Sign any bytes as any kind of document, without the checks that an honest signer makes."""
    message = pae(payload_type, payload)
    return SignedEnvelope(
        payload_type, payload, tuple(EnvelopeSignature(s.public_key.key_id, s.sign(message)) for s in signers)
    )


def index_of(current: Iterable[SignedEnvelope]) -> Index:
    """Return the index that names these bundles and rollbacks."""
    return build_index(
        IndexLine(_claimed(e, "scope"), _claimed(e, "epoch"), _claimed(e, "version"), e.digest().hex()) for e in current
    )


def _claimed(envelope: SignedEnvelope, name: str) -> Any:
    return json.loads(envelope.payload)[name]


def role(*signers: Signer, threshold: int = 1) -> dict[str, Any]:
    """Return a role of a root document."""
    return {"keys": [s.public_key.key_id for s in signers], "threshold": threshold}


def delegation(prefix: str, *signers: Signer, threshold: int = 1, grants: bool = True) -> dict[str, Any]:
    """Return a bundle role of a root document."""
    return {**role(*signers, threshold=threshold), "prefix": prefix, "grants": grants}


def content_reference(blob: bytes, **overrides: Any) -> dict[str, Any]:
    """Return what a manifest says of `blob`, which has one policy, with changes."""
    return overridden(describe_content(blob, 1).model_dump(), overrides)


def overridden(document: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with fields replaced, added, or left out where the value is `ABSENT`."""
    merged = {**document, **overrides}
    return {name: value for name, value in merged.items() if value is not ABSENT}
