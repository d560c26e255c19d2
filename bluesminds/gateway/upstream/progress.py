"""How far an attempt has come, for one that can be given up before it answers.

Its vendor may bill it: for what it reports until then, else for the prompt and the text so far. A request
that was not sent costs nothing.
"""

import contextlib
from collections.abc import Callable

from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.http.sse import EventTooLarge
from bluesminds.wire.base import RequestFacts, Stage
from bluesminds.wire.usage import settle_usage


class AttemptProgress:
    """`sent`: whether the server may have got the request. `stage` makes one that reads the stream so far,
    `received`.
    """

    __slots__ = ("received", "sent", "stage")

    def __init__(self) -> None:
        self.sent = False
        self.received = b""
        self.stage: Callable[[], Stage] | None = None

    def sending(self) -> None:
        """The request is about to be sent."""
        self.sent = True

    def reading(self, stage: Stage) -> None:
        """The stream is read by `stage` from its beginning."""
        self.received, self.stage = b"", lambda: stage

    def usage(self, facts: RequestFacts) -> Usage:
        """What the attempt has used so far. `facts`: of the request."""
        if not self.sent:
            return NO_USAGE
        if self.stage is None:
            return settle_usage(None, facts, delivered=0, pieces=0)[0]
        stage = self.stage()
        with contextlib.suppress(EventTooLarge):
            stage.feed(self.received)
        return stage.usage
