"""What strangers can have computed is bounded before it costs anything, and slow ones take nobody's place."""

from collections import Counter
from contextlib import AsyncExitStack

import trio

from bluesminds.web.turnstile import MAX_FORM, PLACES
from tests.gateways import Gateway
from tests.people import code_of

HEAD = b"POST /api/auth/login HTTP/1.1\r\nHost: t\r\nContent-Length: 60\r\n\r\n{"
LOGIN = {"email": "ada@example.com", "password": "wrong password"}


async def test_slow_senders_take_nobodys_place(gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(PLACES + 5):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", gateway.port))
            await stream.send_all(HEAD)
        async with gateway.client() as client:
            answer = await client.post("/api/auth/login", json=LOGIN)
            assert code_of(answer) == "invalid_credentials"


async def test_of_many_at_once_a_few_pass(gateway: Gateway) -> None:
    codes: Counter[str] = Counter()

    async def attempt(number: int) -> None:
        async with gateway.client() as client:
            token = {"token": "x", "email": f"{number}@example.com", "password": "wrong password"}
            answers = [await client.post("/api/auth/login", json=LOGIN | {"email": token["email"]})]
            answers.append(await client.post("/api/setup", json=token))
        for answer in answers:
            codes[code_of(answer)] += 1
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) > 0
                assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(attempt, number)
    assert codes.keys() <= {"invalid_credentials", "invalid_bootstrap_token", "too_many_attempts"}
    assert codes["too_many_attempts"] > 0
    assert (await gateway.chat()).status_code == 200


async def test_a_login_that_must_wait_is_refused_before_the_site_sees_it(gateway: Gateway) -> None:
    headers = {"sec-fetch-site": "cross-site", "x-request-id": "mine-7"}  # the site refuses this first of all
    async with gateway.client() as client:
        answer = await client.post("/api/auth/login", json=LOGIN, headers=headers)
        assert code_of(answer) == "cross_site_request"
        answers = [await client.post("/api/auth/login", json=LOGIN) for _ in range(6)]
        assert code_of(answers[-1]) == "too_many_attempts"
        answer = await client.post("/api/auth/login", json=LOGIN, headers=headers)
        assert code_of(answer) == "too_many_attempts"
        assert answer.headers["x-request-id"] == "mine-7"
        assert answer.headers["cache-control"] == "no-store"
        answer = await client.request("PUT", "/api/auth/login", json=LOGIN)
        assert code_of(answer) == "method_not_allowed"
        other = LOGIN | {"email": "eve@example.com"}
        assert code_of(await client.post("/api/auth/login", json=other)) == "invalid_credentials"


async def test_a_login_that_cannot_be_read_is_left_to_the_site(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for form, code in (
            (b"[" * MAX_FORM, "invalid_value"),
            (b'{"email":' + b"[" * 10_000, "invalid_value"),
            (b'{"x":' + b"[" * 10_000, "invalid_value"),
            (b'{"email":"\xff"}', "invalid_json"),
            (b'{"email":1}', "invalid_value"),
            (b"{}", "invalid_value"),
            (b"", "invalid_json"),
        ):
            assert code_of(await client.post("/api/auth/login", content=form)) == code, form[:20]


async def test_there_is_no_way_around(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for path in ("//api/auth/login", "///api/auth/login", "/api/auth/login/", "/api/auth//login"):
            answer = await client.post(f"{gateway.url}{path}", json=LOGIN)
            assert (answer.status_code, code_of(answer)) == (404, "unknown_url"), path
        assert (
            code_of(await client.post("/api/auth/%6cogin", content=b" " * (MAX_FORM + 1))) == "body_too_large"
        )


async def test_a_form_is_small(gateway: Gateway) -> None:
    async with gateway.client() as client:
        answer = await client.post("/api/auth/login", content=b" " * (MAX_FORM + 1))
        assert (answer.status_code, code_of(answer)) == (413, "body_too_large")
        answer = await client.post("/api/auth/login", content=b" " * MAX_FORM)
        assert code_of(answer) == "invalid_json"
        assert code_of(await client.get("/api/auth/login")) == "method_not_allowed"
