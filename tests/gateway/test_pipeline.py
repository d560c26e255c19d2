"""A request from the client's socket to the server's and back, in one piece."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import (
    DONE,
    EVENT_STREAM,
    USAGE,
    Asked,
    ModelServer,
    chunk,
    completion,
    error,
    refusal,
    streamed,
    whole,
)
from tests.fakes.raw_upstream import Peer
from tests.gateway.cases import Since, own_servers
from tests.gateways import ASK, STREAM, Gateway


async def test_json_response_passes_byte_for_byte(gateway: Gateway, models: ModelServer) -> None:
    body = completion(service_tier="x", invented={"deep": [1, 2.50, "é"]}).replace(b'"x"', b' "x" ')
    models.plan(whole(body))
    answer = await gateway.chat()
    assert answer.status_code == 200
    assert answer.content == body
    assert answer.headers["content-type"] == "application/json"


async def test_every_value_of_the_request_passes_byte_for_byte(gateway: Gateway, models: ModelServer) -> None:
    message = b'{"role":"user", "content":"\\u00e9 \xc3\xa9"}'
    sent = b'{ "messages":[%b],\n "zeta": 1.50, "model":"m", "alpha":{ "b":[]} }' % message
    assert (await gateway.chat(sent)).status_code == 200
    passed = b'{"messages":[%b],"zeta":1.50,"model":"m","alpha":{ "b":[]}}' % message
    assert models.asked[0].received.body == passed, "only the space between fields is gone"


async def test_upstream_request_names_its_content_type(gateway: Gateway, models: ModelServer) -> None:
    """Servers built with FastAPI refuse JSON without it."""
    await gateway.chat(headers={"content-type": "text/plain"})
    assert models.asked[0].received.values(b"content-type") == [b"application/json"]


async def test_server_gets_own_key_and_not_that_of_client(gateway: Gateway, models: ModelServer) -> None:
    headers = {
        "traceparent": "00-1-2-01",
        "cookie": "a=b",
        "x-stainless-lang": "python",
        "idempotency-key": "i-1",
    }
    await gateway.chat(headers=headers)
    asked = models.asked[0]
    assert asked.header(b"authorization") == b"Bearer sk-upstream"
    assert asked.header(b"traceparent") == b"00-1-2-01"
    assert asked.header(b"cookie") is None
    assert asked.header(b"x-stainless-lang") is None
    assert gateway.key.encode() not in asked.received.head


async def test_two_keys_never_share_an_idempotency_key(gateway: Gateway, models: ModelServer) -> None:
    """At the server both are the gateway's one account."""
    _, other = await gateway.new_key()
    for key in (None, None, other):
        await gateway.chat(key=key, headers={"idempotency-key": "i-1", "traceparent": "00-1-2-01"})
    await gateway.chat(headers={"idempotency-key": "i-2"})
    first, again, others, second = [asked.header(b"idempotency-key") for asked in models.asked]
    assert first == again
    assert len({first, others, second}) == 3
    assert {len(first or b""), len(others or b"")} == {64}
    assert models.asked[0].header(b"traceparent") == b"00-1-2-01"


async def test_usage_row_is_written_before_response_is_complete(
    gateway: Gateway, models: ModelServer
) -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    models.plan(whole(completion(usage=usage)))
    answer = await gateway.chat(headers={"x-request-id": "mine-1"})
    (row,) = gateway.rows()
    assert answer.status_code == 200
    assert (row["status"], row["outcome"], row["streamed"], row["attempts"]) == (200, "ok", 0, 1)
    assert (row["model"], row["server"], row["endpoint"]) == ("m", "one", "chat.completions")
    assert (
        row["input_tokens"],
        row["output_tokens"],
        row["cache_read_tokens"],
        row["reasoning_tokens"],
    ) == (7, 5, 3, 4)
    assert row["usage_source"] == "upstream"
    assert row["request_id"] == "mine-1"


USAGES: list[Any] = [
    ...,
    None,
    {},
    {"prompt_tokens": -1, "completion_tokens": 2},
    {"prompt_tokens": 1e30, "completion_tokens": 2},
    {"prompt_tokens": 10**30, "completion_tokens": 2},
    {"prompt_tokens": 11, "completion_tokens": "2"},
    [1],
    "many",
]


async def test_usage_that_cannot_be_true_is_estimated(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for usage in USAGES:
        with subtests.test(repr(usage)):
            since = Since(gateway)
            body = completion("x" * 400, usage=usage)
            models.plan(whole(body))
            assert (await gateway.chat()).content == body
            (row,) = since.rows()
            assert row["usage_source"] == "estimated"
            assert 10 < row["input_tokens"] < 40
            assert row["output_tokens"] == 100
            assert bool(since.events("usage_implausible")) == (usage not in (..., None, {}))


async def test_missing_count_is_estimated(gateway: Gateway, models: ModelServer) -> None:
    usages = [{"completion_tokens": 2}, {"prompt_tokens": 11, "completion_tokens": None}]
    answers = [whole(completion("x" * 400, usage=usage)) for usage in usages]
    models.plan(*answers, streamed(chunk("word"), chunk("word"), chunk(usage=usages[1]), DONE))
    for ask in (ASK, ASK, STREAM):
        await gateway.chat(ask)
    rows = [(row["input_tokens"], row["output_tokens"], row["usage_source"]) for row in gateway.rows()]
    (prompt, two, _), (eleven, completion_, _), streamed_ = rows
    assert (two, eleven, streamed_) == (2, 11, (11, 2, "estimated"))
    assert 10 < prompt < 40 and completion_ == 100
    assert {source for *_, source in rows} == {"estimated"}


ODD_DETAILS: list[dict[str, Any]] = [
    {"prompt_tokens_details": {"cached_tokens": "0"}},
    {"prompt_tokens": 11.0},
]


async def test_odd_usage_detail_is_ignored(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for wrong in ODD_DETAILS:
        with subtests.test(str(wrong)):
            since = Since(gateway)
            models.plan(whole(completion(usage={"prompt_tokens": 11, "completion_tokens": 2} | wrong)))
            await gateway.chat()
            (row,) = since.rows()
            assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (11, 2, "upstream")
            assert since.events("usage_implausible") == []


async def test_pictures_are_not_estimated_as_text(gateway: Gateway, models: ModelServer) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 20_000}}
    models.plan(whole(completion(usage=...)))
    await gateway.chat(ASK | {"messages": [{"role": "user", "content": [picture]}]})
    assert gateway.rows()[0]["input_tokens"] < 100


async def test_reported_zero_output_of_empty_answer_is_trusted(gateway: Gateway, models: ModelServer) -> None:
    models.plan(whole(completion("", usage={"prompt_tokens": 5, "completion_tokens": 0})))
    await gateway.chat()
    (row,) = gateway.rows()
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (5, 0, "upstream")


async def test_usage_with_reported_cost_is_read(gateway: Gateway, models: ModelServer) -> None:
    models.plan(
        whole(
            completion(usage={"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.00014, "is_byok": False})
        )
    )
    await gateway.chat()
    (row,) = gateway.rows()
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (3, 4, "upstream")


async def test_client_error_of_server_passes_unchanged(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    body = error(
        "use fewer words", type="invalid_request_error", code="context_length_exceeded", extra={"a": 1}
    )
    for status in [400, 409, 413, 422, 451]:
        with subtests.test(str(status)):
            since = Since(gateway)
            models.plan(refusal(status, body))
            answer = await gateway.chat()
            assert answer.status_code == status
            assert answer.content == body
            (row,) = since.rows()
            assert (row["outcome"], row["status"], row["usage_source"]) == ("client_error", status, "none")
            assert (row["input_tokens"], row["output_tokens"]) == (None, None)


ERRORS: list[tuple[bytes, str | None]] = [
    (b'{"error":"too long"}', "too long"),
    (b'{"message":"too long"}', "too long"),
    (b'{"detail":"too long"}', "too long"),
    (b'{"detail":[{"loc":["body"],"msg":"too long"}]}', "too long"),
    (b"<html>too long</html>", "The server responded with 400 and no message."),
    (b"", "The server responded with 400 and no message."),
    (b'{"error":{"code":"x"}}', None),
    (b'{"error":{"message":"\xff"}}', ""),
    (b'{"\xff":1}', ""),
]


async def test_every_shape_of_error_becomes_openais(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for body, message in ERRORS:
        with subtests.test(repr(body)):
            models.plan(refusal(400, body, b"Content-Type: text/html"))
            answer = await gateway.chat()
            assert answer.status_code == 400
            told = msgspec.json.decode(answer.content.decode("utf-8", "replace"))["error"]
            assert "message" in told
            if message is not None:
                assert message in told["message"]
            if "request_id" in told:
                assert told["request_id"] == answer.headers["x-request-id"]
                assert (told["type"], answer.headers["content-type"]) == (
                    "invalid_request_error",
                    "application/json",
                )
                assert told["code"] in ("invalid_request", "x")
            else:
                assert answer.content == body


BROKEN: list[tuple[bytes, str]] = [
    (b"upstream connect error", "The server responded with 502: upstream connect error"),
    (b"", "The server responded with 502 and no message."),
    (b'{"error":{"message":"broken"}}', "The server responded with 502: broken"),
]


async def test_error_of_server_names_its_status_once(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=own_servers(len(BROKEN), models.url))
    for number, (body, message) in enumerate(BROKEN):
        with subtests.test(repr(body)):
            models.plan(*[refusal(502, body)] * 3)
            answer = await gateway.chat(ASK | {"model": f"m{number}"})
            assert (answer.status_code, answer.json()["error"]["message"]) == (502, message)


async def test_response_headers_of_server_are_not_forwarded(gateway: Gateway, models: ModelServer) -> None:
    leaks = (
        b"x-litellm-call-id: 1",
        b"llm_provider-x-request-id: 2",
        b"Server: internal",
        b"Set-Cookie: a=b",
    )
    models.plan(whole(completion(), *leaks, b"openai-processing-ms: 12", b"x-request-id: theirs"))
    answer = await gateway.chat(headers={"x-request-id": "mine"})
    names = set(answer.headers)
    assert not names & {"x-litellm-call-id", "llm_provider-x-request-id", "server", "set-cookie"}
    assert answer.headers["openai-processing-ms"] == "12"
    assert answer.headers.get_list("x-request-id") == ["mine"]


async def test_unsafe_request_id_is_replaced(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for sent in ["a b", "x" * 65, "ünsane", "a/b", "a;b", "{}"]:
        with subtests.test(sent):
            since = Since(gateway)
            answer = await gateway.chat(headers={"x-request-id": sent.encode()})  # type: ignore[dict-item]
            assert len(answer.headers["x-request-id"]) == 36
            (row,) = since.rows()
            assert row["request_id"] == answer.headers["x-request-id"] == row["id"]


async def test_response_headers_name_server_and_attempts(gateway: Gateway) -> None:
    answer = await gateway.chat()
    assert answer.headers["x-bluesminds-server"] == "one"
    assert answer.headers["x-bluesminds-attempts"] == "1"


async def test_rate_headers_count_down(gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits={"rpm": 3})
    left = []
    first = trio.current_time()

    def least(since: float) -> float:
        """Milliseconds that must be left of the minute of a request that was sent not before `since`."""
        return 60_000 - 1000 * (trio.current_time() - since) - 1

    for _ in range(3):
        began = trio.current_time()
        answer = await gateway.chat(key=key)
        left.append(answer.headers["x-ratelimit-remaining"])
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
        assert answer.headers["x-ratelimit-remaining-requests"] == left[-1]
        reset = int(answer.headers["x-ratelimit-reset-ms"])
        assert least(began) <= reset <= 61_000
        duration = answer.headers["x-ratelimit-reset-requests"]
        minutes, _, seconds = duration.removesuffix("s").rpartition("m")
        assert round(1000 * (60 * int(minutes or 0) + float(seconds))) == reset
        assert minutes == ("1" if reset >= 60_000 else "")
    assert left == ["2", "1", "0"]
    refused = await gateway.chat(key=key)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    patience, milliseconds = int(refused.headers["retry-after"]), int(refused.headers["retry-after-ms"])
    assert least(first) <= milliseconds <= 61_000
    assert patience - 1 < milliseconds / 1000 <= patience
    assert len(gateway.rows()) == 3


async def test_whole_answer_to_stream_request_becomes_events(gateway: Gateway, models: ModelServer) -> None:
    models.plan(whole(completion()))
    answer = await gateway.chat(STREAM)
    assert answer.headers["content-type"] == "text/event-stream"
    assert b'"content":"Hello world"' in answer.content and answer.content.endswith(DONE)
    assert b"usage" not in answer.content
    (row,) = gateway.rows()
    assert (row["outcome"], row["input_tokens"], row["streamed"]) == ("ok", 11, 1)


async def test_response_json_under_the_type_of_events_is_an_answer(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    async def mislabelled(_: ModelServer, peer: Peer, asked: Asked) -> None:
        await peer.answer(completion(), EVENT_STREAM)

    for body in [ASK, STREAM]:
        with subtests.test("stream" if body is STREAM else "whole"):
            since = Since(gateway)
            models.plan(mislabelled)
            answer = await gateway.chat(body)
            assert answer.status_code == 200
            assert b'"content":"Hello world"' in answer.content
            assert since.rows()[0]["outcome"] == "ok"


async def test_stream_answer_to_json_request_becomes_json(gateway: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("Hello"), chunk(" world"), chunk(finish="stop"), chunk(usage=USAGE), DONE))
    answer = await gateway.chat()
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["choices"][0]["message"]["content"] == "Hello world"
    assert answer.json()["usage"] == USAGE
    (row,) = gateway.rows()
    assert (row["outcome"], row["input_tokens"], row["streamed"]) == ("ok", 11, 0)


async def test_stream_answer_to_json_request_without_end_is_no_answer(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(*[streamed(chunk("Hello"))] * 3)
    answer = await gateway.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")


async def test_both_prefixes_are_one_api(gateway: Gateway) -> None:
    async with gateway.client() as client:
        answer = await client.post("/api/v1/chat/completions", json=ASK)
        listed = await client.get("/api/v1/models")
    assert answer.status_code == 200
    assert [row["id"] for row in listed.json()["data"]] == ["m"]
