"""The paths that are relayed to servers, cut into the collection, the object in it and what is below.

A path is only relayed in one of COLLECTIONS or in a server's `passthrough_paths`. Servers have other paths,
such as the management of keys and models, which must not be reached with the gateway's own key.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Final

from msgspec import Struct

from bluesminds.common.errors import NotFound
from bluesminds.common.values import Server
from bluesminds.gateway.server_objects import ID

# Below /v1, as OpenAI and Anthropic name them. The segment after a collection is the id of an object.
COLLECTIONS: Final = frozenset(
    (
        *(
            "assistants",
            "batches",
            "containers",
            "conversations",
            "evals",
            "files",
            "fine_tuning/checkpoints",
        ),
        *("fine_tuning/alpha/graders/run", "fine_tuning/alpha/graders/validate", "fine_tuning/jobs"),
        *("messages/batches", "skills", "threads", "threads/runs", "uploads", "vector_stores", "videos"),
    )
)
# Of vendors whose keys users may store: what OpenAI's and Anthropic's clients find there. Other vendors have
# no such objects, or have them at other paths.
OWN_COLLECTIONS: Final[Mapping[str, frozenset[str]]] = {
    "openai": COLLECTIONS - {"messages/batches", "skills"},
    "anthropic": frozenset(("files", "messages/batches", "skills")),
    "groq": frozenset(("batches", "files")),
    "mistral": frozenset(("files",)),
    "together": frozenset(("batches", "files")),
}
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_SEGMENT: Final = re.compile(ID)


class RelayPath(Struct, frozen=True):
    """`collection` is below /v1. `object_id` is "" for the collection itself; `below` are the segments after
    it, which the server looks up inside the object.
    """

    collection: str
    object_id: str
    below: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """A collection itself can only be listed and added to."""
        return METHODS if self.object_id else ("GET", "POST")

    @property
    def text(self) -> str:
        """The path below /v1. Its segments need no encoding."""
        return "/".join(("", *filter(None, (self.collection, self.object_id)), *self.below))


def find_relay_path(path: str, servers: Iterable[Server], *, own_keys: bool = False) -> RelayPath | None:
    """The path if one of the servers allows it. `own_keys`: or if a key of a user could. `path` is cleaned
    and begins with /v1.
    """
    below = path.removeprefix("/v1/")
    longest = ""
    allowed = [collections_of(server) for server in servers]
    for collection in chain(*allowed, *(OWN_COLLECTIONS.values() if own_keys else ())):
        if len(collection) > len(longest) and f"{below}/".startswith(f"{collection}/"):
            longest = collection
    if not longest:
        return None
    object_id, *rest = below[len(longest) + 1 :].split("/")
    return RelayPath(longest, object_id, tuple(rest))


def collections_of(server: Server) -> Iterable[str]:
    """The collections that a server allows to relay. Those of a user's own key are the user's."""
    if server.is_own:
        return OWN_COLLECTIONS.get(server.vendor, ())
    return (*(COLLECTIONS if server.passthrough else ()), *server.passthrough_paths)


def check_segments(path: RelayPath) -> None:
    """Raises NotFound for segments that are not names or ids, such as `..`."""
    for segment in (path.object_id, *path.below):
        if segment and (segment in (".", "..") or not _SEGMENT.fullmatch(segment)):
            raise NotFound("unknown_url", "The path has a segment that is neither a name nor an id.")
