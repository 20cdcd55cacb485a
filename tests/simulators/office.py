"""What a policy server holds for one org, and the messages that it would send: honest, unless a test asks otherwise.

`HostSimulator` hears these messages directly, `PolicyServerSimulator` sends them on a socket.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from akpolicy.index import parse_index
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.scope import GLOBAL
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.wire import envelope_to_proto
from tests.simulators.org import HEARTBEAT_LIFETIME_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from akpolicy.envelope import SignedEnvelope
    from tests.simulators.org import OrgSimulator

Response = pb.SubscribeResponse
NONCE_BYTES = 16


class Held(NamedTuple):
    """The current document of a scope; `blob` is None if it is deleted, `original` is set for a rollback.

    `since` is the office's `seq` that it came with.
    """

    envelope: SignedEnvelope
    blob: bytes | None
    original: SignedEnvelope | None = None
    since: int = 0


class Office:
    """The server's side of one org."""

    def __init__(self, org: OrgSimulator) -> None:
        """Begin with the org's first root and nothing published."""
        self.org = org
        self.roots: list[SignedEnvelope] = [org.root_envelope()]
        self.current: dict[str, Held] = {}
        self.seq = 1
        self.heartbeat_lifetime_s = HEARTBEAT_LIFETIME_S

    @property
    def root(self) -> SignedEnvelope:
        """The newest root."""
        return self.roots[-1]

    # --- changes ------------------------------------------------------------------------------------------------------

    def publish(
        self, policies: Mapping[str, str] | bytes | None = None, *, scope: str = GLOBAL, **overrides: Any
    ) -> Held:
        """Sign the next bundle of a scope and hold it as current."""
        return self.hold(scope, *self.org.bundle_envelope(scope, policies, **overrides))

    def hold(
        self, scope: str, envelope: SignedEnvelope, blob: bytes | None, original: SignedEnvelope | None = None
    ) -> Held:
        """Hold any document as the current one of a scope."""
        self.seq += 1
        self.current[scope] = Held(envelope, blob, original, self.seq)
        return self.current[scope]

    def delete(self, scope: str, **overrides: Any) -> Held:
        """Sign the deletion of a scope and hold it as current."""
        return self.hold(scope, self.org.deletion_envelope(scope, **overrides), None)

    def roll_back(self, original: Held, **overrides: Any) -> Held:
        """Sign the return to what was held earlier, and hold it as current."""
        scope = str(claims(original.envelope)["scope"])
        return self.hold(
            scope, self.org.rollback_envelope(original.envelope, **overrides), original.blob, original.envelope
        )

    def add_root(self, envelope: SignedEnvelope) -> SignedEnvelope:
        """Hold the next root."""
        self.roots.append(envelope)
        self.seq += 1
        return envelope

    def rotate(self, **overrides: Any) -> SignedEnvelope:
        """Sign the root after the newest one and hold it."""
        return self.add_root(self.org.root_envelope(**{"version": claims(self.root)["version"] + 1, **overrides}))

    # --- messages -----------------------------------------------------------------------------------------------------

    def greeting(self, hello: pb.Hello, **heartbeat: Any) -> list[Response]:
        """Return everything that a host lacks, as a server answers a Hello."""
        messages = self.missing(hello)
        return [*messages, self.heartbeat(nonce=hello.nonce.hex(), **heartbeat), keep_alive()]

    def missing(self, hello: pb.Hello) -> list[Response]:
        """Return the roots and bundles that a host lacks."""
        enforced = {r.scope: r.digest for r in hello.enforced}
        messages = [root_message(root) for root in self.roots if claims(root).get("version", 0) > hello.root_version]
        for scope, held in self.current.items():
            if held.envelope.digest() != enforced.get(scope):
                messages += self.bundle(scope, held_blobs=hello.held_blobs)
        return messages

    def since(self, seq: int, roots: int) -> list[Response]:
        """Return what came after `seq`, and all roots but the first `roots`."""
        messages = [root_message(root) for root in self.roots[roots:]]
        for scope, held in sorted(self.current.items(), key=lambda item: item[1].since):
            if held.since > seq:
                messages += self.bundle(scope)
        return messages

    def bundle(self, scope: str = GLOBAL, *, held_blobs: Iterable[bytes] = ()) -> list[Response]:
        """Return the current document of a scope, with its content."""
        held = self.current[scope]
        return bundle_messages(held.envelope, held.blob, original=held.original, held_blobs=held_blobs)

    def heartbeat(self, **overrides: Any) -> Response:
        """Return a heartbeat about all that is current; without a `nonce` it is one of those that all hosts share.

        `known_index` is the digest of the index that the host has: that one is named and not sent again. `changes_from`
        is the text of the one that it has: what is different is sent.
        """
        expires_at = int(self.org.clock.now()) + self.heartbeat_lifetime_s
        fields = {"seq": self.seq, "expires_at": expires_at, **overrides}
        signed_by = fields.pop("signed_by", None)
        root = fields.pop("about_root", self.root)
        known_index, base = fields.pop("known_index", b""), fields.pop("changes_from", None)
        current = fields.pop("about", [held.envelope for held in self.current.values()])
        envelope, index = self.org.heartbeat_envelope(root, current, signed_by=signed_by, **fields)
        if base is not None:
            message = heartbeat_message(envelope, b"")
            changes = parse_index(index).changes_from(parse_index(base))
            message.heartbeat.index_changes.CopyFrom(
                pb.IndexChanges(base=bytes.fromhex(changes.base), lines=changes.lines, gone=changes.gone)
            )
            return message
        is_known = hashlib.sha256(index).digest() == known_index
        return heartbeat_message(envelope, b"" if is_known else index)


def claims(envelope: SignedEnvelope) -> dict[str, Any]:
    """Return what a payload says of itself; nothing if it is broken, as a test may want it."""
    try:
        value = json.loads(envelope.payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def root_message(envelope: SignedEnvelope) -> Response:
    """Return a root as an update."""
    version = claims(envelope).get("version", 0)
    return Response(
        root=pb.RootUpdate(
            version=version if isinstance(version, int) and 0 <= version < 2**63 else 0,
            envelope=envelope_to_proto(envelope),
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
    )


def bundle_messages(
    envelope: SignedEnvelope,
    blob: bytes | None,
    *,
    original: SignedEnvelope | None = None,
    held_blobs: Iterable[bytes] = (),
    scope: str | None = None,
) -> list[Response]:
    """Return a bundle or rollback as an update with its chunks, unless the content is held."""
    said = claims(envelope)
    content = said.get("content")
    named = content.get("digest", "") if isinstance(content, dict) else ""
    # As a server that lies would: chunks carry the digest that the manifest names, whatever the bytes are.
    digest = bytes.fromhex(named) if len(str(named)) == 64 else hashlib.sha256(blob or b"").digest()
    sent = b"" if digest in set(held_blobs) else blob or b""
    update = pb.BundleUpdate(
        nonce=secrets.token_bytes(NONCE_BYTES),
        revision=bundle_pb2.Revision(
            scope=str(said.get("scope", "")) if scope is None else scope,
            epoch=_counter(said.get("epoch")),
            version=_counter(said.get("version")),
            digest=envelope.digest(),
        ),
        envelope=envelope_to_proto(envelope),
        content_size=len(sent),
        original=envelope_to_proto(original) if original else None,
    )
    pieces = [
        Response(chunk=pb.BlobChunk(digest=digest, offset=at, data=sent[at : at + MAX_CHUNK_BYTES]))
        for at in range(0, len(sent), MAX_CHUNK_BYTES)
    ]
    return [Response(bundle=update), *pieces]


def heartbeat_message(envelope: SignedEnvelope, index: bytes) -> Response:
    """Return a heartbeat as an update."""
    return Response(
        heartbeat=pb.HeartbeatUpdate(
            nonce=secrets.token_bytes(NONCE_BYTES), envelope=envelope_to_proto(envelope), index=index
        )
    )


def keep_alive(interval_s: float = 10.0) -> Response:
    """Return a sign of life."""
    return Response(keep_alive=pb.KeepAlive(interval_ms=int(interval_s * 1000)))


def _counter(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**63 else 0
