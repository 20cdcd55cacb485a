"""PublishingService: how operators bring policy, orgs and API keys. The contract is in `publishing.proto`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import AkpolicyError, StoreUnavailable
from akpolicy.v1 import publishing_pb2, publishing_pb2_grpc
from akpolicy_server.access import check_publishable_scope, require_publisher
from akpolicy_server.api.messages import (
    details_message,
    document_message,
    order_of,
    policy_messages,
    role_of,
    timestamp,
)
from akpolicy_server.api.problems import problem_messages
from akpolicy_server.api.upload import read_files, read_header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpc.aio import ServicerContext

    from akpolicy_server.access import Caller
    from akpolicy_server.api.call import Calls
    from akpolicy_server.api_keys import ApiKeys
    from akpolicy_server.history import History
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.orders import PublishOrder
    from akpolicy_server.orgs import Orgs
    from akpolicy_server.publisher import Published, Publisher
    from akpolicy_server.threads import Threads

    Context = ServicerContext[Any, Any]

# With ids of full length this stays well below the 4 MiB of a message.
MAX_LISTED_IDS: Final = 10_000


class PublishingServicer(publishing_pb2_grpc.PublishingServiceServicer):
    """Translates between messages and the domain."""

    def __init__(
        self,
        calls: Calls,
        threads: Threads,
        metrics: ServerMetrics,
        *,
        orgs: Orgs,
        api_keys: ApiKeys,
        publisher: Publisher,
        history: History,
    ) -> None:
        self._calls = calls
        self._threads = threads
        self._metrics = metrics
        self._orgs = orgs
        self._api_keys = api_keys
        self._publisher = publisher
        self._history = history

    async def CreateOrg(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.CreateOrgRequest, context: Context
    ) -> publishing_pb2.CreateOrgResponse:
        """Create an org with its keys and its first root."""
        async with self._calls.answer("CreateOrg", context) as call:
            caller = await call.authenticate()
            created = await self._threads.database(self._orgs.create, caller, request.org)
            call.note(org=created.org)
            return publishing_pb2.CreateOrgResponse(
                org=created.org, trust_anchor=created.trust_anchor, root_version=created.root_version
            )

    async def CreateApiKey(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.CreateApiKeyRequest, context: Context
    ) -> publishing_pb2.CreateApiKeyResponse:
        """Create an API key."""
        async with self._calls.answer("CreateApiKey", context) as call:
            caller = await call.authenticate()
            created = await self._threads.database(
                self._api_keys.create,
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
            revoked_at_us = await self._threads.database(self._api_keys.revoke, caller, request.key_id)
            call.note(revoked_key_id=request.key_id)
            return publishing_pb2.RevokeApiKeyResponse(revoked_at=timestamp(revoked_at_us))

    async def Validate(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[publishing_pb2.ValidateRequest], context: Context
    ) -> publishing_pb2.ValidateResponse:
        """Say what is wrong with policies."""
        async with self._calls.answer("Validate", context) as call:
            caller = await call.authenticate()
            scope = (await read_header(request_iterator)).header.scope
            # Before the files are read: nobody uploads what he may not publish.
            require_publisher(caller, check_publishable_scope(scope))
            files = await read_files(request_iterator)
            findings = await self._threads.policies(self._publisher.validate, caller, scope, files)
            call.note(scope=scope, policies=len(findings.policies), problems=len(findings.problems))
            return publishing_pb2.ValidateResponse(
                problems=problem_messages(findings.problems),
                policy_ids=[policy.id for policy in findings.policies[:MAX_LISTED_IDS]],
                policy_count=len(findings.policies),
            )

    async def Publish(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[publishing_pb2.PublishRequest], context: Context
    ) -> publishing_pb2.PublishResponse:
        """Publish a scope's whole policy."""
        async with self._calls.answer("Publish", context) as call:
            caller = await call.authenticate()
            header = (await read_header(request_iterator)).header
            require_publisher(caller, check_publishable_scope(header.scope))
            order = order_of(header, await read_files(request_iterator))
            published = await self._publish(caller, order)
            revision = published.revision
            call.note(
                scope=revision.scope,
                version=revision.version,
                policies=revision.policy_count,
                bytes=revision.content_size,
                repeated=published.repeated,
            )
            return publishing_pb2.PublishResponse(
                revision=details_message(revision), repeated_request=published.repeated
            )

    async def _publish(self, caller: Caller, order: PublishOrder) -> Published:
        outcome = "failed"
        try:
            with self._metrics.publish_duration.time():
                published = await self._threads.policies(self._publisher.publish, caller, order)
            outcome = "published"
        except StoreUnavailable:
            raise
        except AkpolicyError:
            outcome = "refused"
            raise
        finally:
            self._metrics.publishes.labels(outcome=outcome).inc()
        return published

    async def ListRevisions(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.ListRevisionsRequest, context: Context
    ) -> publishing_pb2.ListRevisionsResponse:
        """List a scope's revisions, newest first."""
        async with self._calls.answer("ListRevisions", context) as call:
            caller = await call.authenticate()
            page = await self._threads.database(
                self._history.page, caller, request.scope, page_size=request.page_size, token=request.page_token
            )
            call.note(scope=request.scope, revisions=len(page.revisions))
            return publishing_pb2.ListRevisionsResponse(
                revisions=[details_message(revision) for revision in page.revisions],
                next_page_token=page.next_token,
            )

    async def GetRevision(  # type: ignore[override]  # noqa: N802 - it writes, and yields nothing
        self, request: publishing_pb2.GetRevisionRequest, context: Context
    ) -> None:
        """Return one revision with its signed manifest and its policies."""
        async with self._calls.answer("GetRevision", context) as call:
            caller = await call.authenticate()
            revision, policies = await self._threads.database(self._history.get, caller, request.scope, request.version)
            call.note(scope=request.scope, version=revision.version)
            await context.write(document_message(revision))
            for message in policy_messages(policies):
                await context.write(message)
