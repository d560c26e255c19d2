"""Marked secrets pass through the request path. No response, log line or table contains one."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import httpx
import trio

from tests import gateways
from tests.fakes import gemini_server
from tests.fakes.model_server import (
    DONE,
    Cut,
    ModelServer,
    Pause,
    chunk,
    completion,
    drop_twice,
    error,
    refusal,
    streamed,
    whole,
)
from tests.gateways import entry

PROMPT = "canary-prompt-4711"
ANSWER = "canary-answer-4712"
FILE_KEY = "sk-canary-file-4713"
TABLE_KEY = "sk-canary-table-4714"
PASSWORD = "canary-password-4715"
JUNK_KEY = "sk-canary-junk-4716"
HEADER = "canary-header-4717"
LONG = "/v1beta/models/" + "x" * 9000


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_keys_of_googles_clients_appear_in_no_output(nursery: trio.Nursery, home: Path) -> None:
    google: ModelServer = await nursery.start(gemini_server.serve)
    servers = [entry("google", google.url, dialect="gemini", api_key=FILE_KEY)]
    gateway = await gateways.start(
        nursery, home, servers=servers, log={"level": "debug"}, upstream={"eject_after": 100}
    )
    ask = {"contents": [{"parts": [{"text": PROMPT}]}]}
    quoting = gemini_server.error(
        400, "INVALID_ARGUMENT", f"API key {FILE_KEY} not valid.", "API_KEY_INVALID"
    )
    outputs: list[str] = []
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for key in (gateway.key, JUNK_KEY, gateway.key[:-1] + "!"):
            google.plan(refusal(400, quoting), refusal(500, quoting), refusal(418, quoting))
            for method in ("generateContent", "streamGenerateContent", "countTokens", "embedContent"):
                for headers, query in (({"x-goog-api-key": key}, ""), ({}, f"?key={key}")):
                    path = f"/v1beta/models/m:{method}{query}"
                    answer = await client.post(path, json=ask, headers=headers)
                    outputs.append(answer.text + str(answer.headers))
            for path in ("/v1beta/models", "/v1beta/unknown", "/v1/models", "/unknown", LONG):
                answer = await client.get(f"{path}?key={key}")
                outputs.append(answer.text)
    outputs.append((await gateway.get("/metrics")).text)
    await gateway.stop()
    with closing(sqlite3.connect(gateway.database)) as database:
        dump = "\n".join(database.iterdump())
    places = {"answers": "\n".join(outputs), "log": gateway.log, "database": dump}
    secrets = (PROMPT, FILE_KEY, JUNK_KEY, gateway.key, gateway.key[:-1])
    found = [(place, secret) for place, text in places.items() for secret in secrets if secret in text]
    assert found == []
    assert "Traceback" not in gateway.log


async def test_secrets_request_path_appear_in_no_output(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("file", models.url, api_key=FILE_KEY, headers={"X-Team-Token": HEADER})],
        log={"level": "debug"},
        upstream={"eject_after": 100},
    )
    ask = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "metadata": {"x": PROMPT}}
    outputs: list[str] = []
    token = gateway.running.first_run.bootstrap_token or ""
    key_id, key = await gateway.new_key(limits={"rpm": 40})
    async with gateway.operator() as client:
        server = {"name": "table", "url": models.url, "api_key": TABLE_KEY, "models": ["t"]}
        server["headers"] = {"X-Team-Token": HEADER}
        outputs.append((await client.post("/api/admin/servers", json=server)).text)
        outputs.append((await client.post("/api/admin/servers", json=server)).text)
        user = {"email": "a@example.com", "password": PASSWORD}
        outputs.append((await client.post("/api/admin/users", json=user)).text)
        outputs.append((await client.post("/api/admin/users", json=user | {"unknown": PASSWORD})).text)
    for stream in (False, True):
        for model, its_key in (("m", FILE_KEY), ("t", TABLE_KEY)):
            quoting = error(f"Incorrect API key provided: {its_key} {HEADER}")
            models.plan(streamed(chunk(ANSWER), DONE) if stream else whole(completion(ANSWER)))
            models.plan(refusal(401, quoting), refusal(403, quoting), drop_twice, refusal(500, quoting))
            models.plan(streamed(chunk("x"), Pause(0.05), Cut) if stream else refusal(400, quoting))
            event = b"data: " + quoting + b"\n\n"
            models.plan(streamed(chunk("x"), event) if stream else whole(quoting))
            for number in range(7):
                answer = await gateway.chat(ask | {"model": model, "stream": stream}, key=key)
                assert (ANSWER in answer.text) == (number == 0)
                outputs.append(answer.text.replace(ANSWER, "") + str(answer.headers))
    outputs.append((await gateway.chat(ask, key=JUNK_KEY)).text)
    outputs.append((await gateway.chat(ask, key=key[:-1] + "!")).text)
    outputs.append((await gateway.chat(b'{"messages": "' + PROMPT.encode() + b'"', key=key)).text)
    outputs.append((await gateway.chat(ask | {"stream": PROMPT}, key=key)).text)
    async with gateway.client() as client:
        for wrong in (token[::-1], token):
            claim = {"token": wrong, "email": "b@example.com", "password": PASSWORD}
            outputs.append((await client.post("/api/setup", json=claim)).text)
    outputs.append((await gateway.get("/metrics")).text)
    outputs.append((await gateway.get("/ready")).text)
    assert modes(gateway.settings.state_dir) == {0o600}
    await gateway.stop()
    assert modes(gateway.settings.state_dir) == {0o600}
    with closing(sqlite3.connect(gateway.database)) as database:
        dump = "\n".join(database.iterdump())
    assert key_id in dump
    files = b"".join(path.read_bytes() for path in gateway.settings.state_dir.iterdir() if path.is_file())
    places = {
        "answers": "\n".join(outputs),
        "log": gateway.log,
        "database": dump,
        "state": files.decode("latin-1"),
    }
    secrets = (
        *(PROMPT, ANSWER, FILE_KEY, TABLE_KEY, PASSWORD, JUNK_KEY, HEADER),
        *(gateway.key, key, token),
    )
    found = [(place, secret) for place, text in places.items() for secret in secrets if secret in text]
    assert found == []
    assert "Traceback" not in gateway.log
