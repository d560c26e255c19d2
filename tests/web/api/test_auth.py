"""Sign-up, login, sessions and password reset over HTTP, with a real mail server, on both engines."""

import re
from pathlib import Path
from typing import Any

import pytest
import trio
from argon2 import PasswordHasher

from bluesminds.identity import password
from bluesminds.notify import outbox
from tests.deployment import PASSWORD, Deployment, code_of, deploy
from tests.gateways import CHEAP_HASHER, Gateway, eventually
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

ADA, BOB, EVE = "ada@example.com", "bob@example.com", "eve@example.com"
NEW = "another horse battery"


class ManualClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.now


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, url: str) -> Deployment:
    """Open sign-up, on each engine."""
    sections = {"storage": {"url": url}, "server": {"public_url": "http://ai.example.com/"}}
    return await deploy(nursery, home, signup="open", sections=sections)


@pytest.fixture
async def sqlite_site(nursery: trio.Nursery, home: Path) -> Deployment:
    """The same on SQLite alone."""
    return await deploy(nursery, home, signup="open")


async def test_signup_to_logout_works_over_http(site: Deployment) -> None:
    async with site.browser() as ada:
        answer = await ada.sign_up(ADA, full_name="Ada Lovelace")
        assert answer.status_code == 202
        assert code_of(await ada.login(ADA)) == "invalid_credentials", "the address is not confirmed yet"
        mail = await site.mail.arrived(ADA)
        assert f"http://ai.example.com/account/verify#token={mail.token}\n" in mail.text
        assert code_of(await ada.confirm(mail.token, "wrong password")) == "invalid_credentials"
        assert (await ada.confirm(mail.token)).json()["email_verified"] is True
        assert code_of(await ada.confirm(mail.token)) == "invalid_token"
        answer = await ada.login("ADA@example.com")
        assert answer.status_code == 200
        user = answer.json()["user"]
        assert {**user, "id": "", "created_at": ""} == {
            "id": "",
            "email": ADA,
            "full_name": "Ada Lovelace",
            "role": "user",
            "tier": "free",
            "email_verified": True,
            "disabled": False,
            "created_at": "",
            "prompt_log": None,
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", user["created_at"])
        me = (await ada.send("GET", "/api/auth/me")).json()
        assert {name: me[name] for name in user} == user
        assert me["csrf_token"] == answer.json()["csrf_token"]
        changed = await ada.send("PATCH", "/api/auth/me", {"full_name": "A. L."})
        assert changed.json()["full_name"] == "A. L."
        assert (await ada.send("POST", "/api/auth/logout")).status_code == 204
        assert not await ada.is_signed_in()


async def test_public_forms_of_known_and_unknown_addresses_respond_alike(site: Deployment) -> None:
    await site.create_user(ADA)
    async with site.browser() as eve:
        free, taken = await eve.sign_up(BOB), await eve.sign_up(ADA.upper())
        assert (free.status_code, free.content) == (taken.status_code, taken.content)
        assert (await site.mail.arrived(ADA.upper())).message["subject"] == "You already have an account"
        await site.mail.arrived(BOB)
        for path in ("password/forgot", "email/resend"):
            answers = [
                await eve.send("POST", f"/api/auth/{path}", {"email": email}) for email in (ADA, BOB, EVE)
            ]
            assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
        logins = [await eve.login(email, "wrong password") for email in (ADA, BOB, EVE)]
        errors = [{**answer.json()["error"], "request_id": ""} for answer in logins]
        assert errors == [errors[0]] * 3
        assert code_of(logins[0]) == "invalid_credentials"
    await eventually(lambda: len(site.mail.to(ADA)) == 1 and len(site.mail.to(BOB)) == 3)
    assert site.mail.to(EVE) == []


async def test_concurrent_signups_for_one_address_create_one_account(site: Deployment) -> None:
    answers: list[int] = []

    async def sign_up(password: str) -> None:
        async with site.browser() as browser:
            answers.append((await browser.sign_up(ADA, password)).status_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign_up, PASSWORD)
        nursery.start_soon(sign_up, NEW)
    assert answers == [202, 202]
    await eventually(lambda: len(site.mail.to(ADA)) == 2)
    outcomes = []
    async with site.browser() as ada:
        for mail in site.mail.to(ADA):
            outcomes += [await ada.confirm(mail.token, password) for password in (PASSWORD, NEW)]
        codes = [code_of(answer) for answer in outcomes]
        assert codes.count("200") == 1
        assert set(codes) <= {"200", "invalid_credentials", "invalid_token"}
    async with site.gateway.operator() as operator:
        users = (await operator.get("/api/admin/users", params={"email": ADA})).json()["data"]
    assert len(users) == 1


async def test_confirmation_without_the_password_of_the_account_is_rejected(
    nursery: trio.Nursery, home: Path
) -> None:
    """A victim who opens the link does not know the password that the attacker chose."""
    site = await deploy(nursery, home, signup="open", admin_emails=[ADA])
    async with site.browser() as eve, site.browser() as ada:
        await eve.sign_up(ADA, "chosen by eve")
        trap = await site.mail.arrived(ADA)
        assert code_of(await ada.confirm(trap.token)) == "invalid_credentials"
        await ada.sign_up(ADA)
        mail = await site.mail.arrived(ADA, 2)
        assert code_of(await ada.confirm(trap.token, "chosen by eve")) == "invalid_token"
        assert (await ada.confirm(mail.token)).json()["role"] == "admin", "the address is in admin_emails"
        assert code_of(await eve.login(ADA, "chosen by eve")) == "invalid_credentials"


async def test_admin_email_becomes_administrator_only_when_confirmed(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await deploy(nursery, home, signup="open", admin_emails=["Ada@Example.com"])
    assert site.gateway.running.first_run.bootstrap_token
    async with site.browser() as ada, site.gateway.operator() as operator:
        await ada.sign_up(ADA)
        mail = await site.mail.arrived(ADA)
        (user,) = (await operator.get("/api/admin/users", params={"email": ADA})).json()["data"]
        assert (user["role"], user["email_verified"]) == ("user", False)
        assert (await ada.confirm(mail.token)).json()["role"] == "admin"
        await ada.login(ADA)
        assert (await ada.send("GET", "/api/admin/users")).status_code == 200
        token = site.gateway.running.first_run.bootstrap_token
        claim = {"token": token, "email": EVE, "password": PASSWORD}
        assert code_of(await ada.send("POST", "/api/setup", claim)) == "invalid_bootstrap_token"
        # Another account cannot change to this address, because it is taken.
    async with site.browser() as bob:
        assert (await bob.register(BOB)) and await bob.is_signed_in()
        answer = await bob.send("POST", "/api/auth/email", {"email": ADA, "password": PASSWORD})
        assert answer.status_code == 202
        assert (await site.mail.arrived(ADA, 2)).message["subject"] == "You already have an account"


async def test_demoted_administrator_after_password_reset_stays_user(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await deploy(nursery, home, signup="open", admin_emails=[ADA])
    async with site.browser() as ada, site.gateway.operator() as operator:
        user_id = await ada.register(ADA)
        await site.create_user(BOB, "admin")
        demoted = await operator.patch(f"/api/admin/users/{user_id}", json={"role": "user"})
        assert demoted.status_code == 200
        await ada.send("POST", "/api/auth/password/forgot", {"email": ADA})
        body = {"token": (await site.mail.arrived(ADA, 2)).token, "password": NEW}
        assert code_of(await ada.send("POST", "/api/auth/password/reset", body)) == "204"
        assert (await ada.login(ADA, NEW)).json()["user"]["role"] == "user"


async def test_signup_with_invitation_confirms_the_address(nursery: trio.Nursery, home: Path) -> None:
    """Also after a sign-up by an attacker, and for an address in admin_emails."""
    site = await deploy(nursery, home, signup="open", admin_emails=[ADA])
    async with (
        site.browser() as ada,
        site.browser() as eve,
        site.gateway.operator() as operator,
    ):
        await eve.sign_up(ADA, "chosen by eve")
        trap = await site.mail.arrived(ADA)
        assert (await operator.post("/api/admin/invites", json={"email": ADA})).status_code == 201
        mail = await site.mail.arrived(ADA, 2)
        assert code_of(await ada.sign_up(ADA, invite=mail.token)) == "202"
        assert code_of(await ada.confirm(trap.token, "chosen by eve")) == "invalid_token"
        user = (await ada.login(ADA)).json()["user"]
        assert (user["email_verified"], user["role"]) == (True, "admin")
        answer = await operator.post("/api/admin/invites", json={"email": ADA})
        assert code_of(answer) == "email_taken"


@pytest.mark.parametrize("mode", ["closed", "invite"])
async def test_signup_against_the_policy_is_rejected(nursery: trio.Nursery, home: Path, mode: str) -> None:
    site = await deploy(nursery, home, signup=mode)
    async with site.browser() as eve:
        assert (
            code_of(await eve.sign_up(EVE)) == {"closed": "signup_closed", "invite": "invite_required"}[mode]
        )
        refused = await eve.sign_up(EVE, invite="x" * 43)
        assert code_of(refused) == {"closed": "signup_closed", "invite": "invalid_token"}[mode]
    await site.gateway.stop()  # sends all queued mail
    assert site.mail.mails == []


async def test_invitation_works_once_and_for_its_address_only(
    nursery: trio.Nursery, home: Path, url: str
) -> None:
    site = await deploy(nursery, home, signup="invite", sections={"storage": {"url": url}})
    await site.create_user(BOB, "admin")
    async with site.browser() as bob, site.browser() as ada:
        await bob.login(BOB)
        assert code_of(await bob.send("POST", "/api/admin/invites", {"email": BOB})) == "email_taken"
        link = (await bob.send("POST", "/api/admin/invites", {"email": ADA})).json()
        mail = await site.mail.arrived(ADA)
        assert link["url"] in mail.text and link["url"].endswith(f"#invite={mail.token}")
        assert code_of(await ada.sign_up(EVE, invite=mail.token)) == "invalid_token"
        outcomes: list[str] = []

        async def accept(number: int) -> None:
            answer = await ada.sign_up(ADA, f"{PASSWORD} {number}", invite=mail.token)
            outcomes.append(code_of(answer))

        async with trio.open_nursery() as race:
            for number in range(4):
                race.start_soon(accept, number)
        assert sorted(outcomes) == ["202", *["invalid_token"] * 3]
        logins = [await ada.login(ADA, f"{PASSWORD} {number}") for number in range(4)]
        assert sorted(map(code_of, logins)) == ["200", *["invalid_credentials"] * 3]
        assert code_of(await ada.send("POST", "/api/admin/invites", {"email": EVE})) == "admin_required"


async def test_invitation_withdrawn_stops_working(nursery: trio.Nursery, home: Path, url: str) -> None:
    site = await deploy(nursery, home, signup="invite", sections={"storage": {"url": url}})
    invites = "/api/admin/invites"
    async with (
        site.browser() as ada,
        site.browser() as bob,
        site.gateway.operator() as operator,
    ):
        invited = {
            email: (await operator.post(invites, json={"email": email})).json() for email in (ADA, BOB, EVE)
        }
        links = {email: one.pop("url") for email, one in invited.items()}
        assert code_of(await bob.sign_up(BOB, invite=(await site.mail.arrived(BOB)).token)) == "202"
        open_ones = (await operator.get(invites)).json()
        assert open_ones["data"] == [invited[ADA], invited[EVE]], "the invitation of Bob is used"
        assert open_ones["next_cursor"] is None
        assert (await site.mail.arrived(ADA)).token not in str(open_ones)
        first = (await operator.get(invites, params={"limit": 1})).json()
        rest = (await operator.get(invites, params={"limit": 1, "after": first["next_cursor"]})).json()
        assert first["data"] + rest["data"] == open_ones["data"]
        found = (await operator.get(invites, params={"email": ADA.upper()})).json()["data"]
        assert found == first["data"]
        assert (await operator.get(invites, params={"email": "unknown"})).json()["data"] == []
        one = f"{invites}/{invited[ADA]['id']}"
        for missing in (one.upper().replace("/API/ADMIN/INVITES", invites), f"{invites}/nothing"):
            assert code_of(await operator.delete(missing)) == "invite_not_found"
        assert code_of(await operator.delete(one)) == "204"
        for missing in (one, f"{invites}/{invited[BOB]['id']}", f"{invites}/{links[ADA].partition('=')[2]}"):
            assert code_of(await operator.delete(missing)) == "invite_not_found"
        refused = await ada.sign_up(ADA, invite=(await site.mail.arrived(ADA)).token)
        assert code_of(refused) == "invalid_token"
        assert (await operator.get(invites)).json() == rest
        assert code_of(await operator.get(f"{invites}?after=x")) == "invalid_value"
        (used,) = (await operator.get("/api/admin/audit", params={"action": "invite.use"})).json()["data"]
        assert (used["subject"], used["detail"]) == (BOB, {"before": {"invite_id": invited[BOB]["id"]}})
        log = (await operator.get("/api/admin/audit", params={"subject": ADA})).json()["data"]
        assert [(row["actor"], row["action"]) for row in log] == [
            ("operator", "user.uninvite"),
            ("operator", "user.invite"),
        ]
        assert log[0]["detail"]["before"] == log[1]["detail"]["after"]
        assert log[0]["detail"]["before"]["invite_id"] == invited[ADA]["id"]


async def test_password_reset_works_once_and_ends_all_sessions(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as laptop, site.browser() as eve:
        await ada.register(ADA)
        await laptop.login(ADA, bearer=True)
        for _ in range(2):
            await eve.send("POST", "/api/auth/password/forgot", {"email": ADA})
        await eventually(lambda: len(site.mail.to(ADA)) == 3)
        first, second = (mail.token for mail in site.mail.to(ADA)[1:])
        assert code_of(
            await eve.send("POST", "/api/auth/password/reset", {"token": first, "password": "short"})
        )
        outcomes: list[str] = []

        async def reset(token: str, password: str) -> None:
            body = {"token": token, "password": password}
            outcomes.append(code_of(await eve.send("POST", "/api/auth/password/reset", body)))

        async with trio.open_nursery() as race:
            for number in range(4):
                race.start_soon(reset, first, f"{NEW} {number}")
        assert sorted(outcomes) == ["204", *["invalid_token"] * 3]
        outcomes.clear()
        await reset(second, NEW)
        assert outcomes == ["invalid_token"], "a used link invalidates the others"
        assert not await ada.is_signed_in() and not await laptop.is_signed_in()
        assert code_of(await ada.login(ADA)) == "invalid_credentials"
        logins = [await ada.login(ADA, f"{NEW} {number}") for number in range(4)]
        assert sorted(map(code_of, logins)) == ["200", *["invalid_credentials"] * 3]
        assert (await site.mail.arrived(ADA, 4)).message["subject"] == "Your password was changed"


async def test_password_change_ends_all_other_sessions(sqlite_site: Deployment) -> None:
    async with sqlite_site.browser() as ada, sqlite_site.browser() as laptop:
        await ada.register(ADA)
        await laptop.login(ADA, bearer=True)
        old = ada.client.cookies["bluesminds"]
        body = {"password": PASSWORD, "new_password": NEW}
        wrong = await ada.send("POST", "/api/auth/password", body | {"password": NEW})
        assert code_of(wrong) == "invalid_credentials"
        short = await ada.send("POST", "/api/auth/password", body | {"new_password": "short"})
        assert short.json()["error"]["param"] == "new_password"
        answer = await ada.send("POST", "/api/auth/password", body)
        assert answer.status_code == 200
        ada.use_session(answer)
        assert ada.client.cookies["bluesminds"] != old
        assert await ada.is_signed_in() and not await laptop.is_signed_in()
        async with sqlite_site.browser(cookie=f"bluesminds={old}") as thief:
            assert not await thief.is_signed_in()
        assert code_of(await laptop.login(ADA)) == "invalid_credentials"
        assert code_of(await laptop.login(ADA, NEW)) == "200"


async def test_email_change_takes_effect_when_confirmed(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as eve:
        await ada.register(ADA)
        await eve.register(EVE)
        body = {"email": BOB, "password": PASSWORD}
        wrong = await ada.send("POST", "/api/auth/email", body | {"password": NEW})
        assert code_of(wrong) == "invalid_credentials"
        await ada.send("POST", "/api/auth/password/forgot", {"email": ADA})
        reset = await site.mail.arrived(ADA, 2)
        assert (await ada.send("POST", "/api/auth/email", body)).status_code == 202
        assert (await ada.send("GET", "/api/auth/me")).json()["email"] == ADA
        mail = await site.mail.arrived(BOB)
        assert (await ada.confirm(mail.token)).json()["email"] == BOB
        assert await ada.is_signed_in(), "the session that requested the change is kept"
        assert (await site.mail.arrived(ADA, 3)).message["subject"] == "Your e-mail address was changed"
        late = {"token": reset.token, "password": NEW}
        assert code_of(await eve.send("POST", "/api/auth/password/reset", late)) == "invalid_token"
        # Two users change to one address: only the first confirmation succeeds.
        for browser in (ada, eve):
            await browser.send("POST", "/api/auth/email", {"email": "c@example.com", "password": PASSWORD})
        await eventually(lambda: len(site.mail.to("c@example.com")) == 2)
        tokens = [mail.token for mail in site.mail.to("c@example.com")]
        assert code_of(await ada.confirm(tokens[0])) == "200"
        assert code_of(await ada.confirm(tokens[1])) == "email_taken"
        assert code_of(await eve.login(EVE)) == "200"


async def test_link_after_its_lifetime_is_rejected(nursery: trio.Nursery, home: Path) -> None:
    clock = ManualClock()
    site = await deploy(nursery, home, clock=clock, signup="open", verify_lifetime=600, reset_lifetime=60)
    async with site.browser() as ada:
        await ada.sign_up(ADA)
        first = await site.mail.arrived(ADA)
        clock.now += 600_000
        assert code_of(await ada.confirm(first.token)) == "invalid_token"
        await ada.send("POST", "/api/auth/email/resend", {"email": ADA})
        mail = await site.mail.arrived(ADA, 2)
        clock.now += 599_999
        assert code_of(await ada.confirm(mail.token)) == "200"
        await ada.send("POST", "/api/auth/password/forgot", {"email": ADA})
        mail = await site.mail.arrived(ADA, 3)
        clock.now += 60_000
        body = {"token": mail.token, "password": NEW}
        assert code_of(await ada.send("POST", "/api/auth/password/reset", body)) == "invalid_token"
    await site.gateway.services.cleanup.run_once()
    assert rows(site.gateway, "SELECT count(*) FROM one_time_tokens") == [(0,)]


async def test_unconfirmed_account_is_deleted_and_audited(nursery: trio.Nursery, home: Path) -> None:
    clock = ManualClock()
    site = await deploy(nursery, home, clock=clock, signup="open")
    unconfirmed = "SELECT count(*) FROM users WHERE email IS NOT NULL"
    async with site.browser() as ada:
        await ada.sign_up(ADA)
        await site.mail.arrived(ADA)
        await site.gateway.services.cleanup.run_once()
        assert rows(site.gateway, unconfirmed) == [(1,)]
        clock.now += 86_400_001
        await site.gateway.services.cleanup.run_once()
        await site.gateway.services.cleanup.run_once()
        assert rows(site.gateway, unconfirmed) == [(0,)]
        query = "SELECT actor, detail FROM audit WHERE action = 'user.sweep'"
        assert rows(site.gateway, query) == [("operator", '{"after":{"removed":1}}')]
        await ada.register(ADA)


def rows(gateway: Gateway, sql: str) -> list[tuple[Any, ...]]:
    with gateway.reading() as database:
        return list(database.execute(sql).fetchall())


async def test_session_idle_or_old_expires(nursery: trio.Nursery, home: Path) -> None:
    clock = ManualClock()
    site = await deploy(
        nursery, home, clock=clock, signup="open", session_idle=600, session_lifetime=3600, max_sessions=3
    )
    async with site.browser() as ada, site.browser() as laptop:
        await ada.register(ADA)
        await laptop.login(ADA)
        for _ in range(5):
            clock.now += 599_999
            assert await ada.is_signed_in()
        assert not await laptop.is_signed_in(), "not used for 600 seconds"
        (over,) = rows(site.gateway, "SELECT id FROM sessions ORDER BY last_seen_at LIMIT 1")
        ended = await ada.send("DELETE", f"/api/auth/sessions/{over[0]}")
        assert code_of(ended) == "session_not_found"
        await ada.send("DELETE", "/api/auth/sessions")
        clock.now += 600_000
        await ada.login(ADA)
        for _ in range(7):
            assert await ada.is_signed_in()
            clock.now += 500_000
        clock.now += 100_000
        assert not await ada.is_signed_in(), "an hour old"
        (ada_id,) = rows(site.gateway, "SELECT id FROM users WHERE email IS NOT NULL")
        async with site.gateway.operator() as operator:
            assert code_of(await operator.delete(f"/api/admin/users/{ada_id[0]}/sessions")) == "204"
        query = "SELECT action FROM audit WHERE action LIKE 'session.end%'"
        assert rows(site.gateway, query) == [], "expired sessions are not audited"
        await site.gateway.services.cleanup.run_once()
        assert rows(site.gateway, "SELECT count(*) FROM sessions") == [(0,)]


async def test_session_last_use_is_stored_at_most_once_a_minute(nursery: trio.Nursery, home: Path) -> None:
    clock = ManualClock()
    site = await deploy(nursery, home, clock=clock, signup="open")
    last_use = "SELECT last_seen_at FROM sessions"
    async with site.browser() as ada:
        await ada.register(ADA)
        began = clock.now
        clock.now += 59_999
        assert await ada.is_signed_in() and rows(site.gateway, last_use) == [(began,)]
        clock.now += 1
        assert await ada.is_signed_in() and rows(site.gateway, last_use) == [(clock.now,)]
        await site.gateway.alter(
            "CREATE TRIGGER t BEFORE UPDATE ON sessions BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        clock.now += 60_000
        assert await ada.is_signed_in(), "the database cannot be written, but it can be read"


async def test_user_lists_and_revokes_own_sessions(sqlite_site: Deployment) -> None:
    async with (
        sqlite_site.browser(**{"user-agent": "a browser"}) as ada,
        sqlite_site.browser() as laptop,
    ):
        await ada.register(ADA)
        await laptop.login(ADA, bearer=True)
        async with sqlite_site.browser() as eve:
            await eve.register(EVE)
            theirs = (await eve.send("GET", "/api/auth/sessions")).json()["data"][0]["id"]
        listed = (await ada.send("GET", "/api/auth/sessions")).json()
        assert (listed["object"], listed["next_cursor"]) == ("list", None)
        other, own = listed["data"]
        assert (own["current"], own["user_agent"], own["address"]) == (True, "a browser", "127.0.0.1")
        assert (other["current"], "bms_" in str(listed)) == (False, False)
        for wrong in (theirs, "nothing"):
            answer = await ada.send("DELETE", f"/api/auth/sessions/{wrong}")
            assert code_of(answer) == "session_not_found"
        assert (await ada.send("DELETE", f"/api/auth/sessions/{other['id']}")).status_code == 204
        assert await ada.is_signed_in() and not await laptop.is_signed_in()
        await laptop.login(ADA, bearer=True)
        assert (await laptop.send("DELETE", "/api/auth/sessions")).status_code == 204
        assert await laptop.is_signed_in() and not await ada.is_signed_in()


async def test_administrator_lists_and_revokes_sessions_of_a_user(sqlite_site: Deployment) -> None:
    async with (
        sqlite_site.browser() as ada,
        sqlite_site.browser() as laptop,
        sqlite_site.browser() as eve,
    ):
        ada_id = await ada.register(ADA)
        await laptop.login(ADA)
        eve_id = await eve.register(EVE)
        async with sqlite_site.gateway.operator() as operator:
            sessions = f"/api/admin/users/{ada_id}/sessions"
            listed = (await operator.get(sessions)).json()["data"]
            assert len(listed) == 2 and not any(one["current"] for one in listed)
            assert code_of(await operator.delete(f"{sessions}/{listed[0]['id']}")) == "204"
            assert [await browser.is_signed_in() for browser in (ada, laptop, eve)] == [True, False, True], (
                "the newest"
            )
            theirs = (await operator.get(f"/api/admin/users/{eve_id}/sessions")).json()["data"][0]["id"]
            assert code_of(await operator.delete(f"{sessions}/{theirs}")) == "session_not_found"
            await laptop.login(ADA)
            for method in ("GET", "DELETE"):
                aside = await operator.request(method, f"{sessions}?session_id={theirs}")
                assert code_of(aside) == "invalid_value", "unknown parameters must not be ignored"
            there = (await operator.get(sessions)).json()["data"]
            assert len(there) == 2
            for _ in range(2):
                assert code_of(await operator.delete(sessions)) == "204"
            assert [await browser.is_signed_in() for browser in (ada, laptop, eve)] == [False, False, True]
            assert (await operator.get(sessions)).json()["data"] == []
            for method, rest in (("GET", ""), ("DELETE", ""), ("DELETE", f"/{theirs}")):
                missing = await operator.request(method, f"/api/admin/users/{'0' * 36}/sessions{rest}")
                assert code_of(missing) == "user_not_found"
            log = (await operator.get("/api/admin/audit", params={"action": "session.end_all"})).json()
            found = [(row["actor"], row["subject"], row["detail"]["before"]) for row in log["data"]]
            assert len(found) == 1 and found[0][:2] == ("operator", ada_id)
            assert found[0][2]["session_ids"] == [one["id"] for one in reversed(there)]


async def test_login_above_max_sessions_replaces_the_oldest(nursery: trio.Nursery, home: Path) -> None:
    site = await deploy(nursery, home, signup="open", max_sessions=2)
    await site.create_user(ADA)
    async with site.browser() as one, site.browser() as two, site.browser() as three:
        for browser in (one, two, three):
            await browser.login(ADA)
        assert [await browser.is_signed_in() for browser in (one, two, three)] == [False, True, True]


async def test_login_again_replaces_the_current_session(sqlite_site: Deployment) -> None:
    await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as ada:
        await ada.login(ADA)
        first = ada.client.cookies["bluesminds"]
        await ada.login(ADA)
        async with sqlite_site.browser(cookie=f"bluesminds={first}") as thief:
            assert not await thief.is_signed_in()
        assert await ada.is_signed_in()
    actions = "SELECT action FROM audit WHERE action LIKE 'session.%' ORDER BY seq"
    assert rows(sqlite_site.gateway, actions) == [("session.begin",), ("session.begin",), ("session.end",)]


async def test_login_after_clock_step_back_creates_a_session(nursery: trio.Nursery, home: Path) -> None:
    clock = ManualClock()
    site = await deploy(nursery, home, clock=clock, signup="open", max_sessions=1)
    await site.create_user(ADA)
    async with site.browser() as ada, site.browser() as laptop:
        await ada.login(ADA)
        clock.now -= 3_600_000
        await laptop.login(ADA)
        assert [await browser.is_signed_in() for browser in (ada, laptop)] == [False, True]


async def test_cookie_behind_https_proxy_has_the_host_prefix(nursery: trio.Nursery, home: Path) -> None:
    """Also if the proxy sends Host: 127.0.0.1, as nginx does by default."""
    public = {"server": {"public_url": "https://ai.example.com"}}
    site = await deploy(nursery, home, sections=public)
    await site.create_user(ADA)
    async with site.browser(origin="https://ai.example.com", **{"sec-fetch-site": "same-origin"}) as ada:
        cookie = (await ada.login(ADA)).headers["set-cookie"]
        assert re.fullmatch(r"__Host-bluesminds=bms_.*; Secure", cookie)
        token = cookie.partition(";")[0].partition("=")[2]
        sent = {"cookie": f"bluesminds={token}"}
        assert code_of(await ada.send("GET", "/api/auth/me", headers=sent)) == "session_required"
        sent = {"cookie": f"__Host-bluesminds={token}"}
        assert code_of(await ada.send("GET", "/api/auth/me", headers=sent)) == "200"
    async with site.browser(origin="http://ai.example.com", **{"sec-fetch-site": "same-origin"}) as eve:
        assert code_of(await eve.login(ADA)) == "cross_site_request", "the public URL is https"


async def test_cookie_attributes_protect_the_session(sqlite_site: Deployment) -> None:
    await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as ada:
        on_this_machine = await ada.login(ADA)
        cookie = on_this_machine.headers["set-cookie"]
        assert re.fullmatch(
            r"bluesminds=bms_[\w-]{43}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax", cookie
        )
        assert on_this_machine.json()["token"] is None
        ada.client.cookies.clear()
        ada.client.headers["host"] = "ai.example.com"
        cookie = (await ada.login(ADA)).headers["set-cookie"]
        assert re.fullmatch(
            r"__Host-bluesminds=bms_[\w-]{43}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure",
            cookie,
        )
        logout = await ada.send("POST", "/api/auth/logout", headers={"cookie": cookie.partition(";")[0]})
        assert logout.headers["set-cookie"].startswith("__Host-bluesminds=; Path=/; Max-Age=0; ")
        bearer = await ada.login(ADA, bearer=True)
        assert "set-cookie" not in bearer.headers
        assert re.fullmatch(r"bms_[\w-]{43}", bearer.json()["token"])


async def test_change_without_csrf_token_or_from_another_site_is_rejected(sqlite_site: Deployment) -> None:
    await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as ada:
        await ada.login(ADA)
        csrf = ada.client.headers.pop("x-csrf-token")
        change = ("PATCH", "/api/auth/me", {"full_name": "Eve"})
        assert code_of(await ada.send(*change)) == "csrf_token_invalid"
        wrong = {"x-csrf-token": csrf[:-1] + ("0" if csrf[-1] != "0" else "1")}
        assert code_of(await ada.send(*change, headers=wrong)) == "csrf_token_invalid"
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
            assert code_of(await ada.send(*change, headers=headers)) == "cross_site_request"
            login = {"email": ADA, "password": PASSWORD}
            answer = await ada.send("POST", "/api/auth/login", login, headers=headers)
            assert code_of(answer) == "cross_site_request"
        assert (await ada.send(*change, headers={"x-csrf-token": csrf})).status_code == 200
        token = ada.client.cookies["bluesminds"]
        ada.client.cookies.clear()
        answer = await ada.send(*change, headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200, "a bearer token needs no CSRF token"


async def test_login_attempts_with_wrong_password_are_limited(sqlite_site: Deployment) -> None:
    user_id = await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as eve:
        answers = [await eve.login(ADA, "wrong password") for _ in range(8)]
        assert [code_of(answer) for answer in answers] == [
            *["invalid_credentials"] * 5,
            *["too_many_attempts"] * 3,
        ]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        failed = sqlite_site.gateway.events("sign_in_failed")
        assert [(line["client"], line["user_id"]) for line in failed] == [("127.0.0.1", user_id)] * 5
        assert code_of(await eve.login(ADA)) == "too_many_attempts", "the correct password is limited too"


async def test_login_rejected_by_a_full_queue_is_not_counted(
    sqlite_site: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as ada:
        with monkeypatch.context() as busy:
            busy.setattr(password, "MAX_QUEUED", 0)
            assert {code_of(await ada.login(ADA)) for _ in range(7)} == {"too_many_attempts"}
        assert code_of(await ada.login(ADA)) == "200"


async def test_link_stays_valid_until_another_is_sent(sqlite_site: Deployment) -> None:
    """A request above the mail limit must not invalidate the link that was sent."""
    async with sqlite_site.browser() as ada:
        await ada.sign_up(ADA)
        for _ in range(4):
            await ada.send("POST", "/api/auth/email/resend", {"email": ADA})
        await ada.sign_up(ADA, NEW)
        latest = await sqlite_site.mail.arrived(ADA, 3)
        assert code_of(await ada.confirm(latest.token)) == "200"
        assert code_of(await ada.login(ADA)) == "200"
        for _ in range(4):
            answer = await ada.send("POST", "/api/auth/email", {"email": BOB, "password": PASSWORD})
            assert answer.status_code == 202
        assert code_of(await ada.confirm((await sqlite_site.mail.arrived(BOB, 3)).token)) == "200"
        await sqlite_site.mail.arrived(ADA, 4)
        assert len(sqlite_site.mail.to(ADA)) == 4 and len(sqlite_site.mail.to(BOB)) == 3


async def test_signup_by_others_does_not_block_the_owner_of_the_address(sqlite_site: Deployment) -> None:
    async with sqlite_site.browser() as eve, sqlite_site.browser() as ada:
        for _ in range(4):
            await eve.sign_up(ADA, "chosen by eve")
        await ada.sign_up(ADA)
        await ada.send("POST", "/api/auth/password/forgot", {"email": ADA})
        reset = await sqlite_site.mail.arrived(ADA, 4)
        body = {"token": reset.token, "password": PASSWORD}
        assert code_of(await ada.send("POST", "/api/auth/password/reset", body)) == "204"
        assert code_of(await ada.login(ADA)) == "200"


async def test_signup_again_keeps_tier_and_limits_of_the_account(
    sqlite_site: Deployment,
) -> None:
    async with sqlite_site.browser() as ada, sqlite_site.gateway.operator() as operator:
        await ada.sign_up(ADA)
        (user,) = (await operator.get("/api/admin/users", params={"email": ADA})).json()["data"]
        path = f"/api/admin/users/{user['id']}"
        assert (await operator.patch(path, json={"tier": "pro"})).status_code == 200
        assert (await operator.patch(f"{path}/limits", json={"rpm": 3})).status_code == 200
        await ada.sign_up(ADA.upper(), NEW, full_name="Ada")
        stored = "SELECT id, email, full_name, tier, limits FROM users WHERE email IS NOT NULL"
        ((id_, email, name, tier, limits),) = rows(sqlite_site.gateway, stored)
        assert (id_, email, name, tier) == (user["id"], ADA.upper(), "Ada", "pro")
        assert '"rpm":3' in limits


async def test_mail_to_one_mailbox_is_limited(sqlite_site: Deployment) -> None:
    await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as eve:
        for _ in range(5):
            answer = await eve.send("POST", "/api/auth/password/forgot", {"email": ADA})
            assert answer.status_code == 202
    await eventually(lambda: len(sqlite_site.mail.to(ADA)) == 3)
    await sqlite_site.gateway.stop()  # sends all queued mail
    assert len(sqlite_site.mail.to(ADA)) == 3


async def test_public_forms_without_effect_are_not_audited(sqlite_site: Deployment) -> None:
    """Anonymous clients could fill the log. Both cases take one commit, so the response time is the same."""
    ada, bob = await sqlite_site.create_user("carol@example.com"), "unknown@example.com"
    async with sqlite_site.browser() as eve:

        async def recorded() -> list[tuple[str, str]]:
            async with sqlite_site.gateway.operator() as operator:
                rows = (await operator.get("/api/admin/audit", params={"limit": 5})).json()["data"]
            return [(row["action"], row["subject"]) for row in rows]

        before = await recorded()
        for _ in range(2):
            await eve.send("POST", "/api/auth/password/forgot", {"email": bob})
            await eve.send("POST", "/api/auth/email/resend", {"email": bob})
        await eve.send("POST", "/api/auth/email/resend", {"email": "carol@example.com"})
        await eve.sign_up("carol@example.com")
        assert await recorded() == before
        for _ in range(4):
            await eve.send("POST", "/api/auth/password/forgot", {"email": "carol@example.com"})
        # The mailbox takes three of them.
        assert await recorded() == [("password.forgot", ada)] * 3 + before[:2]


async def test_secrets_of_accounts_are_not_stored_or_logged(sqlite_site: Deployment) -> None:
    async with sqlite_site.browser() as ada:
        await ada.sign_up(ADA)
        verify = (await sqlite_site.mail.arrived(ADA)).token
        await ada.confirm(verify)
        token = (await ada.login(ADA, bearer=True)).json()["token"]
        await ada.send("POST", "/api/auth/password/forgot", {"email": ADA})
        reset = (await sqlite_site.mail.arrived(ADA, 2)).token
    with sqlite_site.gateway.reading() as database:
        dump = "\n".join(database.iterdump())
    for secret in (verify, reset, token, PASSWORD):
        assert secret not in dump
        assert secret not in sqlite_site.gateway.log
    assert ADA not in sqlite_site.gateway.log
    assert sqlite_site.gateway.events("control_failed") == []


async def test_login_with_outdated_hash_replaces_it(sqlite_site: Deployment) -> None:
    user_id = await sqlite_site.create_user(ADA)
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=2)
    update = f"UPDATE users SET password_hash = '{old.hash(PASSWORD)}' WHERE id = '{user_id}'"  # noqa: S608
    await sqlite_site.gateway.alter(update)
    stored = "SELECT password_hash FROM users WHERE email IS NOT NULL"
    async with sqlite_site.browser() as ada:
        assert code_of(await ada.login(ADA, NEW)) == "invalid_credentials"
        ((kept,),) = rows(sqlite_site.gateway, stored)
        assert "m=1024" in kept
        assert code_of(await ada.login(ADA)) == "200"
        ((better,),) = rows(sqlite_site.gateway, stored)
        assert f"m={CHEAP_HASHER.memory_cost}," in better
        assert code_of(await ada.login(ADA)) == "200"


async def test_mail_server_down_delays_no_response_and_a_restart_loses_no_mail(
    nursery: trio.Nursery, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PAUSES", (1,) * 600)
    unreachable = {"host": "127.0.0.1", "port": 1, "security": "none", "sender": "gateway@example.com"}
    site = await deploy(nursery, home, signup="open", sections={"mail": unreachable})
    async with site.browser() as ada:
        assert (await ada.sign_up(ADA)).status_code == 202
    await eventually(lambda: len(site.gateway.events("mail_delayed")) > 0)
    await site.gateway.stop()
    assert site.gateway.events("mail_dropped") == []
    site = await deploy(nursery, home, signup="open")
    async with site.browser() as ada:
        await ada.confirm((await site.mail.arrived(ADA)).token)
        assert code_of(await ada.login(ADA)) == "200"


async def test_password_reset_confirms_the_address(nursery: trio.Nursery, home: Path) -> None:
    site = await deploy(nursery, home, signup="open", admin_emails=[ADA])
    async with site.browser() as ada:
        await ada.sign_up(ADA, "chosen by eve")
        await ada.send("POST", "/api/auth/password/forgot", {"email": ADA})
        await eventually(lambda: len(site.mail.to(ADA)) == 2)
        reset = site.mail.to(ADA)[1]
        body = {"token": reset.token, "password": PASSWORD}
        assert code_of(await ada.send("POST", "/api/auth/password/reset", body)) == "204"
        assert code_of(await ada.confirm(site.mail.to(ADA)[0].token, "chosen by eve")) == "invalid_token"
        answer = await ada.login(ADA)
        assert (answer.json()["user"]["email_verified"], answer.json()["user"]["role"]) == (True, "admin")
