"""Requests that match no operation, relayed to a server that allows it."""

from pathlib import Path
from typing import Any

import trio

from tests import gateways
from tests.fakes.object_server import Answer, ObjectServer
from tests.fakes.raw_upstream import Received
from tests.gateway.passthrough.conftest import Account, code_of, new_account, relaying
from tests.gateways import Gateway, entry, eventually


async def test_file_uploaded_is_read_back_by_its_account(
    gateway: Gateway, vendor: ObjectServer, ada: Account
) -> None:
    file_id = await ada.upload(b"one\ntwo\n")
    shown = await ada.send("GET", f"/v1/files/{file_id}")
    assert shown.json() == vendor.objects["files"][file_id]
    assert (shown.json()["filename"], shown.json()["purpose"]) == ("a.txt", "batch")
    content = await ada.send("GET", f"/v1/files/{file_id}/content")
    assert (content.status_code, content.content) == (200, b"one\ntwo\n")
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["x-bluesminds-server"] == "first"
    assert "set-cookie" not in content.headers
    deleted = await ada.send("DELETE", f"/v1/files/{file_id}")
    assert deleted.json()["deleted"] is True
    assert code_of(await ada.send("GET", f"/v1/files/{file_id}")) == (404, "object_not_found")
    assert vendor.lines() == [
        "POST /v1/files",
        f"GET /v1/files/{file_id}",
        f"GET /v1/files/{file_id}/content",
        f"DELETE /v1/files/{file_id}",
    ]


async def test_relayed_request_has_the_servers_key_and_few_headers(
    gateway: Gateway, vendor: ObjectServer, ada: Account
) -> None:
    headers = {
        "openai-organization": "org-other",
        "cookie": "a=b",
        "x-api-key": "client",
        "accept": "application/binary",
        "openai-beta": "assistants=v2",
        "x-litellm-tags": "x",
        "forwarded": "for=1.1.1.1",
    }
    await ada.create("vector_stores", {"name": "books"}, headers=headers)
    head = vendor.requests[-1].head.decode().lower()
    assert ada.key.lower() not in head
    assert "authorization: bearer sk-upstream" in head
    assert "accept: application/binary" in head and "openai-beta: assistants=v2" in head
    for refused in ("org-other", "cookie", "client", "x-litellm", "forwarded"):
        assert refused not in head


async def test_idempotency_keys_of_accounts_are_kept_apart(
    gateway: Gateway, vendor: ObjectServer, ada: Account
) -> None:
    """They share the gateway's account at the server."""
    bob = await new_account(gateway, "bob@example.com")
    sent = []
    for account in (ada, ada, bob):
        await account.create("vector_stores", {}, headers={"idempotency-key": "one"})
        sent += vendor.requests[-1].values(b"idempotency-key")
    assert sent[0] == sent[1] != sent[2]
    assert b"one" not in sent


async def test_relayed_request_has_a_usage_row_and_a_log_line(
    gateway: Gateway, ada: Account, storage: dict[str, Any]
) -> None:
    file_id = await ada.upload()
    await ada.send("GET", f"/v1/files/{file_id}/content")
    lines = [line for line in gateway.events("request") if line["endpoint"] == "passthrough"]
    assert [(line["method"], line["path"], line["server"], line["status"]) for line in lines] == [
        ("POST", "/v1/files", "first", 200),
        ("GET", f"/v1/files/{file_id}/content", "first", 200),
    ]
    labels = {"endpoint": "passthrough", "model": "", "server": "first", "status": "200"}
    assert await gateway.metric("bluesminds_requests_total", **labels) == 2
    assert await gateway.metric("bluesminds_upstream_attempts_total", server="first", outcome="answered") == 2
    if not storage:
        rows = gateway.rows()
        assert [(row["endpoint"], row["model"], row["server"], row["outcome"]) for row in rows] == [
            ("passthrough", "", "first", "ok")
        ] * 2
        assert {(row["input_tokens"], row["output_tokens"], row["cost_nano"]) for row in rows} == {
            (None, None, None)
        }


async def test_batch_with_a_file_goes_to_the_server_of_the_file(
    gateway: Gateway, vendor: ObjectServer, other: ObjectServer, ada: Account
) -> None:
    file_id = await ada.upload(headers={"x-bluesminds-server": "second"})
    assert file_id in other.objects["files"]
    made = await ada.send("POST", "/v1/batches", json={"input_file_id": file_id, "endpoint": "/v1/responses"})
    assert made.headers["x-bluesminds-server"] == "second"
    batch = (await ada.send("GET", f"/v1/batches/{made.json()['id']}")).json()
    output = await ada.send("GET", f"/v1/files/{batch['output_file_id']}/content")
    assert output.content == b'{"id":"batch_req_1"}\n'
    assert vendor.lines() == []


async def test_objects_at_different_servers_in_one_request_are_refused(
    gateway: Gateway, ada: Account
) -> None:
    one = await ada.upload()
    two = await ada.upload(headers={"x-bluesminds-server": "second"})
    answer = await ada.send("POST", "/v1/vector_stores", json={"file_ids": [one, two]})
    assert code_of(answer) == (400, "different_servers")
    store = await ada.create("vector_stores", {"file_ids": [one]})
    answer = await ada.send("POST", f"/v1/vector_stores/{store}/files", json={"file_id": two})
    assert code_of(answer) == (400, "different_servers")
    answer = await ada.send("POST", f"/v1/containers/{store}/files", data={"file_id": two}, files={"x": b""})
    assert code_of(answer) == (400, "different_servers")


async def test_object_below_an_own_object_is_left_to_the_server(gateway: Gateway, ada: Account) -> None:
    store = await ada.create("vector_stores", {"name": "books"})
    answer = await ada.send("GET", f"/v1/vector_stores/{store}/file_batches/vsfb_1")
    assert answer.json()["path"] == f"/v1/vector_stores/{store}/file_batches/vsfb_1"


async def test_server_named_in_the_header_must_relay(gateway: Gateway, ada: Account) -> None:
    answer = await ada.send("POST", "/v1/vector_stores", json={}, headers={"x-bluesminds-server": "third"})
    assert code_of(answer) == (400, "unknown_server")
    file_id = await ada.upload()
    answer = await ada.send("GET", f"/v1/files/{file_id}", headers={"x-bluesminds-server": "second"})
    assert code_of(answer) == (404, "object_server_missing")


async def test_path_without_a_server_that_relays_it_says_how_to(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", "http://127.0.0.1:1/v1")])
    for path in ("files", "batches", "vector_stores", "uploads", "evals", "messages/batches"):
        answer = await gateway.get(f"/v1/{path}")
        assert answer.status_code == 404
        assert "Set passthrough = true on a server to relay it." in answer.text
    assert code_of(await gateway.get("/v1/files")) == (404, "unsupported_endpoint")


async def test_path_outside_the_collections_needs_a_setting(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    """With the gateway's key a client could otherwise manage the keys of a LiteLLM proxy."""
    vendor.answers["/v1/ocr"] = Answer(b'{"pages": []}')
    servers = [relaying("first", vendor)]
    gateway = await gateways.start(nursery, home, servers=servers)
    account = Account(gateway, "", gateway.key)
    for path in ("/v1/ocr", "/v1/key/generate", "/v1/organization/admin_api_keys", "/v1/filesystem"):
        assert (await account.send("POST", path, json={})).status_code == 404
    assert vendor.lines() == []
    await gateway.stop()
    servers = [relaying("first", vendor, passthrough=False, passthrough_paths=["ocr"])]
    gateway = await gateways.start(nursery, home, servers=servers, key=gateway.key)
    account.gateway = gateway
    assert (await account.send("POST", "/v1/ocr", json={})).json() == {"pages": []}
    assert code_of(await account.send("POST", "/v1/files", json={})) == (404, "unsupported_endpoint")


async def test_key_needs_the_scope(gateway: Gateway, vendor: ObjectServer) -> None:
    for email, fields, allowed in (
        ("a@example.com", {"scopes": ["chat.completions"]}, False),
        ("b@example.com", {"scopes": ["passthrough"]}, True),
        ("c@example.com", {"allowed_models": ["m"]}, False),
        ("d@example.com", {"allowed_models": ["m"], "scopes": ["passthrough"]}, True),
    ):
        account = await new_account(gateway, email, **fields)
        answer = await account.send("POST", "/v1/vector_stores", json={})
        expected = (200, None) if allowed else (403, "scope_not_allowed")
        assert (answer.status_code, answer.json().get("error", {}).get("code")) == expected


async def test_key_with_a_budget_may_only_read(gateway: Gateway, ada: Account, vendor: ObjectServer) -> None:
    file_id = await ada.upload()
    _, key = await gateway.new_key(user_id=ada.user_id, limits={"usd_per_day": "1"})
    poor = Account(gateway, ada.user_id, key)
    answer = await poor.send("POST", "/v1/batches", json={"input_file_id": file_id})
    assert code_of(answer) == (403, "model_not_priced")
    assert (await poor.send("GET", f"/v1/files/{file_id}/content")).status_code == 200
    assert (await poor.send("DELETE", f"/v1/files/{file_id}")).status_code == 200


async def test_requests_count_towards_the_rate(gateway: Gateway) -> None:
    account = await new_account(gateway, "a@example.com", rpm=2)
    file_id = await account.upload()
    assert (await account.send("GET", f"/v1/files/{file_id}")).status_code == 200
    refused = await account.send("GET", f"/v1/files/{file_id}")
    assert code_of(refused) == (429, "rate_limit_exceeded")
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_running_requests_count_towards_the_concurrency(
    gateway: Gateway, vendor: ObjectServer, nursery: trio.Nursery
) -> None:
    account = await new_account(gateway, "a@example.com", concurrency=1)
    proceed = trio.Event()

    async def slowly(pieces: list[bytes]) -> Any:
        for piece in pieces:
            yield piece
            await proceed.wait()

    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhello'
    answers = []

    async def upload() -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        content = slowly([form, b"\r\n--x--\r\n"])
        answers.append(await account.send("POST", "/v1/files", content=content, headers=headers))

    nursery.start_soon(upload)
    await eventually(lambda: gateway.running.running_requests() == 1)
    refused = await account.send("POST", "/v1/vector_stores", json={})
    assert refused.status_code == 429
    proceed.set()
    await eventually(lambda: bool(answers))
    assert answers[0].status_code == 200


async def test_body_of_another_type_is_refused(gateway: Gateway, ada: Account, vendor: ObjectServer) -> None:
    for headers in (
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {},
    ):
        answer = await ada.send("POST", "/v1/vector_stores", content=b'{"a": 1}', headers=headers)
        assert code_of(answer) == (415, "unsupported_content_type")
    answer = await ada.send(
        "POST",
        "/v1/files",
        content=b'{"file_id": "x"}',
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert code_of(answer) == (400, "invalid_multipart")
    answer = await ada.send(
        "POST", "/v1/vector_stores", content=b"{", headers={"content-type": "application/json"}
    )
    assert code_of(answer) == (400, "invalid_json")
    assert vendor.objects["vector_stores"] == {} and vendor.objects["files"] == {}


async def test_collection_is_only_listed_and_added_to(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    for method in ("DELETE", "PUT", "PATCH"):
        answer = await ada.send(method, "/v1/files")
        assert code_of(answer) == (405, "method_not_allowed")
    assert vendor.lines() == []


async def test_error_of_the_server_is_passed_on(gateway: Gateway, ada: Account, vendor: ObjectServer) -> None:
    body = b'{"error":{"message":"no sk-upstream","type":"t","param":"purpose","code":"c"}}'
    for status, code in ((b"400 Bad Request", 400), (b"404 Not Found", 404), (b"500 Broken", 500)):
        vendor.answers["/v1/vector_stores"] = Answer(body, status)
        answer = await ada.send("POST", "/v1/vector_stores", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (code, "c"), status
        assert "sk-upstream" not in answer.text, status


async def test_page_of_html_is_not_passed_on_as_an_error(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    html = Answer(b"<html>x</html>", b"503 Service Unavailable", (b"Content-Type: text/html",))
    vendor.answers["/v1/vector_stores"] = html
    answer = await ada.send("POST", "/v1/vector_stores", json={})
    assert code_of(answer) == (503, "upstream_error")


async def test_rejected_key_and_redirect_are_errors_of_the_server(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    vendor.answers["/v1/vector_stores"] = Answer(b'{"error":{"message":"wrong key"}}', b"401 Unauthorized")
    answer = await ada.send("POST", "/v1/vector_stores", json={})
    assert code_of(answer) == (502, "upstream_credentials_refused")
    moved = Answer(b"", b"307 Moved", (b"Location: http://127.0.0.1:1/",))
    vendor.answers["/v1/vector_stores"] = moved
    answer = await ada.send("POST", "/v1/vector_stores", json={})
    assert code_of(answer) == (502, "upstream_error")
    assert "location" not in answer.headers


async def test_server_that_is_down_is_an_error(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    servers = [relaying("down", vendor, url="http://127.0.0.1:1/v1")]
    gateway = await gateways.start(nursery, home, servers=servers)
    answer = await Account(gateway, "", gateway.key).send("POST", "/v1/vector_stores", json={})
    assert code_of(answer) == (502, "upstream_unreachable")
    (row,) = gateway.rows()
    assert (row["server"], row["status"], row["outcome"]) == ("down", 502, "upstream_error")


async def test_server_removed_leaves_a_clear_error(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer, other: ObjectServer
) -> None:
    servers = [relaying("first", vendor), relaying("second", other)]
    gateway = await gateways.start(nursery, home, servers=servers)
    account = Account(gateway, "", gateway.key)
    file_id = await account.upload(headers={"x-bluesminds-server": "second"})
    await gateway.stop()
    account.gateway = await gateways.start(nursery, home, servers=servers[:1], key=gateway.key)
    assert code_of(await account.send("GET", f"/v1/files/{file_id}")) == (404, "object_server_missing")


async def test_key_that_is_refused_rests_and_the_next_request_has_another_one(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    """A relayed request is not repeated, because it may change something at the server."""

    def by_key(received: Received) -> Answer:
        if received.values(b"authorization") == [b"Bearer sk-0000000000-aaaa"]:
            return Answer(b'{"error":{"message":"wrong key"}}', b"401 Unauthorized")
        return Answer(b'{"id":"vs_%d","object":"vector_store"}' % len(vendor.requests))

    vendor.answers["/v1/models"] = Answer(b'{"object":"list","data":[]}')
    vendor.answers["/v1/vector_stores"] = by_key
    server = entry("one", vendor.url, api_keys=["sk-0000000000-aaaa", "sk-0000000000-bbbb"], passthrough=True)
    gateway = await gateways.start(nursery, home, servers=[server])
    ada = Account(gateway, "", gateway.key)
    answers = [await ada.send("POST", "/v1/vector_stores", json={}) for _ in range(4)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert [code_of(answer) for answer in refused] == [(502, "upstream_credentials_refused")]
    posted = [request for request in vendor.requests if request.line.startswith(b"POST ")]
    used = [request.values(b"authorization")[0][-4:] for request in posted]
    assert used[-2:] == [b"bbbb", b"bbbb"]
    assert used.count(b"aaaa") == 1
    (rest,) = gateway.events("server_key_rests")
    assert (rest["server"], rest["key"]) == ("one", "aaaa")
