"""The question for permissions, and its answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from akpolicy.errors import InvalidRequest, RequestInvalid
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import principal_to_proto, resource_to_proto
from akpolicy.wire_permissions import PROFILE_NAMES, effective_from_proto, permissions_to_proto

if TYPE_CHECKING:
    from akpolicy.engine.permissions import Permissions, Restriction
    from akpolicy.engine.request import Principal, Resource
    from akpolicy.wire_permissions import PermissionDecision


@dataclass(frozen=True, slots=True)
class GrantedPermissions:
    """What a sandbox may have, and what policy took away and why; without `granted` it may not run."""

    granted: bool
    permissions: Permissions
    restrictions: tuple[Restriction, ...]
    decisions: tuple[PermissionDecision, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "granted": self.granted,
            "permissions": asdict(self.permissions),
            "restrictions": [asdict(one) for one in self.restrictions],
            "decisions": [
                {"action": one.action, "host_path": one.host_path, **one.decision.to_json()} for one in self.decisions
            ],
        }


def permissions_question(
    principal: Principal, resource: Resource, wanted: str | Permissions, cwd: str, home: str
) -> pb.GetPermissionsRequest:
    """Return the message; raise `InvalidRequest` for what has no message form."""
    try:
        message = pb.GetPermissionsRequest(
            principal=principal_to_proto(principal),
            resource=resource_to_proto(resource),
            paths=pb.MountPaths(cwd=cwd, home=home),
        )
        if isinstance(wanted, str):
            message.profile = _profile(wanted)
        else:
            message.requested.CopyFrom(permissions_to_proto(wanted))
    except (RequestInvalid, ValueError) as error:
        raise InvalidRequest(str(error)) from error
    return message


def granted(answer: pb.GetPermissionsResponse) -> GrantedPermissions:
    """Return what an answer grants; raise `BadAnswer` if it is not a clear one."""
    effective, decisions = effective_from_proto(answer)
    return GrantedPermissions(effective.granted, effective.permissions, effective.restrictions, decisions)


def _profile(name: str) -> pb.Profile.ValueType:
    for number, known in PROFILE_NAMES.items():
        if known == name:
            return number
    raise InvalidRequest(f"`{name}` is no profile; name `permissive`, `moderate` or `restrictive`")
