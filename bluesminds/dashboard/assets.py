"""The style sheet, scripts and images of the pages, under an address that changes with their content.

All have the same digest in their path, so that modules can import each other by relative names, and browsers
do not request them again.
"""

import hashlib
from importlib.resources import files
from typing import Final

from bluesminds.common.errors import NotFound
from bluesminds.web.guard import Access
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_CACHED: Final = (("cache-control", "public, max-age=31536000, immutable"),)


class PageAssets:
    def __init__(self) -> None:
        directory = files("bluesminds.dashboard") / "assets"
        self._contents = {
            file.name: file.read_bytes()
            for file in sorted(directory.iterdir(), key=lambda file: file.name)
            if file.name.rpartition(".")[2] in _TYPES
        }
        self.digest = hashlib.sha256(b"\0".join(self._contents.values())).hexdigest()[:16]

    @property
    def path(self) -> str:
        return f"/dashboard/assets/{self.digest}"

    async def get(self, digest: str, name: str) -> HandlerResponse[RawBody]:
        """An asset of the pages."""
        content = self._contents.get(name)
        if digest != self.digest or content is None:
            raise NotFound("unknown_url", "There is no such file.")
        return HandlerResponse(RawBody(content, _TYPES[name.rpartition(".")[2]]), headers=_CACHED)

    def routes(self) -> list[Route]:
        path = "/dashboard/assets/{digest}/{name}"
        return [route("GET", path, Access.PUBLIC, self.get, tag="Pages", media="text/css")]
