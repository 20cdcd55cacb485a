"""How policies go up: headers, and pieces of bounded size.

Rules:

- Text is cut between characters, so that each chunk is text by itself; an empty file is one empty chunk.
- What is not said in the terms is left out of the header: the server's defaults count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import publishing_pb2 as pb
from akpolicy.wire_authorization import OFFLINE_MODES

if TYPE_CHECKING:
    from akpolicy.client.publishing_types import PublishTerms
    from akpolicy.engine.files import PolicyFile

_LONGEST_CHARACTER: Final = 4  # bytes of a character in UTF-8 (RFC 3629)

# Called with the number of bytes that just went up.
Progress = Callable[[int], None]


def chunks(files: Iterable[PolicyFile], progress: Progress | None = None) -> Iterator[pb.SourceChunk]:
    """Cut files into chunks of at most `MAX_CHUNK_BYTES` that end between characters; an empty file is one chunk."""
    for file in files:
        start = 0
        while start < len(file.data) or start == 0:
            end = _chunk_end(file.data, start)
            yield pb.SourceChunk(name=file.name, data=file.data[start:end])
            if progress is not None:
                progress(end - start)
            if end == len(file.data):
                break
            start = end


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut bytes into pieces of at most `MAX_CHUNK_BYTES`, wherever that falls."""
    for start in range(0, len(data), MAX_CHUNK_BYTES):
        yield data[start : start + MAX_CHUNK_BYTES]


def publish_header(scope: str, terms: PublishTerms) -> pb.PublishHeader:
    """Return what to publish, and under which conditions."""
    header = pb.PublishHeader(
        scope=scope,
        idempotency_key=terms.idempotency_key,
        message=terms.message,
        offline_max_age_s=terms.offline_max_age_s,
        lifetime_s=terms.lifetime_s,
        no_rollback=terms.no_rollback,
        dry_run=terms.dry_run,
    )
    if terms.expected_version is not None:
        header.expected_version = terms.expected_version
    if terms.offline_mode is not None:
        header.offline_mode = OFFLINE_MODES[terms.offline_mode]
    if terms.schema is not None:
        header.schema = pb.SCHEMA_CHOICE_OWN
    elif terms.default_schema:
        header.schema = pb.SCHEMA_CHOICE_DEFAULT
    return header


def schema_pieces(terms: PublishTerms) -> Iterator[bytes]:
    """Return the pieces of an org's own schema; nothing without one."""
    return pieces((terms.schema or "").encode("utf-8"))


def _chunk_end(data: bytes, start: int) -> int:
    end = min(start + MAX_CHUNK_BYTES, len(data))
    if end == len(data):
        return end
    for candidate in range(end, end - _LONGEST_CHARACTER, -1):
        # 10xxxxxx continues a character (RFC 3629, section 3).
        if data[candidate] & 0xC0 != 0x80:  # noqa: PLR2004 - two bits of a byte
            return candidate
    return end  # not UTF-8; the server says so
