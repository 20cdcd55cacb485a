"""PublishingService: policies, validated and published, by the server's keys or by others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import publishing_pb2
from akpolicy.wire import envelope_to_proto
from akpolicy_server.access import check_publishable_scope, require_publisher
from akpolicy_server.api.messages import details_message, envelope_in, order_of, replacement_fields
from akpolicy_server.api.part import ServicerPart
from akpolicy_server.api.problems import problem_messages
from akpolicy_server.api.upload import read_content, read_files, read_header, read_upload
from akpolicy_server.orders import EnvelopeOrder, Sources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from akpolicy_server.api.call import Call
    from akpolicy_server.api.part import Context
    from akpolicy_server.publisher import Published

# With ids of full length this stays well below the 4 MiB of a message.
MAX_LISTED_IDS: Final = 10_000


class PolicyCalls(ServicerPart):
    """Translates between messages and the domain. Reach is judged before files are read: nobody uploads in vain.

    The log line of a publish says from then on whether it is a dry run, also if it is refused.
    """

    async def Validate(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[publishing_pb2.ValidateRequest], context: Context
    ) -> publishing_pb2.ValidateResponse:
        """Say what is wrong with policies."""
        async with self._calls.answer("Validate", context) as call:
            caller = await call.authenticate()
            scope = (await read_header(request_iterator)).header.scope
            require_publisher(caller, check_publishable_scope(scope))
            sources = Sources(await read_files(request_iterator))
            findings = await self._threads.policies(self._domain.publisher.validate, caller, scope, sources)
            call.note(scope=scope, policies=len(findings.policies), problems=len(findings.problems))
            return publishing_pb2.ValidateResponse(
                problems=problem_messages(findings.problems),
                policy_ids=[policy.id for policy in findings.policies[:MAX_LISTED_IDS]],
                policy_count=len(findings.policies),
                warnings=problem_messages(findings.warnings),
            )

    async def Publish(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[publishing_pb2.PublishRequest], context: Context
    ) -> publishing_pb2.PublishResponse:
        """Publish a scope's whole policy."""
        async with self._calls.answer("Publish", context) as call:
            caller = await call.authenticate()
            header = (await read_header(request_iterator)).header
            require_publisher(caller, check_publishable_scope(header.scope))
            call.note(scope=header.scope, dry_run=header.dry_run)
            order = order_of(header, await read_upload(request_iterator))
            with self._counted(dry_run=order.dry_run):
                published = await self._threads.policies(self._domain.publisher.publish, caller, order)
            note_published(call, published)
            return publishing_pb2.PublishResponse(
                revision=details_message(published.revision),
                repeated_request=published.repeated,
                dry_run=published.dry_run,
                warnings=problem_messages(published.warnings),
                **replacement_fields(published.replacements),
            )

    async def PrepareBundle(  # type: ignore[override]  # noqa: N802 - it writes, and yields nothing
        self, request_iterator: AsyncIterator[publishing_pb2.PrepareBundleRequest], context: Context
    ) -> None:
        """Return a bundle that lacks signatures, and its content."""
        async with self._calls.answer("PrepareBundle", context) as call:
            caller = await call.authenticate()
            header = (await read_header(request_iterator)).header
            require_publisher(caller, check_publishable_scope(header.scope))
            order = order_of(header, await read_upload(request_iterator))
            prepared = await self._threads.policies(self._domain.presigned.prepare, caller, order)
            call.note(scope=header.scope, bytes=len(prepared.content))
            bundle = publishing_pb2.PreparedBundle(
                envelope=envelope_to_proto(prepared.envelope),
                root=envelope_to_proto(prepared.root),
                current_version=prepared.current_version,
            )
            await context.write(publishing_pb2.PrepareBundleResponse(prepared=bundle))
            for start in range(0, len(prepared.content), MAX_CHUNK_BYTES):
                piece = prepared.content[start : start + MAX_CHUNK_BYTES]
                await context.write(publishing_pb2.PrepareBundleResponse(content=piece))

    async def PublishEnvelope(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[publishing_pb2.PublishEnvelopeRequest], context: Context
    ) -> publishing_pb2.PublishEnvelopeResponse:
        """Publish a bundle that was signed elsewhere."""
        async with self._calls.answer("PublishEnvelope", context) as call:
            caller = await call.authenticate()
            header = (await read_header(request_iterator)).header
            envelope = envelope_in(header)
            manifest = self._domain.presigned.require_reach(caller, envelope)
            call.note(scope=manifest.scope, dry_run=header.dry_run)
            order = EnvelopeOrder(
                envelope=envelope,
                content=await read_content(request_iterator),
                idempotency_key=header.idempotency_key,
                message=header.message,
                dry_run=header.dry_run,
            )
            with self._counted(dry_run=order.dry_run):
                published = await self._threads.policies(self._domain.presigned.publish, caller, order)
            note_published(call, published)
            return publishing_pb2.PublishEnvelopeResponse(
                revision=details_message(published.revision),
                repeated_request=published.repeated,
                dry_run=published.dry_run,
                **replacement_fields(published.replacements),
            )


def note_published(call: Call, published: Published) -> None:
    """Add what was published to the call's log line."""
    revision = published.revision
    call.note(
        scope=revision.scope,
        version=revision.version,
        kind=revision.kind.value,
        policies=revision.policy_count,
        bytes=revision.content_size,
        repeated=published.repeated,
        dry_run=published.dry_run,
        replaces=len(published.replacements.replaces),
        unshadows=len(published.replacements.unshadows),
    )
