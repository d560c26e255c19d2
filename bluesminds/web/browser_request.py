"""What pages need from the request of a browser."""

from typing import Final, Literal

from msgspec import Struct
from quart import Request

Theme = Literal["", "light", "dark"]
_THEMES: Final[dict[str, Theme]] = {"light": "light", "dark": "dark"}


class BrowserRequest(Struct, frozen=True):
    """`origin` is scheme and host as the browser sees them. `theme` and `zone` are cookies that the settings
    page sets: "" follows the system, and UTC. `zone` is any text.
    """

    path: str
    query: str
    origin: str
    theme: Theme
    zone: str
    wants_html: bool


def read_browser_request(request: Request) -> BrowserRequest:
    return BrowserRequest(
        path=request.path,
        query=request.query_string.decode("latin-1"),
        origin=f"{request.scheme}://{request.host}",
        theme=_THEMES.get(request.cookies.get("theme", ""), ""),
        zone=request.cookies.get("zone", ""),
        wants_html="text/html" in request.headers.get("accept", ""),
    )
