"""The REST calls of hosts. `openapi` describes them; docs/operations/polling.md shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grpc import StatusCode
from starlette.datastructures import Headers
from starlette.responses import Response

from akpolicy.errors import InvalidField
from akpolicy.limits import MAX_JSON_INT, MIB
from akpolicy.strict_json import dump
from akpolicy_server.api.fetching import answered, read_report, take_report
from akpolicy_server.api.greeting import DIGEST_BYTES, NONCE_BYTES
from akpolicy_server.api.rest.bundles import PIECE_BYTES, BundlesDocument, Identities, Identity
from akpolicy_server.api.rest.problems import JSON, Problem
from akpolicy_server.api.rest.reports import report_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from akpolicy_server.api.rest.call import Answer
    from akpolicy_server.api.subscription import Services
    from akpolicy_server.legacy import LegacyPolicies
    from akpolicy_server.store.hosts import HostKey

MAX_REPORT_BYTES: Final = MIB
MAX_ASKED_SCOPES: Final = 100
MAX_TAGS_CHARS: Final = 4096
_MAX_DIGITS: Final = 16

# What a host has may be out of date at once: it asks again each time. What is named by its digest never is.
_REVALIDATED: Final = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
_IMMUTABLE: Final = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Authorization"}
_UNCACHED: Final = {"Cache-Control": "no-store"}


class RestService:
    """What hosts can ask for. Each method raises domain errors, or `Problem` for what only HTTP knows."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._identities = Identities()

    async def bundles(self, request: Request, host: HostKey) -> Answer:
        """Return everything that the org's hosts need, but for content."""
        root_version = _integer(request, "root_version")
        scopes = tuple(request.query_params.getlist("scope")) or None
        if scopes is not None and len(scopes) > MAX_ASKED_SCOPES:
            raise InvalidField(f"{len(scopes)} scopes are asked for; the limit is {MAX_ASKED_SCOPES}: ask for all")
        catalog = self._services.catalog
        view = await catalog.view(host.org)
        roots = await catalog.roots_between(host.org, root_version, view.root.document.version)
        document = BundlesDocument(view, roots, scopes)
        identity = await self._identities.of(document, root_version)
        return _tagged(request, identity, document.pieces(), JSON, _REVALIDATED)

    async def blob(self, request: Request, host: HostKey) -> Answer:
        """Return content that a current bundle names, or the current index, by its digest."""
        text = request.path_params["digest"]
        digest = _bytes(text, DIGEST_BYTES, "the digest in the path")
        view = await self._services.catalog.view(host.org)
        if text == view.index.digest:
            data = view.index.text
        elif self._identities.names_content(view, digest):
            data = await self._services.catalog.blob(digest)
        else:
            raise Problem(404, StatusCode.NOT_FOUND, "BlobNotFound", "no current bundle names this content; ask anew")
        return _tagged(request, Identity(text, len(data)), _sliced(data), "application/octet-stream", _IMMUTABLE)

    async def heartbeat(self, request: Request, host: HostKey) -> Answer:
        """Return a heartbeat that answers a nonce."""
        nonce = _bytes(request.query_params.get("nonce", ""), NONCE_BYTES, "nonce")
        beat = await answered(self._services, await self._services.catalog.view(host.org), nonce)
        if beat is None:
            message = "no heartbeat can be signed now; the server's log says why"
            raise Problem(503, StatusCode.UNAVAILABLE, "HeartbeatUnavailable", message)
        return _JsonAnswer(beat.envelope.to_dsse_json(), headers=_UNCACHED)

    async def report(self, request: Request, host: HostKey) -> Answer:
        """Take what a host made of what it got."""
        report = read_report(report_request(await _body(request, MAX_REPORT_BYTES), host), host)
        take_report(self._services, report)
        return Response(status_code=204, headers=_UNCACHED)


def legacy_policies(legacy: LegacyPolicies) -> Callable[[Request, HostKey], Awaitable[Answer]]:
    """Return what answers agentkernel's own hosts with their flat bundle; always whole, whatever the client has."""

    async def answer(_: Request, host: HostKey) -> Answer:
        bundle = await legacy.of(host.org)
        return _JsonAnswer(bundle.to_json(), headers=_UNCACHED)

    return answer


class _JsonAnswer(Response):
    media_type = JSON

    def render(self, content: object) -> bytes:
        """Return the bytes of a JSON document."""
        return dump(content) + b"\n"


class _Pieces:
    """An answer whose body is made while it is sent; its size is known."""

    def __init__(self, headers: dict[str, str], size: int, pieces: Iterable[bytes]) -> None:
        """`size` is that of all pieces together, in bytes."""
        self._headers = Headers({**headers, "Content-Length": str(size)}).raw
        self._pieces = pieces

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        if scope["method"] != "HEAD":
            for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _tagged(
    request: Request, identity: Identity, pieces: Iterator[bytes], media_type: str, headers: dict[str, str]
) -> Answer:
    """Return the document, or 304 if the client has it."""
    tagged = {"ETag": identity.etag, **headers}
    if _is_had(request, identity.etag):
        return Response(status_code=304, headers=tagged)
    return _Pieces({**tagged, "Content-Type": media_type}, identity.size, pieces)


def _is_had(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` names the tag (RFC 9110, 13.1.2: compared weakly)."""
    text = ",".join(request.headers.getlist("if-none-match"))[:MAX_TAGS_CHARS]
    tags = [tag.strip().removeprefix("W/") for tag in text.split(",")]
    return etag in tags or tags == ["*"]


def _sliced(data: bytes) -> Iterator[bytes]:
    for offset in range(0, len(data), PIECE_BYTES):
        yield data[offset : offset + PIECE_BYTES]


def _integer(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS or int(text) > MAX_JSON_INT:
        raise InvalidField(f"{name} must be a whole number from 0 to {MAX_JSON_INT}")
    return int(text)


def _bytes(text: str, count: int, what: str) -> bytes:
    # `fromhex` takes blanks and capitals, and one document would have two names.
    if len(text) == 2 * count and text.isascii() and text == text.lower():
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    raise InvalidField(f"{what} must be {2 * count} lower-case hex digits")


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise Problem(413, StatusCode.RESOURCE_EXHAUSTED, "BodyTooLarge", f"the body has more than {limit} bytes")
    return bytes(body)
