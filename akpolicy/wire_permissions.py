"""Permissions as protobuf messages.

Rules are those of `akpolicy.wire_authorization`. What was asked for and granted travels as JSON in a restriction,
because it is a flag, a number or a name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.engine.permissions import PROFILES, Effective, Permissions, Restriction
from akpolicy.engine.values import invalid
from akpolicy.errors import BadAnswer
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import decision_from_proto, decision_to_proto

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from akpolicy.decision import Decision
    from akpolicy.engine.permissions import Inquiry

PROFILE_NAMES: Final[Mapping[pb.Profile.ValueType, str]] = {
    pb.PROFILE_PERMISSIVE: "permissive",
    pb.PROFILE_MODERATE: "moderate",
    pb.PROFILE_RESTRICTIVE: "restrictive",
}
_FLAGS: Final = ("network", "mount_cwd", "mount_home", "pass_env", "allow_privileged", "read_only_root")
_CAPS: Final = ("max_memory_mb", "max_cpu_percent", "seccomp")


@dataclass(frozen=True, slots=True)
class PermissionDecision:
    """A decision that permissions rest on; `host_path` is that of a Mount, else empty."""

    action: str
    host_path: str
    decision: Decision


def permissions_to_proto(permissions: Permissions) -> pb.Permissions:
    """Return the message form."""
    message = pb.Permissions(**{name: getattr(permissions, name) for name in _FLAGS})
    for name in _CAPS:
        if (value := getattr(permissions, name)) is not None:
            setattr(message, name, value)
    return message


def permissions_from_proto(message: pb.Permissions) -> Permissions:
    """Return the domain form."""
    return Permissions(
        message.network,
        message.mount_cwd,
        message.mount_home,
        message.pass_env,
        message.allow_privileged,
        message.read_only_root,
        message.max_memory_mb if message.HasField("max_memory_mb") else None,
        message.max_cpu_percent if message.HasField("max_cpu_percent") else None,
        message.seccomp if message.HasField("seccomp") else None,
    )


def requested_from_proto(message: pb.GetPermissionsRequest) -> Permissions:
    """Return what is asked for: a profile, or single permissions.

    Raises:
        RequestInvalid: both, neither, or an unknown profile.

    """
    if message.profile == pb.PROFILE_UNSPECIFIED:
        if not message.HasField("requested"):
            invalid("is missing; name a `profile`, or say what is `requested`", "requested")
        return permissions_from_proto(message.requested)
    if message.HasField("requested"):
        invalid("stands beside `requested`; name a profile or say what is requested, not both", "profile")
    if message.profile not in PROFILE_NAMES:
        invalid("is unknown; name `permissive`, `moderate` or `restrictive`", "profile")
    return PROFILES[PROFILE_NAMES[message.profile]]


def effective_to_proto(
    effective: Effective, decisions: Sequence[tuple[Inquiry, Decision]]
) -> pb.GetPermissionsResponse:
    """Return the message form of what may be had, with the decisions that it rests on."""
    return pb.GetPermissionsResponse(
        granted=effective.granted,
        effective=permissions_to_proto(effective.permissions),
        restrictions=[
            pb.Restriction(
                field=one.field,
                requested=json.dumps(one.requested),
                granted=json.dumps(one.granted),
                policy=one.policy,
                message=one.message,
            )
            for one in effective.restrictions
        ],
        decisions=[
            pb.PermissionDecision(
                action=inquiry.action,
                host_path=str(inquiry.context.get("host_path", "")),
                decision=decision_to_proto(decision),
            )
            for inquiry, decision in decisions
        ],
    )


def effective_from_proto(message: pb.GetPermissionsResponse) -> tuple[Effective, tuple[PermissionDecision, ...]]:
    """Return the domain form; raise `BadAnswer` if it is not a clear answer."""
    if not message.HasField("effective"):
        raise BadAnswer("the sidecar's answer has no permissions; treat all as denied")
    try:
        restrictions = tuple(
            Restriction(one.field, json.loads(one.requested), json.loads(one.granted), one.policy, one.message)
            for one in message.restrictions
        )
    except ValueError:
        raise BadAnswer("the sidecar's answer has a restriction that is no JSON; treat all as denied") from None
    decisions = tuple(
        PermissionDecision(one.action, one.host_path, decision_from_proto(one.decision)) for one in message.decisions
    )
    return Effective(message.granted, permissions_from_proto(message.effective), restrictions), decisions
