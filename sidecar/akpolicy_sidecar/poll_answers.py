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
from akpolicy.v1 import distribution_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from akpolicy.v1 import bundle_pb2

ROOT: Final = "root"
HOST_STATE: Final = ""
# As many as the server takes; a host that refuses more says so with the next poll.
MAX_REFUSED: Final = 1024
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

    def request(self, hello: pb.Hello) -> pb.FetchRequest:
        """Return what to ask with."""
        self._root_version = hello.root_version
        return pb.FetchRequest(hello=hello, poll_interval_ms=self._interval_ms)

    def updates(self, responses: Iterable[pb.FetchResponse]) -> Iterator[pb.SubscribeResponse]:
        """Yield the updates as they come, and note how the server names them."""
        for response in responses:
            update = response.update
            kind = update.WhichOneof("message")
            if kind == "root":
                self._named[update.root.nonce] = (ROOT, 0, update.root.version)
            elif kind == "bundle":
                revision = update.bundle.revision
                self._named[update.bundle.nonce] = (revision.scope, revision.epoch, revision.version)
            yield update

    def take(self, answer: pb.SubscribeRequest) -> None:
        """Take an Ack or a Nack."""
        kind = answer.WhichOneof("message")
        if kind == "ack":
            self._note(answer.ack)
            self._refused.pop(self._name(answer.ack.nonce)[0], None)
        elif kind == "nack":
            self._note(answer.nack)
            self._refuse(answer.nack)

    def report(self) -> pb.ReportRequest | None:
        """Return what to report; None if there is nothing that the poll did not say."""
        if not self._is_news:
            return None
        return pb.ReportRequest(
            org=self._org,
            software_version=__version__,
            root_version=self._root_version,
            enforced=self._enforced.values(),
            ended=sorted(self._ended),
            refused=self._refused.values(),
            poll_interval_ms=self._interval_ms,
        )

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
