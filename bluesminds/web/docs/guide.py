"""/docs/guide: the documentation site, from the archive that `make docs` writes into the package."""

import zipfile
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO
from typing import Final

import trio

from bluesminds.common.errors import NotFound
from bluesminds.web.guard import Access
from bluesminds.web.routes import HandlerResponse, RawBody, route

HOME: Final = "/docs/guide"
FIRST_PAGE: Final = f"{HOME}/index.html"
# The style sheet has its icons as data.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " worker-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("content-security-policy", POLICY),
    ("cache-control", "public, max-age=300"),
    ("referrer-policy", "same-origin"),
)
_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
}


def packaged_site() -> Traversable:
    return files("bluesminds.web.docs") / "guide.zip"


class Guide:
    """Serves the files of an archive. Without one it says how to build it."""

    def __init__(self, archive: Traversable) -> None:
        self._archive = archive
        self.routes = [
            route("GET", HOME, Access.PUBLIC, self.open, tag="Pages", media="text/html"),
            route("GET", f"{HOME}/", Access.PUBLIC, self.open, tag="Pages", media="text/html"),
            route("GET", f"{HOME}/{{file:path}}", Access.PUBLIC, self.get, tag="Pages", media="text/html"),
        ]

    async def open(self) -> HandlerResponse[RawBody]:
        """The documentation site."""
        return HandlerResponse(RawBody(b"", _TYPES["html"]), 303, (("location", FIRST_PAGE),))

    async def get(self, file: str) -> HandlerResponse[RawBody]:
        """A file of the documentation site."""
        content = await trio.to_thread.run_sync(self._read, file)
        return HandlerResponse(RawBody(content, _TYPES[file.rpartition(".")[2]]), headers=_HEADERS)

    def _read(self, file: str) -> bytes:
        """Raises NotFound."""
        try:
            return self._site.read(file)
        except FileNotFoundError as exc:
            raise NotFound(
                "unknown_url",
                "The documentation site is not built. Run `make docs` in the checkout, and start the"
                " gateway again. The API reference is at /docs.",
            ) from exc
        except KeyError as exc:
            raise NotFound("unknown_url", f"There is no such page. Start at {FIRST_PAGE}.") from exc

    @cached_property
    def _site(self) -> zipfile.ZipFile:
        """Raises FileNotFoundError. Held in memory, because the file may be replaced by an upgrade."""
        return zipfile.ZipFile(BytesIO(self._archive.read_bytes()))
