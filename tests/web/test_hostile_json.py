"""Hostile JSON: it is rejected with a stable code, or forwarded unchanged, and never logged as an error."""

from dataclasses import dataclass

import msgspec
import pytest

from tests.deployment import Callers, anonymous_client
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway

DEEP = 100_000
LONG = 15_000_000
CODES = ("invalid_json", "invalid_value", "empty_body")


@dataclass
class Case:
    """`inside` replaces a value. With `passes` it is valid JSON and forwarded where the gateway does not read
    it.
    """

    name: str
    inside: bytes
    passes: bool = False


CASES = [
    Case("open arrays", b"[" * DEEP),
    Case("open objects", b'{"a":' * DEEP),
    Case("deep arrays", b"[" * DEEP + b"]" * DEEP),
    Case("a long number", b"9" * 5_000, passes=True),
    Case("a long negative number", b"-" + b"9" * 5_000, passes=True),
    Case("a long fraction", b"0." + b"1" * 5_000, passes=True),
    Case("a large exponent", b"1e400", passes=True),
    Case("not a number", b"NaN", passes=True),
    Case("infinity", b"-Infinity", passes=True),
    Case("half a character", b'"\\ud800"', passes=True),
    Case("the other half", b'"\\udc00x"', passes=True),
    Case("bytes that are not text", b'"\xff\xfe"'),
    Case("a control character", b'"\x00"'),
    Case("an open string", b'"abc'),
    Case("two values", b"1} {"),
    Case("a comment", b"/* */ 1"),
    Case("nothing", b""),
]


async def test_chat_request_with_hostile_json_is_rejected_or_forwarded(
    gateway: Gateway, models: ModelServer
) -> None:
    start = b'{"messages":[{"role":"user","content":"a"}],'
    for case in CASES:
        for body, passes in (
            (start + b'"model":' + case.inside + b"}", False),
            (start + b'"model":"m","max_tokens":' + case.inside + b"}", False),
            (start + b'"model":"m","x":' + case.inside + b"}", case.passes),
            (b'{"model":"m","messages":[{"role":"user","content":' + case.inside + b"}]}", case.passes),
            (case.inside, False),
        ):
            answer = await gateway.chat(body)
            if passes:
                assert answer.status_code == 200, (case.name, answer.text)
                assert case.inside in models.asked[-1].received.body, (case.name, "unchanged")
            else:
                assert answer.status_code == 400, (case.name, answer.text)
                assert answer.json()["error"]["code"] in CODES, (case.name, answer.text)
    assert_no_trace(gateway)


async def test_key_creation_with_hostile_json_is_rejected(callers: Callers) -> None:
    token, _, _ = await callers.session("user")
    headers = {"authorization": f"Bearer {token}"}
    async with anonymous_client(callers.gateway) as client:
        for case in CASES:
            for body in (
                b'{"name":' + case.inside + b"}",
                b'{"name":"n","limits":{"rpm":' + case.inside + b"}}",
                b'{"name":"n","metadata":{"a":' + case.inside + b"}}",
                b'{"name":"n","allowed_models":[' + case.inside + b"]}",
                b'{"name":"n","x":' + case.inside + b"}",
                case.inside,
            ):
                answer = await client.post("/api/keys", content=body, headers=headers)
                assert answer.status_code == 400, (case.name, answer.text)
                assert answer.json()["error"]["code"] in CODES, (case.name, answer.text)
    assert_no_trace(callers.gateway)


async def test_chat_request_with_long_text_is_forwarded(gateway: Gateway, models: ModelServer) -> None:
    """Images in data URLs are that long."""
    long = b'"' + b"x" * LONG + b'"'
    for body in (
        b'{"model":"m","messages":[{"role":"user","content":' + long + b"}]}",
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"x":' + long + b"}",
    ):
        answer = await gateway.chat(body)
        assert answer.status_code == 200
        assert models.asked[-1].received.body == body
    answer = await gateway.chat(b'{"messages":[],"model":' + long + b"}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert_no_trace(gateway)
    assert len(answer.content) < 1000
    assert all(len(line) < 5000 for line in gateway.lines)


async def test_key_creation_with_long_text_is_rejected(callers: Callers) -> None:
    token, _, _ = await callers.session("user")
    async with anonymous_client(callers.gateway) as client:
        answer = await client.post(
            "/api/keys",
            content=b'{"name":"' + b"x" * LONG + b'"}',
            headers={"authorization": f"Bearer {token}"},
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert_no_trace(callers.gateway)


async def test_chat_request_with_field_in_capitals_is_rejected(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for name in ["MODEL", "Max_Tokens", "STREAM", "N"]:
        with subtests.test(name=name):
            answer = await gateway.chat(b'{"model":"m","messages":[],"%b":5}' % name.encode())
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", name.lower())
            assert models.asked == []


async def test_chat_request_with_duplicate_field_is_forwarded_unambiguously(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    """The server must read the same value as the gateway."""
    for name in ["model", "\\u006dodel", "max_tokens", "n", "stream"]:
        with subtests.test(name=name):
            first, last = {"model": (b'"other"', b'"m"')}.get(name.replace("\\u006d", "m"), (b"100", b"5"))
            first, last = (b"true", b"false") if name == "stream" else (first, last)
            model = b"" if "odel" in name else b'"model":"m",'
            body = b'{%b"%b":%b,"messages":[],"%b":%b}' % (model, name.encode(), first, name.encode(), last)
            answer = await gateway.chat(body)
            if answer.status_code == 400:
                assert answer.json()["error"]["code"] == "invalid_value"
                continue
            assert answer.status_code == 200
            sent = models.asked[-1].received.body
            found = msgspec.json.decode(sent, type=dict[str, msgspec.Raw])
            assert bytes(found[name.replace("\\u006d", "m")]) == last
            assert sent.count(b'"%b"' % name.replace("\\u006d", "m").encode()) == 1


def assert_no_trace(gateway: Gateway) -> None:
    """Each line is one event without an error."""
    for line in gateway.lines:
        event = msgspec.json.decode(line)
        assert event["level"] in ("info", "debug") and "frames" not in event, event
        assert line.count(b"\n") == 1
    assert "Traceback" not in gateway.log
