"""PublishingService: orgs, their keys and roots, and API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.v1 import publishing_pb2
from akpolicy.wire import envelope_to_proto
from akpolicy_server.api.messages import envelope_in, online_role_of, revision_message, role_of, timestamp
from akpolicy_server.api.part import ServicerPart

if TYPE_CHECKING:
    from akpolicy_server.api.part import Context


class OrgCalls(ServicerPart):
    """Translates between messages and the domain."""

    async def CreateOrg(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.CreateOrgRequest, context: Context
    ) -> publishing_pb2.CreateOrgResponse:
        """Create an org with its keys and its first root."""
        async with self._calls.answer("CreateOrg", context) as call:
            caller = await call.authenticate()
            created = await self._threads.database(
                self._domain.orgs.create, caller, request.org, tuple(request.root_keys), request.root_threshold
            )
            call.note(org=created.org, root_version=created.root_version)
            unsigned = created.unsigned_root
            return publishing_pb2.CreateOrgResponse(
                org=created.org,
                trust_anchor=created.trust_anchor,
                root_version=created.root_version,
                unsigned_root=None if unsigned is None else envelope_to_proto(unsigned),
            )

    async def CreateOnlineKey(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.CreateOnlineKeyRequest, context: Context
    ) -> publishing_pb2.CreateOnlineKeyResponse:
        """Make an online key."""
        async with self._calls.answer("CreateOnlineKey", context) as call:
            caller = await call.authenticate()
            role = online_role_of(request.role)
            key = await self._threads.database(self._domain.online_keys.create, caller, request.org or None, role)
            call.note(org=request.org, role=role.value, created_key=key.key_id)
            return publishing_pb2.CreateOnlineKeyResponse(public_key=key.anchor, key_id=key.key_id)

    async def GetRoots(  # type: ignore[override]  # noqa: N802 - it writes, and yields nothing
        self, request: publishing_pb2.GetRootsRequest, context: Context
    ) -> None:
        """Return an org's roots."""
        async with self._calls.answer("GetRoots", context) as call:
            caller = await call.authenticate()
            roots = await self._threads.database(
                self._domain.roots.after,
                caller,
                request.org,
                request.after_version,
                newest_only=request.newest_only,
            )
            call.note(org=request.org, roots=len(roots))
            for root in roots:
                await context.write(
                    publishing_pb2.GetRootsResponse(version=root.version, envelope=envelope_to_proto(root.envelope))
                )

    async def PublishRoot(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.PublishRootRequest, context: Context
    ) -> publishing_pb2.PublishRootResponse:
        """Publish the next root of an org."""
        async with self._calls.answer("PublishRoot", context) as call:
            caller = await call.authenticate()
            call.note(dry_run=request.dry_run)
            published = await self._threads.database(
                self._domain.roots.publish, caller, request.org, envelope_in(request), dry_run=request.dry_run
            )
            call.note(
                org=request.org,
                version=published.version,
                repeated=published.repeated,
                dropped=published.dropped,
            )
            return publishing_pb2.PublishRootResponse(
                version=published.version,
                repeated_request=published.repeated,
                signed_anew=[revision_message(revision) for revision in published.signed_anew],
                dropped=published.dropped,
            )

    async def CreateApiKey(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.CreateApiKeyRequest, context: Context
    ) -> publishing_pb2.CreateApiKeyResponse:
        """Create an API key."""
        async with self._calls.answer("CreateApiKey", context) as call:
            caller = await call.authenticate()
            created = await self._threads.database(
                self._domain.api_keys.create,
                caller,
                org=request.org or None,
                role=role_of(request.role),
                host_id=request.host_id,
                description=request.description,
            )
            call.note(created_key_id=created.key_id, org=request.org)
            return publishing_pb2.CreateApiKeyResponse(key_id=created.key_id, secret=created.secret)

    async def RevokeApiKey(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.RevokeApiKeyRequest, context: Context
    ) -> publishing_pb2.RevokeApiKeyResponse:
        """Revoke an API key."""
        async with self._calls.answer("RevokeApiKey", context) as call:
            caller = await call.authenticate()
            revoked_at_us = await self._threads.database(self._domain.api_keys.revoke, caller, request.key_id)
            call.note(revoked_key_id=request.key_id)
            return publishing_pb2.RevokeApiKeyResponse(revoked_at=timestamp(revoked_at_us))
