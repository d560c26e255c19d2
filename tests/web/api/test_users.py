"""User management over HTTP: changes take effect immediately and are validated."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from storage.users import UserRow
from tests.deployment import PASSWORD, BrowserUser, Deployment, code_of, deploy
from tests.fakes.model_server import ModelServer
from tests.gateways import entry, eventually
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

ADA, BOB, EVE = "ada@example.com", "bob@example.com", "eve@example.com"
NEW = "another horse battery"
CLIENTS = 4


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, url: str, models: ModelServer) -> Deployment:
    sections = {"storage": {"url": url}}
    return await deploy(nursery, home, servers=[entry("one", models.url)], signup="open", sections=sections)


@pytest.fixture
async def sqlite_site(nursery: trio.Nursery, home: Path, models: ModelServer) -> Deployment:
    return await deploy(nursery, home, servers=[entry("one", models.url)], signup="open")


async def patch(browser: BrowserUser, user_id: str, **fields: Any) -> Any:
    return await browser.send("PATCH", f"/api/admin/users/{user_id}", fields)


async def test_users_are_created_found_and_shown(site: Deployment) -> None:
    admin_id = await site.create_user(ADA, "admin")
    async with site.browser() as ada:
        await ada.login(ADA)
        body = {"email": BOB, "password": PASSWORD, "full_name": "Bob", "tier": "pro"}
        created = (await ada.send("POST", "/api/admin/users", body)).json()
        assert (created["tier"], created["email_verified"], created["role"]) == ("pro", True, "user")
        assert code_of(await ada.send("POST", "/api/admin/users", body)) == "email_taken"
        wrong = await ada.send("POST", "/api/admin/users", body | {"email": EVE, "tier": "golden"})
        assert wrong.json()["error"]["param"] == "tier"
        plain = await ada.send("POST", "/api/admin/users", {"email": EVE, "password": PASSWORD})
        assert plain.json()["tier"] is None
        assert (await ada.send("GET", f"/api/admin/users/{created['id']}")).json() == created
        for unknown in ("unknown", "%01", admin_id[:-1] + "x"):
            assert code_of(await ada.send("GET", f"/api/admin/users/{unknown}")) == "user_not_found"
            assert code_of(await patch(ada, unknown, disabled=True)) == "user_not_found"
            reset = await ada.send("POST", f"/api/admin/users/{unknown}/reset-password")
            assert code_of(reset) == "user_not_found"
            assert code_of(await ada.send("DELETE", f"/api/auth/sessions/{unknown}")) == "session_not_found"
        for after in ("%00", "x", admin_id.upper()):
            assert code_of(await ada.send("GET", f"/api/admin/users?after={after}")) == "invalid_value"
        emails, after = [], ""
        while True:
            page = (await ada.send("GET", f"/api/admin/users?limit=2&after={after}")).json()
            emails += [row["email"] for row in page["data"]]
            if (after := page["next_cursor"]) is None:
                break
        assert emails == [None, ADA, BOB, EVE], "the local operator has no address"
        found = (await ada.send("GET", "/api/admin/users?email=BOB@example.com")).json()
        assert (found["data"], found["next_cursor"]) == ([created], None)
        for unmatched in ("unknown@example.com", "%01", "bob%25"):
            assert (await ada.send("GET", f"/api/admin/users?email={unmatched}")).json()["data"] == []


async def keep_calling(
    site: Deployment, key: str, statuses: list[tuple[float, int]], stop: trio.Event
) -> None:
    body = {"model": "m", "messages": []}
    async with site.gateway.client(key) as client:
        while not stop.is_set():
            began = trio.current_time()
            answer = await client.post("/v1/chat/completions", json=body)
            statuses.append((began, answer.status_code))


async def keep_looking(browser: BrowserUser, statuses: list[tuple[float, int]], stop: trio.Event) -> None:
    while not stop.is_set():
        began = trio.current_time()
        answer = await browser.send("GET", "/api/auth/me")
        statuses.append((began, answer.status_code))


def begun_after(at: float, statuses: list[tuple[float, int]]) -> list[int]:
    return [status for began, status in statuses if began > at]


async def test_disabled_user_under_load_is_rejected_immediately(site: Deployment) -> None:
    user_id = await site.create_user(BOB, tier=None)
    await site.create_user(ADA, "admin")
    _, key = await site.gateway.new_key(user_id=user_id)
    calls: list[tuple[float, int]] = []
    looks: list[tuple[float, int]] = []
    stop = trio.Event()
    async with site.browser() as ada, site.browser() as bob, site.browser() as program:
        await ada.login(ADA)
        await bob.login(BOB)
        await program.login(BOB, bearer=True)
        async with trio.open_nursery() as load:
            for _ in range(CLIENTS):
                load.start_soon(keep_calling, site, key, calls, stop)
            load.start_soon(keep_looking, bob, looks, stop)
            load.start_soon(keep_looking, program, looks, stop)
            await eventually(lambda: len(calls) >= 40 and len(looks) >= 4)
            before = (len(calls), len(looks))
            assert (await patch(ada, user_id, disabled=True)).json()["disabled"] is True
            disabled = trio.current_time()
            await eventually(
                lambda: len(begun_after(disabled, calls)) >= 40 and len(begun_after(disabled, looks)) >= 4,
            )
            stop.set()
        for found, earlier in zip((calls, looks), before, strict=True):
            assert {status for _, status in found[:earlier]} == {200}
            assert set(begun_after(disabled, found)) == {401}
        assert code_of(await bob.login(BOB)) == "user_disabled"
        assert code_of(await site.gateway.chat(key=key)) == "user_disabled"
        await patch(ada, user_id, disabled=False)
        assert not await bob.is_signed_in(), "the sessions stay revoked"
        assert (await site.gateway.chat(key=key)).status_code == 200
        assert code_of(await bob.login(BOB)) == "200"


async def test_role_change_ends_the_sessions(sqlite_site: Deployment) -> None:
    user_id = await sqlite_site.create_user(BOB, "admin")
    await sqlite_site.create_user(ADA, "admin")
    looks: list[tuple[float, int]] = []
    stop = trio.Event()

    async def administer(bob: BrowserUser) -> None:
        while not stop.is_set():
            began = trio.current_time()
            looks.append((began, (await bob.send("GET", "/api/admin/users")).status_code))

    async with sqlite_site.browser() as ada, sqlite_site.browser() as bob:
        await ada.login(ADA)
        await bob.login(BOB)
        async with trio.open_nursery() as load:
            load.start_soon(administer, bob)
            await eventually(lambda: len(looks) >= 4)
            assert (await patch(ada, user_id, role="user")).status_code == 200
            demoted = trio.current_time()
            await eventually(lambda: len(begun_after(demoted, looks)) >= 4)
            stop.set()
        assert set(begun_after(demoted, looks)) == {401}
        assert 200 in {status for _, status in looks}
        await bob.login(BOB)
        assert code_of(await bob.send("GET", "/api/admin/users")) == "admin_required"


async def test_last_administrator_cannot_be_disabled_or_demoted(site: Deployment) -> None:
    first, second = await site.create_user(ADA, "admin"), await site.create_user(BOB, "admin")
    async with site.browser() as ada, site.browser() as bob:
        await ada.login(ADA)
        await bob.login(BOB)
        outcomes: list[str] = []

        async def demote(browser: BrowserUser, user_id: str, **fields: Any) -> None:
            outcomes.append(code_of(await patch(browser, user_id, **fields)))

        async with trio.open_nursery() as race:
            race.start_soon(lambda: demote(ada, second, role="user"))
            race.start_soon(lambda: demote(bob, first, disabled=True))
        assert "200" in outcomes
        assert sorted(outcomes)[1] in ("last_admin", "invalid_session")
    async with site.gateway.operator() as operator:
        users = (await operator.get("/api/admin/users")).json()["data"]
        (last,) = [user for user in users if user["role"] == "admin" and not user["disabled"]]
        for change in ({"role": "user"}, {"disabled": True}):
            answer = await operator.patch(f"/api/admin/users/{last['id']}", json=change)
            assert (answer.status_code, code_of(answer)) == (409, "last_admin")
        answer = await operator.patch(
            f"/api/admin/users/{last['id']}", json={"full_name": "Last", "tier": None}
        )
        assert (answer.status_code, answer.json()["full_name"]) == (200, "Last")


async def test_promotion_of_unconfirmed_user_is_rejected(sqlite_site: Deployment) -> None:
    """Otherwise the last administrator who can sign in could be demoted."""
    async with sqlite_site.browser() as bob, sqlite_site.gateway.operator() as operator:
        await bob.sign_up(BOB)
        users = (await operator.get("/api/admin/users")).json()["data"]
        assert [user["email"] for user in users] == [None, BOB]
        for user in users:
            answer = await operator.patch(f"/api/admin/users/{user['id']}", json={"role": "admin"})
            assert (answer.status_code, code_of(answer)) == (409, "email_not_confirmed")
        await bob.confirm((await sqlite_site.mail.arrived(BOB)).token)
        answer = await operator.patch(f"/api/admin/users/{users[1]['id']}", json={"role": "admin"})
        assert answer.json()["role"] == "admin"


async def test_unconfirmed_signup_does_not_block_account_creation(site: Deployment) -> None:
    async with (
        site.browser() as eve,
        site.browser() as ada,
        site.gateway.operator() as operator,
    ):
        traps = []
        for email in (ADA, BOB):
            await eve.sign_up(email, "chosen by eve")
            traps.append((await site.mail.arrived(email)).token)
        token = site.gateway.running.first_run.bootstrap_token
        claim = {"token": token, "email": ADA, "password": PASSWORD}
        claimed = await ada.send("POST", "/api/setup", claim)
        assert (claimed.status_code, claimed.json()["role"]) == (201, "admin")
        body = {"email": BOB.upper(), "password": PASSWORD, "tier": "pro"}
        created = await operator.post("/api/admin/users", json=body)
        assert (created.status_code, created.json()["tier"], created.json()["email_verified"]) == (
            201,
            "pro",
            True,
        )
        assert len((await operator.get("/api/admin/users")).json()["data"]) == 3
        for trap in traps:
            assert code_of(await eve.confirm(trap, "chosen by eve")) == "invalid_token"
        for email in (ADA, BOB):
            assert code_of(await eve.login(email, "chosen by eve")) == "invalid_credentials"
            assert (await ada.login(email)).json()["user"]["id"] in (
                claimed.json()["id"],
                created.json()["id"],
            )


async def test_user_routes_reject_undeclared_fields(sqlite_site: Deployment) -> None:
    """Every column of the table, in every body that is about a user."""
    await sqlite_site.create_user(ADA, "admin")
    bob_id = await sqlite_site.create_user(BOB)
    columns = set(UserRow.__dataclass_fields__) | {"is_admin", "user_id", "email_verified", "password"}
    value: dict[str, Any] = {"role": "admin", "tier": "enterprise", "disabled": True, "full_name": "Eve"}
    stored = "SELECT * FROM users WHERE email NOT IN ('ada@example.com') OR email IS NULL ORDER BY id"
    async with (
        sqlite_site.browser() as ada,
        sqlite_site.browser() as bob,
        sqlite_site.browser() as eve,
    ):
        await ada.login(ADA)
        await bob.login(BOB)
        routes = (
            (bob, "PATCH", "/api/auth/me", {}, {"full_name", "prompt_log"}),
            (eve, "POST", "/api/auth/signup", {"email": EVE, "password": PASSWORD}, {"full_name"}),
            (
                ada,
                "PATCH",
                f"/api/admin/users/{bob_id}",
                {},
                {"full_name", "role", "tier", "disabled", "prompt_log"},
            ),
            (
                ada,
                "POST",
                "/api/admin/users",
                {"email": EVE, "password": PASSWORD},
                {"full_name", "role", "tier"},
            ),
            (bob, "POST", "/api/auth/email", {"email": EVE, "password": PASSWORD}, set[str]()),
            (bob, "POST", "/api/auth/password", {"password": PASSWORD, "new_password": NEW}, set[str]()),
        )
        with sqlite_site.gateway.reading() as database:
            before = database.execute(stored).fetchall()
        for browser, method, path, body, declared in routes:
            for column in sorted(columns - declared - set(body)):
                for wrong in (value.get(column, 1), None, "x"):
                    answer = await browser.send(method, path, body | {column: wrong})
                    assert code_of(answer) == "invalid_value", (path, column, answer.text)
        with sqlite_site.gateway.reading() as database:
            assert database.execute(stored).fetchall() == before
        changed = await bob.send("PATCH", "/api/auth/me", {"full_name": "Robert"})
        assert changed.status_code == 200
        with sqlite_site.gateway.reading() as database:
            after = database.execute(stored).fetchall()
        differing = [
            (old, new)
            for one, other in zip(before, after, strict=True)
            for old, new in zip(one, other, strict=True)
            if old != new
        ]
        assert differing == [("", "Robert")]


async def test_reset_link_created_by_administrator_works(sqlite_site: Deployment) -> None:
    await sqlite_site.create_user(ADA, "admin")
    bob_id = await sqlite_site.create_user(BOB)
    async with sqlite_site.browser() as ada, sqlite_site.browser() as bob:
        await ada.login(ADA)
        await bob.login(BOB)
        link = (await ada.send("POST", f"/api/admin/users/{bob_id}/reset-password")).json()
        mail = await sqlite_site.mail.arrived(BOB)
        assert link["url"] in mail.text and link["email"] == BOB
        answer = await bob.send("POST", "/api/auth/password/reset", {"token": mail.token, "password": NEW})
        assert answer.status_code == 204
        assert not await bob.is_signed_in()
        assert code_of(await bob.login(BOB, NEW)) == "200"
        local = (await ada.send("GET", "/api/admin/users")).json()["data"][0]["id"]
        path = "/api/admin/users/{}/reset-password"
        assert code_of(await ada.send("POST", path.format(local))) == "user_without_email"
        assert code_of(await ada.send("POST", path.format("unknown"))) == "user_not_found"


async def test_session_revoked_concurrently_is_audited_once(sqlite_site: Deployment) -> None:
    ada_id = await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as ada:
        await ada.login(ADA, bearer=True)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ada.send, "POST", "/api/auth/logout")
        assert not await ada.is_signed_in()
    with sqlite_site.gateway.reading() as database:
        ended = "SELECT count(*) FROM audit WHERE actor = ? AND action = 'session.end'"
        assert database.execute(ended, (ada_id,)).fetchone() == (1,)


async def test_changes_of_accounts_are_audited_without_secrets(sqlite_site: Deployment) -> None:
    admin_id = await sqlite_site.create_user(ADA, "admin")
    async with sqlite_site.browser() as ada, sqlite_site.browser() as bob:
        await ada.login(ADA)
        bob_id = await bob.register(BOB)
        await bob.send("PATCH", "/api/auth/me", {"full_name": "Bob"})
        body = {"password": PASSWORD, "new_password": NEW}
        bob.use_session(await bob.send("POST", "/api/auth/password", body))
        await bob.send("DELETE", "/api/auth/sessions")  # no other session exists yet
        async with sqlite_site.browser() as elsewhere:
            await elsewhere.login(BOB, NEW)
        await bob.send("DELETE", "/api/auth/sessions")
        await patch(ada, bob_id, tier="pro", role="admin")
        await ada.send("POST", "/api/admin/invites", {"email": EVE})
        await ada.send("POST", "/api/auth/logout")
    with sqlite_site.gateway.reading() as database:
        rows = database.execute(
            "SELECT actor, action, subject, detail, address FROM audit ORDER BY seq"
        ).fetchall()
    actions = [(actor, action) for actor, action, *_ in rows]
    expected = [
        ("operator", "user.create"),
        (admin_id, "session.begin"),
        ("anonymous", "user.signup"),
        ("anonymous", "email.verify"),
        (bob_id, "session.begin"),
        (bob_id, "user.update"),
        (bob_id, "password.change"),
        (bob_id, "session.begin"),
        (bob_id, "session.end_others"),
        (admin_id, "user.update"),
        (admin_id, "user.invite"),
        (admin_id, "session.end"),
    ]
    assert actions[-len(expected) :] == expected
    details = [json.loads(detail) for _, _, _, detail, _ in rows]
    assert details[-3] == {
        "before": {"role": "user", "tier": "free"},
        "after": {"role": "admin", "tier": "pro"},
    }
    assert "argon2" not in str(rows) and PASSWORD not in str(rows)
    assert {address for actor, *_, address in rows if actor != "operator"} == {"127.0.0.1"}
