"""The profile of a server: its dialect, changed by what is known about its vendor and its URL."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct, structs

from bluesminds import __version__
from bluesminds.common.entra import is_entra_app
from bluesminds.common.values import Server
from bluesminds.providers import azure
from bluesminds.providers.dialects import DIALECTS, Dialect, Headers, Paths
from bluesminds.providers.quirks import UnsupportedField
from bluesminds.providers.vendors import VENDORS, Vendor, vendor_of
from bluesminds.wire.base import FormatName

_COMMON: Final[Headers] = (
    (b"user-agent", f"bluesminds/{__version__}".encode()),
    (b"accept", b"application/json, text/event-stream, */*"),
)
_NO_FIELDS: Final[Mapping[FormatName, tuple[UnsupportedField, ...]]] = MappingProxyType({})


class ServerProfile(Struct, frozen=True):
    """Paths are relative to the URL of the server, or to its host if they begin with "//". `vendor` is None
    if it is not known.
    """

    dialect: Dialect
    vendor: Vendor | None
    speaks: Paths
    models_path: str
    alive_path: str | None = None
    lists_models: bool = True
    model_prefix: str = ""
    key_header: str = "authorization"
    extra_headers: Headers = ()
    output_bound: Literal["max_tokens", "max_completion_tokens"] | None = None
    asks_usage: bool = True  # the usage of streams is requested
    unsupported: Mapping[FormatName, tuple[UnsupportedField, ...]] = _NO_FIELDS

    def headers(self, api_key: str | None, own: tuple[tuple[str, str], ...] = ()) -> Headers:
        """The headers of every request to the server; `own`, those of its configuration, replace others of
        the same name. They may contain a secret, so they are never logged.
        """
        given = tuple((name.lower().encode(), value.encode()) for name, value in own)
        names = {name for name, _ in given}
        usual = (*self._credential(api_key), *_COMMON, *self.extra_headers)
        return (*(header for header in usual if header[0] not in names), *given)

    def _credential(self, api_key: str | None) -> Headers:
        if api_key is None or is_entra_app(api_key):
            return ()
        if self.key_header == "authorization" or (self.dialect.takes_tokens and azure.is_token(api_key)):
            return ((b"authorization", b"Bearer " + api_key.encode()),)
        return ((self.key_header.encode(), api_key.encode()),)


def join_path(base: str, path: str) -> str:
    """The path on the host: the path of the server's URL, then the profile's. A version that is in both is
    written once.
    """
    if path.startswith("//"):
        return path[1:]
    if path.startswith("/v1/") and base.endswith("/v1"):
        path = path.removeprefix("/v1")
    return base + path


def relay_base(server: Server) -> tuple[str, list[tuple[str, str]]]:
    """The path before that of a request that is relayed, and the query parameters that each one needs."""
    profile = profile_of(server)
    if profile.dialect.locate is None:
        return profile.dialect.relay_prefix, []
    path, _, query = profile.models_path.partition("?")
    return path.removesuffix("/models"), parse_qsl(query)


def profile_of(server: Server) -> ServerProfile:
    return find_profile(server.dialect, server.vendor, server.url, server.api_version)


@lru_cache(maxsize=1024)
def find_profile(dialect_name: str, vendor_name: str, url: str, api_version: str) -> ServerProfile:
    """The profile of a server with these fields."""
    dialect = DIALECTS[dialect_name]
    vendor = VENDORS.get(vendor_name) if vendor_name else vendor_of(url)
    speaks, models_path = dialect.speaks, dialect.models_path
    if dialect.locate is not None:
        speaks, models_path = dialect.locate(urlsplit(url).path.rstrip("/"), api_version)
    profile = ServerProfile(
        dialect=dialect,
        vendor=vendor,
        speaks=speaks,
        models_path=models_path,
        alive_path=dialect.alive_path,
        lists_models=dialect.lists_models,
        key_header=dialect.key_header,
        extra_headers=dialect.extra_headers,
    )
    return profile if vendor is None else _of_vendor(profile, vendor)


def _of_vendor(profile: ServerProfile, vendor: Vendor) -> ServerProfile:
    """Apply a vendor's differences. Its paths only apply in its own dialect."""
    profile = structs.replace(
        profile,
        output_bound=vendor.output_bound,
        asks_usage=vendor.streamed_usage == "asked",
        unsupported=vendor.unsupported,
    )
    if vendor.dialect != profile.dialect.name:
        return profile
    return structs.replace(
        profile,
        speaks=vendor.speaks or profile.speaks,
        models_path=vendor.models_path or profile.models_path,
        alive_path=vendor.alive_path or profile.alive_path,
        lists_models=profile.lists_models and vendor.lists_models,
        model_prefix=vendor.model_prefix,
        key_header=vendor.key_header or profile.key_header,
        extra_headers=(*profile.extra_headers, *vendor.headers),
    )
