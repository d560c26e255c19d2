"""The data plane over HTTP/2."""

import ssl
from pathlib import Path

import httpx
import msgspec
import pytest
import trio
import trustme

from tests import gateways
from tests.fakes.model_server import DONE, ModelServer, Stall, chunk, streamed, text_chunks, whole
from tests.forms import CONTENT_TYPE, field, file, form
from tests.gateway.conftest import PATIENT
from tests.gateways import ASK, STREAM, Gateway, entry, eventually


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer, authority: trustme.CA) -> Gateway:
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(home / "key.pem")
    (home / "key.pem").chmod(0o600)
    for pem in issued.cert_chain_pems:
        pem.write_to_path(home / "cert.pem", append=True)
    server = {"tls_cert": str(home / "cert.pem"), "tls_key": str(home / "key.pem"), "http2": True}
    sections = PATIENT | {"server": server}
    return await gateways.start(nursery, home, servers=[entry("one", models.url)], **sections)


@pytest.fixture
def client(gateway: Gateway, authority: trustme.CA) -> httpx.AsyncClient:
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trust)
    return httpx.AsyncClient(
        base_url=f"https://localhost:{gateway.port}/v1",
        headers={"authorization": f"Bearer {gateway.key}"},
        http2=True,
        verify=trust,
        trust_env=False,
        timeout=60,
    )


async def test_http2_responses_equal_those_of_http1(
    gateway: Gateway, client: httpx.AsyncClient, models: ModelServer
) -> None:
    async with client:
        listed = await client.get("/models")
        assert (listed.http_version, listed.status_code) == ("HTTP/2", 200)
        assert listed.json()["data"][0]["id"] == "m"
        answer = await client.post("/chat/completions", json=ASK)
        assert (answer.status_code, answer.headers["x-bluesminds-server"]) == (200, "one")
        assert models.asked[0].received.body == msgspec.json.encode(ASK)
        text = await client.post("/chat/completions", json=STREAM)
        assert text.content == b"".join((*text_chunks(), chunk(finish="stop"), DONE))
        assert len(gateway.rows()) == 2
        for content, code in ((b"", "empty_body"), (b"{", "invalid_json")):
            refused = await client.post("/chat/completions", content=content)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
        assert (await client.post("/models")).status_code == 405
        assert (await client.get("/nothing")).status_code == 404
    assert gateway.events("connection_failed") == gateway.events("request_failed") == []


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_http2_connection_closed_ends_the_upstream_request(
    gateway: Gateway, client: httpx.AsyncClient, models: ModelServer
) -> None:
    # The client leaves its own generators to the garbage collector when it is closed within the stream.
    models.plan(streamed(chunk("one"), Stall))
    async with client:
        request = client.build_request("POST", "/chat/completions", json=STREAM)
        answer = await client.send(request, stream=True)
        assert await anext(answer.aiter_raw()) == chunk("one")
    await eventually(lambda: models.left == 1)
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["status"], row["output_tokens"]) == ("client_gone", 499, 1)


@pytest.mark.parametrize("model_first", [True, False])
async def test_http2_upload_arrives_whole(
    gateway: Gateway, client: httpx.AsyncClient, models: ModelServer, model_first: bool
) -> None:
    parts = [field("model", "m"), file(bytes(range(256)) * 12_000)]
    body = form(*(parts if model_first else reversed(parts)))
    models.plan(whole(b'{"text":"Hello."}'))
    async with client:
        headers = {"content-type": CONTENT_TYPE.decode()}
        answer = await client.post("/audio/transcriptions", content=body, headers=headers)
    assert (answer.http_version, answer.json()) == ("HTTP/2", {"text": "Hello."})
    assert models.asked[0].received.body == body
