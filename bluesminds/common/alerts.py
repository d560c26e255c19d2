"""Rules of alerts: a figure of the gateway, and when it is too high."""

from typing import Final, Literal

from msgspec import Struct

AlertKind = Literal["budget", "error_share", "latency", "server", "drift", "queue"]
AlertPhase = Literal["ok", "pending", "firing"]
ChannelKind = Literal["slack", "discord", "webhook"]
MAIL: Final = "mail"  # the channel that needs no configuration

UNITS: Final[dict[AlertKind, str]] = {
    "budget": "% of a shared budget is used",
    "error_share": "% of the requests fail",
    "latency": " s average duration of requests",
    "server": " server(s) down",
    "drift": "% difference between reported and computed costs",
    "queue": " requests wait for a server",
}


class AlertRule(Struct, frozen=True):
    """Fires if the figure is above `above` for `hold` seconds. `window`: seconds over which it is taken. For
    `quiet` seconds after a notification there is no other one that it fires. `server` "" is for all.
    """

    name: str
    kind: AlertKind
    above: float
    window: float = 300.0
    hold: float = 60.0
    quiet: float = 3600.0
    channels: tuple[str, ...] = (MAIL,)
    server: str = ""

    def describe(self, value: float) -> str:
        """A sentence about the figure."""
        where = f" (server {self.server})" if self.server else ""
        return f"{value:g}{UNITS[self.kind]}{where}; the limit is {self.above:g}."


class AlertMessage(Struct, frozen=True):
    """What a channel gets. Times are in milliseconds."""

    rule: str
    kind: AlertKind
    state: Literal["firing", "resolved", "test"]
    text: str
    value: float
    above: float
    at: int
    since: int


class AlertState(Struct, frozen=True):
    """`since`: of the phase, of "firing" with the pending time. `notified`: a message says that it fires.
    `unsent`: channels that have not got `message` yet.
    """

    phase: AlertPhase = "ok"
    since: int = 0
    notified: bool = False
    notified_at: int = 0
    message: AlertMessage | None = None
    unsent: tuple[str, ...] = ()
