"""Passwords, sessions, links and keys of users pass through the account API. Each appears in one response at
most.
"""

import re
import sqlite3
import ssl
import stat
import sys
from collections import deque
from contextlib import closing
from pathlib import Path

import httpx
import trio
import trustme

from tests import gateways
from tests.deployment import BrowserUser, Deployment
from tests.fakes import smtp_server
from tests.fakes.model_server import ModelServer
from tests.fakes.smtp_server import MailServer
from tests.gateways import ASK, Gateway, entry, eventually

SMTP_PASSWORD = "canary-smtp-password-5801"
SERVER_KEY = "sk-canary-server-5802"
FIRST = "canary-first-password-5803"
SECOND = "canary-second-password-5804"
THIRD = "canary-third-password-5805"
WRONG = "canary-wrong-password-5806"
ADA, BOB, EVE = "ada@example.com", "bob@example.com", "eve@example.com"
COMMANDS = (
    ("users", "show", ADA),
    ("keys", "list", "--json"),
    ("servers", "list", "--json"),
    ("audit", "list", "--limit", "100", "--json"),
    ("config", "show"),
)


class OutputRecorder:
    """Keeps every response without the secrets that it shows once, and keeps these secrets."""

    def __init__(self) -> None:
        self.outputs: list[str] = []
        self.secrets = {SMTP_PASSWORD, SERVER_KEY, FIRST, SECOND, THIRD, WRONG}

    async def record(self, answer: httpx.Response) -> None:
        await answer.aread()
        text = answer.text
        if answer.is_success:
            for shown in re.findall(r'"(bms?_[\w-]{36,})"|#(?:token|invite)=([\w-]{43})', text):
                secret = next(filter(None, shown))
                self.secrets.add(secret)
                text = text.replace(secret, "")
        headers = [(name, value) for name, value in answer.headers.items() if name != "set-cookie"]
        self.secrets |= set(re.findall(r"=(bms_[\w-]+)", answer.headers.get("set-cookie", "")))
        self.outputs.append(f"{answer.status_code} {headers} {text}")


async def output_of_commands(gateway: Gateway, home: Path) -> str:
    said = []
    for words in COMMANDS:
        command = (sys.executable, "-m", "bluesminds", *words, "-c", str(home / "gateway.toml"))
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        said.append((done.stdout + done.stderr).decode())
    return "\n".join(said)


async def test_secrets_account_api_appear_in_no_other_output(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(home / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    post: MailServer = await nursery.start(smtp_server.serve, tls)
    mail = {
        "host": "127.0.0.1",
        "port": post.port,
        "sender": "gateway@example.com",
        "username": "gateway",
        "password": SMTP_PASSWORD,
        "ca_file": str(home / "ca.pem"),
    }
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("one", models.url, api_key=SERVER_KEY)],
        log={"level": "debug"},
        accounts={"signup": "open"},
        mail=mail,
    )
    recorder = OutputRecorder()
    site = Deployment(gateway, post)
    async with site.browser() as ada, site.browser() as bob, site.browser() as eve:
        for browser in (ada, bob, eve):
            browser.client.event_hooks["response"].append(recorder.record)
        await use_account(ada, bob, post)
        await send_misplaced_secrets(eve, recorder)
        await administer(gateway, post, recorder)
        for path in ("/metrics", "/openapi.json", "/docs", "/ready", "/"):
            await eve.send("GET", path)
    recorder.secrets |= {found.token for found in post.mails if "#" in found.text}
    assert len(recorder.secrets) > 18
    commands = await output_of_commands(gateway, home)
    await gateway.stop()
    with closing(sqlite3.connect(gateway.database)) as database:
        dump = "\n".join(database.iterdump())
    paths = [path for path in gateway.settings.state_dir.iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    places = {
        "answers": "\n".join(recorder.outputs),
        "log": gateway.log,
        "database": dump,
        "state": b"".join(path.read_bytes() for path in paths).decode("latin-1"),
        "commands": commands,
    }
    assert ADA in dump and "session" in places["log"] + dump, "the dumps contain data"
    found = [
        (place, secret) for place, text in places.items() for secret in recorder.secrets if secret in text
    ]
    assert found == []
    assert "Traceback" not in gateway.log
    assert post.refusals == deque(), "the log also contains a refused message"
    assert gateway.events("control_failed") == []


async def use_account(ada: BrowserUser, bob: BrowserUser, post: MailServer) -> None:
    """Everything that users do with their secrets."""
    await ada.register(ADA, FIRST)
    await bob.register(BOB, FIRST, bearer=True)
    await ada.sign_up(BOB, FIRST)
    made = (await ada.send("POST", "/api/keys", {"name": "mine"})).json()
    chat = {"authorization": f"Bearer {made['key']}"}
    assert (await bob.client.post("/v1/chat/completions", json=ASK, headers=chat)).status_code == 200
    rotated = await ada.send("POST", f"/api/keys/{made['id']}/rotate", {"overlap_seconds": 60})
    assert rotated.status_code == 201
    await ada.send("GET", "/api/keys")
    await ada.send("GET", "/api/auth/me")
    await ada.send("GET", "/api/auth/sessions")
    changed = await ada.send("POST", "/api/auth/password", {"password": FIRST, "new_password": SECOND})
    assert changed.status_code == 200
    ada.use_session(changed)
    await ada.send("POST", "/api/auth/email", {"email": EVE, "password": SECOND})
    await post.arrived(EVE)
    await bob.send("POST", "/api/auth/password/forgot", {"email": ADA})
    await eventually(lambda: any("/account/reset#" in mail.text for mail in post.to(ADA)))
    token = next(mail.token for mail in post.to(ADA) if "/account/reset#" in mail.text)
    answer = await bob.send("POST", "/api/auth/password/reset", {"token": token, "password": THIRD})
    assert answer.status_code in (200, 204), answer.text
    assert (await ada.login(ADA, THIRD)).status_code == 200


async def send_misplaced_secrets(eve: BrowserUser, recorder: OutputRecorder) -> None:
    """Send secrets in places where they are invalid."""
    held = sorted(recorder.secrets)
    kinds = (
        SMTP_PASSWORD,
        FIRST,
        *(next(one for one in held if one.startswith(kind)) for kind in ("bm_", "bms_")),
    )
    for secret in kinds:
        for path in ("/v1/models", "/api/keys"):
            await eve.send("GET", path, headers={"authorization": f"Bearer {secret}x"})
            await eve.send("GET", path, headers={"x-api-key": f"{secret}x"})
        await eve.send("GET", f"/api/keys/{secret}")
        await eve.send("GET", f"/api/admin/audit?token={secret}&after={secret}")
        await eve.send("POST", "/api/auth/login", {"email": secret, "password": secret})
        await eve.send("POST", "/api/auth/login", {"email": ADA, "password": secret, secret: 1})
        recorder.outputs.pop()  # the error names the unknown field to its sender
        await eve.send("POST", "/api/setup", {"token": secret, "email": ADA, "password": secret})
        await eve.send("POST", "/api/auth/email/verify", {"token": secret[::-1], "password": secret})
        await eve.client.post("/api/auth/login", content=f'{{"password": "{secret}"'.encode())
        await eve.client.post("/v1/chat/completions", content=f'{{"model": "{secret}"'.encode())
    await eve.login(ADA, WRONG)


async def administer(gateway: Gateway, post: MailServer, recorder: OutputRecorder) -> None:
    """What the operator does for users; links and keys are shown once."""
    async with gateway.operator() as operator:
        operator.event_hooks["response"].append(recorder.record)
        user = {"email": "admin@example.com", "password": FIRST, "role": "admin"}
        made = await operator.post("/api/admin/users", json=user)
        assert made.status_code == 201
        await operator.post("/api/admin/users", json=user)
        assert (await operator.post("/api/admin/keys", json={"name": "ops"})).status_code == 201
        invited = await operator.post("/api/admin/invites", json={"email": "new@example.com"})
        assert invited.status_code == 201
        await post.arrived("new@example.com")
        post.refusals.append(b"550 no such address")
        reset = await operator.post(f"/api/admin/users/{made.json()['id']}/reset-password")
        assert reset.status_code == 201
        await operator.get("/api/admin/audit", params={"limit": 100})
