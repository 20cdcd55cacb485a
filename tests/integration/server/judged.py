"""A host on a real stream that judges everything that comes, as a sidecar does, and answers it.

What it would refuse is raised in the test. It enforces what it took last, drops what a new root no longer supports, and
is content when a heartbeat names exactly that.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Self

from akpolicy.engine.files import PolicyFile
from akpolicy.envelope import PayloadType
from akpolicy.errors import TrustError
from akpolicy.index import build_index
from akpolicy.keys import AnchorSet, TrustAnchor, parse_anchor
from akpolicy.root import Root
from akpolicy.signing import sign_document
from akpolicy.strict_json import load
from akpolicy.trust import Judge
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy.wire import envelope_from_proto
from akpolicy_server.store.hosts import HostKey, HostNack, refused_by
from tests.integration.server.conftest import Update, policy
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.signing import Signer
    from akpolicy.trust import VerifiedBundle, VerifiedHeartbeat
    from tests.integration.server.conftest import LiveServer, Stream

NONCE = b"0123456789abcdef"
HOST = HostKey("acme", "host-1")


class JudgedHost:
    """Judges one stream of an org."""

    def __init__(self, stream: Stream, org: str, anchors: Iterable[str], threshold: int = 1) -> None:
        self._stream = stream
        self._org = org
        self.judge = Judge(org, AnchorSet(tuple(TrustAnchor(parse_anchor(a)) for a in anchors), threshold))
        self.enforced: dict[str, tuple[VerifiedBundle, bundle_pb2.Revision]] = {}
        self.heartbeats: list[VerifiedHeartbeat] = []
        self.indexes = 0
        self._blobs: dict[bytes, bytes] = {}

    def hello(self, **fields: Any) -> Self:
        """Open the stream as a host that has nothing."""
        self._stream.hello(self._org, nonce=NONCE, **fields)
        self.judge.begin_walk()
        return self

    def follow(self) -> Self:
        """Take and answer what comes until the next KeepAlive."""
        update = Update(dist.BundleUpdate())
        while True:
            kind, message = self._stream.next()
            if kind == "keep_alive":
                return self
            if kind == "root":
                self._take_root(message)
            elif kind == "heartbeat":
                self._take_heartbeat(message)
            elif kind == "bundle":
                update = Update(message)
            else:
                update.chunks.append(message)
            if kind in ("bundle", "chunk") and len(update.content) == update.bundle.content_size:
                self._take_bundle(update)

    def follow_until(self, condition: Any) -> Self:
        """Follow until a condition holds; the stream's own deadline ends it."""
        while not condition():
            self.follow()
        return self

    @property
    def is_content(self) -> bool:
        """Whether the last heartbeat names exactly what is enforced."""
        lines = {scope: (r.epoch, r.version, r.digest.hex()) for scope, (_, r) in self.enforced.items()}
        index = self.judge.index or build_index(())
        return lines == {scope: (line.epoch, line.version, line.digest) for scope, line in index.lines.items()}

    def versions(self) -> dict[str, tuple[int, int]]:
        """Return epoch and version of what is enforced, by scope."""
        return {scope: (revision.epoch, revision.version) for scope, (_, revision) in self.enforced.items()}

    def policies(self, scope: str) -> list[str]:
        """Return the ids of the policies of a scope."""
        content = self.enforced[scope][0].content
        assert content is not None
        return [entry.id for entry in content.content.policies]

    def _take_root(self, message: dist.RootUpdate) -> None:
        self.judge.accept_root(self.judge.judge_root(envelope_from_proto(message.envelope), time.time()))
        for scope, (bundle, _) in list(self.enforced.items()):
            try:
                self.judge.judge_manifest(bundle.envelope, time.time(), held=True, original=bundle.original)
            except TrustError:
                del self.enforced[scope]
        self._ack(message.nonce)

    def _take_heartbeat(self, message: dist.HeartbeatUpdate) -> None:
        envelope = envelope_from_proto(message.envelope)
        # As of when it was signed: how quickly this test gets to it is not the server's matter.
        issued_at = json.loads(envelope.payload)["issued_at"]
        assert issued_at <= time.time()
        nonce = None if self.heartbeats else NONCE.hex()
        verified = self.judge.judge_heartbeat(envelope, message.index, issued_at, nonce=nonce)
        self.judge.accept_heartbeat(verified)
        self.heartbeats.append(verified)
        self.indexes += bool(message.index)

    def _take_bundle(self, update: Update) -> None:
        bundle = update.bundle
        verified = self.judge.judge_manifest(
            envelope_from_proto(bundle.envelope),
            time.time(),
            expected_scope=bundle.revision.scope,
            original=envelope_from_proto(bundle.original) if bundle.HasField("original") else None,
        )
        assert verified.manifest.content is not None
        digest = bytes.fromhex(verified.manifest.content.digest)
        if bundle.content_size:
            self._blobs[digest] = update.content
        opened = self.judge.judge_content(verified, self._blobs[digest])
        self.judge.advance(opened)
        self.enforced[bundle.revision.scope] = (opened, bundle.revision)
        self._ack(bundle.nonce)

    def _ack(self, nonce: bytes) -> None:
        root = self.judge.root
        self._stream.send(
            ack=dist.Ack(
                nonce=nonce,
                enforced=[revision for _, revision in self.enforced.values()],
                root_version=root.document.version if root else 0,
            )
        )


def next_root(newest: SignedEnvelope, *signers: Signer, **changes: Any) -> SignedEnvelope:
    """Return the root after `newest`, with some fields replaced, signed by these keys."""
    fields = json.loads(newest.payload)
    fields |= {"version": fields["version"] + 1, "issued_at": int(time.time()), **changes}
    return sign_document(PayloadType.ROOT, load(json.dumps(fields).encode(), Root).to_bytes(), list(signers))


def files(*ids: str) -> list[PolicyFile]:
    """Return a file with a policy of each id."""
    return [PolicyFile("policies.cedar", "".join(map(policy, ids)).encode())]


def root_fields(root: SignedEnvelope) -> dict[str, Any]:
    """Return what a root says."""
    return dict(json.loads(root.payload))


def judged(server: LiveServer, host_id: str = "host-1", org: str = "acme") -> JudgedHost:
    """Open a stream with a new key of that host, and say Hello."""
    anchor = next(made.trust_anchor for made in server.made.orgs if made.org == org)
    return JudgedHost(server.host(host_id, org), org, [anchor]).hello()


def refusals(server: LiveServer) -> list[HostNack]:
    """Return what `host-1` refuses, once there is something."""

    def found() -> list[HostNack]:
        with server.serving.database.read() as connection:
            return refused_by(connection, HOST)

    return wait_until(found)
