"""The base URLs of servers."""

import re
from typing import Final

_ENDPOINT: Final = re.compile(
    r"(?:/(?:chat/)?completions|/embeddings|/responses|/messages|(?<=/v1)/models)/*\Z"
)


def endpoint_in(url: str) -> str:
    """The endpoint that is wrongly at the end of a base URL, such as "/chat/completions"; "" without one."""
    found = _ENDPOINT.search(url)
    return found[0].rstrip("/") if found else ""
