"""The next server is tried until the first byte is sent to the client, and never after that."""

import gzip
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes.model_server import (
    DONE,
    EVENT_STREAM,
    Asked,
    Cut,
    Fin,
    ModelServer,
    Pause,
    Plan,
    Stall,
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
from tests.fakes.raw_upstream import Peer
from tests.gateway.cases import Since, own_servers
from tests.gateways import ASK, IMPATIENT, STREAM, Gateway, entry

WAITING = b": PROCESSING\n\n"
TEXT = b"".join((*text_chunks(), chunk(finish="stop"), DONE))


FAILURES: list[tuple[str, Plan]] = [
    *((str(status), refusal(status)) for status in (401, 404, 408, 429, 500, 502, 503, 504, 520, 529)),
    ("403", refusal(403, error("no such key", code="invalid_api_key"))),
    ("302", refusal(302, b"", b"Location: http://elsewhere.invalid/")),
    ("UpstreamCut", drop_twice),
    ("error_in_answer", whole(error("no capacity"))),
    ("UnreadableAnswer", whole(b"<html>Sign in</html>")),
    ("UnreadableAnswer", whole(b"")),
    ("UnreadableAnswer", whole(b"[1]")),
    ("UpstreamProtocolError", whole(b"{}", b"Content-Encoding: invented")),
]
STREAM_FAILURES: list[tuple[str, Plan]] = [
    ("UpstreamCut", streamed(Cut)),
    ("UpstreamCut", streamed(Fin)),
    ("UpstreamCut", streamed()),
    ("FirstByteTimeout", streamed(Stall)),
    ("FirstByteTimeout", hang),
    ("UpstreamCut", streamed(WAITING, Pause(0.05), Cut)),
    ("UpstreamCut", streamed(WAITING, WAITING)),
    ("FirstByteTimeout", streamed(*[WAITING, Pause(0.1)] * 40, Stall)),
    ("error_in_answer", streamed(b"data: " + error("no capacity") + b"\n\n", DONE)),
    ("error_in_answer", streamed(WAITING, b"data: " + error("no capacity") + b"\r\n\r\n", Stall)),
    ("error_in_answer", streamed(b"event: error\ndata: ", error("no capacity") + b"\n\n")),
    ("UnreadableAnswer", whole(b"<html>Sign in</html>", b"Content-Type: text/html")),
    ("503", refusal(503, chunk("x"), EVENT_STREAM)),
]


async def test_failed_attempt_moves_to_next_server(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(FAILURES), models.url, second.url)
    gateway = await gateways.start(nursery, home, servers=servers)
    for number, (reason, failure) in enumerate(FAILURES):
        with subtests.test(f"{number}: {reason}"):
            model, first, next_ = f"m{number}", f"m{number}-0", f"m{number}-1"
            since = Since(gateway)
            models.asked.clear()
            second.asked.clear()
            models.plan(failure)
            answer = await gateway.chat(ASK | {"model": model})
            assert answer.status_code == 200
            assert answer.content == completion(model=model)
            assert answer.headers["x-bluesminds-server"] == next_
            assert answer.headers["x-bluesminds-attempts"] == "2"
            assert {asked.received.body for asked in models.asked} == {second.asked[0].received.body}
            (row,) = since.rows()
            assert (row["outcome"], row["server"], row["attempts"]) == ("ok", next_, 2)
            (event,) = since.events("attempt_failed")
            assert (event["server"], event["reason"]) == (first, reason)
            labels = {"server": first, "outcome": reason}
            assert await gateway.metric("bluesminds_upstream_attempts_total", **labels) == 1


async def test_stream_without_first_event_moves_to_next_server(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(STREAM_FAILURES), models.url, second.url)
    for number, (reason, _) in enumerate(STREAM_FAILURES):
        if reason == "FirstByteTimeout":
            servers[2 * number]["first_byte_timeout"] = 1.0
    gateway = await gateways.start(nursery, home, servers=servers)
    for number, (reason, failure) in enumerate(STREAM_FAILURES):
        with subtests.test(f"{number}: {reason}"):
            model = f"m{number}"
            since = Since(gateway)
            models.plan(failure)
            answer = await gateway.chat(STREAM | {"model": model})
            assert answer.content == TEXT.replace(b'"m"', b'"%b"' % model.encode())
            assert since.events("attempt_failed")[0]["reason"] == reason
            assert [row["server"] for row in since.rows()] == [f"{model}-1"]


async def test_stream_after_first_event_stays_on_server(
    pair: Gateway, models: ModelServer, second: ModelServer
) -> None:
    models.plan(streamed(chunk("one"), Pause(0.05), Cut))
    answer = await pair.chat(STREAM)
    assert answer.content.startswith(chunk("one"))
    assert b"upstream_cut" in answer.content
    assert b"[DONE]" not in answer.content
    assert second.asked == []


async def test_client_error_is_not_tried_on_next_server(
    pair: Gateway, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    for status in [400, 403, 413, 422]:
        with subtests.test(str(status)):
            models.asked.clear()
            models.plan(refusal(status))
            assert (await pair.chat()).status_code == status
            assert (len(models.asked), second.asked) == (1, [])


async def test_server_that_refuses_connections_is_skipped(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        servers = [entry("closed", closed, priority=0), entry("open", models.url, priority=1)]
        gateway = await gateways.start(nursery, home, servers=servers)
        answer = await gateway.chat(STREAM)
    assert answer.content == TEXT
    assert gateway.rows()[0]["attempts"] == 2


async def test_attempts_setting_limits_servers_tried(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry(name, models.url) for name in ("a", "b", "c", "d")]
    gateway = await gateways.start(nursery, home, servers=servers, upstream={"attempts": 2})
    models.plan(refusal(500), refusal(500))
    answer = await gateway.chat()
    assert answer.status_code == 502
    assert answer.headers["x-bluesminds-attempts"] == "2"
    assert len(models.asked) == 2


async def explode(server: ModelServer, peer: Peer, asked: Asked) -> None:
    """80 MiB in a few kilobytes."""
    await whole(gzip.compress(bytes(80 * 1024 * 1024), 1), b"Content-Encoding: gzip")(server, peer, asked)


BAD_KEY = error("Incorrect API key sk-upstream", code="invalid_api_key")
ENDINGS: list[tuple[Plan, int, str, str]] = [
    (refusal(500, error("boom")), 502, "upstream_error", "boom"),
    (refusal(503, b"<html>"), 503, "upstream_error", "503"),
    (refusal(504), 504, "upstream_error", "504"),
    (refusal(302, b"", b"Location: http://elsewhere.invalid/"), 502, "upstream_error", "302"),
    (refusal(404, error("no such model")), 404, "model_not_found", "no such model"),
    (refusal(401, error("Incorrect API key sk-upstream")), 502, "upstream_credentials_refused", "operator"),
    (refusal(403, BAD_KEY), 502, "upstream_credentials_refused", "operator"),
    (refusal(429, error("slow down"), b"Retry-After: 7"), 429, "upstream_rate_limited", "slow down"),
    (drop_twice, 502, "upstream_unreachable", "Try again"),
    (whole(error("no capacity")), 502, "upstream_error", "no capacity"),
    (whole(b"{}", b"Content-Encoding: invented"), 502, "upstream_invalid", "malformed"),
    (explode, 502, "upstream_invalid", "too large"),
    (whole(b"<html>sk-upstream"), 502, "upstream_invalid", "not a JSON object"),
]


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["plain", "streamed"])
async def test_last_failure_of_all_servers_is_returned(
    nursery: trio.Nursery, home: Path, models: ModelServer, body: dict[str, Any]
) -> None:
    servers = [entry("one", models.url, api_key="sk-upstream")]
    upstream = IMPATIENT | {"attempts": 1, "eject_after": len(ENDINGS) + 1}
    impatient = await gateways.start(nursery, home, servers=servers, upstream=upstream)
    for plan, status, code, words in ENDINGS:
        models.plan(plan)
        answer = await impatient.chat(body)
        assert answer.status_code == status
        told = answer.json()["error"]
        assert told["code"] == code
        assert words in told["message"]
        assert told["request_id"] == answer.headers["x-request-id"]
        assert "sk-upstream" not in answer.text
        assert answer.headers["x-bluesminds-attempts"] == "1"
        assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
    rows = await impatient.settled(len(ENDINGS))
    assert [row["outcome"] for row in rows] == ["upstream_error"] * len(ENDINGS)
    assert [row["status"] for row in rows] == [status for _, status, _, _ in ENDINGS]


async def test_retry_after_of_last_server_is_forwarded(gateway: Gateway, models: ModelServer) -> None:
    for status in (429, 500, 503):
        models.plan(
            refusal(status, None, b"Retry-After: 7", b"Retry-After-Ms: 6500", b"x-should-retry: false")
        )
        answer = await gateway.chat()
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("7", "6500")
        assert answer.headers["x-should-retry"] == "false"


async def test_ejected_servers_are_tried_without_others(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    upstream = {"eject_after": 1, "eject_seconds": 60.0, "attempts": 1}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], upstream=upstream)
    models.plan(refusal(500))
    assert (await gateway.chat()).status_code == 502
    assert (await gateway.get("/ready")).json()["checks"]["servers"] == "no usable server"
    assert (await gateway.chat()).status_code == 200
    assert (await gateway.get("/ready")).status_code == 200
