"""Shadow traffic: copies of requests to another target, whose responses are dropped.

A copy is sent by a background task, so it neither delays nor fails its request. Copies that find no room are
dropped. No account is charged for a copy: its cost has a separate class.
"""

from typing import Final, Literal

import trio
from msgspec import Struct

from bluesminds.common.log import Log
from bluesminds.common.money import read_usd
from bluesminds.common.routes import RouteOptions
from bluesminds.common.values import NO_USAGE, Server, Usage, server_label
from bluesminds.gateway.call import Call
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.json_body import JsonBody
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.receipts import SHADOW
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.selection import Selection, find_shadow_target
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.gateway.upstream.attempt import JSON_TYPE, Reply, ReplyReader
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.gateway.upstream.extra_budget import ExtraBudget
from bluesminds.gateway.upstream.progress import AttemptProgress
from bluesminds.gateway.upstream.timeouts import TimeoutTable
from bluesminds.http.client.pool import Pool, UpstreamError
from bluesminds.http.sse import EventTooLarge
from bluesminds.wire.support import Support
from bluesminds.wire.usage import settle_usage

MAX_WAITING: Final = 100  # copies
MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
MAX_RUNNING: Final = 8  # copies
ShadowOutcome = Literal["answered", "failed", "dropped"]


class ShadowCopy(Struct, frozen=True, eq=False):
    """`data` is the body for the target. `reserved`: its estimated cost in nano-USD."""

    route: str
    call: Call
    target: Target
    data: bytes
    reserved: int

    @property
    def model(self) -> str:
        return self.target.model or self.call.model


class ShadowTraffic:
    """`total_timeout`: seconds for one copy."""

    def __init__(
        self,
        pool: Pool,
        load: LoadRegistry,
        keys: ServerKeyRegistry,
        estimator: Estimator,
        metrics: Metrics,
        log: Log,
        *,
        timeouts: TimeoutTable,
        total_timeout: float,
        budget: ExtraBudget,
    ) -> None:
        self._pool = pool
        self._load = load
        self._keys = keys
        self._estimator = estimator
        self._metrics = metrics
        self._log = log
        self._timeouts = timeouts
        self._total_timeout = total_timeout
        self._budget = budget
        self._endpoints: dict[str, UpstreamEndpoint] = {}
        self._bytes = 0  # of the copies that wait or run
        self._send, self._receive = trio.open_memory_channel[ShadowCopy](MAX_WAITING)

    def offer(
        self, route: str, options: RouteOptions, target: Target, call: Call, body: JsonBody
    ) -> int | None:
        """Send a copy of the request if its turn has come and the bounds allow it. Returns what its input is
        estimated to cost, in nano-USD; None if no copy is sent.
        """
        self._budget.add_request(route, options.shadow_share)
        if not self._budget.is_due(route) or body.stores:
            return None
        nano = self._estimator.estimate(call, target).nano or 0
        if not self._budget.take(route, call.context.at_ms, nano, read_usd(options.shadow_daily_usd)):
            return None
        model = target.model or call.model
        data = body.content(target.plan, model, Support(usage=target.plan.asks_usage))
        copy = ShadowCopy(route, call, target, data, nano)
        if self._bytes + len(data) > MAX_WAITING_BYTES or self._load.is_full(target.server.name):
            self._end(copy, "dropped", 0)
            return None
        try:
            self._send.send_nowait(copy)
        except trio.WouldBlock:
            self._end(copy, "dropped", 0)
            return None
        self._bytes += len(data)
        price = self._estimator.price(target, call.model, call.context.at_ms)
        return 0 if price is None else price.max_cost(self._estimator.input_tokens(call), 0)

    async def run(self) -> None:
        """Send copies until cancelled."""
        room = trio.Semaphore(MAX_RUNNING)
        async with trio.open_nursery() as nursery:
            while True:
                await room.acquire()
                nursery.start_soon(self._run_one, await self._receive.receive(), room)

    async def _run_one(self, copy: ShadowCopy, room: trio.Semaphore) -> None:
        outcome: ShadowOutcome = "failed"
        progress = AttemptProgress()
        usage: Usage | None = None  # unknown until the response has ended
        slot = self._load.begin(copy.target.server.name, copy.model, stream=copy.call.facts.stream)
        try:
            with trio.move_on_after(self._total_timeout):
                found = await self._exchange(copy, progress)
                outcome, usage = ("failed", NO_USAGE) if found is None else ("answered", found)
        except (UpstreamError, EventTooLarge):
            pass
        except Exception as exc:  # a bug in the reader of a response must not end the task for all copies
            self._log.exception("shadow_failed", exc, server=copy.target.server.name, model=copy.model)
        finally:
            slot.end()
            self._bytes -= len(copy.data)
            price = self._estimator.price(copy.target, copy.call.model, copy.call.context.at_ms)
            used = progress.usage(copy.call.facts) if usage is None else usage
            self._end(copy, outcome, 0 if price is None else price.cost(used) or 0)
            room.release()

    async def _exchange(self, copy: ShadowCopy, progress: AttemptProgress) -> Usage | None:
        """What the server has used; None for an error."""
        call, target = copy.call, copy.target
        stream, context = call.facts.stream, call.context
        endpoint = self._endpoint(target.server)
        timeouts = self._timeouts.timeouts if stream else self._timeouts.json
        deadline = trio.current_time() + timeouts.first_byte
        response = await self._pool.request(
            b"POST",
            endpoint.origin,
            endpoint.target(target.plan.path, copy.model, stream=stream),
            (
                *endpoint.headers_for(target.plan, context.forward),
                JSON_TYPE,
                (b"x-request-id", context.id.encode() + b"-shadow"),
            ),
            copy.data,
            timeouts=timeouts,
            sending=progress.sending,
        )
        try:
            reader = ReplyReader(endpoint, call, target.plan, None, None, copy.model, progress)
            reply = await reader.read(response, deadline)
            return None if reply.error is not None else await _read_usage(copy, reply, progress)
        finally:
            response.close()

    def _end(self, copy: ShadowCopy, outcome: ShadowOutcome, nano: int) -> None:
        server = server_label(copy.target.server.name)
        self._metrics.shadow[server, outcome] += 1
        if nano:
            self._metrics.uncharged[server, SHADOW] += nano
        self._budget.correct(copy.route, copy.call.context.at_ms, nano - copy.reserved)

    def _endpoint(self, server: Server) -> UpstreamEndpoint:
        endpoint = self._endpoints.get(server.name)
        if endpoint is None or endpoint.server is not server:
            endpoint = self._endpoints[server.name] = UpstreamEndpoint.to(server)
        return endpoint.by_key[self._keys.choose(server)] if server.more_keys else endpoint


def find_shadow(
    catalog: ModelCatalog, options: RouteOptions, call: Call, selection: Selection
) -> Target | None:
    """The target of copies. None if it cannot get this request as the client has sent it. If every target
    gets a translation, what the client has sent is not kept.
    """
    if all(target.plan.translated for target in selection.targets()):
        return None
    if call.own_key or call.stand_ins or call.observer is not None:
        return None
    found = find_shadow_target(catalog, options, call.operation)
    return found if isinstance(found, Target) else None


async def _read_usage(copy: ShadowCopy, reply: Reply, progress: AttemptProgress) -> Usage | None:
    """Read a stream to its end. Raises UpstreamError and EventTooLarge."""
    facts, stage = copy.call.facts, reply.stage
    if stage is None:
        found = reply.facts
        return settle_usage(found.usage, facts, delivered=found.delivered, pieces=found.pieces)[0]
    progress.reading(stage)
    data = reply.body
    while data:
        stage.feed(data)
        if stage.final or reply.response is None:
            break
        data = await reply.response.receive()
    else:
        stage.finish()
    return None if stage.error is not None else stage.usage
