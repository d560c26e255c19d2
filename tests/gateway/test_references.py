"""Ids of objects in JSON."""

from bluesminds.gateway.passthrough.references import ids_in_json


def test_mention_with_control_character_is_no_id() -> None:
    found = ids_in_json(b'{"a":"file\\u0000-1","b":"file-2","c":"f\\u0069le-3"}')
    assert found.mentions == {"file-2", "file-3"}
