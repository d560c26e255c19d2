"""Responses that a server stores: the gateway knows whose they are and where."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes.model_server import ModelServer, error
from tests.fakes.object_server import Answer, ObjectServer
from tests.fakes.raw_upstream import Received
from tests.gateway.passthrough.conftest import Account, code_of, new_account, relaying
from tests.gateway.stored_responses.test_translated import MISSING, UNKNOWN, events_in, respond, show
from tests.gateways import Gateway, entry

STORED = "SELECT count(*) FROM stored_responses"


@pytest.fixture
async def ada(native: Gateway) -> Account:
    return await new_account(native, "ada@example.com")


@pytest.fixture
async def bob(native: Gateway) -> Account:
    return await new_account(native, "bob@example.com")


def last_body(server: ObjectServer) -> dict[str, Any]:
    return dict(json.loads(server.requests[-1].body))


async def test_requests_for_a_response_go_to_its_server(
    native: Gateway, ada: Account, vendor: ObjectServer, other: ObjectServer
) -> None:
    made = await respond(ada, model="only")
    assert made["id"] in other.objects["responses"]
    assert (await show(ada, made["id"], "?include[]=x")).json() == other.objects["responses"][made["id"]]
    assert other.lines()[-1] == f"GET /v1/responses/{made['id']}?include%5B%5D=x"
    for method, below in (("GET", "/input_items"), ("POST", "/cancel")):
        answer = await ada.send(method, f"/v1/responses/{made['id']}{below}")
        assert answer.json()["path"] == f"/v1/responses/{made['id']}{below}"
    answer = await ada.send("DELETE", f"/v1/responses/{made['id']}")
    assert answer.json()["deleted"] is True
    assert code_of(await show(ada, made["id"])) == MISSING
    assert vendor.lines() == []
    with native.reading() as database:
        assert database.execute(STORED).fetchone() == (0,)
    rows = native.rows()
    assert [(row["endpoint"], row["server"], row["model"]) for row in rows[1:]] == [
        ("responses", "second", "")
    ] * 4


async def test_response_is_continued_by_its_server(
    native: Gateway, ada: Account, vendor: ObjectServer, other: ObjectServer
) -> None:
    made = await respond(ada, model="only")
    second = await respond(ada, "b", previous_response_id=made["id"])  # "m", which the first server prefers
    assert second["id"] in other.objects["responses"]
    assert last_body(other) == {"model": "m", "input": "b", "previous_response_id": made["id"]}
    assert vendor.lines() == []
    first = await respond(ada)
    body = {"model": "only", "input": "c", "previous_response_id": first["id"]}
    answer = await ada.send("POST", "/v1/responses", json=body)
    assert code_of(answer) == (404, "object_server_missing")


async def test_stream_of_a_server_is_continued_by_it(
    native: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    answer = await ada.send("POST", "/v1/responses", json={"model": "m", "input": "a", "stream": True})
    made = events_in(answer)[-1]["response"]
    await respond(ada, "b", previous_response_id=made["id"])
    assert last_body(vendor)["previous_response_id"] == made["id"]
    assert (await show(ada, made["id"])).status_code == 200


async def test_native_response_of_another_account_is_missing(
    native: Gateway, ada: Account, bob: Account, vendor: ObjectServer
) -> None:
    made = await respond(ada)
    asked = vendor.lines()
    for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        assert code_of(await bob.send(method, f"/v1/responses/{made['id']}{below}")) == MISSING
    for path in ("responses", "responses/input_tokens"):
        body = {"model": "m", "input": "x", "previous_response_id": made["id"]}
        assert code_of(await bob.send("POST", f"/v1/{path}", json=body)) == UNKNOWN
    reference = [{"type": "item_reference", "id": made["output"][0]["id"]}]
    answer = await bob.send("POST", "/v1/responses", json={"model": "m", "input": reference})
    assert code_of(answer) == (404, "item_not_found")
    assert vendor.lines() == asked


async def test_reference_to_an_item_goes_to_its_server(
    native: Gateway, ada: Account, vendor: ObjectServer, other: ObjectServer, models: ModelServer
) -> None:
    native_item = (await respond(ada, model="only"))["output"][0]["id"]
    stored_item = (await respond(ada, model="translated"))["output"][0]
    items = [{"type": "item_reference", "id": one} for one in (native_item, stored_item["id"])]
    await respond(ada, items)
    sent = last_body(other)["input"]
    assert sent[0] == {"type": "item_reference", "id": native_item}
    assert sent[1]["content"] == stored_item["content"]
    assert vendor.lines() == []


async def test_translated_response_is_continued_by_a_native_server(
    native: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    first = await respond(ada, "a", model="translated")
    second = await respond(ada, "b", previous_response_id=first["id"])
    sent = last_body(vendor)
    assert "previous_response_id" not in sent
    texts = [one["content"][0]["text"] for one in sent["input"]]
    assert texts == ["a", "Hello world", "b"]
    await respond(ada, "c", previous_response_id=second["id"])
    assert last_body(vendor)["previous_response_id"] == second["id"]


async def test_native_response_is_not_continued_by_a_server_without_it(
    native: Gateway, ada: Account, models: ModelServer
) -> None:
    first = await respond(ada, "a")
    body = {"model": "translated", "input": "b", "previous_response_id": first["id"]}
    answer = await ada.send("POST", "/v1/responses", json=body)
    assert code_of(answer) == (404, "object_server_missing")
    assert models.asked == []


async def test_response_that_is_not_to_be_stored_belongs_to_no_account(
    native: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    made = await respond(ada, store=False)
    assert last_body(vendor)["store"] is False
    assert code_of(await show(ada, made["id"])) == MISSING


async def test_server_removed_leaves_a_clear_error(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer, other: ObjectServer
) -> None:
    servers = [relaying("first", vendor, dialect="litellm"), relaying("second", other, dialect="litellm")]
    gateway = await gateways.start(nursery, home, servers=servers)
    account = Account(gateway, "", gateway.key)
    made = await respond(account)
    await gateway.stop()
    others = [
        one
        for one in servers
        if made["id"] not in (vendor if one["name"] == "first" else other).objects["responses"]
    ]
    account.gateway = await gateways.start(nursery, home, servers=others, key=gateway.key)
    assert code_of(await show(account, made["id"])) == (404, "object_server_missing")
    body = {"model": "m", "input": "b", "previous_response_id": made["id"]}
    answer = await account.send("POST", "/v1/responses", json=body)
    assert code_of(answer) == (404, "object_server_missing")


async def test_conversation_goes_to_its_server(
    native: Gateway, ada: Account, bob: Account, vendor: ObjectServer, other: ObjectServer
) -> None:
    conversation = await ada.create("conversations", {}, headers={"x-bluesminds-server": "second"})
    for value in (conversation, {"id": conversation}):
        await respond(ada, conversation=value)
        assert last_body(other)["conversation"] == value
        body = {"model": "m", "input": "x", "conversation": value}
        assert code_of(await bob.send("POST", "/v1/responses", json=body)) == (404, "object_not_found")
    for value in ("conv_unknown", {"id": "conv_unknown"}):
        body = {"model": "m", "input": "x", "conversation": value}
        assert code_of(await ada.send("POST", "/v1/responses", json=body)) == (404, "object_not_found")
    answer = await ada.send("POST", "/v1/responses", json={"model": "m", "input": "x", "conversation": 5})
    assert code_of(answer) == (400, "invalid_value")
    assert vendor.lines() == []


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_request_with_a_file_goes_to_the_server_of_the_file(
    native: Gateway, ada: Account, bob: Account, vendor: ObjectServer, other: ObjectServer, path: str
) -> None:
    file_id = await ada.upload(headers={"x-bluesminds-server": "second"})
    part = (
        {"type": "input_file", "file_id": file_id}
        if path == "responses"
        else {"type": "file", "file": {"file_id": file_id}}
    )
    turn = {"role": "user", "content": [part]}
    body = {"model": "m", "input" if path == "responses" else "messages": [turn]}
    answer = await ada.send("POST", f"/v1/{path}", json=body)
    assert (answer.status_code, answer.headers["x-bluesminds-server"]) == (200, "second")
    text = json.dumps(body)
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in file_id)
    hidden = text.replace('"file_id"', '"file\\u005fid"').replace(file_id, escaped)
    headers = {"content-type": "application/json"}
    for content in (text, hidden):
        answer = await bob.send("POST", f"/v1/{path}", content=content, headers=headers)
        assert answer.status_code == 200, "as for an unknown object"
        sent = last_body(vendor)
        assert file_id not in json.dumps(sent) and '"file-' in json.dumps(sent)
    answer = await ada.send(
        "POST", f"/v1/{path}", content=text.replace(file_id, "file-unknown"), headers=headers
    )
    assert answer.status_code == 200, "an object that was not created through the gateway"
    assert vendor.lines()[-1] == f"POST /v1/{path}"


async def test_key_of_the_server_itself_is_not_concerned(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    servers = [entry("open", vendor.url, dialect="litellm", keyless=True)]
    gateway = await gateways.start(nursery, home, servers=servers, keyless={"enabled": True})
    made = vendor.add("responses", output=[])
    client = Account(gateway, "", "sk-upstream")
    second = await respond(client, previous_response_id=made)
    assert last_body(vendor)["previous_response_id"] == made
    assert code_of(await show(client, second["id"])) == (403, "scope_not_allowed")
    with gateway.reading() as database:
        assert database.execute("SELECT count(*) FROM server_objects").fetchone() == (0,)


async def test_id_among_many_texts_is_checked(
    native: Gateway, ada: Account, bob: Account, vendor: ObjectServer
) -> None:
    file_id = await ada.upload()
    texts = [f"text-{number}" for number in range(20_000)]
    body = {"model": "m", "input": "x", "metadata": {"many": [*texts, file_id]}}
    for account, passes in ((bob, False), (ada, True)):
        answer = await account.send("POST", "/v1/responses", json=body)
        assert answer.status_code == 200
        many = last_body(vendor)["metadata"]["many"]
        assert (many[:-1] == texts, many[-1] == file_id) == (True, passes)


async def test_answer_for_the_object_of_another_account_is_that_for_an_unknown_one(
    native: Gateway, ada: Account, bob: Account, vendor: ObjectServer
) -> None:
    def refuse(received: Received) -> Answer:
        named = json.loads(received.body)["input"][0]["content"][0]["file_id"]
        return Answer(error(f"There is no file {named}."), b"400 Bad Request")

    file_id = await ada.upload()
    vendor.answers["/v1/responses"] = refuse
    answers = []
    for one in (file_id, "file-unknown"):
        turn = {"role": "user", "content": [{"type": "input_file", "file_id": one}]}
        answer = await bob.send("POST", "/v1/responses", json={"model": "m", "input": [turn]})
        answers.append((answer.status_code, answer.text.replace(one, "ID")))
    assert answers[0] == answers[1] and "There is no file ID." in answers[0][1]
