"""The stream client: one thread that keeps a connection to the policy server.

Rules:

- It never gives up. Attempts are spread by exponential backoff with full jitter, so that a fleet does not return to a
  restarted server at once; a connection that had a heartbeat begins again with the shortest wait.
- A server that ends the stream can say when to come back; that is waited for, up to `MAX_ASKED_S`.
- A server that ends the stream because it is old asks for another one at once. That loses no contact, as below.
- A stream that is silent for three announced intervals is dead: it is cancelled and opened anew.
- When the clock jumped, a new connection is opened: its first heartbeat answers a new nonce and tells the time.
- A server that takes no answers gets no further ones: beyond `MAX_UNSENT` the connection is given up.
- Refused credentials do not drop what is enforced. They are logged once, and tried again.
- New credentials on disk are used at once: they end a wait, and a stream that was opened with others. Such a change
  loses no contact: the next connection follows, and policy stays as fresh as it is until that one fails or is silent.
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

from akpolicy.client.channel import REOPEN_METADATA, RETRY_AFTER_METADATA, bearer, open_channel
from akpolicy.clock import Moment
from akpolicy.errors import AkpolicyError, ClockJump, StreamProtocolError
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy.v1 import distribution_pb2_grpc
from akpolicy_sidecar.link import SILENT_INTERVALS
from akpolicy_sidecar.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenacity import RetryCallState
    from tenacity.wait import wait_base

    from akpolicy.client.channel import ServerEndpoint
    from akpolicy.clock import Clock
    from akpolicy_sidecar.credentials import CredentialSource
    from akpolicy_sidecar.link import LinkHolder
    from akpolicy_sidecar.report import Reporter
    from akpolicy_sidecar.updater import Updater

# Full jitter: the wait before attempt n is uniform between 0 and min(MAX, FIRST * 2^n) seconds.
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 30.0
# However long the server asks to be left alone.
MAX_ASKED_S: Final = 300.0
STOP_DEADLINE_S: Final = 5.0
MAX_UNSENT: Final = 64
MAX_DETAIL_CHARS: Final = 300
MILLISECONDS: Final = 1000
_MAX_DIGITS: Final = 12

_CANCELLED = grpc.StatusCode.CANCELLED.name

# Each connection begins with name resolution and backoff of its own: this module does the waiting.
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)

log = structlog.get_logger(__name__)


class Watcher:
    """Keeps the stream open, on a thread of its own between `start` and `stop`."""

    def __init__(
        self,
        *,
        org: str,
        endpoint: ServerEndpoint,
        credentials: CredentialSource,
        updater: Updater,
        links: LinkHolder,
        clock: Clock,
        report: Reporter,
    ) -> None:
        """`credentials` are loaded anew for every connection."""
        self._org = org
        self._endpoint = endpoint
        self._credentials = credentials
        self._updater = updater
        self._links = links
        self._clock = clock
        self._report = report
        self._stop = threading.Event()
        # Ends a wait between attempts: at `stop`, and when there are new credentials.
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        # The connection of the moment; replaced by the watcher's thread, looked at by others.
        self._session: Session | None = None
        self._call: Any = None
        # How long the server asked to be left alone when it ended the last connection, in seconds.
        self._asked_s = 0.0

    @property
    def asked_s(self) -> float:
        """How long the server asked to be left alone when it ended the last connection, in seconds."""
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

    def tell(self, error: AkpolicyError | None) -> None:
        """Tell the server what is wrong with this host; at the next call, ask it for the time if the clock jumped.

        Call it every now and then, from any thread.
        """
        session = self._session
        if session is None:
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

    def check_silence(self) -> None:
        """Cancel a stream that has been silent for too long. Call it every now and then, from any thread."""
        session = self._session
        waiting_since = session.waiting_since if session else None
        if session is None or waiting_since is None:
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
        jitter = SystemRandom()
        while not self._stop.is_set():
            retrying = Retrying(
                wait=self._pause(wait_random_exponential(multiplier=FIRST_BACKOFF_S, max=MAX_BACKOFF_S)),
                retry=retry_if_result(lambda proven: not proven),
                stop=stop_when_event_set(self._stop),
                sleep=sleep_using_event(self._wake),
                retry_error_callback=lambda _: None,
            )
            # Returns when a connection that had a heartbeat is lost.
            retrying(self._connect_once)
            self._stop.wait(jitter.uniform(0, FIRST_BACKOFF_S))
            self._wake.wait(self._asked_s)

    def _pause(self, usual: wait_base) -> Callable[[RetryCallState], float]:
        """Return how to wait between attempts: as usual, and at least as long as the server asked for."""
        return lambda state: max(usual(state), self._asked_s)

    def _connect_once(self) -> bool:
        """Hold one connection until it ends; return whether it had a heartbeat."""
        outgoing: queue.SimpleQueue[pb.SubscribeRequest | None] = queue.SimpleQueue()
        session = Session(
            org=self._org,
            updater=self._updater,
            links=self._links,
            clock=self._clock,
            report=self._report,
            send=partial(_enqueue, outgoing),
        )
        self._wake.clear()
        self._asked_s = 0.0
        status, detail = "OK", "the server ended the stream"
        reopening = False
        try:
            self._converse(session, outgoing)
        except grpc.RpcError as error:
            status, detail = _status_of(error)
            self._asked_s = _asked_s_of(error)
            reopening = session.proven and _asks_for_another(error)
        except AkpolicyError as error:
            status, detail = error.code, error.message
        except Exception as error:
            log.exception("watcher failed; opening the stream anew")
            status, detail = "INTERNAL", repr(error)[:MAX_DETAIL_CHARS]
        finally:
            outgoing.put(None)
            self._call = self._session = None
            renewing = (reopening or (status == _CANCELLED and self._wake.is_set())) and not self._stop.is_set()
            if not renewing:
                self._links.lost()
        if not (renewing or self._stop.is_set()):
            self._report.lost(status, detail)
            self._report.retrying()
        return session.proven

    def _converse(self, session: Session, outgoing: queue.SimpleQueue[pb.SubscribeRequest | None]) -> None:
        credentials = self._credentials.load()
        with open_channel(self._endpoint, options=_CHANNEL_OPTIONS, tls=credentials.tls) as channel:
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


def _status_of(error: Any) -> tuple[str, str]:  # noqa: ANN401 - the errors of a call are calls too, which no type says
    return error.code().name, (error.details() or "")[:MAX_DETAIL_CHARS]


def _asks_for_another(error: Any) -> bool:  # noqa: ANN401 - as above
    return any(entry.key == REOPEN_METADATA for entry in error.trailing_metadata() or ())


def _asked_s_of(error: Any) -> float:  # noqa: ANN401 - as above
    """Return how long the server asks to be left alone, in seconds; 0 if it does not, or not in a number."""
    for entry in error.trailing_metadata() or ():
        if entry.key == RETRY_AFTER_METADATA and entry.value.isascii() and entry.value.isdigit():
            return min(MAX_ASKED_S, int(entry.value[:_MAX_DIGITS]) / MILLISECONDS)
    return 0.0
