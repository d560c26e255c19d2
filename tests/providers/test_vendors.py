"""The table of vendors: every row is complete, and a server of a vendor is talked to as its row says."""

import re
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest

from bluesminds.common.values import Server
from bluesminds.config.settings import Dialect, VendorName
from bluesminds.http.client.origin import UpstreamOrigin
from bluesminds.providers.dialects import (
    COMPACT_PATHS,
    DIALECTS,
    GEMINI_PATHS,
    MESSAGES_PATHS,
    OPENAI_PATHS,
    RESPONSES_PATHS,
    paths,
)
from bluesminds.providers.profiles import ServerProfile, find_profile, profile_of
from bluesminds.providers.vendors import VENDORS, Vendor, from_environment, local_ollama, resolve, vendor_of
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.realtime import REALTIME

ROWS = [pytest.param(vendor, id=name) for name, vendor in VENDORS.items()]
WITHOUT_URL = {"azure"}
WITHOUT_DETECTION = {"azure", "gemini-openai", "github", "perplexity"}


def server(url: str, dialect: str = "openai", **more: Any) -> Server:
    return Server(
        name="s", dialect=dialect, url=url, api_key="sk-x", models=(), weight=1, priority=0, origin="file",
        **more
    )  # fmt: skip


def profile(url: str, dialect: str = "openai", vendor: str = "", version: str = "") -> ServerProfile:
    return find_profile(dialect, vendor, url, version)


# Rows


@pytest.mark.parametrize("vendor", ROWS)
def test_vendor_row_is_complete(vendor: Vendor) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", vendor.name) and vendor.title
    assert urlsplit(vendor.documentation).scheme == "https"
    assert vendor.dialect in DIALECTS
    assert re.fullmatch(r"[A-Z][A-Z_]+|", vendor.key_variable)
    assert bool(vendor.url) is (vendor.name not in WITHOUT_URL)
    if vendor.url:
        _, base = UpstreamOrigin.parse(vendor.url)
        assert base == vendor.path and not vendor.url.endswith("/")
        assert vendor.is_local or vendor.url.startswith("https://")
    assert vendor.is_local is not bool(vendor.key_variable)


@pytest.mark.parametrize("vendor", ROWS)
def test_vendor_paths_are_those_of_formats(vendor: Vendor) -> None:
    speaks = profile(vendor.url, vendor.dialect, vendor.name).speaks
    assert speaks and speaks.keys() <= FORMATS.keys() | {REALTIME.name}
    assert {"chat", "messages", "gemini"} & speaks.keys(), "it can hold a conversation"
    for path in (*speaks.values(), vendor.models_path or "/models", vendor.alive_path or "//health"):
        assert re.fullmatch(r"//?\w[\w/.{}:-]*(\?[\w=&-]+)?", path)
    assert all(fields for fields in vendor.unsupported.values())
    assert vendor.unsupported.keys() <= speaks.keys()


def test_vendors_are_those_of_the_configuration() -> None:
    assert tuple(VENDORS) == get_args(VendorName)
    assert tuple(DIALECTS).count("demo") == 1 and set(DIALECTS) == set(get_args(Dialect))
    assert all(name == dialect.name for name, dialect in DIALECTS.items())
    assert {vendor.dialect for vendor in VENDORS.values()} == set(DIALECTS) - {"demo"}


def test_paths_unknown_name_is_an_error() -> None:
    assert paths("chat", rerank="//v2/rerank") == {"chat": "/chat/completions", "rerank": "//v2/rerank"}
    with pytest.raises(KeyError):
        paths("chatt")  # type: ignore[arg-type]
    known = {*OPENAI_PATHS, *MESSAGES_PATHS, *RESPONSES_PATHS, *COMPACT_PATHS, *GEMINI_PATHS}
    assert known == FORMATS.keys() | {REALTIME.name}


# URLs


@pytest.mark.parametrize("vendor", [row for row in ROWS if not VENDORS[row.id or ""].is_local])
def test_vendor_is_recognised_by_its_url(vendor: Vendor) -> None:
    if vendor.url:
        assert vendor_of(vendor.url) is vendor
        assert vendor_of(vendor.url + "/") is vendor
        assert vendor_of(vendor.url.replace("https://", "https://evil-")) is None
        assert vendor_of(f"{vendor.url}/other") is None
    assert resolve("", vendor.url or "https://one.openai.azure.com", "") == (
        vendor.url or "https://one.openai.azure.com",
        vendor.dialect,
    )


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.deepseek.com/v1", "deepseek"),
        ("https://two.services.ai.azure.com/openai/v1", "azure"),
        ("https://us.api.fireworks.ai/inference/v1", "fireworks"),
        ("https://api.perplexity.ai/router/v1", None),  # another API of the same vendor
        ("https://api.cohere.com/v2", None),
        ("http://127.0.0.1:11434/v1", None),
        ("unix:/run/llama.sock:/v1", None),
        ("http://[::1", None),
        ("", None),
    ],
)
def test_vendor_of_url_is_found_by_host_and_path(url: str, name: str | None) -> None:
    found = vendor_of(url)
    assert (found and found.name) == name


def test_resolve_given_url_and_dialect_win() -> None:
    assert resolve("groq", "", "") == ("https://api.groq.com/openai/v1", "openai")
    assert resolve("portkey", "http://localhost:8787/v1", "") == ("http://localhost:8787/v1", "openai")
    assert resolve("", "https://api.anthropic.com/v1", "openai")[1] == "openai"
    assert resolve("", "http://x/v1", "") == ("http://x/v1", "openai")
    with pytest.raises(ValueError, match="Azure OpenAI has no common URL"):
        resolve("azure", "", "")


# Profiles


def test_profile_vendor_row_replaces_what_the_dialect_says() -> None:
    groq = profile("https://api.groq.com/openai/v1")
    assert groq.vendor is VENDORS["groq"] and "embeddings" not in groq.speaks
    assert profile("http://x/v1").speaks == OPENAI_PATHS
    cohere = profile("http://proxy/v1", vendor="cohere")
    assert cohere.speaks["rerank"] == "//v2/rerank" and cohere.models_path == "//v1/models?page_size=1000"
    assert profile("http://x/v1", vendor="ollama").alive_path == "//api/version"
    assert profile("http://x/v1", "litellm").alive_path == "//health/liveliness"


def test_profile_other_dialect_keeps_the_quirks_of_fields_alone() -> None:
    found = profile("https://api.anthropic.com/v1", "openai")
    assert found.speaks == OPENAI_PATHS and found.key_header == "authorization"
    azure = profile("https://one.openai.azure.com/openai/v1", "openai")
    assert azure.output_bound == "max_completion_tokens" and azure.models_path == "/models"


@pytest.mark.parametrize("name", DIALECTS)
def test_headers_carry_the_key_as_the_dialect_wants(name: str) -> None:
    headers = dict(profile("http://x/v1", name).headers("sk-x"))
    own = {"anthropic": b"x-api-key", "azure": b"api-key", "gemini": b"x-goog-api-key"}.get(name)
    if own:
        assert headers[own] == b"sk-x" and b"authorization" not in headers
    else:
        assert headers[b"authorization"] == b"Bearer sk-x"
    assert headers[b"user-agent"].startswith(b"bluesminds/")
    assert not {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"} & set(
        dict(profile("http://x/v1", name).headers(None))
    )


def test_headers_of_dialects_and_vendors_are_sent() -> None:
    assert dict(profile("http://x", "litellm").headers(None))[b"x-litellm-num-retries"] == b"0"
    assert dict(profile("http://x", "anthropic").headers(None))[b"anthropic-version"] == b"2023-06-01"
    portkey = dict(profile_of(server("https://api.portkey.ai/v1")).headers("pk-x"))
    assert portkey[b"x-portkey-api-key"] == b"pk-x" and b"authorization" not in portkey


def test_headers_of_the_operator_replace_others_of_the_same_name() -> None:
    own = (("Authorization", "Bearer provider"), ("X-Title", "App"), ("User-Agent", "mine/1"))
    headers = profile("http://x/v1").headers("sk-x", own)
    assert [value for name, value in headers if name == b"authorization"] == [b"Bearer provider"]
    assert (b"x-title", b"App") in headers
    assert [value for name, value in headers if name == b"user-agent"] == [b"mine/1"]


# Azure


@pytest.mark.parametrize(
    ("url", "version", "chat", "models"),
    [
        ("https://a.openai.azure.com", "", "//openai/v1/chat/completions", "//openai/v1/models"),
        ("https://a.openai.azure.com/openai/v1/", "", "//openai/v1/chat/completions", "//openai/v1/models"),
        (
            *("https://a.openai.azure.com/openai/v1", "preview"),
            *("//openai/v1/chat/completions?api-version=preview", "//openai/v1/models?api-version=preview"),
        ),
        (
            *("https://a.openai.azure.com", "2024-10-21"),
            "//openai/deployments/{model}/chat/completions?api-version=2024-10-21",
            "//openai/models?api-version=2024-10-21",
        ),
        (
            *("https://apim.example.com/ai/openai/deployments/gpt", "2024-10-21"),
            "//ai/openai/deployments/{model}/chat/completions?api-version=2024-10-21",
            "//ai/openai/models?api-version=2024-10-21",
        ),
    ],
)
def test_azure_paths_follow_from_url_and_version(url: str, version: str, chat: str, models: str) -> None:
    found = profile(url, "azure", version=version)
    assert (found.speaks["chat"], found.models_path) == (chat, models)
    assert not found.lists_models


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("", "//openai/v1/responses"),
        ("preview", "//openai/v1/responses?api-version=preview"),
        ("2025-04-01-preview", "//openai/responses?api-version=2025-04-01-preview"),
        ("2024-10-21", None),
    ],
)
def test_azure_responses_depend_on_the_version(version: str, path: str | None) -> None:
    found = profile("https://a.openai.azure.com", "azure", version=version)
    assert found.speaks.get("responses") == path


@pytest.mark.parametrize(
    ("url", "speaks"),
    [
        ("https://api.openai.com/v1", True),
        ("https://us.api.openai.com/v1", True),
        ("https://openai.example.com/v1", False),
        ("http://127.0.0.1:8000/v1", False),
    ],
)
def test_responses_are_native_at_openai_only(url: str, speaks: bool) -> None:
    assert ("responses" in profile(url, "openai").speaks) is speaks
    assert ("input_tokens" in profile(url, "openai").speaks) is speaks


def test_azure_token_is_sent_as_bearer_token() -> None:
    azure = profile("https://a.openai.azure.com", "azure")
    token = "eyJ0eXAiOiJKV1QifQ.eyJhdWQiOiJ4In0.c2ln"
    assert dict(azure.headers(token))[b"authorization"] == f"Bearer {token}".encode()
    assert dict(azure.headers("0123456789abcdef"))[b"api-key"] == b"0123456789abcdef"


# The environment


def test_environment_key_of_a_vendor_makes_a_server() -> None:
    assert from_environment({"PATH": "/bin", "OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": "\n"}) == []
    assert from_environment({"OPENAI_API_KEY": "sk-x\n"})[0].api_key == "sk-x"
    detected = []
    for vendor in VENDORS.values():
        if not vendor.is_detected:  # its variable may be that of another vendor as well
            continue
        for found in from_environment({vendor.key_variable: "sk-x"}):
            assert (found.name, found.url, found.dialect) == (vendor.name, vendor.url, vendor.dialect)
            assert (found.origin, found.api_key) == ("environment", "sk-x")
            assert "sk-x" not in repr(found)
            detected.append(found.name)
    hosted = {vendor.name for vendor in VENDORS.values() if vendor.key_variable}
    assert set(detected) == hosted - WITHOUT_DETECTION
    assert len(from_environment({vendor.key_variable: "k" for vendor in VENDORS.values()})) == len(detected)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "http://127.0.0.1:11434/v1"),
        ("", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),  # noqa: S104
        ("192.168.1.5:8080", "http://192.168.1.5:8080/v1"),
        ("http://gpu.lan", "http://gpu.lan:11434/v1"),
        ("https://gpu.lan:443/", "https://gpu.lan:443/v1"),
        ("[::1]:11434", "http://[::1]:11434/v1"),
    ],
)
def test_local_ollama_url_follows_the_environment(host: str | None, url: str) -> None:
    found = local_ollama({} if host is None else {"OLLAMA_HOST": host})
    assert (found.url, found.vendor) == (url, "ollama")
