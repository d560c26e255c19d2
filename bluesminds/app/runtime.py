"""What the request path shares with the process."""

from msgspec import Struct

from bluesminds.common.broadcast import Broadcast
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.limits.lease import Lease
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.supervision import TaskSupervisor
from storage.usage import UsageRow


class Runtime(Struct, frozen=True):
    """What outlives the data plane: `serve` opens these before it and closes them after it. `requests` hands
    requests to live streams when they end.
    """

    metrics: Metrics
    recorder: Recorder
    tasks: TaskSupervisor
    lease: Lease
    requests: Broadcast[UsageRow]


class Authentication(Struct, frozen=True):
    limiter: RateLimiter
    keys: KeyAuthenticator
