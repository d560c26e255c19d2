"""Tests a server step by step: token, name, connection, TLS, list of models, and one small completion."""

from collections.abc import Sequence
from typing import Final, Literal

import trio
from msgspec import Struct, json, structs

from bluesminds.common.clock import Clock
from bluesminds.common.entra import is_entra_app
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Server, last_four
from bluesminds.gateway.operations import OPERATIONS
from bluesminds.gateway.probe import NO_MODEL_LIST, ProbeResult, probe
from bluesminds.gateway.routing.plans import Plan, make_plan
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.gateway.upstream.entra import EntraTokens, TokenFailed
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError
from bluesminds.providers.dialects import DIALECTS
from bluesminds.providers.profiles import profile_of
from bluesminds.wire.conversation import EncodingOptions
from bluesminds.wire.errors import read_error
from bluesminds.wire.formats import codec_of
from bluesminds.wire.json_text import read_fields, write_fields
from bluesminds.wire.models import ModelRow

MAX_OUTPUT: Final = 16  # tokens of the completion
_CHAT: Final = next(one for one in OPERATIONS if one.name == "chat.completions")
_QUESTION: Final = "Reply with OK."
_NO_CHAT: Final = ("embed", "whisper", "tts", "dall-e", "rerank", "moderation", "image", "transcribe")

StepName = Literal["token", "dns", "connect", "tls", "models", "completion"]


class TestStep(Struct, frozen=True):
    """`message` says what was found, or what is wrong. `key_refused`: the server rejected the API key."""

    name: StepName
    ok: bool
    seconds: float
    message: str
    key_refused: bool = False


class ServerTest(Struct, frozen=True):
    """The steps up to the first one that failed. `models` is None if they were not listed."""

    server: str
    steps: tuple[TestStep, ...]
    models: list[ModelRow] | None = None


async def test_server(
    pool: Pool, clock: Clock, tokens: EntraTokens, server: Server, model: str | None, *, seconds: float
) -> ServerTest:
    """`model`: for the completion; None: one of the server's. Every step may take `seconds`. Never raises for
    what the server does.
    """
    if not server.models and not profile_of(server).lists_models:
        return ServerTest(server.name, (TestStep("models", False, 0.0, NO_MODEL_LIST),))
    steps = []
    if any(is_entra_app(key) for key in server.api_keys):
        server, step = await _get_token(tokens, server)
        steps.append(step)
        if not step.ok:
            return ServerTest(server.name, tuple(steps))
    steps += await _connect(pool, server, seconds)
    if steps and not steps[-1].ok:
        return ServerTest(server.name, tuple(steps))
    listed, step = await _list_models(pool, server, seconds)
    steps.append(step)
    if not steps[-1].ok:
        return ServerTest(server.name, tuple(steps))
    names = server.models or tuple(row.id for row in listed.models or ())
    steps.append(await _complete(pool, clock, server, model or _likely_chat_model(names), seconds))
    return ServerTest(server.name, tuple(steps), listed.models)


async def _get_token(tokens: EntraTokens, server: Server) -> tuple[Server, TestStep]:
    started = trio.current_time()
    try:
        server = await tokens.obtain(server)
    except TokenFailed as exc:
        return server, TestStep("token", False, trio.current_time() - started, str(exc))
    return server, TestStep("token", True, trio.current_time() - started, "received from Microsoft Entra ID")


async def _connect(pool: Pool, server: Server, seconds: float) -> list[TestStep]:
    started = trio.current_time()
    try:
        with trio.fail_after(seconds):
            found = await pool.diagnose(UpstreamEndpoint.to(server).origin)
    except trio.TooSlowError:
        elapsed = trio.current_time() - started
        return [TestStep("connect", False, elapsed, f"no connection within {seconds:g} s")]
    return [TestStep(one.name, one.error is None, one.seconds, one.error or one.detail) for one in found]


async def _list_models(pool: Pool, server: Server, seconds: float) -> tuple[ProbeResult, TestStep]:
    """With each key. A key that the server rejects fails the step, which names its end."""
    lists = not server.models
    listed = await probe(pool, server, seconds=seconds, list_models=lists)
    if not server.more_keys:
        return listed, _models_step(server, listed)
    rejected = [server.api_keys[0]] if listed.key_refused else []
    total = listed.seconds
    for key in server.more_keys:
        other = await probe(pool, structs.replace(server, api_key=key), seconds=seconds, list_models=lists)
        total += other.seconds
        if other.key_refused:
            rejected.append(key)
        elif listed.key_refused:
            listed = other
    if rejected:
        ends = ", ".join(f"…{last_four(key)}" for key in rejected)
        message = f"the server rejected {len(rejected)} of {len(server.api_keys)} keys: {ends}"
        return listed, TestStep("models", False, total, message)
    step = _models_step(server, listed)
    count = f", with each of {len(server.api_keys)} keys" if step.ok else ""
    return listed, structs.replace(step, seconds=total, message=step.message + count)


def _models_step(server: Server, listed: ProbeResult) -> TestStep:
    if listed.error is not None:
        return TestStep("models", False, listed.seconds, listed.error, listed.key_refused)
    count = len(server.models or listed.models or ())
    source = "configured" if server.models else "listed by the server"
    return TestStep("models", True, listed.seconds, f"{count} {source}")


def _likely_chat_model(names: Sequence[str]) -> str:
    """The first model that does not look like one for embeddings or media. "" if there is no model."""
    return next((name for name in names if not any(part in name.lower() for part in _NO_CHAT)), "")


async def _complete(pool: Pool, clock: Clock, server: Server, model: str, seconds: float) -> TestStep:
    started = trio.current_time()

    def step(ok: bool, message: str) -> TestStep:
        return TestStep("completion", ok, trio.current_time() - started, message)

    plan = make_plan(_CHAT, server)
    if plan is None or not model:
        return step(True, "skipped: the server has no model for conversations")
    if server.api_key is None and server.keyless:
        return step(True, "skipped: the server only accepts keys of clients")
    try:
        with trio.fail_after(seconds):
            status, body = await _send(pool, server, plan, model, clock.now_ms() // 1000, seconds)
    except (UpstreamError, InvalidRequest) as exc:
        return step(False, f"{model}: {exc}")
    except trio.TooSlowError:
        return step(False, f"{model}: no response within {seconds:g} s")
    if status >= 400:
        error = read_error(status, body)
        if DIALECTS[server.dialect].refuses_key(status, error):
            return structs.replace(
                step(False, f"{status}: the server rejected the api_key"), key_refused=True
            )
        return step(False, f"{model}: {status}: {error.message}")
    return step(True, f"{model} responded")


async def _send(
    pool: Pool, server: Server, plan: Plan, model: str, created: int, seconds: float
) -> tuple[int, bytes]:
    endpoint = UpstreamEndpoint.to(server)
    timeouts = Timeouts(seconds, seconds, seconds, seconds, seconds)
    headers = (*endpoint.headers_for(plan, ()), (b"content-type", b"application/json"))
    target = endpoint.target(plan.path, model, stream=False)
    body = _body(plan, model, created)
    response = await pool.request(b"POST", endpoint.origin, target, headers, body, timeouts=timeouts)
    try:
        return response.status, endpoint.redact(await response.read(1 << 20))
    finally:
        response.close()


def _body(plan: Plan, model: str, created: int) -> bytes:
    messages = [{"role": "user", "content": _QUESTION}]
    question = {"model": model, "messages": messages, "max_completion_tokens": MAX_OUTPUT}
    fields = read_fields(json.encode(question))
    if not plan.translated:
        return write_fields(fields if plan.adapt is None else plan.adapt(fields))
    conversation = codec_of("chat").decode_request(fields, created)
    options = EncodingOptions(model=model, max_output=MAX_OUTPUT, bound=plan.bound)
    return write_fields(codec_of(plan.format).encode_request(conversation, options).fields)
