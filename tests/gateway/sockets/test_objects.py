"""Events of a Realtime session that name objects: those of other accounts do not exist."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.gateway.sockets import objects as session_objects
from storage.server_objects import ServerObjectRow, insert_objects
from tests import gateways
from tests.fakes.socket_upstream import SocketUpstream
from tests.gateway.passthrough.conftest import Account, alter, new_account
from tests.gateway.sockets.conftest import CREATE, KEY, opened
from tests.gateways import Gateway, entry, eventually

FOREIGN = "file-4jXw9Lq2"


async def own(account: Account, server: str, *ids: str) -> None:
    """Record objects as the account's."""
    rows = [
        ServerObjectRow(
            id=one,
            server=server,
            kind="files",
            user_id=account.user_id,
            key_id="k",
            created_at=1,
            expires_at=None,
        )
        for one in ids
    ]
    assert not await account.gateway.services.store.write(insert_objects, rows)


def item(content: Any) -> dict[str, Any]:
    return {
        "type": "conversation.item.create",
        "event_id": "mine",
        "item": {"type": "message", "content": content},
    }


def received(realtime: SocketUpstream) -> Sequence[Any]:
    (socket,) = realtime.sockets
    return socket.received


@pytest.fixture
async def relaying(nursery: trio.Nursery, home: Path, realtime: SocketUpstream) -> Gateway:
    servers = [
        entry("main", realtime.url, api_key=KEY, passthrough=True),
        entry("other", realtime.url, api_key=KEY, passthrough=True, priority=1),
    ]
    return await gateways.start(nursery, home, servers=servers)


@pytest.fixture
async def ada(relaying: Gateway) -> Account:
    return await new_account(relaying, "ada@example.com")


@pytest.fixture
async def bob(relaying: Gateway) -> Account:
    return await new_account(relaying, "bob@example.com")


EVENTS = [
    '{"type":"conversation.item.create","item":{"content":[{"type":"input_file","file_id":"FOREIGN"}]}}',
    '{"type":"conversation.item.create","item":{"content":[{"type":"input_file","file_id":"ESCAPED"}]}}',
    '{"type":"response.create","response":{"input":[{"type":"item_reference","id":"FOREIGN"}]}}',
    '{"type":"session.update","session":{"model":"m","prompt":{"id":"FOREIGN"}}}',
    '{"type":"session.update","session":{"model":"m","tools":[{"vector_store_ids":["ESCAPED"]}]}}',
    '{"type":"unknown","value":"FOREIGN"}',
]


async def test_session_event_with_id_of_another_account_reaches_the_server_with_another_id(
    relaying: Gateway, realtime: SocketUpstream, ada: Account, bob: Account, subtests: pytest.Subtests
) -> None:
    await own(ada, "main", FOREIGN)
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in FOREIGN)
    for event in EVENTS:
        with subtests.test(event):
            text = event.replace("FOREIGN", FOREIGN).replace("ESCAPED", escaped)
            for account, passes in ((bob, False), (ada, True)):
                await eventually(lambda: not realtime.sockets)
                async with opened(relaying, key=account.key) as client:
                    await client.send(text)
                    await client.say({"type": "test.send", "events": [{"type": "ready"}]})
                    await client.hear_until("ready")
                    first = received(realtime)[0]
                    assert (FOREIGN in json.dumps(first)) is passes
                    assert first["type"] == json.loads(text)["type"]


async def test_session_client_sees_its_own_id_in_what_the_server_sends(
    relaying: Gateway, realtime: SocketUpstream, ada: Account, bob: Account
) -> None:
    await own(ada, "main", FOREIGN)
    async with opened(relaying, key=bob.key) as client:
        update = {"model": "m", "prompt": {"id": FOREIGN, "variables": {"again": FOREIGN}}}
        await client.say({"type": "session.update", "session": update})
        answer = await client.hear()
        assert answer == {"type": "session.updated", "session": update}
        await client.say({"type": "session.update", "session": update})
        assert await client.hear() == answer
        first, second = received(realtime)
        assert first == second
        assert first["session"]["prompt"]["id"].startswith("file-")


async def test_session_event_with_unknown_id_passes_unchanged(
    relaying: Gateway, realtime: SocketUpstream, ada: Account
) -> None:
    event = item([{"type": "input_file", "file_id": "file-made-elsewhere"}])
    async with opened(relaying, key=ada.key) as client:
        await client.say(event)
        await client.say({"type": "test.send", "events": [{"type": "ready"}]})
        await client.hear_until("ready")
        assert received(realtime)[0] == event


async def test_session_event_with_own_object_at_another_server_is_refused_and_the_session_goes_on(
    relaying: Gateway, realtime: SocketUpstream, ada: Account
) -> None:
    await own(ada, "other", "file-elsewhere")
    async with opened(relaying, key=ada.key) as client:
        await client.say(item([{"type": "input_file", "file_id": "file-elsewhere"}]))
        refused = await client.hear()
        assert refused["error"]["code"] == "different_servers"
        assert refused["error"]["event_id"] == "mine"
        await client.say(CREATE)
        assert (await client.hear())["type"] == "response.created"
        assert received(realtime) == [CREATE]


async def test_session_with_more_foreign_ids_than_the_most_gets_an_error_event(
    relaying: Gateway,
    realtime: SocketUpstream,
    ada: Account,
    bob: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_objects, "MAX_FOREIGN", 2)
    await own(ada, "main", "file-number-1", "file-number-2", "file-number-3")
    async with opened(relaying, key=bob.key) as client:
        await client.say(item(["file-number-1", "file-number-2"]))
        await client.say(item(["file-number-3"]))
        assert (await client.hear())["error"]["code"] == "too_many_ids"
        await client.say(item(["file-number-2"]))
        await client.say({"type": "test.send", "events": [{"type": "ready"}]})
        await client.hear_until("ready")
        sent = json.dumps(received(realtime)[:2])
        assert not any(f'file-number-{number}"' in sent for number in (1, 2, 3))


async def test_session_event_whose_ids_cannot_be_checked_does_not_reach_the_server(
    relaying: Gateway, realtime: SocketUpstream, ada: Account
) -> None:
    async with opened(relaying, key=ada.key) as client:
        await alter(relaying, "DROP TABLE server_objects")
        await client.say(item([{"type": "input_file", "file_id": FOREIGN}]))
        assert (await client.hear())["error"]["code"] == "storage_unavailable"
        assert not received(realtime)


async def test_session_sound_is_not_searched_for_ids(
    relaying: Gateway, realtime: SocketUpstream, ada: Account, bob: Account
) -> None:
    await own(ada, "main", FOREIGN)
    sound = {"type": "input_audio_buffer.append", "audio": FOREIGN}
    async with opened(relaying, key=bob.key) as client:
        await client.say(sound)
        await client.say({"type": "test.send", "events": [{"type": "ready"}]})
        await client.hear_until("ready")
        assert received(realtime)[0] == sound
