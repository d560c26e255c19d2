"""Responses that the gateway translates and stores itself."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.gateway.stored_responses import store
from bluesminds.gateway.stored_responses.store import MAX_HISTORY
from tests import gateways
from tests.fakes.model_server import DONE, Cut, ModelServer, chunk, completion, streamed, whole
from tests.gateway.limits.test_limits import Wall
from tests.gateway.passthrough.conftest import Account, alter, code_of, refuse_inserts
from tests.gateways import Gateway, entry

MISSING = (404, "response_not_found")
UNKNOWN = (400, "previous_response_not_found")
CANARY = "canary-of-a-stored-response"


async def respond(account: Account, text: Any = "Say hello.", **more: Any) -> dict[str, Any]:
    answer = await account.send("POST", "/v1/responses", json={"model": "m", "input": text} | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def show(account: Account, response_id: str, below: str = "", **more: Any) -> httpx.Response:
    return await account.send("GET", f"/v1/responses/{response_id}{below}", **more)


def events_in(answer: httpx.Response) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) for one in data]


def turns(models: ModelServer) -> list[tuple[str, Any]]:
    """The messages of the last request."""
    return [(one["role"], one["content"]) for one in models.asked[-1].body["messages"]]


def own(gateway: Gateway) -> Account:
    return Account(gateway, "", gateway.key)


async def test_response_stored_is_read_back(gateway: Gateway, ada: Account) -> None:
    made = await respond(ada)
    assert (made["store"], made["previous_response_id"], made["status"]) == (True, None, "completed")
    shown = await show(ada, made["id"])
    assert (shown.status_code, shown.json()) == (200, made)
    items = (await show(ada, made["id"], "/input_items")).json()
    (item,) = items["data"]
    assert item["content"] == [{"type": "input_text", "text": "Say hello."}]
    expected = {"object": "list", "first_id": item["id"], "last_id": item["id"], "has_more": False}
    assert {name: value for name, value in items.items() if name != "data"} == expected
    assert (await respond(ada))["id"] != made["id"]


async def test_response_says_when_it_was_completed(gateway: Gateway, ada: Account) -> None:
    made = await respond(ada)
    assert made["created_at"] <= made["completed_at"] <= time.time()
    answer = await ada.send("POST", "/v1/responses", json={"model": "m", "input": "x", "stream": True})
    first, *_, last = events_in(answer)
    assert first["response"]["completed_at"] is None
    assert last["response"]["created_at"] <= last["response"]["completed_at"] <= time.time()


async def test_error_event_of_a_cut_stream_has_the_next_number(
    gateway: Gateway, ada: Account, models: ModelServer
) -> None:
    models.plan(streamed(chunk("one"), chunk("two"), Cut))
    answer = await ada.send("POST", "/v1/responses", json={"model": "m", "input": "x", "stream": True})
    events = events_in(answer)
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "upstream_cut")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_response_deleted_is_gone(gateway: Gateway, ada: Account) -> None:
    made = await respond(ada)
    deleted = await ada.send("DELETE", f"/v1/responses/{made['id']}")
    assert deleted.json() == {"id": made["id"], "object": "response.deleted", "deleted": True}
    assert code_of(await show(ada, made["id"])) == MISSING
    assert code_of(await ada.send("DELETE", f"/v1/responses/{made['id']}")) == MISSING
    answer = await ada.send(
        "POST", "/v1/responses", json={"model": "m", "input": "x", "previous_response_id": made["id"]}
    )
    assert code_of(answer) == UNKNOWN


async def test_response_that_continues_without_being_stored_names_the_one_before_it(
    gateway: Gateway, ada: Account, bob: Account, models: ModelServer
) -> None:
    models.plan(whole(completion("One.")), whole(completion("Two.")))
    first = await respond(ada, "a")
    second = await respond(ada, "b", previous_response_id=first["id"], store=False)
    assert (second["previous_response_id"], second["store"]) == (first["id"], False)
    assert turns(models) == [("user", "a"), ("assistant", "One."), ("user", "b")]
    body = {"model": "m", "input": "c", "previous_response_id": first["id"], "store": False, "stream": True}
    models.plan(streamed(chunk("Three."), chunk(finish="stop"), DONE))
    events = events_in(await ada.send("POST", "/v1/responses", json=body))
    whole_ones = [event["response"] for event in events if "response" in event]
    assert [one["type"] for one in (events[0], events[1], events[-1])] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    assert {(one["previous_response_id"], one["store"]) for one in whole_ones} == {(first["id"], False)}
    assert turns(models) == [("user", "a"), ("assistant", "One."), ("user", "c")]
    for one in (second, whole_ones[-1]):
        assert code_of(await show(ada, one["id"])) == MISSING
        answer = await ada.send("POST", "/v1/responses", json=body | {"previous_response_id": one["id"]})
        assert code_of(answer) == UNKNOWN
    assert code_of(await bob.send("POST", "/v1/responses", json=body)) == UNKNOWN


async def test_response_continued_gets_the_items_before_it(
    gateway: Gateway, ada: Account, models: ModelServer
) -> None:
    models.plan(whole(completion("One.")), whole(completion("Two.")), whole(completion("Three.")))
    first = await respond(ada, "a", instructions="Be brief.")
    assert turns(models) == [("system", "Be brief."), ("user", "a")]
    item = {"role": "user", "content": [{"type": "input_text", "text": "b"}]}
    second = await respond(ada, [item], previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert turns(models) == [("user", "a"), ("assistant", "One."), ("user", "b")], "no instructions"
    third = await respond(ada, "c", previous_response_id=second["id"], instructions="Be kind.")
    expected = [("user", "a"), ("assistant", "One."), ("user", "b"), ("assistant", "Two."), ("user", "c")]
    assert turns(models) == [("system", "Be kind."), *expected]
    await respond(ada, "d", previous_response_id=first["id"])
    assert turns(models) == [("user", "a"), ("assistant", "One."), ("user", "d")]
    items = (await show(ada, third["id"], "/input_items?order=asc")).json()["data"]
    texts = [one["content"][0]["text"] for one in items]
    assert texts == ["a", "One.", "b", "Two.", "c"]
    await ada.send("DELETE", f"/v1/responses/{first['id']}")
    body = {"model": "m", "input": "e", "previous_response_id": third["id"]}
    assert code_of(await ada.send("POST", "/v1/responses", json=body)) == UNKNOWN


async def test_tokens_of_the_history_are_estimated(gateway: Gateway, ada: Account) -> None:
    """A request must not pass a limit because its text is in the database."""
    made = await respond(ada, "word " * 4000)
    _, key = await gateway.new_key(user_id=ada.user_id, limits={"tpm": 2000})
    poor = Account(gateway, ada.user_id, key)
    body = {"model": "m", "input": "a", "max_output_tokens": 9}
    assert (await poor.send("POST", "/v1/responses", json=body)).status_code == 200
    body["previous_response_id"] = made["id"]
    answer = await poor.send("POST", "/v1/responses", json=body)
    assert code_of(answer) == (429, "request_too_large_for_limit")


async def test_call_and_its_output_are_continued(gateway: Gateway, ada: Account, models: ModelServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    models.plan(whole(completion(choices=[choice])))
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    first = await respond(ada, "a", tools=[tool])
    (item,) = first["output"]
    output = {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
    await respond(ada, [output], previous_response_id=first["id"], tools=[tool])
    sent = models.asked[-1].body["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool"]
    assert (sent[1]["tool_calls"][0]["id"], sent[2]["tool_call_id"]) == ("call_1", "call_1")


async def test_reference_to_a_stored_item_is_replaced_by_it(
    gateway: Gateway, ada: Account, bob: Account, models: ModelServer
) -> None:
    """@ai-sdk/openai sends earlier answers as references."""
    models.plan(whole(completion("One.")))
    first = await respond(ada, "a")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    items = [{"role": "user", "content": "a"}, reference, {"role": "user", "content": "b"}]
    second = await respond(ada, items)
    assert turns(models) == [("user", "a"), ("assistant", "One."), ("user", "b")]
    shown = (await show(ada, second["id"], "/input_items?order=asc")).json()["data"]
    assert [one["type"] for one in shown] == ["message"] * 3
    asked = len(models.asked)
    for account, input_ in (
        (bob, items),
        (ada, [{"type": "item_reference", "id": "msg_other"}]),
        (ada, [{"type": "item_reference", "id": "msg other"}]),
    ):
        answer = await account.send("POST", "/v1/responses", json={"model": "m", "input": input_})
        assert code_of(answer) == (404, "item_not_found")
    assert len(models.asked) == asked
    reasoning = {"type": "item_reference", "id": "rs_other"}
    await respond(ada, [reasoning, {"role": "user", "content": "c"}])
    assert turns(models) == [("user", "c")]


async def test_stream_stored_is_read_back(gateway: Gateway, ada: Account, models: ModelServer) -> None:
    body = {"model": "m", "input": "a", "stream": True}
    answer = await ada.send("POST", "/v1/responses", json=body)
    events = events_in(answer)
    made = events[-1]["response"]
    assert events[-1]["type"] == "response.completed" and made["store"] is True
    assert {event["response"]["id"] for event in events if "response" in event} == {made["id"]}
    assert (await show(ada, made["id"])).json() == made
    again = await show(ada, made["id"], "?stream=true")
    assert again.headers["content-type"] == "text/event-stream"
    replayed = events_in(again)
    assert replayed[0]["type"] == "response.created" and replayed[-1]["response"] == made
    assert [one["sequence_number"] for one in replayed] == list(range(len(replayed)))
    rest = events_in(await show(ada, made["id"], "?stream=true&starting_after=1"))
    assert rest == replayed[2:]
    await respond(ada, "b", previous_response_id=made["id"])
    assert turns(models) == [("user", "a"), ("assistant", "Hello world"), ("user", "b")]


async def test_stream_that_was_cut_is_not_stored(gateway: Gateway, ada: Account, models: ModelServer) -> None:
    models.plan(streamed(chunk("Hel"), Cut))
    answer = await ada.send("POST", "/v1/responses", json={"model": "m", "input": "a", "stream": True})
    created = events_in(answer)[0]["response"]
    assert code_of(await show(ada, created["id"])) == MISSING


async def test_server_that_answers_with_events_is_stored_as_well(
    gateway: Gateway, ada: Account, models: ModelServer
) -> None:
    models.plan(streamed(chunk("One."), chunk(finish="stop"), DONE), whole(completion("Two.")))
    first = await respond(ada, "a")
    assert (await show(ada, first["id"])).json() == first
    answer = await ada.send("POST", "/v1/responses", json={"model": "m", "input": "b", "stream": True})
    second = events_in(answer)[-1]["response"]
    assert (await show(ada, second["id"])).json() == second


async def test_response_that_is_not_to_be_stored_is_not(
    gateway: Gateway, ada: Account, models: ModelServer
) -> None:
    made = await respond(ada, store=False)
    assert made["store"] is False
    assert code_of(await show(ada, made["id"])) == MISSING
    answer = await ada.send(
        "POST", "/v1/responses", json={"model": "m", "input": "x", "previous_response_id": made["id"]}
    )
    assert code_of(answer) == UNKNOWN
    assert answer.json()["error"]["message"] == f"Previous response with id '{made['id']}' not found."
    assert answer.json()["error"]["param"] == "previous_response_id"
    assert len(models.asked) == 1


async def test_error_is_not_stored(gateway: Gateway, ada: Account, models: ModelServer) -> None:
    answer = await ada.send("POST", "/v1/responses", json={"model": "m", "input": "x", "background": True})
    assert answer.status_code == 400
    assert await gateway.metric("bluesminds_body_bytes_held") == 0


async def test_response_of_another_account_is_missing(
    gateway: Gateway, ada: Account, bob: Account, models: ModelServer
) -> None:
    made = await respond(ada, CANARY)
    asked = len(models.asked)
    for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        answer = await bob.send(method, f"/v1/responses/{made['id']}{below}")
        assert code_of(answer) == MISSING, (method, below)
        unknown = await bob.send(method, f"/v1/responses/resp_unknown{below}")
        assert code_of(unknown) == MISSING
    for path in ("responses", "responses/input_tokens"):
        body = {"model": "m", "input": "x", "previous_response_id": made["id"]}
        assert code_of(await bob.send("POST", f"/v1/{path}", json=body)) == UNKNOWN
    assert len(models.asked) == asked
    _, key = await gateway.new_key(user_id=ada.user_id)
    assert (await show(Account(gateway, ada.user_id, key), made["id"])).json() == made


async def test_id_that_is_none_is_missing(gateway: Gateway, ada: Account) -> None:
    for response_id in ("x", "resp_..%2f", "%00", "a%20b", "resp_%E4", "r" * 2000):
        assert (await show(ada, response_id)).status_code == 404, response_id


async def test_response_cannot_be_cancelled(gateway: Gateway, ada: Account) -> None:
    made = await respond(ada)
    answer = await ada.send("POST", f"/v1/responses/{made['id']}/cancel")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert answer.json()["error"]["message"] == "Cannot cancel a synchronous response."


async def test_input_items_are_paged(gateway: Gateway, ada: Account) -> None:
    items = [{"role": "user", "content": f"{number}"} for number in range(5)]
    made = await respond(ada, items)

    async def page(query: str) -> tuple[list[str], bool]:
        shown = (await show(ada, made["id"], f"/input_items?{query}")).json()
        return [one["content"][0]["text"] for one in shown["data"]], shown["has_more"]

    assert await page("limit=2") == (["4", "3"], True)
    ids = [one["id"] for one in (await show(ada, made["id"], "/input_items")).json()["data"]]
    assert await page(f"limit=2&after={ids[1]}") == (["2", "1"], True)
    assert await page(f"limit=2&after={ids[3]}") == (["0"], False)
    assert await page("order=asc&limit=100") == (["0", "1", "2", "3", "4"], False)
    long = f"limit={'0' * 5000}1"
    for query in ("limit=0", "limit=101", "limit=x", long, "order=up", "after=msg_x"):
        answer = await show(ada, made["id"], f"/input_items?{query}")
        assert code_of(answer) == (400, "invalid_value"), query
    for number in ("x", "-2"):
        query = f"?stream=true&starting_after={number}"
        assert code_of(await show(ada, made["id"], query)) == (400, "invalid_value")


async def test_key_needs_the_scope_of_responses(gateway: Gateway, ada: Account) -> None:
    made = await respond(ada)
    _, key = await gateway.new_key(user_id=ada.user_id, scopes=["chat.completions", "passthrough"])
    answer = await show(Account(gateway, ada.user_id, key), made["id"])
    assert code_of(answer) == (403, "scope_not_allowed")


async def test_requests_for_stored_responses_count_towards_the_rate(gateway: Gateway, ada: Account) -> None:
    made = await respond(ada)
    _, key = await gateway.new_key(user_id=ada.user_id, rpm=2)
    account = Account(gateway, ada.user_id, key)
    assert (await show(account, made["id"])).headers["x-ratelimit-remaining-requests"] == "1"
    await show(account, made["id"])
    assert code_of(await show(account, made["id"])) == (429, "rate_limit_exceeded")


async def test_deleted_account_takes_its_responses_along(
    gateway: Gateway, ada: Account, bob: Account
) -> None:
    made = await respond(ada)
    async with gateway.operator() as operator:
        assert (await operator.delete(f"/api/admin/users/{ada.user_id}")).status_code == 204
    assert code_of(await show(bob, made["id"])) == MISSING

    async def count(connection: Any) -> int:
        found = await connection.value("SELECT count(*) FROM stored_responses")
        return int(found)

    assert await gateway.services.store.read(count) == 0


async def test_retention_ends_with_the_last_response_that_continues(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    wall = Wall()
    gateway = await gateways.start(
        nursery, home, servers=[entry("chat", models.url)], clock=wall, responses={"retention_days": 2}
    )
    account = own(gateway)
    first, lone = await respond(account, "a"), await respond(account, "lone")
    wall.at += timedelta(days=1)
    second = await respond(account, "b", previous_response_id=first["id"])
    wall.at += timedelta(days=1, seconds=1)
    await gateway.services.cleanup.run_once()
    assert code_of(await show(account, lone["id"])) == MISSING
    assert (await show(account, first["id"])).json() == first
    await respond(account, "c", previous_response_id=second["id"], store=False)
    wall.at += timedelta(days=1)
    assert code_of(await show(account, second["id"])) == MISSING, "before the next cleanup"
    await gateway.services.cleanup.run_once()
    with gateway.reading() as database:
        assert database.execute("SELECT count(*) FROM stored_responses").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM stored_items").fetchone() == (0,)


async def test_account_above_its_size_loses_its_oldest_responses(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("chat", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, responses={"account_bytes": 20_000})
    account = own(gateway)
    made = [await respond(account, "x" * 9000) for _ in range(3)]
    await gateway.services.cleanup.run_once()
    statuses = [(await show(account, one["id"])).status_code for one in made]
    assert statuses == [404, 404, 200] or statuses == [404, 200, 200]


async def test_retention_of_zero_stores_nothing(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("chat", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, responses={"retention_days": 0})
    made = await respond(own(gateway))
    assert made["store"] is False
    assert code_of(await show(own(gateway), made["id"])) == MISSING


async def test_database_does_not_show_what_is_stored(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    models.plan(whole(completion(f"{CANARY} of the answer")))
    gateway = await gateways.start(nursery, home, servers=[entry("chat", models.url)])
    made = await respond(own(gateway), f"{CANARY} of the input", metadata={"note": f"{CANARY} of metadata"})
    assert CANARY in (await show(own(gateway), made["id"])).text
    files = [path for path in gateway.settings.state_dir.rglob("*") if path.is_file()]
    assert any(path.name == "bluesminds.db" for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in gateway.log


async def test_sealed_response_of_another_row_is_unreadable(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("chat", models.url)])
    one, two = await respond(own(gateway), "a"), await respond(own(gateway), "b")
    sealed = f"SELECT sealed FROM stored_responses WHERE id = '{one['id']}'"  # noqa: S608
    await alter(gateway, f"UPDATE stored_responses SET sealed = ({sealed}) WHERE id = '{two['id']}'")  # noqa: S608
    assert code_of(await show(own(gateway), two["id"])) == MISSING
    (event,) = gateway.events("response_unreadable")
    assert event["id"] == two["id"]


async def test_response_that_is_too_large_is_passed_on_and_not_stored(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("chat", models.url)])
    made = await respond(own(gateway), "x" * 5_000_000)
    assert made["status"] == "completed"
    assert code_of(await show(own(gateway), made["id"])) == MISSING
    (event,) = gateway.events("response_not_stored")
    assert event["reason"] == "too_large"
    assert await gateway.metric("bluesminds_body_bytes_held") == 0


async def test_response_that_cannot_be_stored_is_passed_on(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("chat", models.url)])
    await refuse_inserts(gateway, "stored_responses")
    made = await respond(own(gateway))
    stream = await own(gateway).send(
        "POST", "/v1/responses", json={"model": "m", "input": "a", "stream": True}
    )
    assert events_in(stream)[-1]["type"] == "response.completed"
    assert code_of(await show(own(gateway), made["id"])) == MISSING
    assert [event["reason"] for event in gateway.events("response_not_stored")] == ["BadValue"] * 2


async def test_history_that_is_too_long_is_refused(
    nursery: trio.Nursery, home: Path, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_HISTORY", MAX_HISTORY // 100)
    gateway = await gateways.start(nursery, home, servers=[entry("chat", models.url)])
    previous: dict[str, Any] = {}
    for _ in range(5):
        made = await respond(own(gateway), "x" * 39_000, **previous)
        previous = {"previous_response_id": made["id"]}
    body = {"model": "m", "input": "x"} | previous
    answer = await own(gateway).send("POST", "/v1/responses", json=body)
    assert code_of(answer) == (400, "conversation_too_long")
    assert await gateway.metric("bluesminds_body_bytes_held") == 0


async def test_history_counts_as_memory_of_bodies(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("chat", models.url)],
        server={"max_buffered_bytes": 1_500_000},
        websocket={"max_message_bytes": 1_500_000},
    )
    made = await respond(own(gateway), "x" * 700_000)
    body = {"model": "m", "input": "x" * 700_000, "previous_response_id": made["id"]}
    answer = await own(gateway).send("POST", "/v1/responses", json=body)
    assert code_of(answer) == (503, "body_memory_exhausted")
    assert await gateway.metric("bluesminds_body_bytes_held") == 0
