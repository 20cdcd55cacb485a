"""Content from chunks, bounded at every step.

Rules:

- How many bytes come is announced before the first; more than the signed manifest says is refused unread.
- Chunks carry the digest that the manifest names, come in order and without gaps, and are neither empty nor larger than
  256 KiB.
- Whether the bytes are the right ones is for the judge to say: the digest in a chunk is only a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import ContentTooLarge, StreamProtocolError
from akpolicy.limits import MAX_CHUNK_BYTES

if TYPE_CHECKING:
    from akpolicy.bundle import ContentReference


class ChunkAssembler:
    """Puts one content blob together; `reference` is believed, `announced` (bytes) is not."""

    def __init__(self, reference: ContentReference, announced: int) -> None:
        """Raise `ContentTooLarge` if more is announced than the manifest says."""
        if announced > reference.size:
            msg = f"content of {announced} bytes is announced, the manifest says {reference.size}"
            raise ContentTooLarge(msg)
        self._digest = bytes.fromhex(reference.digest)
        self._size = announced
        self._data = bytearray()

    @property
    def is_complete(self) -> bool:
        """Whether all announced bytes are there."""
        return len(self._data) == self._size

    @property
    def progress(self) -> str:
        """How much is there, for people."""
        return f"{len(self._data)} of {self._size} bytes"

    def add(self, digest: bytes, offset: int, data: bytes) -> None:
        """Take the next chunk; raise `StreamProtocolError` if it is not the next one."""
        if digest != self._digest:
            msg = f"chunk is of the content {digest[:32].hex()}, expected {self._digest.hex()}"
            raise StreamProtocolError(msg)
        if offset != len(self._data):
            msg = f"chunk begins at byte {offset}, expected {len(self._data)}"
            raise StreamProtocolError(msg)
        if not 0 < len(data) <= min(MAX_CHUNK_BYTES, self._size - offset):
            msg = f"chunk has {len(data)} bytes at {offset} of {self._size}; 1 to {MAX_CHUNK_BYTES} are allowed"
            raise StreamProtocolError(msg)
        self._data += data

    def content(self) -> bytes:
        """Return the bytes of the complete content."""
        if not self.is_complete:
            msg = "the content is not complete"
            raise RuntimeError(msg)
        return bytes(self._data)
