"""What a host makes of one poll, gathered into one report.

Rules:

- A session answers each update by its nonce, as on a stream. Nobody waits for these answers here: they become what is
  different of what is enforced, and what stands refused, by the scopes that the server gave.
- The latest answer about a scope counts. A refused heartbeat, and what is wrong with this host, is under the empty
  name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy import __version__
from akpolicy.limits import KIB
from akpolicy.v1 import distribution_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from akpolicy.v1 import bundle_pb2

ROOT: Final = "root"
HOST_STATE: Final = ""
# As many as the server takes; a host that refuses more says so with the next poll.
MAX_REFUSED: Final = 1024
# The server takes messages of 1 MiB.
MAX_REPORT_BYTES: Final = 512 * KIB
_MILLISECONDS: Final = 1000


class PollAnswers:
    """The answers of one session. `take` may be called from several threads, one at a time."""

    def __init__(self, org: str, interval_s: float) -> None:
        """`interval_s`: how long this host waits between polls, in seconds."""
        self._org = org
        self._interval_ms = int(interval_s * _MILLISECONDS)
        self._named: dict[bytes, tuple[str, int, int]] = {}
        self._enforced: dict[str, bundle_pb2.Revision] = {}
        self._ended: set[str] = set()
        self._refused: dict[str, pb.RefusedUpdate] = {}
        self._root_version = 0
        self._is_news = False

    def fetch(
        self, ask: Callable[[pb.FetchRequest], Iterable[pb.FetchResponse]], hello: pb.Hello, *, by_index: bool
    ) -> Iterator[pb.SubscribeResponse]:
        """Yield the updates that `ask` brings.

        With `by_index` the index in `hello` stands for what is enforced; a server that does not know it is told all.
        """
        self._root_version = hello.root_version
        if by_index:
            short = pb.Hello()
            short.CopyFrom(hello)
            short.ClearField("enforced")
            short.ClearField("held_blobs")
            request = pb.FetchRequest(hello=short, poll_interval_ms=self._interval_ms, enforces_index=True)
            is_known = yield from self._updates(ask(request))
            if is_known:
                return
        yield from self._updates(ask(pb.FetchRequest(hello=hello, poll_interval_ms=self._interval_ms)))

    def _updates(self, responses: Iterable[pb.FetchResponse]) -> Generator[pb.SubscribeResponse, None, bool]:
        """Yield the updates as they come, and note how the server names them; return whether it knew the index."""
        is_known = True
        for response in responses:
            if response.index_unknown:
                is_known = False
                continue
            update = response.update
            kind = update.WhichOneof("message")
            if kind == "root":
                self._named[update.root.nonce] = (ROOT, 0, update.root.version)
            elif kind == "bundle":
                revision = update.bundle.revision
                self._named[update.bundle.nonce] = (revision.scope, revision.epoch, revision.version)
            yield update
        return is_known

    def take(self, answer: pb.SubscribeRequest) -> None:
        """Take an Ack or a Nack."""
        kind = answer.WhichOneof("message")
        if kind == "ack":
            self._note(answer.ack)
            self._refused.pop(self._name(answer.ack.nonce)[0], None)
        elif kind == "nack":
            self._note(answer.nack)
            self._refuse(answer.nack)

    def reports(self) -> Iterator[pb.ReportRequest]:
        """Yield what to report, in messages that the server takes; nothing if the poll said it all."""
        if not self._is_news:
            return
        report = self._empty()
        size = 0
        for part in self._parts():
            size += part.ByteSize()
            if size > MAX_REPORT_BYTES:
                yield report
                report, size = self._empty(), part.ByteSize()
            report.MergeFrom(part)
        yield report

    def _empty(self) -> pb.ReportRequest:
        return pb.ReportRequest(
            org=self._org,
            software_version=__version__,
            root_version=self._root_version,
            poll_interval_ms=self._interval_ms,
        )

    def _parts(self) -> Iterator[pb.ReportRequest]:
        """Yield each entry; what is wrong with roots and with this host last, because each message says that anew."""
        for revision in self._enforced.values():
            yield pb.ReportRequest(enforced=[revision])
        for scope in sorted(self._ended):
            yield pb.ReportRequest(ended=[scope])
        for scope in sorted(self._refused, key=lambda scope: scope in (ROOT, HOST_STATE)):
            yield pb.ReportRequest(refused=[self._refused[scope]])

    def _note(self, said: pb.Ack | pb.Nack) -> None:
        self._is_news = True
        self._root_version = said.root_version
        for revision in said.enforced:
            self._enforced[revision.scope] = revision
            self._ended.discard(revision.scope)
        for scope in said.ended:
            self._enforced.pop(scope, None)
            self._ended.add(scope)

    def _refuse(self, nack: pb.Nack) -> None:
        scope, epoch, version = self._name(nack.nonce)
        if scope in self._refused or len(self._refused) < MAX_REFUSED:
            self._refused[scope] = pb.RefusedUpdate(
                scope=scope,
                epoch=epoch,
                version=version,
                code=nack.code,
                detail=nack.detail,
                policy_id=nack.policy_id,
            )

    def _name(self, nonce: bytes) -> tuple[str, int, int]:
        return self._named.get(nonce, (HOST_STATE, 0, 0))
