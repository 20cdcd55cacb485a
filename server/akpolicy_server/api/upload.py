"""Uploads: a header, then chunks of policy files, or pieces of a bundle's content.

Rules:

- The header comes first, and once. Consecutive chunks of one name are one file; a name does not come back later. Pieces
  of a schema come anywhere behind the header.
- Sizes are judged while the chunks arrive; the header, and then all chunks, must be there within `UPLOAD_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from akpolicy.engine.files import PolicyFile
from akpolicy.errors import InvalidField, StreamProtocolError
from akpolicy.limits import MAX_CHUNK_BYTES, MAX_CONTENT_BYTES, MAX_POLICIES, MAX_SCHEMA_BYTES
from akpolicy.v1 import publishing_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UPLOAD_TIMEOUT_S: Final = 120
MAX_FILE_NAME_CHARS: Final = 255
# A file has at least one policy.
MAX_FILES: Final = MAX_POLICIES

F = TypeVar("F", publishing_pb2.PublishRequest, publishing_pb2.PrepareBundleRequest, publishing_pb2.ValidateRequest)
M = TypeVar(
    "M",
    publishing_pb2.PublishRequest,
    publishing_pb2.PrepareBundleRequest,
    publishing_pb2.ValidateRequest,
    publishing_pb2.PublishEnvelopeRequest,
)


async def read_header(messages: AsyncIterator[M]) -> M:
    """Return the first message, which has the header; raise `StreamProtocolError`."""
    async with _in_time():
        first = await anext(messages, None)
    if first is None or first.WhichOneof("part") != "header":
        raise StreamProtocolError("the first message must be the header")
    return first


class Upload(NamedTuple):
    """Policy files, and the text of a schema; empty if none came."""

    files: tuple[PolicyFile, ...]
    schema: str


async def read_files(messages: AsyncIterator[F]) -> tuple[PolicyFile, ...]:
    """Return the files that follow the header; raise `StreamProtocolError` or `InvalidField`."""
    upload = await read_upload(messages)
    if upload.schema:
        raise StreamProtocolError("a schema has no place here")
    return upload.files


async def read_upload(messages: AsyncIterator[F]) -> Upload:
    """Return the files and the schema that follow the header; raise `StreamProtocolError` or `InvalidField`."""
    files, schema = _Files(), bytearray()
    async with _in_time():
        async for message in messages:
            part = message.WhichOneof("part")
            if part == "schema" and not isinstance(message, publishing_pb2.ValidateRequest):
                _add_schema(schema, message.schema)
            elif part == "chunk":
                files.add(message.chunk)
            else:
                raise StreamProtocolError("after the header only chunks may come")
    try:
        return Upload(files.complete(), schema.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidField("the schema is not UTF-8; save the file as UTF-8") from None


def _add_schema(schema: bytearray, piece: bytes) -> None:
    schema += piece
    if len(schema) > MAX_SCHEMA_BYTES:
        raise InvalidField(f"the schema has more than {MAX_SCHEMA_BYTES} bytes; make it shorter")


async def read_content(messages: AsyncIterator[publishing_pb2.PublishEnvelopeRequest]) -> bytes:
    """Return the content that follows the header; raise `StreamProtocolError` or `InvalidField`."""
    content = bytearray()
    async with _in_time():
        async for message in messages:
            if message.WhichOneof("part") != "content":
                raise StreamProtocolError("after the header only content may come")
            if len(message.content) > MAX_CHUNK_BYTES:
                raise InvalidField(f"a piece has {len(message.content)} bytes; the limit is {MAX_CHUNK_BYTES}")
            content += message.content
            if len(content) > MAX_CONTENT_BYTES:
                raise InvalidField(f"the content has more than {MAX_CONTENT_BYTES} bytes; publish fewer policies")
    return bytes(content)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            yield
    except TimeoutError:
        raise StreamProtocolError(f"the upload did not go on within {UPLOAD_TIMEOUT_S} seconds") from None


class _Files:
    """Files as their chunks arrive."""

    def __init__(self) -> None:
        self._parts: dict[str, list[bytes]] = {}
        self._last = ""
        self._size = 0

    def add(self, chunk: publishing_pb2.SourceChunk) -> None:
        name = chunk.name
        if not name or len(name) > MAX_FILE_NAME_CHARS or not name.isprintable():
            raise InvalidField(f"a file name must be 1 to {MAX_FILE_NAME_CHARS} printable characters")
        if len(chunk.data) > MAX_CHUNK_BYTES:
            raise InvalidField(f"a chunk of `{name}` has {len(chunk.data)} bytes; the limit is {MAX_CHUNK_BYTES}")
        if name in self._parts and name != self._last:
            raise StreamProtocolError(f"chunks of `{name}` are not consecutive; send one file after the other")
        self._size += len(chunk.data)
        if self._size > MAX_CONTENT_BYTES:
            raise InvalidField(f"the files have more than {MAX_CONTENT_BYTES} bytes in total; publish fewer policies")
        self._last = name
        self._parts.setdefault(name, []).append(chunk.data)
        if len(self._parts) > MAX_FILES:
            raise InvalidField(f"there are more than {MAX_FILES} files; put several policies into one file")

    def complete(self) -> tuple[PolicyFile, ...]:
        # Each file's chunks go as soon as they are together: there are not two copies of all.
        return tuple(PolicyFile(name, b"".join(self._parts.pop(name))) for name in list(self._parts))
