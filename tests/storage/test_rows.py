"""The tables of users, servers, routes and settings."""

from dataclasses import replace

import pytest

from storage import IntegrityError, Store
from storage.routes import (
    RouteRow,
    delete_route,
    insert_route,
    select_route,
    select_routes,
    update_route,
)
from storage.servers import (
    ServerRow,
    delete_server,
    insert_server,
    select_server,
    select_servers,
    update_server,
)
from storage.settings import delete_setting, insert_setting, put_setting, select_setting
from storage.users import (
    UserSearch,
    has_admin,
    insert_user,
    search_users,
    select_user,
    select_user_by_email,
    select_users,
    update_user,
)
from tests.storage.samples import NOON, user, uuid7

SERVER = ServerRow(
    id=uuid7(serial=1),
    name="alpha",
    vendor="groq",
    dialect="openai",
    url="https://alpha.example/v1",
    sealed_api_keys=b"\x00\xff",
    api_version="2024-10-21",
    sealed_headers=b"\x01\xfe",
    models=("small", "größe"),
    weight=1,
    priority=0,
    passthrough=True,
    passthrough_paths=("ocr",),
    region="eu",
    tags=("zdr", "größe"),
    mode="active",
    max_concurrency=4,
    rpm=100,
    options='{"chunk_timeout":5.0}',
    created_at=NOON,
    updated_at=NOON,
)


async def test_user_inserted_is_read_back(store: Store) -> None:
    ada, anonymous, other = user(1, "Ada@Example.org"), user(2), user(3)
    for row in (ada, anonymous, other):
        await store.write(insert_user, row)
    assert not await store.read(has_admin)
    assert await store.read(select_user, ada.id) == ada
    assert await store.read(select_user_by_email, "aDA@example.ORG") == ada
    assert await store.read(select_user_by_email, "unknown@example.org") is None
    assert await store.read(select_users) == [ada, anonymous, other]
    assert await store.read(select_users, ada.id, 1) == [anonymous]

    changed = replace(ada, role="admin", disabled_at=NOON + 1, password_hash="$argon2id$")
    assert await store.write(update_user, changed)
    assert await store.read(select_user, ada.id) == changed
    assert not await store.read(has_admin)  # a disabled administrator does not count
    assert await store.write(update_user, replace(changed, disabled_at=None))
    assert await store.read(has_admin)
    assert not await store.write(update_user, user(9))


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (UserSearch(), [1, 2, 3]),
        (UserSearch("ADA@EX"), [1]),
        (UserSearch("l_v"), [2]),  # "_" and "%" stand for themselves
        (UserSearch("%"), []),
        (UserSearch(role="admin"), [2]),
        (UserSearch(tier="pro", disabled=True), [3]),
        (UserSearch("@example", disabled=False), [1]),
    ],
)
async def test_users_searched_have_all_that_is_wanted(
    store: Store, search: UserSearch, found: list[int]
) -> None:
    rows = {
        1: user(1, "Ada@Example.org"),
        2: replace(user(2), full_name="L_velace", role="admin"),
        3: replace(user(3, "bob@example.org"), tier="pro", disabled_at=NOON),
    }
    for row in rows.values():
        await store.write(insert_user, row)
    assert await store.read(search_users, search, "", 10) == [rows[serial] for serial in found]
    assert await store.read(search_users, search, "", 1) == [rows[serial] for serial in found[:1]]


async def test_user_email_in_other_case_is_a_conflict(store: Store) -> None:
    await store.write(insert_user, user(1, "ada@example.org"))
    await store.write(insert_user, user(2, "bob@example.org"))
    with pytest.raises(IntegrityError) as caught:
        await store.write(insert_user, user(3, "ADA@example.org"))
    assert "ada" not in str(caught.value).lower()
    assert "ada" not in str(caught.value.__context__).lower()
    with pytest.raises(IntegrityError):
        await store.write(update_user, user(2, "Ada@example.org"))


async def test_server_inserted_is_read_back(store: Store) -> None:
    beta = replace(
        SERVER,
        id=uuid7(serial=2),
        name="beta",
        sealed_api_keys=None,
        models=(),
        passthrough=False,
        sealed_headers=None,
        mode="off",
    )
    for row in (beta, SERVER):
        await store.write(insert_server, row)
    assert await store.read(select_servers) == [SERVER, beta]
    assert await store.read(select_server, "beta") == beta
    assert await store.read(select_server, "gone") is None
    with pytest.raises(IntegrityError):
        await store.write(update_server, replace(beta, name="alpha"))
    assert await store.write(update_server, replace(beta, mode="draining", updated_at=NOON + 1))
    assert await store.write(delete_server, "alpha")
    assert not await store.write(delete_server, "alpha")
    assert not await store.write(update_server, SERVER)
    assert await store.read(select_servers) == [replace(beta, mode="draining", updated_at=NOON + 1)]


async def test_setting_put_twice_is_replaced(store: Store) -> None:
    assert await store.write(insert_setting, "token", "one")
    assert not await store.write(insert_setting, "token", "two")
    assert await store.read(select_setting, "token") == "one"
    await store.write(put_setting, "token", "three")
    assert await store.read(select_setting, "token") == "three"
    assert await store.write(delete_setting, "token")
    assert not await store.write(delete_setting, "token")


ROUTE = RouteRow(
    id=uuid7(serial=1),
    model="gpt-5*",
    conditions='{"tier":["pro"]}',
    definition='{"targets": [{"server": "größe"}]}',
    created_at=NOON,
    updated_at=NOON,
)


async def test_route_inserted_is_read_back(store: Store) -> None:
    other = replace(ROUTE, id=uuid7(serial=2), conditions="")
    for row in (ROUTE, other):
        await store.write(insert_route, row)
    assert await store.read(select_routes) == [ROUTE, other]
    assert await store.read(select_route, other.id) == other
    assert await store.read(select_route, uuid7(serial=3)) is None
    changed = replace(ROUTE, model="b", definition="{}", updated_at=NOON + 1)
    assert await store.write(update_route, changed)
    assert await store.read(select_route, ROUTE.id) == changed
    assert await store.write(delete_route, other.id)
    assert not await store.write(delete_route, other.id)
    assert not await store.write(update_route, other)
    assert await store.read(select_routes) == [changed]


async def test_route_second_one_with_equal_conditions_is_a_conflict(store: Store) -> None:
    await store.write(insert_route, ROUTE)
    other = replace(ROUTE, id=uuid7(serial=2), model="a")
    with pytest.raises(IntegrityError):
        await store.write(insert_route, replace(ROUTE, id=uuid7(serial=2)))
    await store.write(insert_route, other)
    with pytest.raises(IntegrityError):
        await store.write(update_route, replace(other, model=ROUTE.model))
