"""For tests that go through several cases with one gateway, so that no case changes the next one."""

from typing import Any

import msgspec

from tests.gateways import Gateway, entry


class Since:
    """The usage rows and the log events of a gateway that are newer than this object."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._rows = len(gateway.rows())
        self._lines = len(gateway.lines)

    def rows(self) -> list[dict[str, Any]]:
        return self._gateway.rows()[self._rows :]

    def events(self, name: str) -> list[dict[str, Any]]:
        new = map(msgspec.json.decode, self._gateway.lines[self._lines :])
        return [event for event in new if event["event"] == name]

    async def settled(self, count: int) -> list[dict[str, Any]]:
        """Wait for `count` new usage rows; all new rows."""
        return (await self._gateway.settled(self._rows + count))[self._rows :]


def own_servers(cases: int, *urls: str, **more: Any) -> list[dict[str, Any]]:
    """For case N the model "mN" on the servers "mN-0", "mN-1" and so on, in the order of the URLs.

    The gateway keeps the health and the retry budget of each case apart, although the URLs are the same.
    """
    return [
        entry(f"m{case}-{position}", url, models=[f"m{case}"], priority=position, **more)
        for case in range(cases)
        for position, url in enumerate(urls)
    ]
