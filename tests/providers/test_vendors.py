"""Servers found in the environment, and what each dialect sends."""

import pytest

from bluesminds.providers.dialects import DIALECTS
from bluesminds.providers.vendors import VENDORS, from_environment, local_ollama


def test_vendor_with_key_in_environment_is_server() -> None:
    assert from_environment({"PATH": "/bin", "OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": "\n"}) == []
    assert from_environment({"OPENAI_API_KEY": "sk-x\n"})[0].api_key == "sk-x"
    for vendor in VENDORS:
        (found,) = from_environment({vendor.key_variable: "sk-x"})
        assert (found.name, found.url, found.dialect, found.api_key) == (
            vendor.name,
            vendor.url,
            vendor.dialect,
            "sk-x",
        )
        assert found.origin == "environment"
        assert vendor.dialect in DIALECTS
        assert vendor.url.startswith("https://")
        assert "sk-x" not in repr(found)
    assert len(from_environment({vendor.key_variable: "k" for vendor in VENDORS})) == len(VENDORS)


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
def test_where_ollama_would_be(host: str | None, url: str) -> None:
    assert local_ollama({} if host is None else {"OLLAMA_HOST": host}).url == url


KEY_HEADERS = {"anthropic": b"x-api-key", "gemini": b"x-goog-api-key"}


def test_request_headers_of_each_dialect_are_complete() -> None:
    for name, dialect in DIALECTS.items():
        assert dialect.name == name
        headers = dict(dialect.headers("sk-x"))
        if name in ("anthropic", "gemini"):
            assert headers[KEY_HEADERS[name]] == b"sk-x" and b"authorization" not in headers
        else:
            assert headers[b"authorization"] == b"Bearer sk-x"
        assert headers[b"user-agent"].startswith(b"bluesminds/")
        assert not {b"authorization", *KEY_HEADERS.values()} & set(dict(dialect.headers(None)))
    assert dict(DIALECTS["litellm"].headers(None))[b"x-litellm-num-retries"] == b"0"
    assert dict(DIALECTS["anthropic"].headers(None))[b"anthropic-version"] == b"2023-06-01"
