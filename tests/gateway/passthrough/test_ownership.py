"""An object belongs to the account that created it. To others it does not exist, however they name it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.gateway.passthrough.lists import own_page
from tests import gateways
from tests.fakes import object_server
from tests.fakes.object_server import Answer, ObjectServer
from tests.gateway.passthrough.conftest import Account, code_of, new_account, refuse_inserts, relaying
from tests.gateways import Gateway

MISSING = (404, "object_not_found")


async def raw_request(account: Account, target: str, method: str = "GET") -> bytes:
    """A request whose path no client has changed. The whole response."""
    stream = await trio.open_tcp_stream("127.0.0.1", account.gateway.port)
    async with stream:
        head = f"{method} {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {account.key}\r\n"
        await stream.send_all(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := await stream.receive_some():
            answer += data
        return answer


async def test_object_of_another_account_in_the_path_is_missing(
    gateway: Gateway, vendor: ObjectServer, ada: Account, bob: Account
) -> None:
    file_id = await ada.upload()
    store = await ada.create("vector_stores", {"name": "s"})
    before = vendor.lines()
    for method, path in (
        ("GET", f"files/{file_id}"),
        ("HEAD", f"files/{file_id}"),
        ("GET", f"files/{file_id}/content"),
        ("DELETE", f"files/{file_id}"),
        ("POST", f"vector_stores/{store}"),
        ("POST", f"vector_stores/{store}/search"),
        ("GET", f"vector_stores/{store}/files/{file_id}"),
        ("GET", f"batches/{file_id}"),
        ("GET", f"threads/runs/{file_id}"),
    ):
        answer = await bob.send(method, f"/v1/{path}", json={} if method == "POST" else None)
        assert answer.status_code == 404, path
        assert method == "HEAD" or code_of(answer) == MISSING, path
    own = await bob.create("vector_stores", {})
    answer = await bob.send("GET", f"/v1/vector_stores/{own}/files/{file_id}")
    assert code_of(answer) == MISSING
    assert vendor.lines() == [*before, "POST /v1/vector_stores"]
    assert (await ada.send("GET", f"/v1/files/{file_id}")).status_code == 200


async def test_unknown_object_gives_the_same_error_as_one_of_another_account(
    gateway: Gateway, ada: Account, bob: Account
) -> None:
    file_id = await ada.upload()
    texts = []
    for one in (file_id, "file-b00000042"):
        answer = await bob.send("GET", f"/v1/files/{one}")
        error = answer.json()["error"]
        texts.append((answer.status_code, error["code"], error["message"].replace(one, "ID")))
    assert texts[0] == texts[1]


HIDDEN_PATHS = [
    "/v1/files/OWN/../FOREIGN",
    "/v1/files/OWN/%2e%2e/FOREIGN",
    "/v1/files/OWN/%2e%2e/FOREIGN/content",
    "/v1/files/%2e%2e/files/FOREIGN",
    "/v1/files/./FOREIGN",
    "/v1/files/OWN%2f..%2fFOREIGN",
    "/v1/files/OWN%252f..%252fFOREIGN",
    "/v1//files//FOREIGN",
    "/v1/files%2fFOREIGN",
    "/v1/files/FOREIGN/",
    "/api/v1/files/FOREIGN",
    "/v1/files/OWN%3F/../FOREIGN",
    "/v1/files/OWN;/../FOREIGN",
    "/v1/files/OWN\\..\\FOREIGN",
    "/v1/files/OWN%5c..%5cFOREIGN",
    "/v1/files/OWN%00FOREIGN",
    "/v1/files/OWN%23FOREIGN",
    "/v1/files/OWN%0d%0aX:%20FOREIGN",
    "/v1/files/%46OREIGN",
    "/v1/files/OWN/content/FOREIGN",
    "/v1/vector_stores/../files/FOREIGN",
    "/v1/files/OWN?file_id=FOREIGN",
    "/v1/files/OWN?x=FOREIGN",
    "/v1/files/OWN?x=%46OREIGN",
    "/v1/files?after=FOREIGN",
    "/v1/files?before=FOREIGN",
]


async def test_path_that_hides_the_object_of_another_account_does_not_reach_it(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=[relaying("first", vendor)])
    ada, bob = await new_account(gateway, "a@example.com"), await new_account(gateway, "b@example.com")
    foreign, own = await ada.upload(b"secret text"), await bob.upload(b"own text")
    encoded = f"%{ord(foreign[0]):02x}{foreign[1:]}"
    for target in HIDDEN_PATHS:
        with subtests.test(target):
            path = target.replace("%46OREIGN", encoded).replace("FOREIGN", foreign).replace("OWN", own)
            seen = len(vendor.requests)
            answer = await raw_request(bob, path)
            assert b"secret text" not in answer
            assert foreign.encode() not in b"".join(one.line for one in vendor.requests[seen:])
            assert not answer.startswith(b"HTTP/1.1 2"), answer


async def test_query_is_sent_as_it_was_read(gateway: Gateway, ada: Account, vendor: ObjectServer) -> None:
    """Some servers take a semicolon for the end of a parameter."""
    file_id = await ada.upload()
    await raw_request(ada, f"/v1/files/{file_id}?include[]=a&a=1;file_id=x&empty")
    assert vendor.lines()[-1] == f"GET /v1/files/{file_id}?include%5B%5D=a&a=1%3Bfile_id%3Dx&empty="


BODIES: list[Any] = [
    {"file_ids": ["FOREIGN"]},
    {"file_ids": ["OWN", "FOREIGN"]},
    {"input_file_id": "FOREIGN"},
    {"tool_resources": {"code_interpreter": {"file_ids": ["FOREIGN"]}}},
    {"messages": [{"attachments": [{"file_id": "FOREIGN"}]}]},
    {"an_unknown_field": {"deep": [["FOREIGN"]]}},
    {"FOREIGN": 1},
    b'{"file_ids": ["FOREIGN"], "file_ids": ["OWN"]}',
    b'{"file_ids": ["OWN"], "file_ids": ["FOREIGN"]}',
    b'{"file\\u005fids": ["ESCAPED"]}',
    b'{"x": "ESCAPED"}',
    b'{"file_id" : "FOREIGN"}',
    b'{"file_id":\n\t"FOREIGN"}',
]


async def test_object_of_another_account_in_the_body_is_missing(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=[relaying("first", vendor)])
    ada, bob = await new_account(gateway, "a@example.com"), await new_account(gateway, "b@example.com")
    foreign, own = await ada.upload(), await bob.upload()
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in foreign)
    for body in BODIES:
        template = body.decode() if isinstance(body, bytes) else json.dumps(body)
        with subtests.test(template):
            text = template.replace("ESCAPED", escaped).replace("FOREIGN", foreign).replace("OWN", own)
            seen = len(vendor.requests)
            answer = await bob.send(
                "POST", "/v1/vector_stores", content=text, headers={"content-type": "application/json"}
            )
            sent = b"".join(one.body for one in vendor.requests[seen:])
            # The later one of two equal keys counts, for the gateway and the server.
            if answer.status_code == 200:
                assert foreign.encode() not in sent and own.encode() in sent
            else:
                assert (code_of(answer), sent) == (MISSING, b"")


FORM_FIELDS = [
    {"file_id": "FOREIGN"},
    {"file_ids[]": "FOREIGN"},
    {"tool[file_id]": "FOREIGN"},
    {"anything": "FOREIGN"},
    {"anything": '["FOREIGN"]'},
    {"anything": '{"file_id": "FOREIGN"}'},
    {"anything": ' "FOREIGN" '},
]


async def test_object_of_another_account_in_a_form_is_missing(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=[relaying("first", vendor)])
    ada, bob = await new_account(gateway, "a@example.com"), await new_account(gateway, "b@example.com")
    foreign = await ada.upload()
    for fields in FORM_FIELDS:
        with subtests.test(json.dumps(fields)):
            data = {name: value.replace("FOREIGN", foreign) for name, value in fields.items()}
            answer = await bob.send("POST", "/v1/files", data=data, files={"file": ("a", b"x" * 100_000)})
            assert code_of(answer) == MISSING
            assert list(vendor.objects["files"]) == [foreign]


async def test_reference_to_an_object_that_no_account_has_is_refused(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    """It was not created through the gateway, so it may be the operator's own."""
    operators = vendor.add("files", filename="private")
    assert code_of(await ada.send("GET", f"/v1/files/{operators}/content")) == MISSING
    for body in ({"file_ids": [operators]}, {"file_id": operators}, {"file_id": 5}, {"file_id": "a b"}):
        assert code_of(await ada.send("POST", "/v1/vector_stores", json=body)) == MISSING
    answer = await ada.send("POST", "/v1/vector_stores", json={"metadata": {"note": operators}})
    assert answer.status_code == 200  # a text that is not a reference


async def test_id_that_the_client_has_named_does_not_become_its_object(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    """Else an endpoint that repeats an id could be used to claim objects."""
    operators = vendor.add("files", filename="private")
    vendor.answers["/v1/evals"] = Answer(json.dumps({"id": operators, "file": {"id": operators}}).encode())
    await ada.create("evals", {"name": operators})
    assert code_of(await ada.send("GET", f"/v1/files/{operators}")) == MISSING


async def test_object_of_another_account_in_an_answer_is_not_taken_over(
    gateway: Gateway, ada: Account, bob: Account, vendor: ObjectServer
) -> None:
    file_id = await ada.upload()
    vendor.answers["/v1/evals"] = Answer(json.dumps({"id": file_id}).encode())
    await bob.create("evals", {})
    assert code_of(await bob.send("GET", f"/v1/files/{file_id}")) == MISSING
    assert (await ada.send("GET", f"/v1/files/{file_id}")).status_code == 200
    (event,) = gateway.events("object_not_recorded")
    assert (event["reason"], event["ids"]) == ("other_account", [file_id])


async def test_same_id_at_two_servers_belongs_to_each_accounts_own(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    twin: ObjectServer = await nursery.start(object_server.serve, "a")
    servers = [relaying("first", vendor), relaying("second", twin)]
    gateway = await gateways.start(nursery, home, servers=servers)
    ada, bob = await new_account(gateway, "a@example.com"), await new_account(gateway, "b@example.com")
    of_ada = await ada.upload(b"of ada")
    of_bob = await bob.upload(b"of bob", headers={"x-bluesminds-server": "second"})
    assert of_ada == of_bob
    assert (await ada.send("GET", f"/v1/files/{of_ada}/content")).content == b"of ada"
    assert (await bob.send("GET", f"/v1/files/{of_bob}/content")).content == b"of bob"
    answer = await bob.send("GET", f"/v1/files/{of_bob}", headers={"x-bluesminds-server": "first"})
    assert code_of(answer) == (404, "object_server_missing")


async def test_list_has_only_the_objects_of_the_account(
    gateway: Gateway, ada: Account, bob: Account, vendor: ObjectServer
) -> None:
    own = [await ada.upload(b"%d" % number) for number in range(3)]
    await bob.upload(b"secret")
    vendor.add("files", filename="private")
    shown = (await ada.send("GET", "/v1/files")).json()
    assert [one["id"] for one in shown["data"]] == own
    assert shown["data"][0] == vendor.objects["files"][own[0]]
    expected = {"object": "list", "first_id": own[0], "last_id": own[-1], "has_more": False}
    assert {name: value for name, value in shown.items() if name != "data"} == expected
    assert len((await bob.send("GET", "/v1/files")).json()["data"]) == 1


async def test_list_of_an_account_without_objects_asks_no_server(
    gateway: Gateway, ada: Account, bob: Account, vendor: ObjectServer
) -> None:
    await ada.upload()
    seen = vendor.lines()
    expected = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await bob.send("GET", "/v1/files")).json() == expected
    assert (await ada.send("GET", "/v1/batches")).json() == expected
    assert vendor.lines() == seen


async def test_list_reads_further_pages_until_the_clients_page_is_full(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    own = []
    for _ in range(4):
        for _ in range(5):
            vendor.add("files")
        own.append(await ada.upload())
    vendor.page = 5
    shown = (await ada.send("GET", "/v1/files?limit=2")).json()
    assert [one["id"] for one in shown["data"]] == own[:2]
    assert (shown["last_id"], shown["has_more"]) == (own[1], True)
    shown = (await ada.send("GET", f"/v1/files?limit=2&after={own[1]}")).json()
    assert ([one["id"] for one in shown["data"]], shown["last_id"]) == (own[2:], own[3])


async def test_list_goes_on_after_an_object_that_was_deleted(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    own = [await ada.upload() for _ in range(3)]
    vendor.deleted_cursors[own[0]] = 0
    await ada.send("DELETE", f"/v1/files/{own[0]}")
    shown = (await ada.send("GET", f"/v1/files?after={own[0]}")).json()
    assert [one["id"] for one in shown["data"]] == own[1:]


async def test_error_of_a_list_is_passed_on(gateway: Gateway, ada: Account, vendor: ObjectServer) -> None:
    await ada.upload()
    body = b'{"error":{"message":"bad limit","type":"t","param":"limit","code":"c"}}'
    vendor.answers["/v1/files"] = Answer(body, b"400 Bad Request")
    assert code_of(await ada.send("GET", "/v1/files?limit=x")) == (400, "c")


async def test_limit_of_very_many_digits_is_left_to_the_server() -> None:
    async def fetch(query: Sequence[tuple[str, str]]) -> bytes:
        return b'{"data": [{"id": "file_1"}], "has_more": false}'

    async def own_among(ids: Sequence[str]) -> frozenset[str]:
        return frozenset(ids)

    page = await own_page([("limit", "9" * 5000)], "after", fetch, own_among)
    assert [one for one, _ in page.items] == ["file_1"]


async def test_list_with_too_many_objects_of_others_is_an_error(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    for _ in range(30):
        vendor.add("files")
    await ada.upload()
    vendor.page = 2
    assert code_of(await ada.send("GET", "/v1/files")) == (502, "list_incomplete")
    assert vendor.pages == 10


async def test_answer_that_is_no_list_is_not_relayed(
    gateway: Gateway, ada: Account, vendor: ObjectServer
) -> None:
    await ada.upload()
    for body in (b'{"files": [1]}', b"[]", b'{"data": [{"name": "x"}]}', b"secret"):
        vendor.answers["/v1/files"] = Answer(body)
        answer = await ada.send("GET", "/v1/files")
        assert code_of(answer) == (404, "unsupported_endpoint")


async def test_list_is_that_of_the_server_with_objects(
    gateway: Gateway, ada: Account, vendor: ObjectServer, other: ObjectServer
) -> None:
    file_id = await ada.upload(headers={"x-bluesminds-server": "second"})
    assert [one["id"] for one in (await ada.send("GET", "/v1/files")).json()["data"]] == [file_id]
    answer = await ada.send("GET", "/v1/files", headers={"x-bluesminds-server": "first"})
    assert answer.json()["data"] == []


async def test_objects_of_a_deleted_account_belong_to_no_account(
    gateway: Gateway, ada: Account, bob: Account, vendor: ObjectServer
) -> None:
    file_id = await ada.upload()
    async with gateway.operator() as operator:
        assert (await operator.delete(f"/api/admin/users/{ada.user_id}")).status_code == 204
    assert code_of(await bob.send("GET", f"/v1/files/{file_id}")) == MISSING
    assert (await bob.send("GET", "/v1/files")).json()["data"] == []
    answer = await bob.send("POST", "/v1/vector_stores", json={"x": file_id})
    assert code_of(answer) == MISSING


async def test_second_key_of_the_account_has_its_objects(gateway: Gateway, ada: Account) -> None:
    file_id = await ada.upload()
    _, key = await gateway.new_key(user_id=ada.user_id)
    assert (await Account(gateway, ada.user_id, key).send("GET", f"/v1/files/{file_id}")).status_code == 200


async def test_object_that_cannot_be_recorded_is_logged_and_its_answer_passed_on(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[relaying("first", vendor)])
    account = Account(gateway, "", gateway.key)
    await refuse_inserts(gateway, "server_objects")
    file_id = await account.upload()
    (event,) = gateway.events("object_not_recorded")
    assert event["ids"] == [file_id]
    assert code_of(await account.send("GET", f"/v1/files/{file_id}")) == MISSING
