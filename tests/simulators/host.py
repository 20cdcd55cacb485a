"""A whole sidecar without its network and its sockets: real documents in, real decisions and answers out.

It hears what a policy server would send, message by message, through the same session, updater, judge, cache and
metrics as the program; what it would send back is in `sent`. Its `office` is the server's side. Time is the test's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from akpolicy import metrics_names as names
from akpolicy.bundle import OfflineMode
from akpolicy.clock import Moment
from akpolicy.engine.cedar_request import build
from akpolicy.engine.check import check_policies
from akpolicy.engine.decide import Verdict, decide
from akpolicy.engine.default_policy import load_default_layer
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.schema import load_default_schema, parse_schema
from akpolicy.errors import PolicySetInvalid
from akpolicy_sidecar.cache import StateDirectory
from akpolicy_sidecar.enforcement import Enforcement
from akpolicy_sidecar.heartbeat_pauses import HeartbeatPauses
from akpolicy_sidecar.layers import LayerBuilder
from akpolicy_sidecar.link import LinkHolder
from akpolicy_sidecar.metrics import SidecarMetrics
from akpolicy_sidecar.named_files import files_of
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.report import Reporter
from akpolicy_sidecar.session import Session
from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder
from akpolicy_sidecar.updater import Updater
from akpolicy_sidecar.view import Viewer
from tests.simulators.clock import ManualClock
from tests.simulators.messages import check_text
from tests.simulators.office import Office
from tests.simulators.org import DAY, OrgSimulator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText
    from akpolicy.fence.fence import Prover
    from akpolicy.keys import AnchorSet
    from akpolicy.v1 import distribution_pb2 as pb
    from akpolicy_sidecar.status import Standing
    from akpolicy_sidecar.updates import Outcome, Trouble
    from tests.simulators.office import Held

SCHEMA: Final = load_default_schema()
DEFAULT_LAYER: Final = load_default_layer(SCHEMA)
LAX: Final = OfflineRule(OfflineMode.CACHED_INDEFINITE, float(DAY))
REQUEST: Final = AuthorizationRequest(
    Principal("alice", "acme", roles=("developer",)),
    "Create",
    Resource("box", attributes={"agent_type": "claude", "runtime": "python"}),
)


class OpenGate:
    """A fence without a process of its own: it checks here, for tests of what comes after it."""

    def prove(self, policies: Sequence[PolicyText], schema: CedarSchema) -> None:
        """Check it here."""
        if problems := check_policies(policies, schema):
            raise PolicySetInvalid(problems)

    def prove_schema(self, text: str) -> None:
        """Parse it here."""
        parse_schema(text)


class HostSimulator:
    """A sidecar's inside."""

    def __init__(
        self,
        place: Path,
        *,
        org: OrgSimulator | None = None,
        clock: ManualClock | None = None,
        anchors: AnchorSet | None = None,
        local: OfflineRule = LAX,
        fence: Prover | None = None,
        office: Office | None = None,
    ) -> None:
        """Start on the state directory `place`, which may hold an earlier run's state."""
        self.place = place
        self.clock = clock or ManualClock()
        self.org = org or OrgSimulator(clock=self.clock)
        self.office = office or Office(self.org)
        self.local = local
        self.anchors = anchors or self.org.anchors
        self.fence = fence or OpenGate()
        self.metrics = SidecarMetrics()
        self.report = Reporter(self.metrics)
        self.links = LinkHolder()
        self.sent: list[pb.SubscribeRequest] = []
        # Of all connections.
        self.pauses = HeartbeatPauses()
        self.directory = StateDirectory.open(place, self.org.org)
        self.snapshots = SnapshotHolder(Snapshot.build((), local=local))
        self.updater = Updater(
            org=self.org.org,
            anchors=self.anchors,
            directory=self.directory,
            builder=LayerBuilder(SCHEMA, self.fence),
            clock=self.clock,
            enforcement=Enforcement(self.snapshots, local),
            watch=self.report,
        )
        self.troubles: tuple[Trouble, ...] = self.updater.load_from_cache()
        for trouble in self.troubles:
            self.report.not_loaded(trouble.subject, trouble.error)
        self.viewer = Viewer(self.clock, self.snapshots, self.links)
        self.session = self.new_session()
        self._is_open = True
        self._successor: HostSimulator | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop, and free the state directory; what was restarted on it too."""
        if self._is_open:
            self.directory.close()
        self._is_open = False
        if self._successor is not None:
            self._successor.close()

    def restart(self, **changes: Any) -> HostSimulator:
        """Stop and start again on the same state; `changes` are arguments that differ."""
        self.close()
        same = {
            "org": self.org,
            "clock": self.clock,
            "anchors": self.anchors,
            "local": self.local,
            "fence": self.fence,
            "office": self.office,
        }
        self._successor = HostSimulator(self.place, **{**same, **changes})
        return self._successor

    # --- the stream ---------------------------------------------------------------------------------------------------

    def new_session(self) -> Session:
        """Return a session of a new connection; the old one is gone."""
        self.links.lost()
        self.session = Session(
            org=self.org.org,
            updater=self.updater,
            links=self.links,
            clock=self.clock,
            report=self.report,
            send=self.sent.append,
            pauses=self.pauses,
        )
        return self.session

    def connect(self, **heartbeat: Any) -> HostSimulator:
        """Open a connection to the office and take in all that it has."""
        hello = self.new_session().hello().hello
        return self.hear(*self.office.greeting(hello, **heartbeat))

    def hear(self, *messages: pb.SubscribeResponse) -> HostSimulator:
        """Take messages on the connection that is open."""
        self.session.run(iter(messages))
        return self

    def beat(self, **heartbeat: Any) -> HostSimulator:
        """Take one of the heartbeats that all hosts share."""
        return self.hear(self.office.heartbeat(**heartbeat))

    def update(self, policies: Any = None, *, scope: str = "global", **overrides: Any) -> HostSimulator:
        """Let the office publish, and take the bundle and the heartbeat after it."""
        self.office.publish(policies, scope=scope, **overrides)
        return self.hear(*self.office.bundle(scope)).beat()

    # --- without a stream ---------------------------------------------------------------------------------------------

    def take(self, held: Held) -> Outcome:
        """Apply a bundle or rollback; what the updater raises comes through."""
        return self.updater.apply_bundle(held.envelope, lambda _: held.blob or b"", original=held.original).outcome

    def facts(self) -> tuple[object, ...]:
        """Return everything that a refusal must leave as it was."""
        return self.snapshots.current, self.directory.state, self.updater.holdings, self.files()

    def files(self) -> dict[str, bytes]:
        """Return every file that the state names, with its content."""
        return {name: (self.place / name).read_bytes() for name in sorted(files_of(self.directory.state))}

    # --- what it says -------------------------------------------------------------------------------------------------

    @property
    def not_loaded(self) -> list[tuple[str, str]]:
        """What could not be loaded at the start: subjects and codes."""
        for trouble in self.troubles:
            check_text(trouble.error.message)
        return [(trouble.subject, trouble.error.code) for trouble in self.troubles]

    @property
    def nacks(self) -> list[str]:
        """The codes of every Nack so far."""
        found = [message.nack for message in self.sent if message.HasField("nack")]
        for nack in found:
            check_text(nack.detail)
        return [nack.code for nack in found]

    @property
    def acks(self) -> list[bytes]:
        """The nonces of every Ack so far."""
        return [message.ack.nonce for message in self.sent if message.HasField("ack")]

    @property
    def versions(self) -> dict[str, int]:
        """The enforced version of each scope that has a layer."""
        return {bundle.scope: bundle.version for bundle in self.snapshots.current.bundles}

    @property
    def digests(self) -> dict[str, str]:
        """The enforced document of each scope."""
        return {bundle.scope: bundle.digest for bundle in self.updater.revisions}

    def counted(self, code: str) -> float:
        """Return how often an error was counted, wherever errors are."""
        counters = (names.SIDECAR_UPDATE_REFUSALS, names.SIDECAR_POLICY_TROUBLES, names.SIDECAR_CACHE_ERRORS)
        return sum(self.metrics.value(counter, code=code) for counter in counters)

    def standing(self) -> Standing:
        """Look at how policy stands, tell the server what is wrong, as the program does several times a second."""
        standing = self.viewer.look().standing
        self.report.standing(standing)
        self.session.tell(standing.error)
        return standing

    def decide(self, request: AuthorizationRequest = REQUEST) -> Verdict | None:
        """Judge a request by what is enforced; None where the host denies it without looking at policies."""
        query = build(request, org=self.org.org, source="runtime")
        view = self.viewer.look().select(query.scopes)
        if view.standing.denial is not None:
            return None
        if view.standing.by_default:
            layers = (DEFAULT_LAYER, *view.snapshot.compiled)
            return decide(layers, query, view.snapshot.schema or SCHEMA, forbids_only=view.snapshot.scopes)
        return decide(view.snapshot.compiled, query, view.snapshot.schema or SCHEMA)

    def moment(self) -> Moment:
        """Read the clock."""
        return Moment.read(self.clock)
