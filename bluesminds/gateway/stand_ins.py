"""Stand-ins for ids of other accounts' objects in requests to models.

The server gets an id that does not exist, and the client sees its own text again. So the answer is the same
as for an unknown id, and does not show whether another account has the object.
"""

import re
import secrets
import string
from collections.abc import Iterable
from typing import Final

from bluesminds.gateway.passthrough.references import canonical_json
from bluesminds.gateway.server_objects import no_such_object
from bluesminds.wire.json_text import Fields, read_fields, write_fields

StandIns = tuple[tuple[bytes, bytes], ...]  # the stand-in, and the id that the client has sent
_PREFIX: Final = re.compile(r"(?:.*[_-])?")  # what shows the kind of an object
_LETTERS: Final = string.ascii_letters + string.digits


def make_stand_ins(ids: Iterable[str]) -> StandIns:
    """Raises NotFound for a number: it may be written without quotes."""
    return tuple((_stand_in(one), one.encode()) for one in sorted(ids))


def use_stand_ins(fields: Fields, stand_ins: StandIns) -> Fields:
    """The fields with the stand-ins. Raises InvalidRequest."""
    if not stand_ins:
        return fields
    data = canonical_json(write_fields(fields))
    for stand_in, text in stand_ins:
        data = data.replace(b'"%b"' % text, b'"%b"' % stand_in)
    return read_fields(data)


def restore_ids(data: bytes, stand_ins: StandIns) -> bytes:
    for stand_in, text in stand_ins:
        data = data.replace(stand_in, text)
    return data


def _stand_in(object_id: str) -> bytes:
    if object_id.lstrip("-").isdigit():
        raise no_such_object(object_id)
    found = _PREFIX.match(object_id)
    prefix = found[0] if found is not None else ""
    rest = "".join(secrets.choice(_LETTERS) for _ in range(max(16, len(object_id) - len(prefix))))
    return (prefix + rest).encode()
