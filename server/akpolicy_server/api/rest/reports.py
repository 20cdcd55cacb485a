"""What hosts report over REST: the document, and how it becomes the message that gRPC has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from akpolicy.errors import InvalidField, TrustError
from akpolicy.strict_json import Document, load
from akpolicy.v1 import bundle_pb2, distribution_pb2

if TYPE_CHECKING:
    from akpolicy_server.store.hosts import HostKey


class EnforcedEntry(Document):
    """A revision that is enforced; `digest` is the SHA-256 of the manifest in hex."""

    scope: str
    epoch: int
    version: int
    digest: str


class RefusedEntry(Document):
    """An update that was refused; `scope` is `root` for a root, empty for the state of the host."""

    scope: str
    epoch: int = 0
    version: int = 0
    code: str
    detail: str = ""
    policy_id: str = ""


class ReportDocument(Document):
    """What a host enforces and refuses; see `ReportRequest` in `distribution.proto`."""

    software_version: str
    root_version: int = 0
    enforced: list[EnforcedEntry] = Field(default_factory=list)
    ended: list[str] = Field(default_factory=list)
    refused: list[RefusedEntry] = Field(default_factory=list)
    poll_interval_ms: int = 0
    complete: bool = False


def report_request(body: bytes, host: HostKey) -> distribution_pb2.ReportRequest:
    """Return the message that says the same; raise `InvalidField`."""
    try:
        document = load(body, ReportDocument)
        return distribution_pb2.ReportRequest(
            org=host.org,
            software_version=document.software_version,
            root_version=document.root_version,
            enforced=[
                bundle_pb2.Revision(
                    scope=entry.scope, epoch=entry.epoch, version=entry.version, digest=bytes.fromhex(entry.digest)
                )
                for entry in document.enforced
            ],
            ended=document.ended,
            refused=[distribution_pb2.RefusedUpdate(**entry.model_dump()) for entry in document.refused],
            poll_interval_ms=document.poll_interval_ms,
            complete=document.complete,
        )
    except TrustError as error:
        raise InvalidField(error.message) from None
    except ValueError as error:
        # A negative or too large number, or a digest that is not in hex.
        raise InvalidField(f"the report has a value out of bounds: {error}") from None
