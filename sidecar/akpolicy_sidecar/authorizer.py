"""One request in, one decision out: the hot path.

Rules:

- The snapshot, the state of the link and the clocks are read once for each decision (once for a whole batch); all that
  follows depends on these alone. No lock is taken.
- A request is judged by the layers that apply to it: `global`, the org, its teams, its user.
- A request of another org is denied with FOREIGN_ORG before anything is built from it.
- No valid policy is a decision, DENY with its reason, and never an exception. Only a request that cannot be judged
  raises (`RequestInvalid`), and leaves no audit record.
- The audit line is written before the answer leaves.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from akpolicy.decision import Decision, Effect, Reason
from akpolicy.engine.cedar_request import build
from akpolicy.engine.decide import Verdict, check_subjects, judge
from akpolicy.engine.explain import Explanation, explain
from akpolicy.engine.limits import MAX_ID_CHARS
from akpolicy.engine.request import foreign_org
from akpolicy_sidecar.audit import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from akpolicy.clock import Clock
    from akpolicy.engine.cedar_request import CedarRequest, Subjects
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.request import AuthorizationRequest
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.stack import LayerStack
    from akpolicy.engine.values import CedarValue
    from akpolicy_sidecar.sessions import SandboxSession
    from akpolicy_sidecar.view import View, Viewer

# What `context.source` says of a call on the runtimes' listeners, and of one on the session socket.
SOURCE_RUNTIME: Final = "runtime"
SOURCE_SANDBOX: Final = "sandbox"
SANDBOX: Final = "Sandbox"

_UUID_TIME_BITS = 48
_UUID_RANDOM_BYTES = 10


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be judged, and how the record names it; `query` is None if it is of another org."""

    query: CedarRequest | None
    principal: str
    resource: str
    action: str
    sandbox: str


class Authorizer:
    """Judges requests by what is enforced. Safe to use from several threads."""

    def __init__(
        self,
        *,
        org: str,
        default_roles: tuple[str, ...],
        schema: CedarSchema,
        default_layer: CompiledLayer,
        clock: Clock,
        viewer: Viewer,
        audit: Callable[[bytes], None],
        observe: Callable[[Decision, float], None],
    ) -> None:
        """Judge by the snapshot's schema, or the packaged one, `schema`.

        `audit` takes each record; `observe` takes each decision with the seconds that it took.
        """
        self._org = org
        self._default_roles = default_roles
        self._packaged = schema
        self._default_layer = default_layer
        self._clock = clock
        self._viewer = viewer
        self._audit = audit
        self._observe = observe

    def view(self) -> View:
        """Take the view by which a whole batch is judged."""
        return self._viewer.look()

    def authorize(self, request: AuthorizationRequest, view: View | None = None) -> Decision:
        """Judge what a runtime states, by `view` if it is one of a batch.

        Raises `RequestInvalid` if the request cannot be judged.
        """
        begun = self._clock.elapsed()
        return self.judge(self.stated(request), view, begun)

    def stated(self, request: AuthorizationRequest) -> Question:
        """Build the question that a runtime states."""
        sandbox = request.resource.id[:MAX_ID_CHARS] if request.resource.type in ("", SANDBOX) else ""
        action = request.action[:MAX_ID_CHARS]
        if foreign_org(request.principal, request.resource, self._org):
            return Question(None, *_stated_ids(request, self._org), action, sandbox)
        query = build(request, org=self._org, source=SOURCE_RUNTIME, default_roles=self._default_roles)
        return Question(query, query.principal["id"], query.resource["id"], action, sandbox)

    def check(self, subjects: Subjects) -> None:
        """Refuse subjects of a session that could never be judged; raise `RequestInvalid`."""
        check_subjects(subjects, self._viewer.look().snapshot.schema or self._packaged)

    def of_session(
        self, session: SandboxSession, action: str, context: Mapping[str, CedarValue], source: str = SOURCE_RUNTIME
    ) -> Question:
        """Build the question of a session; `source` becomes `context.source`."""
        query = session.subjects.ask(action, context, source)
        return Question(query, query.principal["id"], query.resource["id"], action, session.sandbox)

    def judge(self, question: Question, view: View | None = None, begun: float | None = None) -> Decision:
        """Judge a question, by `view` if it is one of several; record and count the decision.

        `begun` is when the work on it began, in seconds since boot. Raises `RequestInvalid` if it cannot be judged.
        """
        begun = self._clock.elapsed() if begun is None else begun
        view = self._part(question, view or self._viewer.look())
        verdict = _foreign(self._org) if question.query is None else self._judge(question.query, view)
        seconds = self._clock.elapsed() - begun
        decision = _decision(verdict, view, seconds)
        self._audit(
            record_of(
                decision,
                wall=view.moment.wall,
                org=self._org,
                principal=question.principal,
                action=question.action,
                resource=question.resource,
                sandbox=question.sandbox,
            )
        )
        self._observe(decision, seconds)
        return decision

    def _part(self, question: Question, view: View) -> View:
        return view.base if question.query is None else view.select(question.query.scopes)

    def explain(self, question: Question, view: View) -> Explanation:
        """Explain what the policies of a view say of a question that was judged by it; nothing is recorded."""
        if question.query is None or (stack := self._stack(self._part(question, view))) is None:
            return Explanation()
        return explain(stack, question.query)

    def _judge(self, query: CedarRequest, view: View) -> Verdict:
        stack = self._stack(view)
        if stack is None:
            standing = view.standing
            return Verdict(Effect.DENY, standing.denial or Reason.NO_POLICY, standing.message)
        return judge(stack, query)

    def _stack(self, view: View) -> LayerStack | None:
        """Return the policies that decide; None if nothing is decided by policy."""
        standing, snapshot = view.standing, view.snapshot
        if standing.denial is not None:
            return None
        schema = snapshot.schema or self._packaged
        if standing.by_default:
            return snapshot.stacks.get((self._default_layer, *snapshot.compiled), schema, snapshot.scopes)
        return snapshot.stacks.get(snapshot.compiled, schema)


def _foreign(org: str) -> Verdict:
    message = f"denied: principal or resource is of another org than `{org}`, which this host belongs to"
    return Verdict(Effect.DENY, Reason.FOREIGN_ORG, message)


def _stated_ids(request: AuthorizationRequest, org: str) -> tuple[str, str]:
    """Return entity ids for the record of a request that is not built, as they would be in the orgs that it states."""
    principal, resource = request.principal, request.resource
    return (
        f"{_shown(principal.org_id)}/local/{_shown(principal.id)}",
        f"{_shown(resource.org_id or org)}/{_shown(resource.id)}",
    )


def _shown(text: str) -> str:
    return quote(text[:MAX_ID_CHARS], safe="", errors="replace")


def _decision(verdict: Verdict, view: View, seconds: float) -> Decision:
    standing = view.standing
    return Decision(
        effect=verdict.effect,
        reason=verdict.reason,
        message=verdict.message,
        determining=verdict.determining,
        bundles=view.snapshot.bundles,
        mode=standing.mode,
        source=standing.source,
        policy_age_ms=standing.age_ms,
        decision_id=decision_id(view.moment.wall),
        evaluation_time_us=int(seconds * 1_000_000),
        errors=verdict.errors,
        deciding_layer=verdict.deciding_layer,
        fresh=standing.fresh,
        stalest_layer=standing.stalest,
    )


def decision_id(wall: float) -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7): milliseconds since the epoch, then 74 random bits."""
    milliseconds = int(wall * 1000) % (1 << _UUID_TIME_BITS)
    value = (milliseconds << 80) | int.from_bytes(os.urandom(_UUID_RANDOM_BYTES))
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0b11 << 62) | (0b10 << 62)
    return str(uuid.UUID(int=value))
