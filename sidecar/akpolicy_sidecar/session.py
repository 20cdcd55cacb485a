"""One connection's conversation with the policy server, without its transport.

Rules (`proto/akpolicy/v1/distribution.proto`):

- Hello goes first, and once: what is enforced, which content is here. Nothing is claimed that cannot be loaded.
- Each update is answered: Ack when it is on disk and in force, Nack with the error's code when it is refused, and what
  was enforced stays enforced. One bad update does not end the conversation; content that follows a refused one is
  dropped.
- KeepAlive means that all is delivered, and only from then on does hearing the server keep policy young. It does not
  count as long as something was refused on this connection and not made good since: what is enforced is then known to
  be older than what the server has, so it ages, across reconnects too, and the offline mode decides for how long.
- A refusal is noted under the name that the server gave, and made good by what a signed manifest says.
- The server sends an update once a connection. What was refused is asked for again by a new connection: soon if the
  cause is on this host or on the way (a full disk, a broken transfer), later if it is the document, whose verdict only
  time can change.
- While a message is worked on the stream is not silent: `waiting_since` is None then.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final

from akpolicy import __version__
from akpolicy.errors import CacheError, DistributionError, PolicyError, StreamProtocolError, UpdateTooSlow
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.wire import envelope_from_proto
from akpolicy_sidecar.chunks import ChunkAssembler
from akpolicy_sidecar.status import MAX_KEEP_ALIVE_S, Moment, bounded_interval
from akpolicy_sidecar.updater import REFUSALS, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from akpolicy.bundle import ContentReference
    from akpolicy.clock import Clock
    from akpolicy.decision import BundleVersion
    from akpolicy.errors import AkpolicyError
    from akpolicy_sidecar.report import Reporter
    from akpolicy_sidecar.status import LinkHolder
    from akpolicy_sidecar.updater import Updater

NONCE_BYTES: Final = 16
MAX_DETAIL_CHARS: Final = 1024
MAX_CONTENT_SECONDS: Final = 300.0
# How long a refused update waits at least before a new connection asks for it again. The Nack must be out by then.
PASSING_PAUSE_S: Final = 1.0
LASTING_PAUSE_S: Final = 300.0
# Until the server has announced its own interval.
FIRST_INTERVAL_S: Final = 10.0

# Subjects of refusals beside the scopes.
ROOT: Final = "root"
UNKNOWN: Final = ""

_MILLISECONDS = 1000


class Session:
    """Answers what the server sends on one connection."""

    def __init__(
        self,
        *,
        org: str,
        updater: Updater,
        links: LinkHolder,
        clock: Clock,
        report: Reporter,
        send: Callable[[pb.SubscribeRequest], None],
    ) -> None:
        """`send` takes each message for the server."""
        self._org = org
        self._updater = updater
        self._links = links
        self._clock = clock
        self._report = report
        self._send = send
        self._refused: set[str] = set()
        self._ask_again_at = math.inf
        self._dropping = False
        self.waiting_since: Moment | None = Moment.read(clock)
        self.interval_s = FIRST_INTERVAL_S
        self.caught_up = False

    def hello(self) -> pb.SubscribeRequest:
        """Return the first message."""
        holdings = self._updater.holdings
        hello = pb.Hello(
            org=self._org,
            software_version=__version__,
            root_version=holdings.root_version,
            enforced=_revisions(holdings.enforced),
            held_blobs=[bytes.fromhex(digest) for digest in holdings.blobs],
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        return pb.SubscribeRequest(hello=hello)

    def run(self, responses: Iterator[pb.SubscribeResponse]) -> None:
        """Answer messages until the stream ends; what `responses` raises comes through.

        Raises `StreamProtocolError` if only a new connection can help.
        """
        inbox = _Inbox(responses, before=self._wait, after=self._heard)
        for message in inbox:
            kind = message.WhichOneof("message")
            if kind != "chunk":
                self._dropping = False
            if kind == "root":
                self._root(message.root)
            elif kind == "bundle":
                self._bundle(message.bundle, inbox)
            elif kind == "chunk":
                self._stray_chunk()
            elif kind == "keep_alive":
                self._keep_alive(message.keep_alive)
            # Anything else is from a newer server, and nothing that this version could act upon.

    def _wait(self) -> None:
        self.waiting_since = Moment.read(self._clock)

    def _heard(self) -> None:
        self.waiting_since = None
        if self.caught_up and not self._refused:
            self._links.heard(Moment.read(self._clock))

    # --- messages -----------------------------------------------------------------------------------------------------

    def _root(self, update: pb.RootUpdate) -> None:
        try:
            outcome = self._updater.apply_root(envelope_from_proto(update.envelope))
        except REFUSALS as error:
            self._note_refusal(ROOT, error)
            return
        self._refused.discard(ROOT)
        if outcome is Outcome.APPLIED:
            self._report.applied(ROOT, self._updater.holdings.root_version)
        else:
            self._report.unchanged()

    def _bundle(self, update: pb.BundleUpdate, inbox: _Inbox) -> None:
        def content(reference: ContentReference) -> bytes:
            return self._content(reference, update, inbox)

        # Chunks that nobody asked for, because the manifest was enough to refuse or to know the bundle.
        self._dropping = update.content_size > 0
        try:
            accepted = self._updater.apply_bundle(envelope_from_proto(update.envelope), content)
        except (*REFUSALS, DistributionError) as error:
            self._refuse(update, error)
            return
        self._refused.discard(accepted.scope)
        if accepted.outcome is Outcome.APPLIED:
            self._report.applied(accepted.scope, accepted.version)
        else:
            self._report.unchanged()
        enforced = _revisions(self._updater.holdings.enforced)
        self._send(pb.SubscribeRequest(ack=pb.Ack(nonce=update.nonce, enforced=enforced)))

    def _refuse(self, update: pb.BundleUpdate, error: AkpolicyError) -> None:
        hint = update.revision.scope
        self._note_refusal(hint if self._updater.concerns(hint) else UNKNOWN, error)
        nack = pb.Nack(
            nonce=update.nonce,
            code=error.code,
            detail=str(error)[:MAX_DETAIL_CHARS],
            policy_id=error.policy_id if isinstance(error, PolicyError) else "",
            enforced=_revisions(self._updater.holdings.enforced),
        )
        self._send(pb.SubscribeRequest(nack=nack))
        if isinstance(error, CacheError) and not update.content_size:
            # The server left out content that is not here any more; a new Hello says what is.
            msg = "content that the server takes for held is not here"
            raise StreamProtocolError(msg)

    def _note_refusal(self, subject: str, error: AkpolicyError) -> None:
        if isinstance(error, CacheError):
            self._report.cache_failed(error)
        self._report.refused(subject, error)
        self._refused.add(subject)
        self._links.lost()
        pause = PASSING_PAUSE_S if isinstance(error, (CacheError, DistributionError)) else LASTING_PAUSE_S
        self._ask_again_at = min(self._ask_again_at, self._clock.elapsed() + pause)

    def _stray_chunk(self) -> None:
        if not self._dropping:
            self._report.refused(UNKNOWN, StreamProtocolError("chunk without an update that needs it"))

    def _keep_alive(self, message: pb.KeepAlive) -> None:
        moment = Moment.read(self._clock)
        self.interval_s = bounded_interval(message.interval_ms / _MILLISECONDS or MAX_KEEP_ALIVE_S)
        if self._refused:
            self._ask_again(moment)
            return
        # On disk first, like everything that decisions rest on.
        self._keep_contact(moment)
        self._links.caught_up(moment, self.interval_s)
        if not self.caught_up:
            self.caught_up = True
            self._report.connected()

    def _ask_again(self, moment: Moment) -> None:
        if moment.elapsed >= self._ask_again_at:
            names = ", ".join(sorted(self._refused))
            msg = f"what was refused ({names}) is asked for again"
            raise StreamProtocolError(msg)

    def _keep_contact(self, moment: Moment) -> None:
        try:
            self._updater.keep_contact(moment)
        except CacheError as error:
            self._report.cache_failed(error)
        else:
            self._report.cache_works()

    # --- content ------------------------------------------------------------------------------------------------------

    def _content(self, reference: ContentReference, update: pb.BundleUpdate, inbox: _Inbox) -> bytes:
        if not update.content_size:
            return self._updater.held_content(reference)
        assembler = ChunkAssembler(reference, update.content_size)
        begun = self._clock.elapsed()
        while not assembler.is_complete:
            message = next(inbox, None)
            if message is None or message.WhichOneof("message") != "chunk":
                if message is not None:
                    inbox.put_back(message)
                msg = f"content ended after {assembler.progress}"
                raise StreamProtocolError(msg)
            if self._clock.elapsed() - begun > MAX_CONTENT_SECONDS:
                msg = f"only {assembler.progress} of content came within {MAX_CONTENT_SECONDS:.0f} seconds"
                raise UpdateTooSlow(msg)
            assembler.add(message.chunk.digest, message.chunk.offset, message.chunk.data)
        self._dropping = False
        return assembler.content()


class _Inbox:
    """The messages of a stream; one that was read too early can be put back."""

    def __init__(
        self, responses: Iterator[pb.SubscribeResponse], *, before: Callable[[], None], after: Callable[[], None]
    ) -> None:
        self._responses = responses
        self._before = before
        self._after = after
        self._returned: deque[pb.SubscribeResponse] = deque()

    def __iter__(self) -> _Inbox:
        return self

    def __next__(self) -> pb.SubscribeResponse:
        if self._returned:
            return self._returned.popleft()
        self._before()
        message = next(self._responses)
        self._after()
        return message

    def put_back(self, message: pb.SubscribeResponse) -> None:
        """Have `message` come next again."""
        self._returned.append(message)


def _revisions(bundles: tuple[BundleVersion, ...]) -> list[bundle_pb2.Revision]:
    return [
        bundle_pb2.Revision(scope=b.scope, epoch=b.epoch, version=b.version, digest=bytes.fromhex(b.digest))
        for b in bundles
    ]
