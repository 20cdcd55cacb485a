"""PublishingService: how operators bring policy, orgs and keys. The contract is in `publishing.proto`."""

from __future__ import annotations

from akpolicy_server.api.fleet_calls import FleetCalls
from akpolicy_server.api.org_calls import OrgCalls
from akpolicy_server.api.policy_calls import PolicyCalls
from akpolicy_server.api.revision_calls import RevisionCalls


class PublishingServicer(OrgCalls, PolicyCalls, RevisionCalls, FleetCalls):
    """All of the service's methods."""
