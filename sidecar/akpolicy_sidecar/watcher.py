"""The client of the policy server: one thread that keeps a stream open, or polls.

Rules:

- It never gives up. Attempts are spread by exponential backoff with full jitter, so that a fleet does not return to a
  restarted server at once; a connection that had a heartbeat begins again with the shortest wait.
- A fleet may be larger than that spreads: the server says before over how many seconds its hosts are to spread their
  return should it be gone, and no wait is drawn from less, up to `MAX_SPREAD_S`. A server that ends the stream can say
  when to come back instead; that is waited for, within bounds (`call_ends`).
- A server that ends the stream because it is old asks for another one at once. That loses no contact, as below.
- Where there are several servers, each connection goes to another one than the last (`servers`).
- A stream that is silent for three announced intervals is dead: it is cancelled and opened anew.
- A stream whose first heartbeat was refused is ended after a pause that was waited on it (`heartbeat_pauses`); the next
  one follows as after a stream that had a heartbeat.
- When the clock jumped, a new connection is opened: its first heartbeat answers a new nonce and tells the time.
- A server that takes no answers gets no further ones: beyond `MAX_UNSENT` the connection is given up.
- Refused credentials do not drop what is enforced. They are logged once, and tried again.
- New credentials on disk are used at once: they end a wait, and a stream that was opened with others. Such a change
  loses no contact: the next connection follows, and policy stays as fresh as it is until that one fails or is silent.
- A poll is a conversation that ends by itself (`Fetch`): the same session, updater and judge work on what comes, and
  what they make of it goes out as one report. Between polls the connection counts as long as a silent stream would; a
  poll that fails ends that, as a lost stream does. Whether to stream or to poll is for `update_modes` to say.
- An unexpected error in here is logged with its traceback and treated as a lost connection; nothing may end this thread
  but `stop`.

Only this module knows that the stream is gRPC; what is said on it is in `session`.
"""

from __future__ import annotations

import queue
import threading
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from tenacity import Retrying, retry_if_result, sleep_using_event, stop_when_event_set, wait_random_exponential

from akpolicy.client.channel import bearer, open_channel
from akpolicy.clock import Moment
from akpolicy.errors import AkpolicyError, ClockJump, StreamProtocolError
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.v1 import distribution_pb2_grpc
from akpolicy_sidecar.call_ends import MAX_DETAIL_CHARS, asked_s_of, asks_for_another, status_of
from akpolicy_sidecar.heartbeat_pauses import HeartbeatPauses
from akpolicy_sidecar.link import SILENT_INTERVALS
from akpolicy_sidecar.poll_answers import PollAnswers
from akpolicy_sidecar.session import Session
from akpolicy_sidecar.update_modes import UpdateMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from tenacity import RetryCallState
    from tenacity.wait import wait_base

    from akpolicy.clock import Clock
    from akpolicy_sidecar.credentials import CredentialSource
    from akpolicy_sidecar.link import LinkHolder
    from akpolicy_sidecar.report import Reporter
    from akpolicy_sidecar.servers import PolicyServers
    from akpolicy_sidecar.update_modes import UpdateModes
    from akpolicy_sidecar.updater import Updater

# Full jitter: the wait before attempt n is uniform between 0 and min(MAX, FIRST * 2^n) seconds.
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
# However far the server wants its hosts spread.
MAX_SPREAD_S: Final = 60.0
STOP_DEADLINE_S: Final = 5.0
REPORT_TIMEOUT_S: Final = 5.0
MAX_UNSENT: Final = 64

_OK = grpc.StatusCode.OK.name
_CANCELLED = grpc.StatusCode.CANCELLED.name
# Ended by ourselves, for new credentials.
_RENEWED = "renewed"
_PAUSED = StreamProtocolError.__name__

# Each connection begins with name resolution and backoff of its own: this module does the waiting.
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)

log = structlog.get_logger(__name__)


class Watcher:
    """Keeps the stream open, on a thread of its own between `start` and `stop`."""

    def __init__(
        self,
        *,
        org: str,
        servers: PolicyServers,
        credentials: CredentialSource,
        updater: Updater,
        links: LinkHolder,
        clock: Clock,
        report: Reporter,
        modes: UpdateModes,
    ) -> None:
        """`credentials` are loaded anew for every connection."""
        self._org = org
        self._servers = servers
        self._credentials = credentials
        self._updater = updater
        self._links = links
        self._clock = clock
        self._report = report
        self._modes = modes
        # What is wrong with this host, to be told with the next poll; whether the time was asked for because of it.
        self._wrong: AkpolicyError | None = None
        self._asked_for_time = False
        # Whether the server was told everything by the last poll.
        self._all_reported = False
        self._stop = threading.Event()
        self._keep_contact = False
        # Ends a wait between attempts: at `stop`, and when there are new credentials.
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        # The connection of the moment; replaced by the watcher's thread, looked at by others.
        self._session: Session | None = None
        self._call: Any = None
        self._jitter = SystemRandom()
        # How long the server asked to be left alone when it ended the last connection, in seconds; None: not at all.
        self._asked_s: float | None = None
        # Over how many seconds it wants its hosts spread, as it said last.
        self._spread_s = 0.0
        self._pauses = HeartbeatPauses()
        # Whether the last connection ended after a pause of these.
        self._has_paused = False

    @property
    def asked_s(self) -> float | None:
        """How long the server asked to be left alone when it ended the last connection, in seconds, or None."""
        return self._asked_s

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> None:
        """End the stream and the thread. What is being applied is finished first, within a deadline."""
        self._stop.set()
        self._wake.set()
        self._cancel()
        if self._thread.is_alive():
            self._thread.join(STOP_DEADLINE_S)

    def release(self) -> None:
        """End the stream and the thread, however long that takes; the stream counts as any that has become silent."""
        self._keep_contact = True
        self.stop()
        self._thread.join()

    def tell(self, error: AkpolicyError | None) -> None:
        """Tell the server what is wrong with this host; at the next call, ask it for the time if the clock jumped.

        Call it every now and then, from any thread.
        """
        self._wrong = error
        session = self._session
        if session is None:
            self._hurry(error)
            return
        try:
            if session.tell(error):
                # It goes out before the connection ends.
                return
        except StreamProtocolError as stuck:
            log.warning("connection is given up", reason=stuck.message)
            self._cancel()
        if isinstance(error, ClockJump) and session.proven:
            log.warning("the clock jumped; asking the policy server for the time")
            self._cancel()

    def _hurry(self, error: AkpolicyError | None) -> None:
        """Poll now if the clock jumped, once for each jump: what the next poll brings tells the time."""
        has_jumped = isinstance(error, ClockJump)
        if has_jumped and not self._asked_for_time and self._modes.polls:
            log.warning("the clock jumped; asking the policy server for the time")
            self._wake.set()
        self._asked_for_time = has_jumped

    def check_silence(self) -> None:
        """Cancel a stream that has been silent for too long, or whose heartbeat is to be asked for again.

        Call it every now and then, from any thread.
        """
        session = self._session
        waiting_since = session.waiting_since if session else None
        if session is None or waiting_since is None:
            return
        if session.wants_another():
            self._cancel()
            return
        # Read after the session, which the watcher's thread changes meanwhile: no silence is longer than it was.
        silence = Moment.read(self._clock).since(waiting_since)
        if silence > SILENT_INTERVALS * session.interval_s:
            log.warning("stream is silent; opening it anew", seconds=round(silence, 1))
            self._cancel()

    def check_credentials(self) -> None:
        """Connect anew, and soon, if the credentials on disk are others. Call it every now and then, as above."""
        if not self._wake.is_set() and self._credentials.has_others():
            log.info("credentials changed on disk; connecting with the new ones")
            self._wake.set()
            self._cancel()

    def _cancel(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            retrying = Retrying(
                wait=self._pause(wait_random_exponential(multiplier=FIRST_BACKOFF_S, max=MAX_BACKOFF_S)),
                retry=retry_if_result(lambda proven: not proven),
                stop=stop_when_event_set(self._stop),
                sleep=sleep_using_event(self._wake),
                retry_error_callback=lambda _: None,
            )
            # Returns when a connection that had a heartbeat is lost, or one that has paused, or a poll has brought one.
            retrying(self._connect_once)
            self._wake.wait(self._rest_s())

    def _rest_s(self) -> float:
        """Return how long to wait after a poll, or a connection that had a heartbeat; there a moment passes here."""
        pause_s = self._modes.pause_s(self._clock.elapsed())
        if pause_s:
            return max(pause_s, self._asked_s or 0.0)
        moment_s = self._jitter.uniform(0, FIRST_BACKOFF_S)
        self._stop.wait(moment_s)
        # It counts: a host whose stream is old has three keep-alives to be back.
        return max(0.0, self._least_pause_s() - moment_s)

    def _pause(self, usual: wait_base) -> Callable[[RetryCallState], float]:
        """Return how to wait between attempts: as usual, and at least as long as the server wants."""
        return lambda state: max(usual(state), self._least_pause_s())

    def _least_pause_s(self) -> float:
        return least_pause_s(self._asked_s, self._spread_s, self._jitter)

    def _connect_once(self) -> bool:
        """Hold one connection until it ends, or poll once; return whether the next one may follow soon."""
        mode = self._modes.next(self._clock.elapsed())
        self._report.attempting(mode)
        self._wake.clear()
        self._asked_s = None
        status, proven = self._attempt(mode)
        if mode is UpdateMode.STREAM or not proven:
            self._servers.turn()
        if status == _RENEWED:
            return proven
        if mode is UpdateMode.POLL:
            self._modes.polled(self._clock.elapsed(), proven=proven)
        elif not proven:
            self._modes.stream_failed(status, self._clock.elapsed())
        return proven or self._has_paused

    def _attempt(self, mode: UpdateMode) -> tuple[str, bool]:
        """Stream or poll; return how it ended, and whether it had a heartbeat. Nothing is raised."""
        outgoing: queue.SimpleQueue[pb.SubscribeRequest | None] = queue.SimpleQueue()
        answers = PollAnswers(self._org, self._modes.poll_interval_s)
        polls, was_fallback = mode is UpdateMode.POLL, self._modes.is_fallback
        session = self._begin(answers.take if polls else partial(_enqueue, outgoing), mode)
        status, detail = _OK, "the poll brought no heartbeat" if polls else "the server ended the stream"
        reopening = False
        try:
            if polls:
                self._poll(session, answers)
            else:
                self._converse(session, outgoing)
        except grpc.RpcError as error:
            status, detail = status_of(error)
            self._asked_s = asked_s_of(error)
            reopening = session.proven and asks_for_another(error)
            if status == _CANCELLED and session.has_paused:
                status, detail = _PAUSED, "a heartbeat was refused and is asked for again"
        except AkpolicyError as error:
            status, detail = error.code, error.message
        except Exception as error:
            log.exception("watcher failed; trying again")
            status, detail = "INTERNAL", repr(error)[:MAX_DETAIL_CHARS]
        finally:
            outgoing.put(None)
            self._spread_s = session.spread_s if session.proven else self._spread_s
            self._has_paused = session.has_paused
            self._call = self._session = None
        proven = session.proven and (not polls or status == _OK)
        renewing = reopening or (status == _CANCELLED and self._wake.is_set())
        if renewing and not self._stop.is_set():
            return _RENEWED, proven
        # A stream that cannot be had takes nothing from a host that polls instead.
        spared = was_fallback and not polls and not proven
        # A poll ends by itself, a successor goes on from what this one leaves, and no wrong heartbeat takes anything.
        if not (spared or self._keep_contact or session.has_paused or (polls and status == _OK)):
            self._links.lost()
        if not (spared or (polls and proven) or self._stop.is_set()):
            self._report.lost(status, detail)
            self._report.retrying()
        return status, proven

    def _begin(self, send: Callable[[pb.SubscribeRequest], None], mode: UpdateMode) -> Session:
        return Session(
            org=self._org,
            updater=self._updater,
            links=self._links,
            clock=self._clock,
            report=self._report,
            send=send,
            on_proven=self._modes.stream_proven if mode is UpdateMode.STREAM else self._announce_polls,
            pauses=self._pauses,
        )

    def _announce_polls(self) -> None:
        self._links.announced(self._modes.poll_interval_s)

    def _poll(self, session: Session, answers: PollAnswers) -> None:
        credentials = self._credentials.load()
        metadata = _metadata(credentials.api_key)
        with open_channel(self._servers.current, options=_CHANNEL_OPTIONS, tls=credentials.tls) as channel:
            stub = distribution_pb2_grpc.DistributionServiceStub(channel)

            def ask(request: pb.FetchRequest) -> Any:  # noqa: ANN401 - a call, of gRPC's own type
                self._call = call = stub.Fetch(request, metadata=metadata)
                if self._stop.is_set() or self._wake.is_set():
                    call.cancel()
                return call

            # Once all was reported, the index stands for it, as long as it does.
            by_index = self._all_reported and self._updater.enforces_index
            self._session, self._all_reported = session, False
            session.run(answers.fetch(ask, session.hello().hello, by_index=by_index))
            session.tell(self._wrong)
            self._all_reported = self._send_reports(stub, answers, metadata) and session.proven

    def _send_reports(self, stub: Any, answers: PollAnswers, metadata: Any) -> bool:  # noqa: ANN401 - gRPC's own
        """Report; return whether everything was taken."""
        try:
            for report in answers.reports():
                self._call = stub.Report.future(report, metadata=metadata, timeout=REPORT_TIMEOUT_S)
                self._call.result()
        except grpc.RpcError as error:
            # What is enforced is enforced: the next poll says all of it.
            log.debug("the report of a poll is not taken", status=status_of(error)[0])
            return False
        return True

    def _converse(self, session: Session, outgoing: queue.SimpleQueue[pb.SubscribeRequest | None]) -> None:
        credentials = self._credentials.load()
        with open_channel(self._servers.current, options=_CHANNEL_OPTIONS, tls=credentials.tls) as channel:
            stub = distribution_pb2_grpc.DistributionServiceStub(channel)
            outgoing.put(session.hello())
            call = stub.Subscribe(_messages(outgoing), metadata=_metadata(credentials.api_key))
            self._call, self._session = call, session
            if self._stop.is_set() or self._wake.is_set():
                call.cancel()
            session.run(iter(call))


def _metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    return () if api_key is None else bearer(api_key)


def _enqueue(outgoing: queue.SimpleQueue[pb.SubscribeRequest | None], message: pb.SubscribeRequest) -> None:
    if outgoing.qsize() >= MAX_UNSENT:
        msg = f"the server takes no answers: {MAX_UNSENT} wait to be sent"
        raise StreamProtocolError(msg)
    outgoing.put(message)


def _messages(outgoing: queue.SimpleQueue[pb.SubscribeRequest | None]) -> Iterator[pb.SubscribeRequest]:
    while (message := outgoing.get()) is not None:
        yield message


def least_pause_s(asked_s: float | None, spread_s: float, jitter: Random) -> float:
    """Return how long to wait at the least before a host comes back, in seconds.

    It is what the server asked for, or else a part of what it wants its hosts spread over.
    """
    return jitter.uniform(0.0, min(MAX_SPREAD_S, spread_s)) if asked_s is None else asked_s
