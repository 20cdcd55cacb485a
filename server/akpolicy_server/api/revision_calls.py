"""PublishingService: what was published before: read, returned to, stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.v1 import publishing_pb2
from akpolicy_server.api.messages import (
    details_message,
    document_message,
    policy_messages,
    replacement_fields,
    rollback_order_of,
)
from akpolicy_server.api.part import ServicerPart
from akpolicy_server.api.policy_calls import note_published

if TYPE_CHECKING:
    from akpolicy_server.api.part import Context


class RevisionCalls(ServicerPart):
    """Translates between messages and the domain."""

    async def Rollback(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.RollbackRequest, context: Context
    ) -> publishing_pb2.RollbackResponse:
        """Publish a new version with the content of an earlier one."""
        async with self._calls.answer("Rollback", context) as call:
            caller = await call.authenticate()
            call.note(dry_run=request.dry_run)
            order = rollback_order_of(request)
            with self._counted(dry_run=order.dry_run):
                published = await self._threads.database(self._domain.rollbacks.roll_back, caller, order)
            note_published(call, published)
            call.note(restores=published.revision.restores_version)
            return publishing_pb2.RollbackResponse(
                revision=details_message(published.revision),
                repeated_request=published.repeated,
                dry_run=published.dry_run,
                **replacement_fields(published.replacements),
            )

    async def SetFreeze(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.SetFreezeRequest, context: Context
    ) -> publishing_pb2.SetFreezeResponse:
        """Make every host of an org deny everything, or end that."""
        async with self._calls.answer("SetFreeze", context) as call:
            caller = await call.authenticate()
            call.note(frozen=request.frozen)
            with self._counted():
                state = await self._threads.database(
                    self._domain.freeze.set, caller, request.org, frozen=request.frozen, message=request.message
                )
            call.note(org=request.org, changed=state.changed, version=state.revision.version)
            return publishing_pb2.SetFreezeResponse(revision=details_message(state.revision), changed=state.changed)

    async def ListRevisions(  # noqa: N802 - the protocol's name
        self, request: publishing_pb2.ListRevisionsRequest, context: Context
    ) -> publishing_pb2.ListRevisionsResponse:
        """List a scope's revisions, newest first."""
        async with self._calls.answer("ListRevisions", context) as call:
            caller = await call.authenticate()
            page = await self._threads.database(
                self._domain.history.page,
                caller,
                request.scope,
                page_size=request.page_size,
                token=request.page_token,
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
            revision, policies, schema = await self._threads.database(
                self._domain.history.get, caller, request.scope, request.version
            )
            call.note(scope=request.scope, version=revision.version)
            await context.write(document_message(revision, schema))
            for message in policy_messages(policies):
                await context.write(message)
