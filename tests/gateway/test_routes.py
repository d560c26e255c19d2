"""Routes of a running gateway: names for servers, fallback models, limits and prices."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes import anthropic_server, model_server
from tests.fakes.model_server import (
    DONE,
    ModelServer,
    Plan,
    chunk,
    completion,
    drop_twice,
    error,
    hang,
    refusal,
    streamed,
    text_chunks,
    whole,
)
from tests.gateway.cases import Since
from tests.gateways import ASK, STREAM, Gateway, entry

TEXT = b"".join((*text_chunks(), chunk(finish="stop"), DONE))
TOO_LONG = error("This is too long.", code="context_length_exceeded", type="invalid_request_error")
FILTERED = error("Not this.", code="content_filter", type="invalid_request_error")
PRICES = [
    {"model": "m", "input_usd": 1, "output_usd": 1, "max_output_tokens": 100},
    {"model": "dear", "input_usd": 10, "output_usd": 10, "max_output_tokens": 100},
]
Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Start:
    """Start a gateway with the servers "one" and "two", which list no model that a route has."""

    async def start(*routes: dict[str, Any], **sections: Any) -> Gateway:
        servers = [entry("one", models.url, models=[]), entry("two", second.url, models=[])]
        models.models, second.models = ("listed",), ("listed",)
        return await gateways.start(nursery, home, servers=servers, routes=list(routes), **sections)

    return start


def route(model: str, *targets: Any, **more: Any) -> dict[str, Any]:
    return {"model": model, "targets": list(targets)} | more


def asked_models(server: ModelServer) -> list[str]:
    return [asked.body["model"] for asked in server.asked]


def own_routes(
    models: ModelServer, second: ModelServer, settings: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Servers and routes: for case N with its settings, the model "mN" on a server of its own. All fall back
    to "other", which the server "two" has as "real".
    """
    models.models, second.models = ("listed",), ("listed",)
    servers = [entry("two", second.url, models=[])]
    routes = [route("other", {"server": "two", "model": "real"})]
    for number, more in enumerate(settings):
        servers.append(entry(f"one-{number}", models.url, models=[]))
        routes.append(route(f"m{number}", f"one-{number}", fallback=["other"], **more))
    return servers, routes


async def test_target_gets_its_own_name_of_the_model(start: Start, models: ModelServer) -> None:
    gateway = await start(route("fast", {"server": "one", "model": "gpt-5-eu"}), route("qwen*", "one"))
    models.plan(whole(completion(model="gpt-5-eu-2026")))
    answer = await gateway.chat(ASK | {"model": "fast"})
    assert answer.json()["model"] == "gpt-5-eu-2026", "the answer names the server's model"
    assert "x-bluesminds-model" not in answer.headers
    await gateway.chat(STREAM | {"model": "fast"})
    await gateway.chat(ASK | {"model": "qwen3"})
    assert asked_models(models) == ["gpt-5-eu", "gpt-5-eu", "qwen3"]
    assert [row["model"] for row in gateway.rows()] == ["fast", "fast", "qwen3"]


async def test_name_of_the_model_is_part_of_an_azure_path(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    url = models.url.removesuffix("/v1") + "/openai"
    servers = [entry("azure", url, dialect="azure", api_version="2024-10-21", models=["gpt 5"])]
    routes = [route("gpt-5", {"server": "azure", "model": "gpt 5"})]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    assert (await gateway.chat(ASK | {"model": "gpt-5"})).status_code == 200
    assert b"/openai/deployments/gpt%205/chat/completions" in models.asked[0].received.line


async def test_translated_request_has_the_name_of_the_target(nursery: trio.Nursery, home: Path) -> None:
    claude: ModelServer = await nursery.start(anthropic_server.serve)
    servers = [entry("claude", claude.url, dialect="anthropic", models=[])]
    prices = [{"model": "sonnet", "input_usd": 1, "output_usd": 1, "max_output_tokens": 77}]
    routes = [route("fast", {"server": "claude", "model": "sonnet"})]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes, prices=prices)
    assert (await gateway.chat(ASK | {"model": "fast"})).status_code == 200
    assert [(asked.body["model"], asked.body["max_tokens"]) for asked in claude.asked] == [("sonnet", 77)]


async def test_models_lists_exact_routes_beside_models_of_servers(start: Start) -> None:
    gateway = await start(route("fast", "one"), route("qwen*", "one"), routes_short={"gpt-4": ["two", "one"]})
    _, key = await gateway.new_key(allowed_models=["fast", "listed"])
    async with gateway.client(key) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [row["id"] for row in listed] == ["fast", "listed"]
        assert (await client.get("/v1/models/fast")).json()["id"] == "fast"
        assert (await client.get("/v1/models/gpt-4")).status_code == 404
    everything = (await gateway.get("/v1/models")).json()["data"]
    assert [row["id"] for row in everything] == ["fast", "gpt-4", "listed"]


async def test_key_is_checked_for_the_clients_name_of_the_model(start: Start, models: ModelServer) -> None:
    gateway = await start(route("fast", {"server": "one", "model": "secret-name"}))
    _, key = await gateway.new_key(allowed_models=["fast"])
    assert (await gateway.chat(ASK | {"model": "fast"}, key=key)).status_code == 200
    refused = await gateway.chat(ASK | {"model": "secret-name"}, key=key)
    assert refused.json()["error"]["code"] == "model_not_allowed"


async def test_short_route_tries_servers_in_order(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(routes_short={"m": ["two", "one"]})
    for _ in range(5):
        assert (await gateway.chat()).headers["x-bluesminds-server"] == "two"
    second.plan(refusal(503))
    assert (await gateway.chat()).headers["x-bluesminds-server"] == "one"
    assert (len(models.asked), len(second.asked)) == (1, 6)


async def test_weighted_route_shares_requests_by_weight(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    targets = {"server": "one", "weight": 3}, {"server": "two", "weight": 1}
    gateway = await start(route("m", *targets, policy="weighted"))
    for _ in range(8):
        await gateway.chat()
    assert (len(models.asked), len(second.asked)) == (6, 2)


async def test_affinity_sends_turns_of_a_conversation_to_one_server(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(route("m", "one", "two", policy="affinity"))
    for number in range(12):
        before = len(models.asked), len(second.asked)
        messages = [{"role": "user", "content": f"Question {number}"}]
        for turn in range(3):
            await gateway.chat({"model": "m", "messages": messages})
            messages += [{"role": "assistant", "content": "a"}, {"role": "user", "content": str(turn)}]
        assert (len(models.asked) - before[0], len(second.asked) - before[1]) in ((3, 0), (0, 3))
    assert models.asked and second.asked


async def test_least_busy_route_avoids_the_busy_server(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(route("m", "one", "two", policy="least_busy"))
    done = trio.Event()
    slow = streamed(chunk("a"), done, chunk(finish="stop"), DONE)
    models.default, second.default = slow, slow
    async with trio.open_nursery() as nursery:
        for count in range(1, 5):
            nursery.start_soon(gateway.chat, STREAM)
            await gateways.eventually(lambda count=count: len(models.asked) + len(second.asked) == count)
        assert (len(models.asked), len(second.asked)) == (2, 2)
        done.set()
    models.default = second.default = model_server.correct
    for _ in range(4):
        assert (await gateway.chat()).status_code == 200


FAILURES: list[list[Plan]] = [
    [refusal(500), refusal(500)],
    [refusal(429)],
    [refusal(401)],
    [drop_twice],
    [hang],
    [refusal(400, TOO_LONG)],
    [streamed(b"data: " + TOO_LONG + b"\n\n")],
    [streamed(b"data: " + error("no capacity") + b"\n\n", DONE)] * 2,
]


async def test_fallback_model_answers_before_the_first_event(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers, routes = own_routes(models, second, [{}] * len(FAILURES))
    silent = f"one-{FAILURES.index([hang])}"
    servers = [one | ({"first_byte_timeout": 1.0} if one["name"] == silent else {}) for one in servers]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    for number, failures in enumerate(FAILURES):
        with subtests.test(str(number)):
            model = f"m{number}"
            since = Since(gateway)
            models.asked.clear()
            second.asked.clear()
            models.plan(*failures)
            answer = await gateway.chat(STREAM | {"model": model})
            assert answer.content == TEXT.replace(b'"m"', b'"real"'), "the answer names the server's model"
            assert answer.headers["x-bluesminds-model"] == "other"
            assert answer.headers["x-bluesminds-server"] == "two"
            assert (set(asked_models(models)), asked_models(second)) == ({model}, ["real"])
            assert failures == [drop_twice] or len(models.asked) == len(failures)
            (row,) = since.rows()
            assert (row["model"], row["server"], row["outcome"]) == (model, "two", "ok")
            (event,) = since.events("model_replaced")
            assert (event["model"], event["replacement"]) == (model, "other")


async def test_only_server_is_tried_once_more_before_the_fallback(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(route("m", "one", fallback=["other"]), route("other", "two"))
    models.plan(refusal(503))
    answer = await gateway.chat()
    assert (answer.status_code, len(models.asked), len(second.asked)) == (200, 2, 0)
    assert "x-bluesminds-model" not in answer.headers


async def test_every_server_of_the_model_comes_before_the_fallback(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    routes = route("m", "one", "two", fallback=["other"]), route("other", {"server": "two", "model": "real"})
    gateway = await start(*routes)
    models.plan(refusal(500))
    second.plan(refusal(500))
    assert (await gateway.chat()).headers["x-bluesminds-model"] == "other"
    assert sorted(asked_models(models) + asked_models(second)) == ["m", "m", "real"]


OTHER_REASONS = [
    (["limit"], refusal(500), 502),
    (["error"], refusal(429), 429),
    (["error", "limit", "timeout"], refusal(400, TOO_LONG), 400),
    (["error", "limit", "timeout", "context_length"], refusal(400, FILTERED), 400),
    (["error", "limit", "timeout", "context_length", "content_filter"], refusal(400), 400),
]


async def test_failure_for_another_reason_is_passed_on(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    settings = [{"fallback_on": reasons} for reasons, _, _ in OTHER_REASONS]
    servers, routes = own_routes(models, second, settings)
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    for number, (reasons, failure, status) in enumerate(OTHER_REASONS):
        with subtests.test(f"{reasons[-1]} {status}"):
            models.default = failure
            assert (await gateway.chat(ASK | {"model": f"m{number}"})).status_code == status
            assert asked_models(models)[-1] == f"m{number}"
            assert second.asked == []


async def test_content_filter_leads_to_the_fallback_if_it_is_named(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    routes = route("m", "one", fallback=["other"], fallback_on=["content_filter"]), route("other", "two")
    gateway = await start(*routes)
    models.default = refusal(400, FILTERED)
    assert (await gateway.chat()).headers["x-bluesminds-model"] == "other"
    assert len(models.asked) == 1


async def test_refusal_that_every_model_repeats_is_passed_on(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(route("m", "one", fallback=["other"]), route("other", "two"))
    models.default = second.default = refusal(400, TOO_LONG)
    answer = await gateway.chat()
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert (len(models.asked), len(second.asked)) == (1, 1)


async def test_twice_the_attempts_bound_all_models_together(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    names = [f"other-{n}" for n in range(5)]
    gateway = await start(
        route("m", "one", fallback=names), *(route(name, "two") for name in names), upstream={"attempts": 2}
    )
    models.default = second.default = refusal(500)
    answer = await gateway.chat()
    assert (answer.status_code, answer.headers["x-bluesminds-attempts"]) == (502, "4")
    assert asked_models(models) + asked_models(second) == ["m", "m", "other-0", "other-1"]


async def test_model_with_as_many_servers_as_attempts_reaches_its_fallback(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    targets = [{"server": "one", "model": name} for name in ("a", "b", "c", "d")]
    gateway = await start(route("m", *targets, fallback=["other"]), route("other", "two"))
    models.default = refusal(500)
    answer = await gateway.chat()
    assert (answer.status_code, answer.headers["x-bluesminds-model"]) == (200, "other")
    assert (len(set(asked_models(models))), asked_models(second)) == (3, ["other"])


async def test_one_attempt_for_each_model_leads_to_the_fallback(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(
        route("m", "one", fallback=["other"]), route("other", "two"), upstream={"attempts": 1}
    )
    models.default = refusal(500)
    assert (await gateway.chat()).headers["x-bluesminds-model"] == "other"
    assert len(models.asked) == 1


async def test_model_whose_servers_are_ejected_gives_way_to_its_fallback(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(
        route("m", "one", fallback=["other"]),
        route("other", "two"),
        upstream={"eject_after": 1, "eject_seconds": 3600},
    )
    models.default = refusal(500)
    assert (await gateway.chat()).headers["x-bluesminds-attempts"] == "2", "an ejected server is not repeated"
    answer = await gateway.chat()
    assert (answer.headers["x-bluesminds-attempts"], answer.headers["x-bluesminds-model"]) == ("1", "other")


async def test_fallback_model_must_be_allowed_for_the_key(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(route("m", "one", fallback=["other"]), route("other", "two"))
    models.default = refusal(500)
    _, narrow = await gateway.new_key(allowed_models=["m"])
    _, wide = await gateway.new_key(allowed_models=["m", "other"])
    assert (await gateway.chat(key=narrow)).status_code == 502
    assert second.asked == []
    assert (await gateway.chat(key=wide)).headers["x-bluesminds-model"] == "other"


async def test_settlement_uses_the_price_of_the_model_that_answered(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    routes = route("m", "one", fallback=["dear"]), route("dear", "two")
    gateway = await start(*routes, prices=PRICES)
    assert (await gateway.chat()).headers["x-cost-usd"] == "0.000013"
    models.plan(refusal(429))
    assert (await gateway.chat()).headers["x-cost-usd"] == "0.00013"
    assert [row["cost_nano"] for row in gateway.rows()] == [13_000, 130_000]


async def test_price_is_that_of_the_target_if_it_has_one(start: Start) -> None:
    gateway = await start(
        route("m", {"server": "one", "model": "dear"}),
        route("n", {"server": "one", "model": "unpriced"}),
        prices=PRICES,
    )
    assert (await gateway.chat()).headers["x-cost-usd"] == "0.00013"
    assert "x-cost-usd" not in (await gateway.chat(ASK | {"model": "n"})).headers


async def test_budget_covers_the_dearest_model_or_excludes_it(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    routes = route("m", "one", fallback=["dear", "unpriced"]), route("dear", "two"), route("unpriced", "two")
    gateway = await start(*routes, prices=PRICES)
    _, rich = await gateway.new_key(limits={"usd_total": "1"})
    _, poor = await gateway.new_key(limits={"usd_total": "0.0005"})
    assert (await gateway.chat(key=poor)).headers["x-cost-usd"] == "0.000013"
    models.default = refusal(500)
    assert (await gateway.chat(key=rich)).headers["x-bluesminds-model"] == "dear"
    assert asked_models(second) == ["dear"]
    assert (await gateway.chat(key=poor)).status_code == 502, "the budget does not cover the dear model"
    assert asked_models(second) == ["dear"]
    second.default = refusal(500)
    assert (await gateway.chat(key=rich)).status_code == 502, "the unpriced model is not used on a budget"
    assert "unpriced" not in asked_models(second)


async def test_names_of_a_prefix_route_share_one_label(start: Start) -> None:
    gateway = await start(route("x*", "one"))
    for number in range(3):
        await gateway.chat(ASK | {"model": f"x{number}"})
    text = (await gateway.get("/metrics")).text
    assert 'model="x*"' in text
    assert 'model="x1"' not in text
    assert [row["model"] for row in gateway.rows()] == ["x0", "x1", "x2"]


async def test_routes_do_not_apply_to_clients_with_their_own_keys(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = [
        entry("one", models.url, keyless=True, api_key="sk-ours"),
        entry("two", second.url, keyless=True, models=["other"], api_key="sk-ours"),
    ]
    gateway = await gateways.start(
        nursery,
        home,
        servers=servers,
        keyless={"enabled": True},
        routes=[route("m", "two", fallback=["other"]), route("alias", "two")],
    )
    assert (await gateway.chat(key="sk-of-the-client")).status_code == 200
    assert (len(models.asked), len(second.asked)) == (1, 0)
    assert (await gateway.chat(ASK | {"model": "alias"}, key="sk-of-the-client")).status_code == 404
    assert (await gateway.chat()).status_code == 200
    assert len(second.asked) == 1


async def test_route_without_available_server_is_not_found(start: Start) -> None:
    gateway = await start({"model": "m", "fallback": ["n"]})
    refused = await gateway.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert (await gateway.chat(ASK | {"model": "listed"})).status_code == 200


async def test_fallback_without_longer_context_is_skipped(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = [entry("one", models.url, models=[]), entry("two", second.url, models=[])]
    lengths = {"m": 1000, "small": 1000, "large": 2000}
    models.rows = [{"id": name, "context_length": length} for name, length in lengths.items()]
    routes = [{"model": "m", "fallback": ["small", "large"]}]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    models.plan(refusal(400, TOO_LONG))
    assert (await gateway.chat()).headers["x-bluesminds-model"] == "large"
    assert asked_models(models) == ["m", "large"]
