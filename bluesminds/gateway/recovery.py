"""Continues a stream at another server after its own one has failed, if the route says so.

With `recovery = "continue"`, a target that takes the beginning of an answer gets the text so far, and its
answer follows the text. If there is no such target, or it fails, the next target gets the same request again.
"""

from collections.abc import Sequence

from msgspec import structs

from bluesminds.common.errors import InvalidRequest, UpstreamFailed
from bluesminds.common.log import Log
from bluesminds.gateway.accounting import UsageEntry
from bluesminds.gateway.call import Call
from bluesminds.gateway.json_body import JsonBody
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.wire.base import Stage
from bluesminds.wire.formats import codec_of
from bluesminds.wire.prefill import PREFILLED, AnswerPrefill
from bluesminds.wire.resumption import ContinuedStream, ResumedStream, read_sent

MAX_SENT = 2 * 1024 * 1024  # bytes of a stream that are kept; a longer one cannot be resumed
MAX_RECOVERIES = 2  # of one request
FORMATS = frozenset(("chat", "messages", "gemini"))  # the events of other formats contain ids


class StreamRecovery:
    """Of one request. `record` gets what the client gets. The body must not be released before the end."""

    def __init__(
        self, sender: Sender, call: Call, body: JsonBody, routed: RoutedTargets, entry: UsageEntry, log: Log
    ) -> None:
        self._sender = sender
        self._call = call
        self._body = body
        self._routed = routed
        self._entry = entry
        self._log = log
        self._sent: list[bytes] = []
        self._size = 0
        self._left = MAX_RECOVERIES
        self._failed: set[tuple[str, str]] = set()

    def record(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_SENT:
            self._sent.append(data)

    async def resume(self, failed: Reply, stage: Stage, reason: str) -> Reply | None:
        """The reply of another server to the same request, whose `stage` leaves out what the client has. The
        caller closes it. None if the stream cannot be resumed.
        """
        self._failed.add((failed.endpoint.server.name, failed.model))
        targets = self._targets()
        if not (targets and self._left and self._size <= MAX_SENT):
            return None
        client = codec_of(self._call.operation.format)
        try:
            conversation = self._body.read_conversation(self._call.context.at_ms)
        except InvalidRequest:
            return None
        sent = read_sent(client, conversation, b"".join(self._sent))
        if sent is None:
            return None
        self._left -= 1
        entry, target, usage = self._entry, self._entry.target, stage.usage
        entry.fail_attempt(reason)
        reply = continued = None
        if self._routed.options.recovery == "continue" and sent.text.strip():
            reply = continued = await self._continue(targets, sent.text, stage.output)
        if reply is None:
            reply = await self._send(targets)
        request_id, before = self._call.context.request_id, failed.endpoint.server.name
        if reply is None:
            self._log.warning("stream_not_resumed", request_id=request_id, server=before, reason=reason)
        else:
            following = reply.endpoint.server.name
            self._log.warning(
                "stream_resumed", request_id=request_id, server=before, next=following, reason=reason
            )
        if reply is None or entry.target is None:
            entry.target = target
            return None
        server = codec_of(entry.target.plan.format)
        facts = self._call.facts
        if continued is None:
            resumed = ResumedStream(server, client, conversation, facts, sent)
        else:
            echoes = entry.target.prefill == "prefix"
            resumed = ContinuedStream(server, client, conversation, facts, sent, echoes=echoes)
        entry.replace_stage(resumed, target, usage)
        return structs.replace(reply, stage=resumed)

    async def _continue(self, targets: Sequence[Target], text: str, spent: int) -> Reply | None:
        """The reply of a target that takes the text so far. `spent`: its tokens."""
        for target in targets:
            if target.prefill is None or target.plan.format not in PREFILLED:
                continue
            self._body.prefill = AnswerPrefill(text, target.prefill, spent)
            try:
                if (reply := await self._send([target])) is not None:
                    return reply
            finally:
                self._body.prefill = None
        return None

    async def _send(self, targets: Sequence[Target]) -> Reply | None:
        """None if no server streams an answer."""
        try:
            reply = await self._sender.send(self._call, self._body, targets, self._entry)
        except (UpstreamFailed, ValueError):  # ValueError: the request takes no beginning
            return None
        if reply.endpoint.key:
            self._entry.note_keys(reply.endpoint.key_uses())
        if reply.error is None and reply.stage is not None and reply.is_events:
            return reply
        reply.close()
        self._entry.fail_attempt("refused")
        return None

    def _targets(self) -> list[Target]:
        """The targets that have not failed, model after model. Ejected ones come last: the stream would
        otherwise be cut.
        """
        model = self._call.model
        targets = [
            one.target
            for group in self._routed.selection.groups
            for one in sorted(group.everything, key=lambda one: one.priority)
            if (one.target.server.name, one.target.model or model) not in self._failed
        ]
        return sorted(targets, key=lambda target: not self._sender.outcomes.is_usable(self._call, target))


def may_recover(call: Call, routed: RoutedTargets, entry: UsageEntry) -> bool:
    """Whether another server can resume the stream. With a budget it cannot: the budget covers one answer."""
    return (
        routed.options.recovery != "error"
        and call.facts.stream
        and call.facts.choices == 1
        and call.operation.format in FORMATS
        and call.observer is None
        and entry.budget is None
        and not call.facts.wants_cost
        and len(routed.selection.targets()) > 1
    )
