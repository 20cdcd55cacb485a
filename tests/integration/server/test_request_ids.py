"""A request's id: given by the caller or made, in the answer, in the error, and in every log line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.client.server_errors import REQUEST_ID_METADATA
from akpolicy.errors import ServerRefused
from akpolicy.v1 import publishing_pb2 as pub
from akpolicy.v1.publishing_pb2_grpc import PublishingServiceStub
from akpolicy_server.api.request_ids import request_id_in
from tests.integration.server.conftest import LiveServer, Program, bearer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.client.publishing import PublishingClient


def request_id_of(call: Any) -> str:
    return str(dict(call.trailing_metadata())[REQUEST_ID_METADATA])


def test_an_id_that_is_given_comes_back(server: LiveServer) -> None:
    metadata = (*bearer(server.made.admin_api_key), (REQUEST_ID_METADATA, "deploy-7.a"))
    _, call = PublishingServiceStub(server.channel).ListRevisions.with_call(
        pub.ListRevisionsRequest(scope="org/acme"), metadata=metadata
    )

    assert request_id_of(call) == "deploy-7.a"


def test_a_refusal_has_one_too_and_the_client_names_it(server: LiveServer, client: PublishingClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        PublishingServiceStub(server.channel).ListRevisions(
            pub.ListRevisionsRequest(scope="org/none"), metadata=bearer(server.made.admin_api_key)
        )
    assert len(request_id_of(refused.value)) == 16

    with pytest.raises(ServerRefused, match=r"\(request [0-9a-f]{16}\)$"):
        client.history("org/none", 10)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [(REQUEST_ID_METADATA, "")],
        [(REQUEST_ID_METADATA, "x" * 65)],
        [(REQUEST_ID_METADATA, "two words")],
        [(REQUEST_ID_METADATA, 'a","level":"info')],
        [(REQUEST_ID_METADATA, b"bytes")],
        [(REQUEST_ID_METADATA, "one"), (REQUEST_ID_METADATA, "two")],
    ],
)
def test_one_that_is_missing_or_not_well_formed_is_made(metadata: list[tuple[str, str | bytes]]) -> None:
    made = {request_id_in(metadata) for _ in range(20)}

    assert len(made) == 20
    assert all(len(each) == 16 for each in made)


def test_every_log_line_of_a_call_has_it(config: Path, start: Callable[[Path], Program], made: dict[str, Any]) -> None:
    running = start(config)
    metadata = (*bearer(made["admin_api_key"]), (REQUEST_ID_METADATA, "traced-1"))
    with pytest.raises(grpc.RpcError):
        PublishingServiceStub(running.channel).ListRevisions(
            pub.ListRevisionsRequest(scope="org/none"), metadata=metadata
        )
    roots = pub.GetRootsRequest(org="acme")
    assert (
        len(list(PublishingServiceStub(running.channel).GetRoots(roots, metadata=bearer(made["admin_api_key"])))) == 1
    )
    running.end()

    lines = running.lines()
    # An answer can be there before its line is written.
    by_method = {line["method"]: line["request_id"] for line in lines if line["event"] == "call"}
    assert by_method["ListRevisions"] == "traced-1"
    assert len(by_method["GetRoots"]) == 16
    assert all("request_id" not in line for line in lines if line["event"] in {"listening", "stopped"})
