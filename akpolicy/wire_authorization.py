"""Authorization requests and decisions as protobuf messages.

Rules:

- Translation only: whether a request makes sense is the engine's to judge. What cannot be translated (a value without a
  kind, a number beyond 64 bits, text that is no Unicode) is `RequestInvalid` and names the field.
- An answer that is not a clear decision is `BadAnswer`, and so never allows: an effect or another enumeration value
  that is unspecified or unknown, an ALLOW for a reason that denies.
- Both directions run once per decision: tables and plain loops, no reflection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from akpolicy.bundle import OfflineMode
from akpolicy.decision import BundleVersion, Decision, Determining, Effect, EvalError, PolicySource, Reason
from akpolicy.engine.limits import MAX_VALUE_DEPTH
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.values import CedarValue, EntityRef, ExtensionCall, invalid
from akpolicy.errors import BadAnswer, RequestInvalid
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import bundle_pb2

_T = TypeVar("_T")

EFFECTS: Final[Mapping[Effect, pb.Effect.ValueType]] = {
    Effect.ALLOW: pb.EFFECT_ALLOW,
    Effect.DENY: pb.EFFECT_DENY,
}
REASONS: Final[Mapping[Reason, pb.ReasonCode.ValueType]] = {
    Reason.PERMITTED: pb.REASON_CODE_PERMITTED,
    Reason.FORBIDDEN: pb.REASON_CODE_FORBIDDEN,
    Reason.NO_PERMIT: pb.REASON_CODE_NO_PERMIT,
    Reason.EVALUATION_ERROR: pb.REASON_CODE_EVALUATION_ERROR,
    Reason.NO_POLICY: pb.REASON_CODE_NO_POLICY,
    Reason.POLICY_STALE: pb.REASON_CODE_POLICY_STALE,
    Reason.BUNDLE_EXPIRED: pb.REASON_CODE_BUNDLE_EXPIRED,
    Reason.FOREIGN_ORG: pb.REASON_CODE_FOREIGN_ORG,
    Reason.CLOCK_UNTRUSTED: pb.REASON_CODE_CLOCK_UNTRUSTED,
}
OFFLINE_MODES: Final[Mapping[OfflineMode, bundle_pb2.OfflineMode.ValueType]] = {
    OfflineMode.FAIL_CLOSED: bundle_pb2.OFFLINE_MODE_FAIL_CLOSED,
    OfflineMode.CACHED_WITH_EXPIRY: bundle_pb2.OFFLINE_MODE_CACHED_WITH_EXPIRY,
    OfflineMode.CACHED_INDEFINITE: bundle_pb2.OFFLINE_MODE_CACHED_INDEFINITE,
    OfflineMode.DEFAULT_POLICY: bundle_pb2.OFFLINE_MODE_DEFAULT_POLICY,
}
SOURCES: Final[Mapping[PolicySource, pb.PolicySource.ValueType]] = {
    PolicySource.LIVE: pb.POLICY_SOURCE_LIVE,
    PolicySource.CACHE: pb.POLICY_SOURCE_CACHE,
    PolicySource.DEFAULT: pb.POLICY_SOURCE_DEFAULT,
    PolicySource.NONE: pb.POLICY_SOURCE_NONE,
}
_EFFECT_OF: Final[Mapping[int, Effect]] = {number: effect for effect, number in EFFECTS.items()}
_REASON_OF: Final[Mapping[int, Reason]] = {number: reason for reason, number in REASONS.items()}
_MODE_OF: Final[Mapping[int, OfflineMode]] = {number: mode for mode, number in OFFLINE_MODES.items()}
_SOURCE_OF: Final[Mapping[int, PolicySource]] = {number: source for source, number in SOURCES.items()}


# --- requests ---------------------------------------------------------------------------------------------------------


def request_to_proto(request: AuthorizationRequest) -> pb.AuthorizeRequest:
    """Return the message form; raise `RequestInvalid` for a value that has none."""
    try:
        return pb.AuthorizeRequest(
            principal=principal_to_proto(request.principal),
            action=request.action,
            resource=resource_to_proto(request.resource),
            context=_record_to_proto(request.context, "context"),
        )
    except UnicodeEncodeError:
        raise _no_unicode() from None


def session_request_to_proto(token: str, action: str, context: Mapping[str, CedarValue]) -> pb.AuthorizeRequest:
    """Return the message form of a session's question; raise `RequestInvalid` for a value that has none."""
    try:
        return pb.AuthorizeRequest(session_token=token, action=action, context=_record_to_proto(context, "context"))
    except UnicodeEncodeError:
        raise _no_unicode() from None


def principal_to_proto(principal: Principal) -> pb.Principal:
    """Return the message form; raises `RequestInvalid` or `UnicodeEncodeError`."""
    return pb.Principal(
        id=principal.id,
        org_id=principal.org_id,
        email=principal.email,
        roles=principal.roles,
        teams=principal.teams,
        mfa_verified=principal.mfa_verified,
        attributes=_record_to_proto(principal.attributes, "principal.attributes"),
    )


def resource_to_proto(resource: Resource) -> pb.Resource:
    """Return the message form; raises `RequestInvalid` or `UnicodeEncodeError`."""
    return pb.Resource(
        type=resource.type,
        id=resource.id,
        org_id=resource.org_id,
        teams=resource.teams,
        attributes=_record_to_proto(resource.attributes, "resource.attributes"),
    )


def request_from_proto(message: pb.AuthorizeRequest) -> AuthorizationRequest:
    """Return the domain form of a received message; raise `RequestInvalid` naming a value without a kind."""
    return AuthorizationRequest(
        principal_from_proto(message.principal),
        message.action,
        resource_from_proto(message.resource),
        context_from_proto(message),
    )


def context_from_proto(message: pb.AuthorizeRequest) -> dict[str, CedarValue]:
    """Return the context of a received message."""
    return _record_from_proto(message.context, "context")


def principal_from_proto(principal: pb.Principal) -> Principal:
    """Return the domain form of a received principal."""
    return Principal(
        principal.id,
        principal.org_id,
        principal.email,
        tuple(principal.roles),
        tuple(principal.teams),
        principal.mfa_verified,
        _record_from_proto(principal.attributes, "principal.attributes"),
    )


def resource_from_proto(resource: pb.Resource) -> Resource:
    """Return the domain form of a received resource."""
    return Resource(
        resource.id,
        resource.type,
        resource.org_id,
        tuple(resource.teams),
        _record_from_proto(resource.attributes, "resource.attributes"),
    )


def _no_unicode() -> RequestInvalid:
    return RequestInvalid("the request has a lone surrogate and is no valid Unicode text")


def _record_to_proto(record: Mapping[str, CedarValue], field: str, depth: int = 0) -> dict[str, pb.Value]:
    return {name: _value_to_proto(value, f"{field}.{name}", depth + 1) for name, value in record.items()}


def _value_to_proto(value: CedarValue, field: str, depth: int) -> pb.Value:
    try:
        if isinstance(value, str):
            return pb.Value(string_value=value)
        if isinstance(value, bool):
            return pb.Value(bool_value=value)
        if isinstance(value, int):
            return pb.Value(long_value=value)
        return _compound_to_proto(value, field, depth)
    except UnicodeEncodeError:
        invalid("has a lone surrogate and is no valid Unicode text", field)
    except ValueError:
        invalid("is no 64-bit integer", field)


def _compound_to_proto(value: object, field: str, depth: int) -> pb.Value:
    if depth > MAX_VALUE_DEPTH:
        invalid(f"is nested more than {MAX_VALUE_DEPTH} deep", field)
    if isinstance(value, (tuple, list)):
        elements = [_value_to_proto(element, field, depth + 1) for element in value]
        return pb.Value(set_value=pb.SetValue(elements=elements))
    if isinstance(value, EntityRef):
        return pb.Value(entity_value=pb.EntityReference(type=value.type, id=value.id))
    if isinstance(value, ExtensionCall):
        return pb.Value(extension_value=pb.ExtensionValue(function=value.function, argument=value.argument))
    if isinstance(value, Mapping):
        return pb.Value(record_value=pb.RecordValue(fields=_record_to_proto(value, field, depth)))
    return invalid(f"is a {type(value).__name__}; use a boolean, a 64-bit integer, a text, a list or a mapping", field)


def _record_from_proto(fields: Mapping[str, pb.Value], where: str) -> dict[str, CedarValue]:
    return {name: _value_from_proto(fields[name], where, name) for name in fields}


def _value_from_proto(value: pb.Value, where: str, name: str) -> CedarValue:
    # Where it is becomes text only when something is wrong: this runs for every attribute of every request.
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "long_value":
        return value.long_value
    return _compound_from_proto(value, kind, where, name)


def _compound_from_proto(value: pb.Value, kind: str | None, where: str, name: str) -> CedarValue:
    if kind == "set_value":
        return tuple([_value_from_proto(element, where, name) for element in value.set_value.elements])
    if kind == "record_value":
        return _record_from_proto(value.record_value.fields, f"{where}.{name}")
    if kind == "entity_value":
        return EntityRef(value.entity_value.type, value.entity_value.id)
    if kind == "extension_value":
        return ExtensionCall(value.extension_value.function, value.extension_value.argument)
    return invalid("has no value; set exactly one kind of it", f"{where}.{name}")


# --- decisions --------------------------------------------------------------------------------------------------------


def decision_to_proto(decision: Decision) -> pb.Decision:
    """Return the message form."""
    return pb.Decision(
        effect=EFFECTS[decision.effect],
        reason=REASONS[decision.reason],
        message=decision.message,
        determining_policies=[
            pb.DeterminingPolicy(scope=policy.scope, policy_id=policy.policy_id, effect=EFFECTS[policy.effect])
            for policy in decision.determining
        ],
        bundles=[
            bundle_pb2.Revision(
                scope=bundle.scope, epoch=bundle.epoch, version=bundle.version, digest=bytes.fromhex(bundle.digest)
            )
            for bundle in decision.bundles
        ],
        mode=OFFLINE_MODES[decision.mode],
        source=SOURCES[decision.source],
        policy_age_ms=decision.policy_age_ms,
        decision_id=decision.decision_id,
        evaluation_time_us=decision.evaluation_time_us,
        errors=[
            pb.EvaluationError(scope=error.scope, policy_id=error.policy_id, message=error.message)
            for error in decision.errors
        ],
        deciding_layer=decision.deciding_layer,
        fresh=decision.fresh,
        stalest_layer=decision.stalest_layer,
    )


def decision_from_proto(message: pb.Decision) -> Decision:
    """Return the domain form of a received message; raise `BadAnswer` if it is not a clear decision."""
    effect = _known(_EFFECT_OF, message.effect, "effect")
    reason = _known(_REASON_OF, message.reason, "reason")
    if (effect is Effect.ALLOW) != (reason is Reason.PERMITTED):
        raise BadAnswer(f"the sidecar answered `{effect.value}` for the reason `{reason.value}`; treat it as denied")
    return Decision(
        effect=effect,
        reason=reason,
        message=message.message,
        determining=_determining(message.determining_policies),
        bundles=tuple(BundleVersion(b.scope, b.epoch, b.version, b.digest.hex()) for b in message.bundles),
        mode=_known(_MODE_OF, message.mode, "mode"),
        source=_known(_SOURCE_OF, message.source, "source"),
        policy_age_ms=message.policy_age_ms,
        decision_id=message.decision_id,
        evaluation_time_us=message.evaluation_time_us,
        errors=tuple(EvalError(e.scope, e.policy_id, e.message) for e in message.errors),
        deciding_layer=message.deciding_layer,
        fresh=message.fresh,
        stalest_layer=message.stalest_layer,
    )


def _determining(policies: Iterable[pb.DeterminingPolicy]) -> tuple[Determining, ...]:
    return tuple(
        Determining(p.scope, p.policy_id, _known(_EFFECT_OF, p.effect, "determining_policies.effect")) for p in policies
    )


def _known(table: Mapping[int, _T], number: int, field: str) -> _T:
    value = table.get(number)
    if value is None:
        what = f"an unknown `{field}` ({number})" if number else f"no `{field}`"
        raise BadAnswer(f"the sidecar's answer has {what}; treat it as denied")
    return value
