"""Which optional fields a server has refused, so that the next requests do without them."""

from typing import Final

from msgspec import structs

from bluesminds.common.values import Server
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.wire.support import Refusal, Support, blames_field, find_refusal, names_forced_usage

MAX_LEARNED: Final = 1000  # pairs of a server and a model
_FULL: Final = Support()
_WITHOUT_USAGE: Final = Support(usage=False)


class LearnedSupport:
    """By server and model. A server that is changed is another value, about which nothing is known."""

    def __init__(self) -> None:
        self._learned: dict[tuple[str, str], tuple[Server, Support]] = {}

    def find(self, target: Target, model: str) -> Support:
        if self._learned and (known := self._learned.get((target.server.name, model))) is not None:
            server, support = known
            if server is target.server or server == target.server:
                return support
        return _FULL if target.plan.asks_usage else _WITHOUT_USAGE

    def learn(self, server: Server, model: str, support: Support) -> None:
        """Every request would fail once more otherwise."""
        if len(self._learned) >= MAX_LEARNED:
            del self._learned[next(iter(self._learned))]
        self._learned[server.name, model] = server, support


def find_refused_field(
    call: Call, target: Target, body: CallBody, reply: Reply, support: Support
) -> Refusal | None:
    """The optional field that the error is about: stream_options, which the gateway adds to streams that did
    not ask for usage, or a field of a translation.
    """
    plan, facts = target.plan, call.facts
    streamed = facts.stream and not call.format.is_media
    added = support.usage and streamed and (plan.translated or not facts.wants_usage)
    if added and names_forced_usage(reply.error_status, reply.body):
        return Refusal(structs.replace(support, usage=False))
    if not plan.translated or not blames_field(reply.error_status):
        return None
    if reply.error is None or body.conversation is None:
        return None
    bound = plan.bound if plan.format == "chat" else ""
    return find_refusal(support, body.conversation, reply.error, bound=bound)
