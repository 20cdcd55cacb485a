"""One connection's conversation with the policy server, without its transport.

Rules (`proto/akpolicy/v1/distribution.proto`):

- Hello goes first, and once: what is enforced, which content is here, a fresh nonce. Nothing is claimed that cannot be
  loaded.
- Each root and bundle is answered, and once: Ack when it is on disk and in force, Nack with the error's code when it is
  refused, and what was enforced stays enforced. A refused heartbeat is answered with Nack. One bad update does not end
  the conversation; content that follows a refused one is dropped.
- The first heartbeat must answer the nonce of Hello. If it is refused, the stream ends after a pause
  (`heartbeat_pauses`) and while nothing is on the way, so that another one asks with a new nonce.
  From the first heartbeat on the stream counts (`link`), unless something was
  refused on this connection and not made good since: what is enforced is then known to be older than what the server
  has. A refusal is noted under the name that the server gave, and made good by what a signed document says.
- The server sends an update once a connection, and nothing that Hello claimed. What was refused, dropped because of a
  root, or never came although a heartbeat names it, a new connection asks for (`outstanding`).
- What is enforced is said once, in Hello, as far as it fits; later answers say what is different by then (`said`).
- What is wrong with the state of this host rather than with an update is told by a Nack without nonce, once for each
  change (`tell`, from any thread).
- While a message is worked on the stream is not silent: `waiting_since` is None then.
"""

from __future__ import annotations

import math
import secrets
import threading
from typing import TYPE_CHECKING, Final

from akpolicy import __version__
from akpolicy.clock import Moment
from akpolicy.errors import (
    CacheError,
    DistributionError,
    PolicyError,
    StreamProtocolError,
)
from akpolicy.fields import NONCE_BYTES
from akpolicy.index import IndexChanges
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.wire import envelope_from_proto
from akpolicy.wire_distribution import unpacked
from akpolicy_sidecar.heartbeat_pauses import HeartbeatPauses
from akpolicy_sidecar.heartbeat_updates import Question
from akpolicy_sidecar.inbox import Inbox, receive_content
from akpolicy_sidecar.link import MAX_KEEP_ALIVE_S, bounded_interval
from akpolicy_sidecar.outstanding import Outstanding
from akpolicy_sidecar.said import MAX_HELD_BLOBS, Said
from akpolicy_sidecar.updates import HEARTBEAT, REFUSALS, ROOT, UNKNOWN, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from akpolicy.bundle import ContentReference
    from akpolicy.clock import Clock
    from akpolicy.errors import AkpolicyError
    from akpolicy_sidecar.link import LinkHolder
    from akpolicy_sidecar.report import Reporter
    from akpolicy_sidecar.updater import Updater
    from akpolicy_sidecar.updates import Trouble

MAX_DETAIL_CHARS: Final = 1024
# Until the server has announced its own interval.
FIRST_INTERVAL_S: Final = 10.0

_MILLISECONDS: Final = 1000


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
        on_proven: Callable[[], None] = lambda: None,
        pauses: HeartbeatPauses | None = None,
    ) -> None:
        """`send` takes each message for the server; `on_proven` is called when a heartbeat has answered the nonce.

        `pauses` is shared by all connections of a host.
        """
        self._org = org
        self._updater = updater
        self._links = links
        self._clock = clock
        self._report = report
        self._send = send
        self._on_proven = on_proven
        self._pauses = pauses or HeartbeatPauses()
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._asked_at = clock.elapsed()
        self._roots_came = False
        # The root that was passed over last and is not answered yet.
        self._passed_over = b""
        self._outstanding = Outstanding()
        self._dropping = False
        self._told = ""
        self._said = Said()
        # What an answer says, it says in the order of the answers.
        self._answering = threading.Lock()
        self.waiting_since: Moment | None = Moment.read(clock)
        self.interval_s = FIRST_INTERVAL_S
        # Over how many seconds the server wants its hosts to spread their return, should it be gone.
        self.spread_s = 0.0
        # Whether a heartbeat has answered the nonce.
        self.proven = False
        # When to end for another nonce, in seconds since boot; infinite while something may be on the way.
        self._ends_at = math.inf
        # Whether the pause after a refused heartbeat is over, and has not to be waited again.
        self.has_paused = False

    def hello(self) -> pb.SubscribeRequest:
        """Return the first message."""
        self._updater.begin_roots()
        holdings = self._updater.holdings
        hello = pb.Hello(
            org=self._org,
            software_version=__version__,
            root_version=holdings.root_version,
            enforced=self._said.begin(self._updater.enforced),
            held_blobs=[bytes.fromhex(digest) for digest in holdings.blobs[:MAX_HELD_BLOBS]],
            nonce=self._nonce,
            index_digest=bytes.fromhex(holdings.index_digest),
            takes_index_changes=True,
            takes_batches=True,
        )
        return pb.SubscribeRequest(hello=hello)

    def run(self, responses: Iterator[pb.SubscribeResponse]) -> None:
        """Answer messages until the stream ends; what `responses` raises comes through.

        Raises `StreamProtocolError` if only a new connection can help.
        """
        inbox = Inbox(unpacked(responses), before=self._wait, after=self._heard)
        for message in inbox:
            kind = message.WhichOneof("message")
            if kind != "chunk":
                self._dropping = False
            if kind == "root":
                self._root(message.root)
                continue
            self._end_roots()
            if kind == "bundle":
                self._bundle(message.bundle, inbox)
            elif kind == "heartbeat":
                self._heartbeat(message.heartbeat)
            elif kind == "chunk":
                self._stray_chunk()
            elif kind == "keep_alive":
                self._keep_alive(message.keep_alive)
            # Anything else is from a newer server, and nothing that this version could act upon.

    def tell(self, error: AkpolicyError | None) -> bool:
        """Tell the server what is wrong with the state of this host, if that changed; return whether it was told.

        Safe to call from any thread.
        """
        code = error.code if error is not None else ""
        if code == self._told:
            return False
        self._told = code
        if error is None:
            return False
        self._nack(b"", error)
        return True

    def wants_another(self) -> bool:
        """Whether only another connection brings a heartbeat that counts, and it is time for it.

        Safe to ask from any thread.
        """
        if self._clock.elapsed() >= self._ends_at:
            self.has_paused = True
        return self.has_paused

    def _wait(self) -> None:
        self.waiting_since = Moment.read(self._clock)

    def _heard(self) -> None:
        self.waiting_since = None
        self._ends_at = math.inf
        if self.proven:
            # Before that, nothing that comes may keep alive what an earlier connection has proven.
            self._links.heard(Moment.read(self._clock))

    # --- roots --------------------------------------------------------------------------------------------------------

    def _root(self, update: pb.RootUpdate) -> None:
        self._roots_came = True
        self._ack_passed_over()
        try:
            accepted = self._updater.apply_root(envelope_from_proto(update.envelope))
        except REFUSALS as error:
            self._refuse(ROOT, update.nonce, error)
            return
        if accepted.outcome is Outcome.PASSED_OVER:
            # The last one may have been one too many.
            self._passed_over = update.nonce
            return
        self._tell_dropped(accepted.dropped)
        if accepted.not_kept is not None:
            self._refuse(ROOT, update.nonce, accepted.not_kept)
            return
        self._outstanding.make_good(ROOT)
        self._count(ROOT, accepted.outcome, accepted.version)
        self._ack(update.nonce)

    def _tell_dropped(self, dropped: tuple[Trouble, ...]) -> None:
        for trouble in dropped:
            self._report.dropped(trouble.subject, trouble.error)
            self._outstanding.drop(trouble.subject, self._clock.elapsed())
            self._fall_behind()
            self._nack(b"", trouble.error)

    def _end_roots(self) -> None:
        """Judge what only the end of the roots can tell: of the last one that was passed over, or of this host."""
        if not self._roots_came:
            return
        self._roots_came = False
        try:
            self._updater.end_roots()
        except REFUSALS as error:
            nonce, self._passed_over = self._passed_over, b""
            self._refuse(ROOT, nonce, error)
        self._ack_passed_over()

    def _ack_passed_over(self) -> None:
        nonce, self._passed_over = self._passed_over, b""
        if nonce:
            self._ack(nonce)

    # --- bundles ------------------------------------------------------------------------------------------------------

    def _bundle(self, update: pb.BundleUpdate, inbox: Inbox) -> None:
        lacking: list[CacheError] = []

        def content(reference: ContentReference) -> bytes:
            if not update.content_size:
                try:
                    return self._updater.held_content(reference)
                except CacheError as error:
                    lacking.append(error)
                    raise
            blob = receive_content(inbox, reference, update.content_size, self._clock)
            self._dropping = False
            return blob

        # Chunks that nobody asked for, because the manifest was enough to refuse or to know the bundle.
        self._dropping = update.content_size > 0
        original = envelope_from_proto(update.original) if update.HasField("original") else None
        try:
            accepted = self._updater.apply_bundle(envelope_from_proto(update.envelope), content, original=original)
        except (*REFUSALS, DistributionError) as error:
            self._refuse(self._subject(update.revision.scope), update.nonce, error)
            if lacking:
                # The server left out content that is not here any more; a new Hello says what is.
                msg = "content that the server takes for held is not here"
                raise StreamProtocolError(msg) from error
            return
        self._outstanding.make_good(accepted.scope)
        self._count(accepted.scope, accepted.outcome, accepted.version)
        self._ack(update.nonce)

    def _subject(self, hint: str) -> str:
        """Return what a refused bundle is noted under; the server says of which scope it is."""
        return hint if self._updater.concerns(hint) and self._outstanding.has_room(hint) else UNKNOWN

    def _stray_chunk(self) -> None:
        if not self._dropping:
            self._report.refused(UNKNOWN, StreamProtocolError("chunk without an update that needs it"))

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def _heartbeat(self, update: pb.HeartbeatUpdate) -> None:
        question = None if self.proven else Question(self._nonce.hex(), self._asked_at)
        try:
            self._updater.apply_heartbeat(envelope_from_proto(update.envelope), _index(update), question)
        except REFUSALS as error:
            self._refuse(HEARTBEAT, update.nonce, error, pause_s=self._heartbeat_pause_s())
            return
        self._outstanding.make_good(HEARTBEAT)
        self._pauses.begin_anew()
        self._report.heartbeat()
        # It comes behind everything that it names.
        self._tell_dropped(self._updater.settle())
        self._ask_for_withheld()
        if not self.proven:
            self.proven = True
            self._on_proven()
            self._report.connected()
        self._links.left_behind(self._outstanding.members)
        if not self._outstanding.is_refused:
            self._links.proven(Moment.read(self._clock))

    def _heartbeat_pause_s(self) -> float | None:
        """Return how long to wait before a refused heartbeat is asked for; None: for as long as its error says."""
        if self.proven:
            # The next one needs to answer nothing, and may come on this stream.
            return None
        return math.inf if self._is_heartbeat_refused else self._pauses.next_s()

    def _hasten(self) -> None:
        """Ask soon for a heartbeat that was refused: something signed is here that may be what it lacked."""
        if self.proven:
            return
        self._pauses.begin_anew()
        if self._is_heartbeat_refused:
            self._outstanding.hasten(HEARTBEAT, self._clock.elapsed() + self._pauses.next_s())

    @property
    def _is_heartbeat_refused(self) -> bool:
        return self._outstanding.due_at(HEARTBEAT) < math.inf

    def _ask_for_withheld(self) -> None:
        for scope in self._outstanding.withhold(self._updater.lacking, self._clock.elapsed()):
            self._report.withheld(scope)

    def _keep_alive(self, message: pb.KeepAlive) -> None:
        self.interval_s = bounded_interval(message.interval_ms / _MILLISECONDS or MAX_KEEP_ALIVE_S)
        self.spread_s = message.spread_ms / _MILLISECONDS
        if self.proven:
            self._links.announced(self.interval_s)
        self._tell_dropped(self._updater.settle())
        if not self.proven:
            self._ends_at = self._outstanding.due_at(HEARTBEAT)
            self.wants_another()
        if wanted := self._outstanding.due(self._clock.elapsed()):
            msg = f"what was refused or never came ({wanted}) is asked for again"
            raise StreamProtocolError(msg)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _count(self, subject: str, outcome: Outcome, version: int) -> None:
        if outcome is Outcome.APPLIED:
            self._report.applied(subject, version)
            self._hasten()
        else:
            self._report.unchanged(subject)

    def _refuse(self, subject: str, nonce: bytes, error: AkpolicyError, *, pause_s: float | None = None) -> None:
        if isinstance(error, CacheError):
            self._report.cache_failed(error)
        self._report.refused(subject, error)
        self._outstanding.refuse(subject, error, self._clock.elapsed(), pause_s=pause_s)
        if subject != HEARTBEAT:
            self._fall_behind()
        self._nack(nonce, error)

    def _fall_behind(self) -> None:
        """Let the stream not count for those whom what is outstanding concerns."""
        if self._outstanding.is_refused:
            self._links.lost()
        self._links.left_behind(self._outstanding.members)

    def _ack(self, nonce: bytes) -> None:
        with self._answering:
            enforced, ended = self._said.news(self._updater.enforced)
            ack = pb.Ack(nonce=nonce, enforced=enforced, ended=ended, root_version=self._updater.root_version)
            self._send(pb.SubscribeRequest(ack=ack))

    def _nack(self, nonce: bytes, error: AkpolicyError) -> None:
        with self._answering:
            enforced, ended = self._said.news(self._updater.enforced)
            nack = pb.Nack(
                nonce=nonce,
                code=error.code,
                detail=str(error)[:MAX_DETAIL_CHARS],
                policy_id=error.policy_id if isinstance(error, PolicyError) else "",
                enforced=enforced,
                ended=ended,
                root_version=self._updater.root_version,
            )
            self._send(pb.SubscribeRequest(nack=nack))


def _index(update: pb.HeartbeatUpdate) -> bytes | IndexChanges | None:
    """Return the index that comes with a heartbeat, how it differs from the last one, or None."""
    if update.HasField("index_changes"):
        changes = update.index_changes
        return IndexChanges(changes.base.hex(), changes.lines, tuple(changes.gone))
    return update.index or None
