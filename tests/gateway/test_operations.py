"""Every operation is known to every table that describes endpoints."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from bluesminds.common.values import SCOPES
from bluesminds.gateway.operations import OPERATIONS, Operation
from bluesminds.providers.dialects import DIALECTS, MESSAGES_PATHS, OPENAI_PATHS
from bluesminds.web.docs.model_endpoints import DATA_PLANE
from bluesminds.wire.formats import FORMATS
from tests.fakes.model_server import ModelServer, completion, whole
from tests.gateways import Gateway

ROOT = Path(__file__).resolve().parents[2]
EMPTY = {"chat": "messages", "completions": "prompt", "embeddings": "input", "moderations": "input"}


def by_name(operation: Operation) -> str:
    return operation.name


# OpenAPI cannot describe a WebSocket, and it has events instead of requests and replies.
REQUESTS = [operation for operation in OPERATIONS if operation.handler == "model"]
SOCKETS = [operation for operation in OPERATIONS if operation.handler == "realtime"]


@pytest.mark.parametrize("operation", REQUESTS, ids=by_name)
def test_operation_has_a_format_and_an_openapi_entry(operation: Operation) -> None:
    assert operation.format in FORMATS and FORMATS[operation.format].name == operation.format
    assert operation.path in [one.path for one in DATA_PLANE]


@pytest.mark.parametrize("operation", SOCKETS, ids=by_name)
def test_operation_of_a_websocket_is_in_the_guide(operation: Operation) -> None:
    assert f"`GET {operation.path}`" in (ROOT / "docs" / "api.md").read_text()
    assert operation.path not in [one.path for one in DATA_PLANE]


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
def test_operation_is_in_every_table(operation: Operation) -> None:
    assert operation.name in SCOPES
    assert "/v1" + {**OPENAI_PATHS, **MESSAGES_PATHS}[operation.format] == operation.path
    assert any(operation.format in dialect.speaks for dialect in DIALECTS.values())
    golden = json.loads((ROOT / "tests" / "wire" / "golden" / f"{operation.format}.json").read_text())
    assert golden
    tests = ROOT / "tests" / "process"
    modules = ("sdk", "sdk_messages", "sdk_realtime")
    sdk = "".join([(tests / f"test_{name}.py").read_text() for name in modules])
    method = operation.name.rpartition(".")[2]
    assert (
        f"{operation.name}.create(" in sdk
        or f"{operation.name}.connect(" in sdk
        or f".{method}(" in sdk
        or f'"{operation.path.removeprefix("/v1")}"' in sdk
    )


def test_scope_is_an_operation_or_models() -> None:
    assert {operation.name for operation in OPERATIONS} | {"models"} == set(SCOPES)


def request_of(operation: Operation) -> dict[str, Any]:
    if operation.format == "chat":
        return {"model": "m", "messages": []}
    if operation.format in MESSAGES_PATHS:
        return {"model": "m", "messages": [], "max_tokens": 9}
    if operation.format == "rerank":
        return {"model": "m", "query": "a", "documents": ["b"]}
    return {"model": "m", EMPTY[operation.format]: "a"}


async def post(gateway: Gateway, operation: Operation, key: str) -> httpx.Response:
    async with gateway.client(key) as client:
        return await client.post(operation.path, json=request_of(operation))


def code_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error["code"] if "code" in error else error["details"]["error_code"])


@pytest.mark.parametrize("operation", REQUESTS, ids=by_name)
async def test_operation_needs_its_scope(gateway: Gateway, models: ModelServer, operation: Operation) -> None:
    others = [scope for scope in SCOPES if scope != operation.name]
    _, key = await gateway.new_key(scopes=others)
    refused = await post(gateway, operation, key)
    assert (refused.status_code, code_of(refused)) == (403, "scope_not_allowed")
    _, key = await gateway.new_key(scopes=[operation.name], limits={"rpm": 1})
    models.plan(whole(completion()))
    answer = await post(gateway, operation, key)
    assert answer.status_code == 200
    path = "/v1/chat/completions" if operation.format == "messages" else operation.path
    asked = [] if operation.estimated else [f"POST {path} HTTP/1.1".encode()]
    assert [one.received.line for one in models.asked] == asked
    assert code_of(await post(gateway, operation, key)) == "rate_limit_exceeded"
    (row,) = gateway.rows()
    assert (row["endpoint"], row["model"], row["status"]) == (operation.name, "m", 200)
    assert (row["input_tokens"] > 0) is not operation.estimated
    server = "" if operation.estimated else "one"
    labels = {"endpoint": operation.name, "model": "m", "server": server, "status": "200"}
    assert await gateway.metric("bluesminds_requests_total", **labels) == 1
