"""The ASGI application: which path is answered by what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from akpolicy.strict_json import dump
from akpolicy_server.api.rest import openapi
from akpolicy_server.api.rest.problems import JSON, problem_response
from akpolicy_server.api.rest.service import RestService, legacy_policies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from akpolicy_server.api.rest.call import Answer, RestCalls
    from akpolicy_server.store.hosts import HostKey

    Handler = Callable[[Request, HostKey], Awaitable[Answer]]

_CODES: Final = {404: "NotFound", 405: "MethodNotAllowed"}
# The page has no script; nothing may be put into it, and it into nothing.
_PAGE_HEADERS: Final = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def application(calls: RestCalls) -> Starlette:
    """Return the application of a server."""
    service = RestService(calls.services)

    def route(path: str, name: str, handler: Handler, method: str = "GET") -> Route:
        return Route(path, calls.endpoint(name, handler), methods=[method])

    routes = [
        route("/v1/orgs/{org}/bundles", "GetBundles", service.bundles),
        route("/v1/orgs/{org}/blobs/{digest}", "GetBlob", service.blob),
        route("/v1/orgs/{org}/heartbeat", "GetHeartbeat", service.heartbeat),
        route("/v1/orgs/{org}/reports", "PostReport", service.report, "POST"),
        Route("/v1/openapi.json", _document),
        Route("/v1/docs", _page),
    ]
    if calls.legacy is not None:
        routes.append(route("/v1/policies", "GetLegacyPolicies", legacy_policies(calls.legacy)))
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_call})


async def _document(_: Request) -> Response:
    return Response(dump(openapi.document()) + b"\n", media_type=JSON)


async def _page(_: Request) -> Response:
    return HTMLResponse(openapi.page(), headers=_PAGE_HEADERS)


async def _no_such_call(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    code = _CODES.get(status, "HttpError")
    return problem_response(status, code, f"{request.method} is no call of this path; see /v1/docs", headers)
