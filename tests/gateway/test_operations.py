"""Every operation is known to every table that describes endpoints."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from bluesminds.common.values import SCOPES
from bluesminds.gateway.operations import OPERATIONS, Operation
from bluesminds.providers.dialects import (
    COMPACT_PATHS,
    DIALECTS,
    GEMINI_PATHS,
    MESSAGES_PATHS,
    OPENAI_PATHS,
    RESPONSES_PATHS,
)
from bluesminds.providers.vendors import VENDORS
from bluesminds.web.docs.model_endpoints import DATA_PLANE
from bluesminds.wire.formats import FORMATS
from tests.fakes.model_server import ModelServer, completion, whole
from tests.forms import CONTENT_TYPE, field, file, form
from tests.gateway.cases import Since
from tests.gateways import Gateway

ROOT = Path(__file__).resolve().parents[2]
EMPTY = {
    "compact": "input",
    "chat": "messages",
    "responses": "input",
    "input_tokens": "input",
    "completions": "prompt",
    "embeddings": "input",
    "moderations": "input",
    "images": "prompt",
    "image_edits": "prompt",
    "speech": "input",
}
# OpenAPI cannot describe a WebSocket, and it has events instead of requests and replies.
REQUESTS = [operation for operation in OPERATIONS if not operation.is_socket]
SOCKETS = [operation for operation in OPERATIONS if operation.is_socket]
MODEL_OPERATIONS = [operation for operation in OPERATIONS if operation.handler == "model"]
PATHS = {**OPENAI_PATHS, **MESSAGES_PATHS, **RESPONSES_PATHS, **COMPACT_PATHS}
MESSAGES = [{"role": "user", "content": "a"}]
SDK_CALLS = {
    "images.generations": "images.generate(",
    "images.edits": "images.edit(",
    "images.variations": "images.create_variation(",
    "responses.input_tokens": "input_tokens.count(",
    "responses.compact": "responses.compact(",
}


EMBEDDINGS = ("gemini_embed", "gemini_batch_embed")
SDK_METHODS = {"streamGenerateContent": "generateContentStream", "batchEmbedContents": "embedContent"}


def by_name(operation: Operation) -> str:
    return operation.path.removeprefix("/v1")


def paths_of(operation: Operation) -> list[str]:
    """The paths of servers that support the operation's format, as the gateway's own are written."""
    if (path := GEMINI_PATHS.get(operation.format)) is not None:
        methods = ("generateContent", "streamGenerateContent")
        return ["/v1beta" + path.replace("{method}", method) for method in methods]
    return ["/v1" + PATHS[operation.format]]


@pytest.mark.parametrize("operation", REQUESTS, ids=by_name)
def test_operation_has_a_format_and_an_openapi_entry(operation: Operation) -> None:
    assert operation.format in FORMATS and FORMATS[operation.format].name == operation.format
    assert operation.path in [one.path for one in DATA_PLANE]


@pytest.mark.parametrize("operation", SOCKETS, ids=by_name)
def test_operation_of_a_websocket_is_in_the_guide(operation: Operation) -> None:
    assert f"`GET {operation.path}`" in (ROOT / "docs" / "api.md").read_text()
    assert ("GET", operation.path) not in [(one.method, one.path) for one in DATA_PLANE]


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
def test_operation_is_in_every_table(operation: Operation) -> None:
    assert operation.name in SCOPES
    named = {one.path for one in OPERATIONS if one.name == operation.name}
    assert named & set(paths_of(operation))
    speaks = [dialect.speaks for dialect in DIALECTS.values()]
    speaks += [vendor.speaks for vendor in VENDORS.values() if vendor.speaks is not None]
    assert any(operation.format in one for one in speaks)
    golden = json.loads((ROOT / "tests" / "wire" / "golden" / f"{operation.format}.json").read_text())
    assert golden
    tests = ROOT / "tests" / "process"
    files = [*tests.glob("test_sdk*.py"), tests / "node" / "gemini.mjs"]
    sdk = "".join([path.read_text() for path in files])
    method = operation.path.rpartition(":")[2] if "{" in operation.path else operation.name.rpartition(".")[2]
    call = SDK_CALLS.get(operation.name, f"{operation.name}.create(")
    method = SDK_METHODS.get(method, method)
    assert (
        operation.handler == "stored_response"
        or call in sdk
        or f"{operation.name}.connect(" in sdk
        or f".{method}(" in sdk
        or f'"{operation.path.removeprefix("/v1")}"' in sdk
    )


def test_scope_is_an_operation_models_or_passthrough() -> None:
    assert {operation.name for operation in OPERATIONS} | {"models", "passthrough"} == set(SCOPES)


def request_of(operation: Operation) -> dict[str, Any]:
    if operation.format == "chat":
        return {"model": "m", "messages": MESSAGES}
    if operation.format in EMBEDDINGS:
        text = {"content": {"parts": [{"text": "a"}]}}
        return text if operation.format == "gemini_embed" else {"requests": [text]}
    if operation.format in GEMINI_PATHS:
        return {"contents": [{"parts": [{"text": "a"}]}]}
    if operation.format in MESSAGES_PATHS:
        return {"model": "m", "messages": MESSAGES, "max_tokens": 9}
    if operation.format == "rerank":
        return {"model": "m", "query": "a", "documents": ["b"]}
    return {"model": "m", EMPTY[operation.format]: "a"}


async def post(gateway: Gateway, operation: Operation, key: str) -> httpx.Response:
    async with gateway.client(key) as client:
        if operation.body == "form":
            body = form(field("model", "m"), field("prompt", "a"), file(b"x" * 5000))
            headers = {"content-type": CONTENT_TYPE.decode()}
            return await client.post(operation.path, content=body, headers=headers)
        return await client.post(operation.path.replace("{model}", "m"), json=request_of(operation))


def code_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    details = error.get("details", {})
    if isinstance(details, list):
        return str(details[0]["metadata"]["code"])
    return str(error["code"] if "code" in error else details["error_code"])


async def use_scope(gateway: Gateway, models: ModelServer, operation: Operation) -> None:
    """Send the request with a key of all other scopes, and twice with a key of this scope for one request."""
    since = Since(gateway)
    models.asked.clear()
    others = [scope for scope in SCOPES if scope != operation.name]
    _, key = await gateway.new_key(scopes=others)
    refused = await post(gateway, operation, key)
    assert (refused.status_code, code_of(refused)) == (403, "scope_not_allowed")
    _, key = await gateway.new_key(scopes=[operation.name], limits={"rpm": 1})
    server = "" if operation.estimated else "one"
    labels = {"endpoint": operation.name, "model": "m", "server": server, "status": "200"}
    counted = await gateway.metric("bluesminds_requests_total", **labels)
    if not operation.estimated:
        vectors = {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        models.plan(whole(json.dumps(vectors).encode() if operation.format in EMBEDDINGS else completion()))
    answer = await post(gateway, operation, key)
    assert answer.status_code == 200, answer.text
    is_translated = operation.format in ("messages", "responses", "compact", "gemini")
    path = "/v1/chat/completions" if is_translated else operation.path
    path = "/v1/embeddings" if operation.format in EMBEDDINGS else path
    path = path.replace("generate", "generations") if path.endswith("/generate") else path
    asked = [] if operation.estimated else [f"POST {path} HTTP/1.1".encode()]
    assert [one.received.line for one in models.asked] == asked
    assert code_of(await post(gateway, operation, key)) == "rate_limit_exceeded"
    (row,) = since.rows()
    assert (row["endpoint"], row["model"], row["status"]) == (operation.name, "m", 200)
    assert (row["input_tokens"] > 0) is not operation.estimated
    assert await gateway.metric("bluesminds_requests_total", **labels) == counted + 1


async def test_operation_needs_its_scope(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for operation in MODEL_OPERATIONS:
        with subtests.test(by_name(operation)):
            await use_scope(gateway, models, operation)
