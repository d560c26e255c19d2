"""API keys over HTTP: creation to revocation, keys of other users, and input validation."""

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.accounts import keys as accounts_keys
from storage.keys import KeyRow
from tests.deployment import BrowserUser, Deployment, code_of, deploy
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, entry, eventually
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

ADA, BOB, ROOT = "ada@example.com", "bob@example.com", "root@example.com"
DAY = "2026-05-06"
NOON_MS = int(datetime.fromisoformat(f"{DAY}T12:00:00Z").timestamp() * 1000)
NOWHERE = "01900000-0000-7000-8000-000000000000"
FIELDS = {
    *(
        "id",
        "user_id",
        "name",
        "prefix",
        "last4",
        "scopes",
        "allowed_models",
        "allowed_ips",
        "allowed_origins",
    ),
    *("limits", "metadata", "expires_at", "revoked_at", "last_used_at", "created_at"),
    *("rotated_at", "previous_until", "prompt_log"),
}
LIMITS = {
    *("rpm", "tpm", "concurrency", "tokens_per_day", "tokens_per_month"),
    *("usd_per_day", "usd_per_month", "usd_total"),
}


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, url: str, models: ModelServer) -> Deployment:
    return await deploy(nursery, home, servers=[entry("one", models.url)], sections={"storage": {"url": url}})


@pytest.fixture
async def sqlite_site(nursery: trio.Nursery, home: Path, models: ModelServer) -> Deployment:
    return await deploy(nursery, home, servers=[entry("one", models.url)])


async def sign_in(site: Deployment, browser: BrowserUser, email: str, role: str = "user") -> str:
    user_id = await site.create_user(email, role, tier=None)
    assert (await browser.login(email, bearer=True)).status_code == 200
    return user_id


def ms(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


async def test_key_is_created_used_changed_rotated_and_revoked(site: Deployment) -> None:
    async with site.browser() as ada:
        user_id = await sign_in(site, ada, ADA)
        soon = datetime.now(UTC) + timedelta(hours=2)
        fields = {
            "name": "laptop",
            "scopes": ["chat.completions"],
            "allowed_models": ["m", "gpt-5*"],
            "allowed_ips": ["127.0.0.1", "2001:DB8::/32"],
            "allowed_origins": ["https://App.example.com:443/"],
            "limits": {"rpm": 60, "concurrency": 5, "tpm": None},
            "expires_at": soon.isoformat(),
            "metadata": {"team": "blues", "größe": "x" * 512},
        }
        created = await ada.send("POST", "/api/keys", fields)
        assert created.status_code == 201, created.text
        row = created.json()
        key = row.pop("key")
        assert row.keys() == FIELDS and row["limits"].keys() == LIMITS
        assert (row["user_id"], row["name"], row["prefix"], row["last4"]) == (
            user_id,
            "laptop",
            key[:7],
            key[-4:],
        )
        assert (row["scopes"], row["allowed_models"]) == (["chat.completions"], ["m", "gpt-5*"])
        assert row["allowed_ips"] == ["127.0.0.1/32", "2001:db8::/32"]
        assert row["allowed_origins"] == ["https://app.example.com"]
        assert {name: value for name, value in row["limits"].items() if value is not None} == {
            "rpm": 60,
            "concurrency": 5,
        }
        assert abs(ms(row["expires_at"]) - soon) < timedelta(milliseconds=1)
        assert {row[name] for name in ("revoked_at", "last_used_at", "rotated_at", "previous_until")} == {
            None
        }
        assert row["metadata"] == fields["metadata"]
        path = f"/api/keys/{row['id']}"
        assert (await ada.send("GET", path)).json() == row

        page = {"origin": "https://app.example.com"}
        assert (await site.gateway.chat(key=key, headers=page)).status_code == 200
        assert code_of(await site.gateway.chat(key=key)) == "origin_not_allowed"
        changed = (
            await ada.send("PATCH", path, {"allowed_origins": None, "limits": {"rpm": None, "tpm": 9000}})
        ).json()
        expected = row | {"allowed_origins": None, "limits": row["limits"] | {"rpm": None, "tpm": 9000}}
        assert changed == expected
        assert (await site.gateway.chat(key=key)).status_code == 200
        assert (await ada.send("PATCH", path, {})).json() == expected, "an empty change has no effect"
        money = (await ada.send("PATCH", path, {"limits": {"usd_per_day": "12.50"}})).json()["limits"]
        assert money == expected["limits"] | {"usd_per_day": "12.5"}
        assert (await ada.send("PATCH", path, {"limits": {"usd_per_day": None}})).json() == expected

        created = await ada.send("POST", f"{path}/rotate", {"overlap_seconds": 60})
        assert created.status_code == 201
        new = created.json()
        new_key = new.pop("key")
        same = FIELDS - {"prefix", "last4", "rotated_at", "previous_until", "last_used_at"}
        assert {name: new[name] for name in same} == {name: expected[name] for name in same}
        assert (new["prefix"], new["last4"]) == (new_key[:7], new_key[-4:]) and new_key != key
        ending = ms((await ada.send("GET", path)).json()["previous_until"]) - datetime.now(UTC)
        assert timedelta(seconds=50) < ending <= timedelta(seconds=60)
        for good in (key, new_key):
            assert (await site.gateway.chat(key=good)).status_code == 200
        assert (await ada.send("DELETE", f"{path}/previous")).status_code == 204
        assert code_of(await site.gateway.chat(key=key)) == "api_key_expired"
        assert (await ada.send("DELETE", f"{path}/previous")).status_code == 204, (
            "there is no previous secret to end"
        )
        assert (await site.gateway.chat(key=new_key)).status_code == 200

        newest = (await ada.send("POST", f"{path}/rotate", {"overlap_seconds": 60})).json()["key"]
        assert (await ada.send("DELETE", path)).status_code == 204
        for revoked in (new_key, newest):
            assert code_of(await site.gateway.chat(key=revoked)) == "api_key_revoked"
        assert (await ada.send("GET", path)).json()["revoked_at"] is not None, "the row stays"
        for method, below in (("DELETE", ""), ("PATCH", ""), ("POST", "/rotate"), ("DELETE", "/previous")):
            again = await ada.send(method, path + below, None if method == "DELETE" else {})
            assert (again.status_code, code_of(again)) == (404, "key_not_found")
        assert key not in site.gateway.log and new_key not in site.gateway.log


class Noon:
    """Starts at noon, so that no day ends during a test."""

    def __init__(self) -> None:
        self._began = time.monotonic_ns()

    def now_ms(self) -> int:
        return NOON_MS + (time.monotonic_ns() - self._began) // 1_000_000


async def test_key_usage_reports_requests_by_day(
    nursery: trio.Nursery, home: Path, url: str, models: ModelServer
) -> None:
    sections = {"storage": {"url": url}}
    site = await deploy(nursery, home, servers=[entry("one", models.url)], clock=Noon(), sections=sections)
    async with site.browser() as ada:
        await sign_in(site, ada, ADA)
        created = (await ada.send("POST", "/api/keys", {"name": "a"})).json()
        idle = (await ada.send("POST", "/api/keys", {"name": "b"})).json()
        for _ in range(3):
            assert (await site.gateway.chat(key=created["key"])).status_code == 200
        usage: dict[str, Any] = {}

        async def is_counted() -> bool:
            answer = await ada.send("GET", f"/api/keys/{created['id']}/usage?days=1")
            assert answer.status_code == 200, answer.text
            usage.update(answer.json())
            return bool(usage["requests"] == 3)

        await eventually(is_counted)
        assert usage["id"] == created["id"]
        assert usage["errors"] == 0 and usage["input_tokens"] > 0
        (day,) = usage["days"]
        assert day["day"] == DAY
        sums = set(day) - {"day"}
        assert {name: day[name] for name in sums} == {name: usage[name] for name in sums}
        unused = (await ada.send("GET", f"/api/keys/{idle['id']}/usage")).json()
        assert (unused["requests"], unused["days"], unused["cost_usd"]) == (0, [], "0")
        for days in ("0", "367", "x", "-1"):
            assert (
                code_of(await ada.send("GET", f"/api/keys/{idle['id']}/usage?days={days}")) == "invalid_value"
            )


@pytest.mark.parametrize("path", ["/api/keys", "/user/api-keys"])
async def test_key_list_is_paged(sqlite_site: Deployment, path: str) -> None:
    async with sqlite_site.browser() as ada:
        await sign_in(sqlite_site, ada, ADA)
        created = [(await ada.send("POST", path, {"name": f"k{n}"})).json()["id"] for n in range(5)]
        await ada.send("DELETE", f"{path}/{created[1]}")
        listed_ids, after = [], ""
        while True:
            page = (await ada.send("GET", f"{path}?limit=2&after={after}")).json()
            assert page["object"] == "list" and len(page["data"]) <= 2
            assert not any("key" in row for row in page["data"])
            listed_ids += [row["id"] for row in page["data"]]
            if (after := page["next_cursor"]) is None:
                break
        assert listed_ids == created

        async def listed(query: str) -> list[str]:
            return [row["id"] for row in (await ada.send("GET", f"{path}?{query}")).json()["data"]]

        assert await listed("active=true") == [created[0], *created[2:]]
        assert await listed("active=false") == [created[1]]
        assert await listed("limit=5") == created
        numbers = ("0", "101", "x", "1e1", "10.0", "null", "07", "-0", "%2B5", "1&limit=2")
        truths = ("yes", "1", "TRUE", "null")
        for wrong in (
            *(f"limit={number}" for number in numbers),
            *(f"active={truth}" for truth in truths),
            "after=x",
            "user_id=x",
        ):
            assert code_of(await ada.send("GET", f"{path}?{wrong}")) == "invalid_value", wrong


async def test_keys_of_another_user_are_not_found(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as bob:
        await sign_in(site, ada, ADA)
        await sign_in(site, bob, BOB)
        own = (await ada.send("POST", "/api/keys", {"name": "mine"})).json()
        before = (await ada.send("GET", f"/api/keys/{own['id']}")).json()
        strange = (own["id"], NOWHERE, "x", "%00", "..%2f", "a%2Fb", "%F0%9F%98%80", own["id"].upper())
        for base in ("/api/keys", "/user/api-keys"):
            for key_id in strange:
                for method, below, body in (
                    ("GET", "", None),
                    ("PATCH", "", {"name": "b"}),
                    ("DELETE", "", None),
                    ("POST", "/rotate", {}),
                    ("DELETE", "/previous", None),
                    ("GET", "/usage", None),
                ):
                    answer = await bob.send(method, f"{base}/{key_id}{below}", body)
                    assert answer.status_code == 404, (method, key_id, answer.text)
            assert (await bob.send("GET", base)).json()["data"] == []
        assert (await ada.send("GET", f"/api/keys/{own['id']}")).json() == before
        assert (await site.gateway.chat(key=own["key"])).status_code == 200
        for strange_cursor in ("%00", "x" * 200, "%F0%9F%98%80"):
            assert (await ada.send("GET", f"/api/keys?after={strange_cursor}")).status_code in (200, 400)


async def test_administrator_manages_keys_of_all_users(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as root:
        ada_id = await sign_in(site, ada, ADA)
        root_id = await sign_in(site, root, ROOT, "admin")
        ada_key = (await ada.send("POST", "/api/keys", {"name": "mine"})).json()
        path = f"/api/admin/keys/{ada_key['id']}"
        for method, below in (
            ("GET", ""),
            ("PATCH", ""),
            ("DELETE", ""),
            ("POST", "/rotate"),
            ("DELETE", "/previous"),
            ("GET", "/usage"),
        ):
            answer = await ada.send(method, path + below, {} if method in ("PATCH", "POST") else None)
            assert (answer.status_code, code_of(answer)) == (403, "admin_required")
        assert (
            code_of(await ada.send("POST", "/api/keys", {"name": "x", "user_id": root_id})) == "invalid_value"
        )

        for_ada = (await root.send("POST", "/api/admin/keys", {"name": "gift", "user_id": ada_id})).json()
        own = (await root.send("POST", "/api/admin/keys", {"name": "own"})).json()
        assert (for_ada["user_id"], own["user_id"]) == (ada_id, root_id)
        for unknown in (NOWHERE, "x", "\x00"):
            answer = await root.send("POST", "/api/admin/keys", {"name": "x", "user_id": unknown})
            assert (answer.status_code, code_of(answer)) == (404, "user_not_found")
        listed = (await root.send("GET", f"/api/admin/keys?user_id={ada_id}")).json()["data"]
        assert [row["id"] for row in listed] == [ada_key["id"], for_ada["id"]]
        assert len((await root.send("GET", "/api/admin/keys")).json()["data"]) == 4, (
            "including the first key of the operator"
        )
        assert (await root.send("PATCH", path, {"name": "theirs"})).json()["name"] == "theirs"
        rotated = (await root.send("POST", f"{path}/rotate", {})).json()
        assert rotated["user_id"] == ada_id
        assert (await site.gateway.chat(key=rotated["key"])).status_code == 200
        assert code_of(await site.gateway.chat(key=ada_key["key"])) == "api_key_expired"
        assert (await root.send("DELETE", f"/api/admin/keys/{rotated['id']}")).status_code == 204
    async with site.gateway.operator() as operator:
        created = (await operator.post("/api/admin/keys", json={"name": "cli"})).json()
        assert created["user_id"] not in (ada_id, root_id)
        assert code_of(await operator.get("/api/keys")) == "session_required"


WRONG: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "a\x00"},
    {"name": None},
    {"name": "x" * 101},
    {"scopes": []},
    {"scopes": ["admin"]},
    {"scopes": "models"},
    {"allowed_models": []},
    {"allowed_models": ["a*b"]},
    {"allowed_models": ["m"] * 101},
    {"allowed_models": ["a\x00"]},
    {"allowed_ips": ["10.0.0.1/8"]},
    {"allowed_ips": ["everywhere"]},
    {"allowed_origins": ["*"]},
    {"allowed_origins": ["https://a.example/path"]},
    {"limits": {"rpm": 0}},
    {"limits": {"rpm": -1}},
    {"limits": {"rpm": 1.5}},
    {"limits": {"rpm": True}},
    {"limits": {"rpm": "5"}},
    {"limits": {"rpm": 10**400}},
    {"limits": {"usd_total": "0"}},
    {"limits": {"usd_total": "0.000000000"}},
    {"limits": {"usd_total": "-1"}},
    {"limits": {"usd_total": 5}},
    {"limits": {"usd_total": "1e3"}},
    {"limits": {"usd_total": "0.0000000001"}},
    {"limits": {"role": "admin"}},
    {"limits": []},
    {"expires_at": "2020-01-01T00:00:00Z"},
    {"expires_at": "9999-12-31T23:59:59-10:00"},
    {"expires_at": "2030-01-01T00:00:00"},
    {"expires_at": "soon"},
    {"expires_at": 1_900_000_000_000},
    {"metadata": {"a": 1}},
    {"metadata": {"": "x"}},
    {"metadata": {"k" * 65: "x"}},
    {"metadata": {"k": "x" * 513}},
    {"metadata": {str(n): "x" for n in range(17)}},
    {"metadata": []},
]


async def test_invalid_key_fields_are_rejected_with_the_field(sqlite_site: Deployment) -> None:
    async with sqlite_site.browser() as ada:
        await sign_in(sqlite_site, ada, ADA)
        created = (await ada.send("POST", "/api/keys", {"name": "a"})).json()
        path = f"/api/keys/{created['id']}"
        before = (await ada.send("GET", path)).json()
        for wrong in WRONG:
            (field,) = wrong
            for answer in (
                await ada.send("POST", "/api/keys", {"name": "b"} | wrong),
                await ada.send("PATCH", path, wrong),
            ):
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (400, "invalid_value"), (wrong, answer.text)
                assert error["param"].partition(".")[0] == field, (wrong, error)
        for overlap in (-1, 604_801, 1.5, "1", None):
            answer = await ada.send("POST", f"{path}/rotate", {"overlap_seconds": overlap})
            assert (code_of(answer), answer.json()["error"]["param"]) == ("invalid_value", "overlap_seconds")
        assert (await ada.send("GET", path)).json() == before
        assert len((await ada.send("GET", "/api/keys")).json()["data"]) == 1
        answer = await ada.send("PATCH", path, {"limits": {"rpm": 0}})
        assert answer.json()["error"]["param"] == "limits.rpm"


async def test_key_routes_reject_undeclared_fields(sqlite_site: Deployment) -> None:
    """Every column of the table, as itself and as the API names it, at every input for keys."""
    async with sqlite_site.browser() as ada, sqlite_site.browser() as root:
        ada_id = await sign_in(sqlite_site, ada, ADA)
        root_id = await sign_in(sqlite_site, root, ROOT, "admin")
        created = (await ada.send("POST", "/api/keys", {"name": "a"})).json()
        may = {"name", "scopes", "allowed_models", "allowed_ips", "allowed_origins", "limits", "expires_at"}
        columns = (
            {*KeyRow.__slots__, "key", "role", "tier", "owner", "disabled_at", "balance"}
            - may
            - {"metadata", "prompt_log"}
        )
        before = await rows(sqlite_site)
        for column in sorted(columns):
            value = {"user_id": root_id, "revoked_at": None}.get(column, "x")
            for browser, base in ((ada, "/api/keys"), (ada, "/user/api-keys"), (root, "/api/admin/keys")):
                for method, path, body in (
                    ("POST", base, {"name": "b"}),
                    ("PATCH", f"{base}/{created['id']}", {}),
                    ("POST", f"{base}/{created['id']}/rotate", {}),
                ):
                    if (column, method, path) == ("user_id", "POST", "/api/admin/keys"):
                        continue  # an administrator may set it
                    answer = await browser.send(method, path, body | {column: value})
                    assert (answer.status_code, code_of(answer)) == (400, "invalid_value"), (path, column)
        assert await rows(sqlite_site) == before
        assert {row[1] for row in before} >= {ada_id}


async def rows(site: Deployment) -> list[Any]:
    with site.gateway.reading() as database:
        return database.execute("SELECT * FROM api_keys ORDER BY id").fetchall()


async def test_key_creation_above_the_limit_is_rejected(
    sqlite_site: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts_keys, "MAX_ACTIVE", 2)
    async with sqlite_site.browser() as ada:
        await sign_in(sqlite_site, ada, ADA)
        codes = [code_of(await ada.send("POST", "/api/keys", {"name": "a"})) for _ in range(3)]
    assert codes == ["201", "201", "too_many_keys"]


async def test_key_is_not_stored_or_logged(sqlite_site: Deployment) -> None:
    async with sqlite_site.browser() as ada:
        await sign_in(sqlite_site, ada, ADA)
        created = (await ada.send("POST", "/api/keys", {"name": "a"})).json()
        rotated = (await ada.send("POST", f"/api/keys/{created['id']}/rotate", {"overlap_seconds": 5})).json()
        shown = [
            (await ada.send("GET", path)).text
            for path in ("/api/keys", f"/api/keys/{created['id']}", f"/api/keys/{created['id']}/usage")
        ]
        for key in (created["key"], rotated["key"]):
            assert (await sqlite_site.gateway.chat(key=key)).status_code == 200
            await sqlite_site.gateway.chat(key=key[:-1] + ("a" if key[-1] != "a" else "b"))
        metrics = (await sqlite_site.gateway.get("/metrics")).text
    with closing(sqlite3.connect(sqlite_site.gateway.database)) as database:
        dump = "\n".join(database.iterdump())
    for key in (created["key"], rotated["key"]):
        for text in (*shown, metrics, dump, sqlite_site.gateway.log):
            assert key not in text and key[3:33] not in text


async def keep_calling(client: httpx.AsyncClient, answers: list[tuple[float, int]], stop: trio.Event) -> None:
    while not stop.is_set():
        began = trio.current_time()
        answers.append((began, (await client.post("/v1/chat/completions", json=ASK)).status_code))


@pytest.mark.parametrize("change", ["revoke", "disable"])
async def test_key_end_under_load_takes_effect_immediately(site: Deployment, change: str) -> None:
    await end_under_load(site, change)


@pytest.mark.parametrize("change", ["rotate", "narrow"])
async def test_key_change_under_load_takes_effect_immediately(sqlite_site: Deployment, change: str) -> None:
    await end_under_load(sqlite_site, change)


class ManualClock:
    def __init__(self) -> None:
        self.now = NOON_MS

    def now_ms(self) -> int:
        return self.now


async def test_key_expiry_under_load_takes_effect_immediately(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    clock = ManualClock()
    site = await deploy(nursery, home, servers=[entry("one", models.url)], clock=clock)
    await end_under_load(site, "expire", clock)


async def end_under_load(site: Deployment, change: str, clock: ManualClock | None = None) -> None:
    """No request that starts after the change is accepted."""
    answers: list[tuple[float, int]] = []
    stop = trio.Event()
    async with site.browser() as ada, site.browser() as root:
        user_id = await sign_in(site, ada, ADA)
        await sign_in(site, root, ROOT, "admin")
        created = (await ada.send("POST", "/api/keys", {"name": "a"})).json()
        path = f"/api/keys/{created['id']}"
        async with site.gateway.client(created["key"]) as client, trio.open_nursery() as callers:
            for _ in range(8):
                callers.start_soon(keep_calling, client, answers, stop)
            await eventually(lambda: len(answers) >= 40)
            match change:
                case "revoke":
                    answer = await ada.send("DELETE", path)
                case "rotate":
                    answer = await ada.send("POST", f"{path}/rotate", {})
                case "disable":
                    answer = await root.send("PATCH", f"/api/admin/users/{user_id}", {"disabled": True})
                case "narrow":
                    answer = await ada.send("PATCH", path, {"allowed_ips": ["192.0.2.1"]})
                case _:
                    assert clock is not None
                    end = datetime.fromtimestamp(clock.now / 1000 + 1, UTC)
                    answer = await ada.send("PATCH", path, {"expires_at": end.isoformat()})
                    clock.now += 1000
            assert answer.is_success, answer.text
            ended, count = trio.current_time(), len(answers)
            await eventually(lambda: len(answers) >= count + 40)
            stop.set()
    late = {status for began, status in answers if began > ended}
    assert late == {403 if change == "narrow" else 401}
    assert {status for began, status in answers[:40]} == {200}
