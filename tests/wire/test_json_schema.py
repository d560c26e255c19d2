"""Changes to JSON schemas of answers."""

from bluesminds.wire.json_schema import close_objects


def test_close_objects_schema_nested_too_deeply_is_not_changed() -> None:
    for depth in (100, 300, 400, 1000):
        schema = b'{"anyOf":[' * depth + b'{"type":"object"}' + b"]}" * depth
        assert bytes(close_objects(schema)).startswith(b'{"anyOf":[')
