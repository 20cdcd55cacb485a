"""The operators' client: orgs, their roots, online keys and API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.client.publishing_call import ServerCalls
from akpolicy.client.publishing_types import (
    CreatedApiKey,
    CreatedOnlineKey,
    CreatedOrg,
    OnlineRole,
    PublishedRoot,
    RevisionName,
    RootVersion,
    utc,
)
from akpolicy.v1 import publishing_pb2 as pb
from akpolicy.wire import envelope_from_proto, envelope_to_proto

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from akpolicy.envelope import SignedEnvelope


class OrgCalls(ServerCalls):
    """Calls about an org's keys and roots."""

    def create_org(self, org: str, root_keys: Sequence[str] = (), root_threshold: int = 0) -> CreatedOrg:
        """Create an org.

        With `root_keys` (`ed25519:<base64url>`, of which `root_threshold` must sign; 0 means 1) the answer has the
        first root, to be signed by their owners; without them the server makes the root key and signs it itself.
        """
        request = pb.CreateOrgRequest(org=org, root_keys=root_keys, root_threshold=root_threshold)
        with self._call():
            answer = self._stub.CreateOrg(request, **self._terms)
        unsigned = envelope_from_proto(answer.unsigned_root) if answer.HasField("unsigned_root") else None
        return CreatedOrg(answer.org, answer.trust_anchor, answer.root_version, unsigned)

    def create_online_key(self, org: str, role: OnlineRole) -> CreatedOnlineKey:
        """Make a key on the server for an online role of an org; an empty `org` makes one of the platform."""
        number = pb.OnlineRole.Value(f"ONLINE_ROLE_{role.upper()}")
        with self._call():
            answer = self._stub.CreateOnlineKey(pb.CreateOnlineKeyRequest(org=org, role=number), **self._terms)
        return CreatedOnlineKey(answer.key_id, answer.public_key)

    def roots(self, org: str, after: int = 0, *, newest_only: bool = False) -> list[RootVersion]:
        """Return the org's signed roots with a version above `after`, oldest first, or only the newest one."""
        request = pb.GetRootsRequest(org=org, after_version=after, newest_only=newest_only)
        with self._call():
            return [
                RootVersion(root.version, envelope_from_proto(root.envelope))
                for root in self._stub.GetRoots(request, **self._terms)
            ]

    def publish_root(self, org: str, envelope: SignedEnvelope, *, dry_run: bool = False) -> PublishedRoot:
        """Publish the org's next signed root; publishing the newest one again changes nothing."""
        request = pb.PublishRootRequest(org=org, envelope=envelope_to_proto(envelope), dry_run=dry_run)
        with self._call():
            answer = self._stub.PublishRoot(request, **self._terms)
        signed_anew = tuple(RevisionName.from_proto(revision) for revision in answer.signed_anew)
        return PublishedRoot(answer.version, answer.repeated_request, signed_anew, tuple(answer.dropped))

    def create_api_key(self, *, org: str, role: str, host_id: str = "", description: str = "") -> CreatedApiKey:
        """Create a key with the role `admin`, `publisher` or `host`; an empty `org` makes a platform key."""
        number = pb.ApiKeyRole.Value(f"API_KEY_ROLE_{role.upper()}")
        request = pb.CreateApiKeyRequest(org=org, role=number, host_id=host_id, description=description)
        with self._call():
            answer = self._stub.CreateApiKey(request, **self._terms)
        return CreatedApiKey(answer.key_id, answer.secret)

    def revoke_api_key(self, key_id: str) -> datetime:
        """Revoke a key for good; return since when it is revoked."""
        with self._call():
            answer = self._stub.RevokeApiKey(pb.RevokeApiKeyRequest(key_id=key_id), **self._terms)
        return utc(answer.revoked_at)
