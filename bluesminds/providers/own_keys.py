"""The vendors for which users may store their own keys, and the server that is built for such a key."""

from collections.abc import Mapping, Sequence
from typing import Final

from bluesminds.common.values import OWN, Server, own_server_name
from bluesminds.providers.vendors import VENDORS, Vendor

OWN_KEY_VENDORS: Final[Mapping[str, Vendor]] = {
    name: vendor for name, vendor in VENDORS.items() if vendor.url.startswith("https://")
}
"""Hosted vendors with one URL for all accounts: a user must not choose where the gateway connects to."""


def own_server(vendor: Vendor, url: str, *, key_id: str, api_key: str, models: Sequence[str]) -> Server:
    """`url`: the vendor's, or one that the operator chose. Without `models`, the vendor lists them."""
    return Server(
        name=own_server_name(vendor.name, key_id),
        dialect=vendor.dialect,
        url=url,
        api_key=api_key,
        models=tuple(models),
        weight=1,
        priority=0,
        origin=OWN,
        vendor=vendor.name,
    )
