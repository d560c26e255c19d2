"""Paths and headers of requests to a server."""

import pytest

from bluesminds.common.values import Server
from bluesminds.gateway.routing.plans import Plan
from bluesminds.gateway.upstream.endpoint import StreamRedactor, UpstreamEndpoint
from bluesminds.providers.dialects import GEMINI_PATHS

NATIVE = Plan("messages", "/messages")
TRANSLATED = Plan("messages", "/messages", translated=True)
CHAT = Plan("chat", "/chat/completions")
VERSION = (b"anthropic-version", b"2026-10-21")
FORWARD = (VERSION, (b"anthropic-beta", b"x"), (b"traceparent", b"00"))


def endpoint(url: str, dialect: str) -> UpstreamEndpoint:
    server = Server(
        name="s", dialect=dialect, url=url, api_key="sk-secret", models=(), weight=1, priority=0,
        origin="file",
    )  # fmt: skip
    return UpstreamEndpoint.to(server)


@pytest.mark.parametrize(
    ("url", "path", "target"),
    [
        ("http://x/v1", "/chat/completions", b"/v1/chat/completions"),
        ("http://x", "/v1/messages", b"/v1/messages"),
        ("http://x/v1", "/v1/messages", b"/v1/messages"),
        ("http://x/proxy/v1", "/v1/messages", b"/proxy/v1/messages"),
    ],
)
def test_target_names_the_version_once(url: str, path: str, target: bytes) -> None:
    assert endpoint(url, "litellm").target(path, "m", stream=False) == target


@pytest.mark.parametrize(
    ("model", "stream", "target"),
    [
        ("gemini-3-flash", False, b"/v1beta/models/gemini-3-flash:generateContent"),
        ("models/gemini-3-flash", True, b"/v1beta/models/gemini-3-flash:streamGenerateContent?alt=sse"),
        ("../a?b#c", False, b"/v1beta/models/..%2Fa%3Fb%23c:generateContent"),
        ("{x}", False, b"/v1beta/models/%7Bx%7D:generateContent"),
    ],
)
def test_target_of_gemini_names_the_model_and_the_method(model: str, stream: bool, target: bytes) -> None:
    path = GEMINI_PATHS["gemini"]
    assert endpoint("http://x/v1beta", "gemini").target(path, model, stream=stream) == target


def test_native_server_gets_the_clients_version() -> None:
    sent = endpoint("http://x/v1", "anthropic").headers_for(NATIVE, FORWARD)
    assert [value for name, value in sent if name == b"anthropic-version"] == [b"2026-10-21"]
    assert (b"anthropic-beta", b"x") in sent and (b"x-api-key", b"sk-secret") in sent
    plain = endpoint("http://x/v1", "anthropic").headers_for(NATIVE, ())
    assert (b"anthropic-version", b"2023-06-01") in plain


def test_translated_request_has_the_gateways_version() -> None:
    sent = endpoint("http://x/v1", "anthropic").headers_for(TRANSLATED, FORWARD)
    assert [value for name, value in sent if name.startswith(b"anthropic-")] == [b"2023-06-01"]
    assert (b"traceparent", b"00") in sent


def test_chat_server_gets_no_header_of_anthropics() -> None:
    sent = endpoint("http://x/v1", "openai").headers_for(CHAT, FORWARD)
    assert not [name for name, _ in sent if name.startswith(b"anthropic-")]


@pytest.mark.parametrize("size", range(1, 14))
def test_secret_in_pieces_is_masked_and_the_rest_stays(size: int) -> None:
    data = b"ss-sk-secret,sk-sk-secretsk-secret sk-secre"
    redactor = StreamRedactor((b"sk-secret", b"sk-other"))
    pieces = [redactor.feed(data[at : at + size]) for at in range(0, len(data), size)]
    masked = b"".join([*pieces, redactor.finish()])
    assert masked == b"ss-*********,sk-****************** sk-secre"


def test_bytes_without_a_beginning_of_a_secret_pass_at_once() -> None:
    redactor = StreamRedactor((b"sk-secret",))
    assert redactor.feed(b"sk-s, and more") == b"sk-s, and more"
    assert redactor.feed(b"and sk-") == b"and "
    assert StreamRedactor(()).feed(b"anything") == b"anything"
