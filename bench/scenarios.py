"""What is asked of every subject: how many connections, how large a prompt, streamed or not."""

import json
from dataclasses import dataclass

MODEL = "bench"
MESSAGES_MODEL = "bench-messages"  # the gateway's server of this model speaks Anthropic's format
ROUTED_MODEL = "bench-routed"  # the gateway has three servers for this model
PATH = "/v1/chat/completions"
MESSAGES_PATH = "/v1/messages"
STREAM_EVENTS = 64  # content events in one streamed answer
STREAM_TICK = 0.010  # seconds between two events of one stream
_SENTENCE = (
    "Explain in three sentences how a reverse proxy decides which of its upstream servers gets a request. "
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load shape; `connections` requests are in flight at all times."""

    name: str
    connections: int
    prompt_bytes: int
    stream: bool
    translated: bool = False  # by the gateway; the other subjects forward an equal stream
    model: str = MODEL

    def request(self, port: int, key: str) -> bytes:
        """The whole HTTP/1.1 request, as every connection sends it again and again."""
        call: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "user", "content": _prompt(self.prompt_bytes)}],
        }
        if self.stream:
            call["stream"] = True
        body = json.dumps(call, separators=(",", ":")).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {key}\r\n"
            "Accept: */*\r\n"
            "User-Agent: bench\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _prompt(size: int) -> str:
    return (_SENTENCE * (size // len(_SENTENCE) + 1))[:size]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("c1", 1, 140, stream=False),
        Scenario("c32", 32, 140, stream=False),
        Scenario("c128", 128, 140, stream=False),
        Scenario("prompt64k", 32, 64 * 1024, stream=False),
        Scenario("s50", 50, 140, stream=True),
        Scenario("s200", 200, 140, stream=True),
        Scenario("t50", 50, 140, stream=True, translated=True, model=MESSAGES_MODEL),
        Scenario("r32", 32, 140, stream=False, model=ROUTED_MODEL),
    )
}
