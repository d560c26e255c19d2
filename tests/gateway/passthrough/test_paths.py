"""Which paths are relayed, to which place at a server, and which ids a request has."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import GatewayError
from bluesminds.common.values import Server
from bluesminds.gateway.passthrough.paths import RelayPath, check_segments, find_relay_path
from bluesminds.gateway.passthrough.references import canonical_json, ids_in_field, ids_in_json, read_query
from bluesminds.providers.profiles import relay_base

ID = "file-AbC_09.x:y=z~-"


def server(**more: object) -> Server:
    fields = {"name": "a", "dialect": "openai", "url": "https://a.test/v1", "api_key": None, "models": ()}
    return Server(**fields | {"weight": 1, "priority": 0, "origin": "file", "passthrough": True} | more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/files", ("files", "", ())),
        ("/v1/files/file-1/content", ("files", "file-1", ("content",))),
        ("/v1/fine_tuning/jobs/ftjob-1/events", ("fine_tuning/jobs", "ftjob-1", ("events",))),
        ("/v1/messages/batches/b/results", ("messages/batches", "b", ("results",))),
        ("/v1/threads/runs", ("threads/runs", "", ())),
        ("/v1/threads/t/runs/r", ("threads", "t", ("runs", "r"))),
        ("/v1/fine_tuning", None),
        ("/v1/filesystem", None),
        ("/v1/key/generate", None),
        ("/v1", None),
        ("/v1beta/files", None),
    ],
)
def test_path_is_cut_into_collection_and_object(
    path: str, found: tuple[str, str, tuple[str, ...]] | None
) -> None:
    assert find_relay_path(path, [server()]) == (None if found is None else RelayPath(*found))
    assert find_relay_path(path, [server(passthrough=False)]) is None
    assert find_relay_path(path, []) is None
    if found is not None:
        assert f"/v1{RelayPath(*found).text}" == path


def test_path_of_a_setting_is_relayed() -> None:
    one = server(passthrough=False, passthrough_paths=("ocr", "files/public"))
    assert find_relay_path("/v1/ocr", [one]) == RelayPath("ocr", "", ())
    assert find_relay_path("/v1/files/public/x", [one]) == RelayPath("files/public", "x", ())
    assert find_relay_path("/v1/files/public/x", [one, server()]) == RelayPath("files/public", "x", ())
    assert find_relay_path("/v1/files/x", [one]) is None


@pytest.mark.parametrize(
    "segment", ["..", ".", "a b", "a/b", "a%2fb", "a\\b", "a\0b", "ä", "a?b", "a#b", "a;b"]
)
def test_segment_that_is_no_id_is_refused(segment: str) -> None:
    for path in (RelayPath("files", segment, ()), RelayPath("files", ID, (segment,))):
        with pytest.raises(GatewayError):
            check_segments(path)
    check_segments(RelayPath("files", ID, ("content",)))


@pytest.mark.parametrize(
    ("fields", "base", "query"),
    [
        ({}, "", []),
        ({"dialect": "litellm"}, "/v1", []),
        ({"dialect": "anthropic"}, "", []),
        ({"dialect": "azure", "url": "https://a.test/openai/v1"}, "//openai/v1", []),
        (
            {"dialect": "azure", "url": "https://a.test/openai", "api_version": "2024-10-21"},
            "//openai",
            [("api-version", "2024-10-21")],
        ),
    ],
)
def test_relayed_path_has_the_base_of_the_dialect(
    fields: dict[str, object], base: str, query: list[tuple[str, str]]
) -> None:
    assert relay_base(server(**fields)) == (base, query)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES, st.booleans(), st.booleans())
def test_id_anywhere_in_json_is_found(around: object, escaped: bool, spaced: bool) -> None:
    text = json.dumps({"a": around, "b": [{"c": "MARK"}], "d": around}, indent=2 if spaced else None)
    shown = "".join(f"\\u{ord(letter):04x}" for letter in ID) if escaped else ID
    data = text.replace("MARK", shown).encode()
    assert ID in ids_in_json(data).mentions
    assert ID in ids_in_json(canonical_json(data)).mentions


@pytest.mark.parametrize(
    ("body", "references"),
    [
        ('{"file_id": "a"}', {"a"}),
        ('{"file_id" :\n"a"}', {"a"}),
        ('{"x": {"vector_store_ids": ["a", "b" , "c"]}}', {"a", "b", "c"}),
        ('{"file_id": 17}', {"17"}),
        ('{"file_ids": [1, -2]}', {"1", "-2"}),
        ('{"file_id": null, "file_ids": [], "file_id_x": "a"}', set()),
        ('{"text": "\\"file_id\\": \\"a\\""}', set()),
        ('{"container": {"type": "auto", "file_ids": ["a"]}}', {"a"}),
    ],
)
def test_reference_is_the_value_of_a_known_field(body: str, references: set[str]) -> None:
    assert ids_in_json(canonical_json(body.encode())).references == references


def test_repeated_key_of_json_is_sent_once() -> None:
    assert canonical_json(b'{"file_id": "a", "file_id": "b"}') == b'{"file_id":"b"}'


@pytest.mark.parametrize(
    ("name", "is_reference"),
    [("file_id", True), ("file_ids[]", True), ("a[file_id]", True), ("a[b][file_id]", True), ("file", False)],
)
def test_field_of_a_form_is_read_by_its_name(name: str, is_reference: bool) -> None:
    found = ids_in_field(name, ID)
    assert (found.references if is_reference else found.mentions) == {ID}


@pytest.mark.parametrize("query", [b"a=%ff", b"\xff=1", b"&".join([b"a=1"] * 101)])
def test_query_that_is_malformed_or_long_is_refused(query: bytes) -> None:
    with pytest.raises(GatewayError):
        read_query(query)
