"""A policy server for tests: the real protocol on a real socket, and every way to misbehave.

It serves what a test gave it, verified or not: `publish` makes an honest bundle, `offer` serves any envelope and blob.
Streams that are open get each change at once, and a signed heartbeat behind it. `tamper` sees every message before it
leaves and returns what is sent in its place. Everything that hosts say is recorded; `wait_for` waits until the record
fulfils a condition.

What it holds is an `Office`, which has more ways to make documents; change it under `holding`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import grpc

from akpolicy.bundle import Manifest
from akpolicy.scope import GLOBAL
from akpolicy.strict_json import load
from akpolicy.v1 import distribution_pb2_grpc
from tests.simulators.distribution import Distribution, Received, ServerState, Tamper
from tests.simulators.office import Held, Office
from tests.simulators.org import HEARTBEAT_LIFETIME_S
from tests.simulators.waiting import DEFAULT_DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.v1 import distribution_pb2
    from tests.simulators.org import OrgSimulator

_WORKERS = 32
_STOP_DEADLINE_S = 10.0


class PolicyServerSimulator:
    """`akpolicy.v1.DistributionService` on 127.0.0.1; a context manager."""

    def __init__(
        self,
        org: OrgSimulator,
        *,
        keep_alive_s: float = 1.0,
        heartbeat_s: float = 1.0,
        heartbeat_lifetime_s: int = HEARTBEAT_LIFETIME_S,
        api_key: str | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Serve the org's root and nothing else yet; `api_key` is what hosts must send, None takes any.

        Heartbeats come every `heartbeat_s` seconds as far as the org's clock moves on: one of the same second as the
        last would be a replay.
        """
        self.org = org
        office = Office(org)
        office.heartbeat_lifetime_s = heartbeat_lifetime_s
        self._state = ServerState(office, interval_s=keep_alive_s, heartbeat_s=heartbeat_s, api_key=api_key)
        self._credentials = credentials
        self._server: grpc.Server | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- running ------------------------------------------------------------------------------------------------------

    @property
    def target(self) -> str:
        """`127.0.0.1:port`; the same after a restart."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The server's URL as a sidecar's configuration has it."""
        return f"{'https' if self._credentials else 'http'}://{self.target}"

    def start(self) -> None:
        """Serve; on the same port as before if it was stopped."""
        server = grpc.server(ThreadPoolExecutor(max_workers=_WORKERS), options=[("grpc.so_reuseport", 0)])
        distribution_pb2_grpc.add_DistributionServiceServicer_to_server(Distribution(self._state), server)
        address = f"127.0.0.1:{self._port}"
        if self._credentials:
            self._port = server.add_secure_port(address, self._credentials)
        else:
            self._port = server.add_insecure_port(address)
        server.start()
        self._server = server

    def stop(self) -> None:
        """End every stream and free the port."""
        if self._server is None:
            return
        self.drop_streams()
        self._server.stop(grace=None).wait(_STOP_DEADLINE_S)
        self._server = None

    # --- what is served -----------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self) -> Iterator[Office]:
        """Change what is held; streams that are open get it at the end of the block."""
        with self._state.changed:
            yield self._state.office
            self._state.changed.notify_all()

    def offer_root(self, *envelopes: SignedEnvelope) -> None:
        """Serve the next roots, oldest first."""
        with self.holding() as office:
            for envelope in envelopes:
                office.add_root(envelope)

    def publish(
        self, policies: Mapping[str, str] | bytes | None = None, *, scope: str = GLOBAL, **overrides: Any
    ) -> Manifest:
        """Sign the next version of a scope, as `OrgSimulator.bundle_envelope` does, and serve it."""
        with self.holding() as office:
            return load(office.publish(policies, scope=scope, **overrides).envelope.payload, Manifest)

    def delete(self, scope: str, **overrides: Any) -> None:
        """Sign and serve the deletion of a scope."""
        with self.holding() as office:
            office.delete(scope, **overrides)

    def roll_back(self, original: Held, **overrides: Any) -> None:
        """Sign and serve the return to what was `current` earlier."""
        with self.holding() as office:
            office.roll_back(original, **overrides)

    def offer(
        self,
        envelope: SignedEnvelope,
        blob: bytes | None,
        *,
        scope: str = GLOBAL,
        original: SignedEnvelope | None = None,
    ) -> None:
        """Serve any envelope and blob as the current state of a scope."""
        with self.holding() as office:
            office.hold(scope, envelope, blob, original)

    def current(self, scope: str = GLOBAL) -> Held:
        """Return what is served for a scope."""
        with self.holding() as office:
            return office.current[scope]

    # --- misbehaving --------------------------------------------------------------------------------------------------

    def tamper(self, change: Tamper | None) -> None:
        """Send what `change` returns in place of each message; None is honest again."""
        self._set(tamper=change)

    def go_silent(self) -> None:
        """Send nothing more, not even KeepAlive; streams stay open and hosts are heard."""
        self._set(silent=True)

    def speak(self) -> None:
        """End the silence; what was withheld is sent."""
        self._set(silent=False)

    def withhold_heartbeats(self) -> None:
        """Send no heartbeats, not even the answer to a Hello; everything else goes on."""
        self._set(heartbeats_withheld=True)

    def deliver_heartbeats(self, *, lifetime_s: int | None = None) -> None:
        """Send heartbeats again; those that are signed from now on live for `lifetime_s`, if it is given."""
        if lifetime_s is not None:
            with self.holding() as office:
                office.heartbeat_lifetime_s = lifetime_s
        self._set(heartbeats_withheld=False)

    def refuse(self, code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED, detail: str = "no such key") -> None:
        """Refuse new streams, and end those that are open."""
        self._set(refusal=(code, detail))
        self.drop_streams()

    def accept(self, api_key: str | None = None) -> None:
        """Take new streams again; `api_key` is what hosts must send from now on, None takes any."""
        self._set(refusal=None, api_key=api_key)

    def drop_streams(self, retry_after: str | None = None) -> None:
        """End every open stream with UNAVAILABLE; `retry_after`: milliseconds after which hosts are to come back."""
        with self._state.changed:
            self._state.retry_after = retry_after
            self._state.dropped_up_to = self._state.streams_begun
            self._state.changed.notify_all()

    def forget_indexes(self) -> None:
        """Remember no index that a poll was given."""
        self._set(indexes={})

    def only(
        self,
        *,
        streams: grpc.StatusCode | None = None,
        polls: grpc.StatusCode | None = None,
        reports: grpc.StatusCode | None = None,
    ) -> None:
        """End streams, polls and reports with these statuses; None lets them be."""
        self._set(stream_refusal=streams, fetch_refusal=polls, report_refusal=reports)

    def _set(self, **values: object) -> None:
        with self._state.changed:
            for name, value in values.items():
                setattr(self._state, name, value)
            self._state.changed.notify_all()

    # --- what hosts said ----------------------------------------------------------------------------------------------

    @property
    def received(self) -> tuple[Received, ...]:
        """All messages so far, in order of arrival."""
        with self._state.changed:
            return tuple(self._state.received)

    @property
    def hellos(self) -> list[distribution_pb2.Hello]:
        """Every Hello so far."""
        return [r.message.hello for r in self.received if r.message.WhichOneof("message") == "hello"]

    @property
    def acks(self) -> list[distribution_pb2.Ack]:
        """Every Ack so far."""
        return [r.message.ack for r in self.received if r.message.WhichOneof("message") == "ack"]

    @property
    def nacks(self) -> list[distribution_pb2.Nack]:
        """Every Nack so far."""
        return [r.message.nack for r in self.received if r.message.WhichOneof("message") == "nack"]

    @property
    def refused_streams(self) -> int:
        """How many streams were ended because only polls are served."""
        return self._state.refused_streams

    @property
    def polls(self) -> list[distribution_pb2.FetchRequest]:
        """Every poll so far."""
        with self._state.changed:
            return list(self._state.polls)

    @property
    def reports(self) -> list[distribution_pb2.ReportRequest]:
        """Every report of a polling host so far."""
        with self._state.changed:
            return list(self._state.reports)

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        with self._state.changed:
            return len(self._state.open_streams)

    def wait_for(
        self, condition: Callable[[PolicyServerSimulator], bool], *, deadline: float = DEFAULT_DEADLINE_S
    ) -> None:
        """Wait until `condition(self)` holds; raise `AssertionError` when `deadline` seconds have passed."""
        with self._state.changed:
            if not self._state.changed.wait_for(lambda: condition(self), timeout=deadline):
                kinds = [r.message.WhichOneof("message") for r in self._state.received]
                msg = f"waited {deadline} seconds in vain; hosts sent {kinds}, nacks {[n.code for n in self.nacks]}"
                raise AssertionError(msg)

    def wait_enforced(self, scope: str, version: int, *, deadline: float = DEFAULT_DEADLINE_S) -> None:
        """Wait until a host acknowledged that it enforces this version of a scope."""
        self.wait_for(
            lambda s: any(r.scope == scope and r.version == version for ack in s.acks for r in ack.enforced),
            deadline=deadline,
        )

    def wait_nack(self, code: str, *, deadline: float = DEFAULT_DEADLINE_S) -> distribution_pb2.Nack:
        """Wait until a host refused an update with this error code, and return the refusal."""
        self.wait_for(lambda s: any(nack.code == code for nack in s.nacks), deadline=deadline)
        return next(nack for nack in self.nacks if nack.code == code)
