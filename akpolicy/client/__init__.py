"""What programs use to ask for decisions and to reach the policy server.

A runtime asks the sidecar of its host, and lets something happen only if the answer's `allowed` is true:

    from akpolicy.client import ClientError, PolicyClient, Principal, Resource

    with PolicyClient("/run/akpolicy/sidecar.sock", timeout=1.0) as policy:
        try:
            decision = policy.authorize(
                principal=Principal(id="alice", org_id="acme-corp", roles=("developer",)),
                action="Exec",
                resource=Resource(id="ml-project", attributes={"agent_type": "claude", "runtime": "python"}),
                context={"command": "pytest"},
            )
        except ClientError as error:  # unreachable, too late, refused, no decision: all of them deny
            print(f"denied: {error.code}: {error}")
        else:
            print("allowed" if decision.allowed else f"denied: {decision.message}")
"""

from akpolicy.client.asynchronous import AsyncPolicyClient
from akpolicy.client.blocking import PolicyClient
from akpolicy.client.channel import ServerEndpoint, parse_server_url
from akpolicy.client.permissions import GrantedPermissions
from akpolicy.client.sessions import AsyncSession, Session
from akpolicy.client.sockets import DEFAULT_SOCKET, find_socket
from akpolicy.decision import BundleVersion, Decision, Determining, Effect, EvalError, PolicySource, Reason
from akpolicy.engine.permissions import Permissions, Restriction, permissions_from_decision
from akpolicy.engine.request import AuthorizationRequest, CedarValue, EntityRef, ExtensionCall, Principal, Resource
from akpolicy.errors import BadAnswer, ClientError, DeadlineExceeded, InvalidRequest, SessionRefused, SidecarUnreachable

__all__ = [
    "DEFAULT_SOCKET",
    "AsyncPolicyClient",
    "AsyncSession",
    "AuthorizationRequest",
    "BadAnswer",
    "BundleVersion",
    "CedarValue",
    "ClientError",
    "DeadlineExceeded",
    "Decision",
    "Determining",
    "Effect",
    "EntityRef",
    "EvalError",
    "ExtensionCall",
    "GrantedPermissions",
    "InvalidRequest",
    "Permissions",
    "PolicyClient",
    "PolicySource",
    "Principal",
    "Reason",
    "Resource",
    "Restriction",
    "ServerEndpoint",
    "Session",
    "SessionRefused",
    "SidecarUnreachable",
    "find_socket",
    "parse_server_url",
    "permissions_from_decision",
]
