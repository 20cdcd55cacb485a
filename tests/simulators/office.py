"""What a policy server holds for one org, and the messages that it would send: honest, unless a test asks otherwise."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.scope import GLOBAL
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.wire import envelope_to_proto

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from akpolicy.envelope import SignedEnvelope
    from tests.simulators.org import OrgSimulator

Response = pb.SubscribeResponse
NONCE_BYTES = 16


class Held(NamedTuple):
    """The current document of a scope; `blob` is None if it is deleted, `original` is set for a rollback."""

    envelope: SignedEnvelope
    blob: bytes | None
    original: SignedEnvelope | None = None


class Office:
    """The server's side of one org."""

    def __init__(self, org: OrgSimulator) -> None:
        """Begin with the org's first root and nothing published."""
        self.org = org
        self.roots: list[SignedEnvelope] = [org.root_envelope()]
        self.current: dict[str, Held] = {}
        self.seq = 1

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
        self.current[scope] = Held(envelope, blob, original)
        self.seq += 1
        return self.current[scope]

    def add_root(self, envelope: SignedEnvelope) -> SignedEnvelope:
        """Hold the next root."""
        self.roots.append(envelope)
        self.seq += 1
        return envelope

    # --- messages -----------------------------------------------------------------------------------------------------

    def greeting(self, hello: pb.Hello, **heartbeat: Any) -> list[Response]:
        """Return everything that a host lacks, as a server answers a Hello."""
        enforced = {r.scope: r.digest for r in hello.enforced}
        messages = [root_message(root) for root in self.roots if claims(root)["version"] > hello.root_version]
        for scope, held in self.current.items():
            if held.envelope.digest() != enforced.get(scope):
                messages += self.bundle(scope, held_blobs=hello.held_blobs)
        return [*messages, self.heartbeat(nonce=hello.nonce.hex(), **heartbeat), keep_alive()]

    def bundle(self, scope: str = GLOBAL, *, held_blobs: Iterable[bytes] = ()) -> list[Response]:
        """Return the current document of a scope, with its content."""
        held = self.current[scope]
        return bundle_messages(held.envelope, held.blob, original=held.original, held_blobs=held_blobs)

    def heartbeat(self, **overrides: Any) -> Response:
        """Return a heartbeat about all that is current; without a `nonce` it is one of those that all hosts share."""
        fields = {"seq": self.seq, **overrides}
        signed_by = fields.pop("signed_by", None)
        root = fields.pop("about_root", self.root)
        current = fields.pop("about", [held.envelope for held in self.current.values()])
        envelope, index = self.org.heartbeat_envelope(root, current, signed_by=signed_by, **fields)
        return heartbeat_message(envelope, index)


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
