"""Base URLs: valid ones, invalid ones, and errors that contain no part of the URL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.http.client.pool import UpstreamOrigin
from tests.cases import each


@pytest.mark.parametrize(
    ("url", "origin", "base", "authority"),
    [
        ("http://localhost", UpstreamOrigin("http", "localhost", 80), "", "localhost"),
        ("http://LOCALHOST:80/", UpstreamOrigin("http", "localhost", 80), "", "localhost"),
        (
            "https://api.openai.com/v1",
            UpstreamOrigin("https", "api.openai.com", 443),
            "/v1",
            "api.openai.com",
        ),
        (
            "HTTPS://api.openai.com:8443/a/b/",
            UpstreamOrigin("https", "api.openai.com", 8443),
            "/a/b",
            "api.openai.com:8443",
        ),
        ("http://[::1]:4000/v1", UpstreamOrigin("http", "::1", 4000), "/v1", "[::1]:4000"),
        ("http://127.0.0.1:443", UpstreamOrigin("http", "127.0.0.1", 443), "", "127.0.0.1:443"),
        ("unix:/run/x.sock", UpstreamOrigin("unix", "/run/x.sock", 0), "", "localhost"),
        ("unix:///run/x.sock:/v1/", UpstreamOrigin("unix", "/run/x.sock", 0), "/v1", "localhost"),
    ],
)
def test_origin_valid_base_url_is_parsed(url: str, origin: UpstreamOrigin, base: str, authority: str) -> None:
    assert UpstreamOrigin.parse(url) == (origin, base)
    assert origin.authority == authority


@each(
    "url",
    [
        "",
        "localhost:4000",
        "//host",
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://:80",
        "http://host:0",
        "http://host:65536",
        "http://host:x",
        "http://[::1",
        "http://user:hunter2@host",
        "http://hunter2@host",
        "http://host/?key=hunter2",
        "http://host/#hunter2",
        "http://ho st",
        "http://host/a b",
        "http://host/\r\nX: y",
        "http://h\u00f6st",
        "unix:relative.sock",
        "unix:",
        "unix:/x.sock:v1",
    ],
)
def test_origin_invalid_base_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        UpstreamOrigin.parse(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text() | st.from_regex(r"(https?|unix)://?[!-~]{0,30}", fullmatch=True))
def test_origin_any_text_is_parsed_or_rejected(url: str) -> None:
    try:
        origin, base = UpstreamOrigin.parse(url)
    except ValueError:
        return
    assert base == "" or (base.startswith("/") and not base.endswith("/"))
    assert (origin.authority + base).isascii()
    assert (origin.authority + base).isprintable()
    assert " " not in origin.authority + base
    assert (origin.scheme == "unix") == (origin.port == 0)
