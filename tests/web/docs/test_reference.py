"""The API reference: a valid and complete OpenAPI 3.1 document, and its page."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
import trio

from bluesminds import __version__
from bluesminds.gateway.operations import OPERATIONS
from bluesminds.web.docs.docs_page import POLICY, docs_page
from bluesminds.wire.chat import ChatFields
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer, refusal
from tests.gateways import ASK, TLS, Gateway, entry
from tests.homes import temporary_home

VOID = ("meta", "link", "br", "hr", "img")
METHODS = ("get", "post", "put", "patch", "delete")


async def fetch(gateway: Gateway, path: str) -> httpx.Response:
    """Without credentials."""
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, verify=TLS) as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    return answer


@dataclass(frozen=True)
class Reference:
    """What a gateway serves at /openapi.json and /docs."""

    raw: httpx.Response
    page: httpx.Response

    @property
    def document(self) -> dict[str, Any]:
        """A new copy, which a test may change."""
        assert self.raw.headers["content-type"] == "application/json"
        return dict(self.raw.json())


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of one gateway for all tests that only read it."""

    async def read_reference(home: Path) -> Reference:
        async with trio.open_nursery() as nursery:
            models: ModelServer = await nursery.start(model_server.serve)
            gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
            found = Reference(await fetch(gateway, "/openapi.json"), await fetch(gateway, "/docs"))
            await gateway.stop()
            nursery.cancel_scope.cancel()
        return found

    with temporary_home() as home:
        return trio.run(read_reference, home)


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def test_openapi_document_is_valid(reference: Reference) -> None:
    document = reference.document
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", __version__)
    schemathesis.openapi.from_dict(document).validate()
    schemas = [node["schema"] for node in nodes(document) if "schema" in node]
    for schema in (*schemas, *document["components"]["schemas"].values()):
        jsonschema_rs.meta.validate(schema)
    for node in nodes(document):
        if "$ref" in node:
            target = document
            for name in node["$ref"].removeprefix("#/").split("/"):
                target = target[name]
        if "pattern" in node:
            assert "\\Z" not in node["pattern"], "\\Z is a letter in JSON Schema"


def test_openapi_operations_are_complete(reference: Reference) -> None:
    document = reference.document
    schemes = document["components"]["securitySchemes"]
    found = {}
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            assert method in METHODS
            found[one["operationId"]] = one
            name = f"{method} {path}"
            assert one["summary"] and not one["summary"].endswith("."), name
            assert one["tags"][0] in [tag["name"] for tag in document["tags"]], name
            assert all(choice.keys() <= schemes.keys() for choice in one["security"]), name
            names = [row["name"] for row in one.get("parameters", ()) if row["in"] == "path"]
            assert names == re.findall(r"\{(\w+)\}", path), name
            assert ("requestBody" in one) <= (method in ("post", "put", "patch")), name
            assert "4XX" in one["responses"], name
            assert any(status.startswith("2") for status in one["responses"]), name
    assert len(found) == sum(len(methods) for methods in document["paths"].values()), (
        "operation ids are unique"
    )
    assert found["get_api_admin_audit"]["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Page_AuditEvent_"
    }
    assert found["post_api_auth_signup"]["summary"] == "Request an account"
    assert found["post_api_auth_signup"]["description"].startswith("The response does not reveal")
    parameters = {row["name"]: row for row in found["get_api_admin_audit"]["parameters"]}
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    assert parameters["since"]["schema"] == {"type": "string", "format": "date-time"}
    assert found["get_ready"]["responses"].keys() == {"200", "503", "4XX", "5XX"}


async def test_openapi_describes_the_data_plane(
    gateway: Gateway, reference: Reference, models: ModelServer
) -> None:
    document = reference.document
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    for operation in [one for one in OPERATIONS if not one.is_socket]:
        assert (operation.path, operation.method) in described, operation.name
    key = await gateway.get("/v1/models")
    schema = {"$ref": "#/components/schemas/ModelListSchema", "components": document["components"]}
    jsonschema_rs.validate(schema, key.json())
    one = await gateway.get("/v1/models/m")
    jsonschema_rs.validate(schema | {"$ref": "#/components/schemas/ModelSchema"}, one.json())
    refused = await gateway.get("/v1/models/none")
    jsonschema_rs.validate(schema | {"$ref": "#/components/schemas/ErrorResponse"}, refused.json())
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]["4XX"]["$ref"]
    response = document["components"]["responses"][chat.rpartition("/")[2]]["content"]["application/json"]
    refusals = document["components"]["responses"].values()
    assert all(one["headers"].keys() == {"x-request-id", "retry-after", "x-should-retry"} for one in refusals)
    for body in (b"{}", b'{"model":"m","messages":[]}'):
        models.plan(refusal(400, b'{"error":{"message":"no","code":12}}'))
        answer = await gateway.chat(body)
        assert answer.status_code == 400
        assert "x-request-id" in answer.headers
        jsonschema_rs.validate(schema | response["schema"], answer.json())


async def test_openapi_chat_request_has_the_bounds_of_the_gateway(
    gateway: Gateway, reference: Reference
) -> None:
    known = reference.document["components"]["schemas"]["ChatRequestSchema"]["properties"]
    assert set(known) == set(ChatFields.__struct_fields__)
    bounds = known["max_tokens"]["anyOf"][0]
    for figure, code in (
        (bounds["maximum"], 200),
        (bounds["maximum"] + 1, 400),
        (bounds["minimum"] - 1, 400),
    ):
        assert (await gateway.chat(ASK | {"max_tokens": figure})).status_code == code, figure


class Reader(HTMLParser):
    """Checks nesting; collects ids, link targets and the style sheet."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        assert not any(name.startswith("on") or name in ("src", "style") for name in given), given
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data


def read(content: bytes) -> Reader:
    reader = Reader()
    reader.feed(content.decode())
    reader.close()
    assert reader.open == []
    return reader


def test_docs_page_needs_no_other_files(reference: Reference) -> None:
    answer = reference.page
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    reader = read(answer.content)
    digest = base64.b64encode(hashlib.sha256(reader.style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in POLICY
    assert not reader.tags & {"script", "img", "link", "iframe", "form", "object"}
    assert len(reader.ids) == len(set(reader.ids))
    for link in reader.links:
        assert link == "openapi.json" or link.removeprefix("#") in reader.ids, link
    document = reference.document
    for methods in document["paths"].values():
        assert {one["operationId"] for one in methods.values()} <= set(reader.ids)
    assert {f"type-{name}" for name in document["components"]["schemas"]} <= set(reader.ids)
    assert "prefers-color-scheme: dark" in reader.style
    assert b'<html lang="en">' in answer.content and b'name="viewport"' in answer.content


def test_docs_page_with_hostile_text_escapes_it(reference: Reference, subtests: pytest.Subtests) -> None:
    for hostile in ["</style><script>alert(1)</script>", '"><img src=x onerror=a()>', "a & b"]:
        with subtests.test(hostile=hostile):
            document = reference.document
            document["info"]["description"] = document["info"]["version"] = hostile
            for schema in document["components"]["schemas"].values():
                for node in (schema, *schema.get("properties", {}).values()):
                    node["description"] = hostile
            for one in nodes(document["paths"]):
                if "summary" in one:
                    one["summary"] = hostile
            document["paths"][f"/{hostile}"] = {
                "get": document["paths"]["/health"]["get"] | {"operationId": hostile}
            }
            reader = read(docs_page(document))
            assert not reader.tags & {"script", "img"}


def test_docs_page_examples_match_the_schemas(reference: Reference) -> None:
    """Each example body has the required fields and no unknown ones."""
    document = reference.document
    text = docs_page(document).decode()
    bodies = [
        json.loads(found) for found in re.findall(r"-d &#x27;(.*?)&#x27;</pre>", text.replace("&quot;", '"'))
    ]
    schemas = [
        one["requestBody"]["content"]["application/json"]["schema"]
        for tag in document["tags"]
        for methods in document["paths"].values()
        for one in methods.values()
        if one["tags"][0] == tag["name"]
        and next(iter(one.get("requestBody", {}).get("content", ())), "") == "application/json"
    ]
    assert len(bodies) == len(schemas) > 5
    for body, schema in zip(bodies, schemas, strict=True):
        name = schema["$ref"].rpartition("/")[2]
        known = document["components"]["schemas"][name]
        assert set(known.get("required", ())) <= body.keys() <= known["properties"].keys(), name


def test_docs_page_example_of_a_form_names_its_fields_and_file(reference: Reference) -> None:
    text = reference.page.text
    form = text.partition('id="post_v1_audio_transcriptions"')[2].partition("</pre>")[0]
    assert "-F model=demo/transcription" in form and "-F file=@speech.wav" in form
    document = reference.document
    content = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data", "application/json"]
    image = document["components"]["schemas"]["ImageEditFormSchema"]["properties"]["image"]
    assert image["contentMediaType"] == "application/octet-stream"


def test_docs_page_examples_use_the_public_url(reference: Reference) -> None:
    document = reference.document
    assert document["servers"] == [{"url": "/"}]
    document["servers"] = [{"url": "https://ai.example.com/"}]
    assert "curl https://ai.example.com/v1/models" in docs_page(document).decode()


def test_docs_page_example_uses_a_model_that_is_offered(reference: Reference) -> None:
    text = reference.page.text.replace("&quot;", '"')
    assert '"model": "m"' in text
    schema = reference.document["components"]["schemas"]["ChatRequestSchema"]
    assert schema["properties"]["model"]["examples"] == ["m"]


def test_docs_page_names_both_session_cookies(reference: Reference) -> None:
    scheme = reference.document["components"]["securitySchemes"]["sessionCookie"]
    assert scheme["name"] == "__Host-bluesminds"
    assert "`bluesminds`" in scheme["description"]
