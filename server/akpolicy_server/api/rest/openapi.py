"""What the REST calls are, for programs (`/v1/openapi.json`, OpenAPI 3.1) and for people (`/v1/docs`).

The page is made of the document, and needs no script and nothing from elsewhere. A test compares the document with the
routes.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final

from akpolicy import __version__

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "Stable: `InvalidField`, `Unauthenticated`, ..."},
                "message": {"type": "string", "description": "For people."},
            },
        }
    },
}
_ENVELOPE: Final = {
    "type": "object",
    "description": "A DSSE v1 envelope in its JSON form. Verify it; nothing here is trusted for being sent.",
    "required": ["payload", "payloadType", "signatures"],
    "properties": {
        "payload": {"type": "string", "format": "byte"},
        "payloadType": {"type": "string"},
        "signatures": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["keyid", "sig"],
                "properties": {"keyid": {"type": "string"}, "sig": {"type": "string", "format": "byte"}},
            },
        },
    },
}
_HEX: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_REVISION: Final = {
    "scope": {"type": "string"},
    "epoch": {"type": "integer", "minimum": 0},
    "version": {"type": "integer", "minimum": 0},
}
_BUNDLES: Final = {
    "type": "object",
    "required": ["org", "roots", "index", "bundles"],
    "properties": {
        "org": {"type": "string"},
        "roots": {
            "type": "array",
            "description": "The roots after `root_version`, oldest first.",
            "items": {
                "type": "object",
                "properties": {"version": {"type": "integer"}, "envelope": {"$ref": "#/components/schemas/Envelope"}},
            },
        },
        "index": {
            "description": "What heartbeats name by its digest; null if `scope` was given.",
            "type": ["object", "null"],
            "properties": {"digest": _HEX, "text": {"type": "string"}},
        },
        "bundles": {
            "type": "array",
            "description": "One entry a scope, in their order. `original` is the bundle that a rollback restores.",
            "items": {
                "type": "object",
                "properties": {
                    **_REVISION,
                    "digest": _HEX,
                    "envelope": {"$ref": "#/components/schemas/Envelope"},
                    "original": {"anyOf": [{"$ref": "#/components/schemas/Envelope"}, {"type": "null"}]},
                    "content": {"type": "object", "properties": {"digest": _HEX, "size": {"type": "integer"}}},
                },
            },
        },
    },
}
_REPORT: Final = {
    "type": "object",
    "required": ["software_version"],
    "additionalProperties": False,
    "properties": {
        "software_version": {"type": "string", "maxLength": 64},
        "root_version": {"type": "integer", "minimum": 0},
        "enforced": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["scope", "epoch", "version", "digest"],
                "properties": {**_REVISION, "digest": _HEX},
            },
        },
        "ended": {"type": "array", "items": {"type": "string"}},
        "refused": {
            "type": "array",
            "maxItems": 1024,
            "items": {
                "type": "object",
                "required": ["scope", "code"],
                "properties": {
                    **_REVISION,
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                    "policy_id": {"type": "string"},
                },
            },
        },
        "poll_interval_ms": {"type": "integer", "minimum": 0, "maximum": 300_000},
        "complete": {"type": "boolean", "description": "Whether `enforced` is all that the host enforces."},
    },
}
_LEGACY: Final = {
    "type": "object",
    "description": "agentkernel's own flat bundle, signed by a key of the org for nothing else.",
    "required": ["policies", "version", "expires_at", "signature", "signer_key_id"],
    "properties": {
        "policies": {"type": "string"},
        "version": {"type": "integer"},
        "expires_at": {"type": "string", "format": "date-time"},
        "signature": {"type": "string", "format": "byte"},
        "signer_key_id": {"type": "string"},
    },
}
_ORG: Final = {"name": "org", "in": "path", "required": True, "schema": {"type": "string"}}


def _query(name: str, schema: dict[str, Any], text: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": text}


def _json_of(name: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


def _operation(
    summary: str, parameters: list[dict[str, Any]], responses: dict[str, Any], **more: object
) -> dict[str, Any]:
    errors = {"default": _json_of("Error", "A refusal; its code is stable.")}
    return {"summary": summary, "parameters": parameters, "responses": {**responses, **errors}, **more}


_NOT_MODIFIED: Final = {"description": "The client has it: `If-None-Match` names its ETag."}
_PATHS: Final[dict[str, Any]] = {
    "/v1/orgs/{org}/bundles": {
        "get": _operation(
            "Everything that the org's hosts need, but for content. The ETag is its SHA-256.",
            [
                _ORG,
                _query("root_version", {"type": "integer", "minimum": 0}, "The newest root that the host trusts."),
                _query(
                    "scope",
                    {"type": "array", "items": {"type": "string"}, "maxItems": 100},
                    "Only these scopes, without the index.",
                ),
            ],
            {"200": _json_of("Bundles", "The documents."), "304": _NOT_MODIFIED},
        )
    },
    "/v1/orgs/{org}/blobs/{digest}": {
        "get": _operation(
            "Content that a current bundle names, or the current index, by its SHA-256.",
            [_ORG, {"name": "digest", "in": "path", "required": True, "schema": _HEX}],
            {
                "200": {"description": "The bytes.", "content": {"application/octet-stream": {}}},
                "304": _NOT_MODIFIED,
            },
        )
    },
    "/v1/orgs/{org}/heartbeat": {
        "get": _operation(
            "A signed heartbeat that answers a nonce. Never cached.",
            [
                _ORG,
                _query(
                    "nonce",
                    {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                    "16 fresh random bytes in hex.",
                    required=True,
                ),
            ],
            {"200": _json_of("Envelope", "The heartbeat.")},
        )
    },
    "/v1/orgs/{org}/reports": {
        "post": _operation(
            "What the host enforces and refuses, after each poll. The fleet view shows it.",
            [_ORG],
            {"204": {"description": "It was taken."}},
            requestBody={
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Report"}}},
            },
        )
    },
    "/v1/policies": {
        "get": _operation(
            "For agentkernel's own hosts: the policies of the key's org as one text. Always whole.",
            [],
            {"200": _json_of("LegacyBundle", "The flat bundle.")},
            security=[{"hostKey": []}],
        )
    },
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "akpolicy", "version": __version__, "description": "Policy for hosts that only have HTTP."},
        "security": [{"hostKey": []}, {"hostCertificate": []}],
        "paths": _PATHS,
        "components": {
            "securitySchemes": {
                "hostKey": {"type": "http", "scheme": "bearer", "description": "A host's API key, for its org alone."},
                "hostCertificate": {
                    "type": "mutualTLS",
                    "description": "A host's client certificate, whose one URI is its SPIFFE id, for its org alone; on "
                    "the listener for certificates. An API key besides must be of the same host.",
                },
            },
            "schemas": {
                "Envelope": _ENVELOPE,
                "Bundles": _BUNDLES,
                "Report": _REPORT,
                "LegacyBundle": _LEGACY,
                "Error": _ERROR,
            },
        },
    }


def page() -> str:
    """Return the document for people, as one HTML page."""
    rows = []
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            names = ", ".join(f"<code>{escape(one['name'])}</code> ({one['in']})" for one in operation["parameters"])
            statuses = ", ".join(status for status in operation["responses"] if status != "default")
            rows.append(
                f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{escape(operation['summary'])}</td>"
                f"<td>{names}</td><td>{statuses}</td></tr>"
            )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>akpolicy REST</title>'
        "<style>body{font-family:sans-serif;margin:2em}td,th{text-align:left;padding:.4em;vertical-align:top}</style>"
        f"<h1>akpolicy {escape(__version__)}: REST</h1>"
        "<p>Send a host's API key as <code>Authorization: Bearer</code>, or show its client certificate (mutual TLS) "
        "on the listener for certificates. For programs: "
        '<a href="openapi.json">openapi.json</a>.</p>'
        "<table><tr><th>Call</th><th>What</th><th>Parameters</th><th>Statuses</th></tr>" + "".join(rows) + "</table>"
    )
