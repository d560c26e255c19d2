"""Ids of objects in JSON."""

import json

import pytest

from bluesminds.common.errors import InvalidRequest
from bluesminds.gateway.passthrough.references import MAX_IDS, ids_in_json


def test_mention_with_control_character_is_no_id() -> None:
    found = ids_in_json(b'{"a":"file\\u0000-1","b":"file-2","c":"f\\u0069le-3"}')
    assert found.mentions == {"file-2", "file-3"}


def test_more_ids_than_a_request_can_need_are_refused() -> None:
    few = json.dumps([f"id-{number}" for number in range(MAX_IDS)]).encode()
    assert len(ids_in_json(few).mentions) == MAX_IDS
    with pytest.raises(InvalidRequest, match="values that could be ids"):
        ids_in_json(few[:-1] + b',"one-more"]')
