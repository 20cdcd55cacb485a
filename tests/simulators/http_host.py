"""A host that only has HTTP: standard library client, real connection."""

from __future__ import annotations

import http.client
import json
import ssl
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.certificates import Identity

_DEADLINE_S = 30.0


@dataclass(frozen=True)
class HttpAnswer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of a refusal."""
        return str(self.json["error"]["code"])


@dataclass
class HttpHost:
    """Asks at `host:port`; over TLS if there is a CA file."""

    address: str
    secret: str = ""
    ca_file: Path | None = None
    client: Identity | None = None

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> HttpAnswer:
        """Send one request."""
        with closing(self.connection()) as connection:
            return self.call_on(connection, method, path, body, **headers)

    def call_on(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> HttpAnswer:
        """Send one request on a connection that may have had some."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.secret:
            named.setdefault("Authorization", f"Bearer {self.secret}")
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return HttpAnswer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **headers: str) -> HttpAnswer:
        """Send a GET."""
        return self.call("GET", path, None, **headers)

    def report(self, org: str = "acme", **fields: Any) -> HttpAnswer:
        """Post a report."""
        document = {"software_version": "0.1.0", **fields}
        return self.call("POST", f"/v1/orgs/{org}/reports", json.dumps(document).encode())

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that its first request opens; close it."""
        if self.ca_file is None:
            return http.client.HTTPConnection(self.address, timeout=_DEADLINE_S)
        return http.client.HTTPSConnection(self.address, timeout=_DEADLINE_S, context=self.tls())

    def tls(self) -> ssl.SSLContext:
        """Return what is trusted and shown over TLS."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if self.client is not None:
            context.load_cert_chain(self.client.certificate, self.client.key)
        return context
