"""POST /completions: text after a prompt."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Any

from msgspec import Meta, Struct

from bluesminds.providers.demo.chat import DemoStreamOptions
from bluesminds.providers.demo.script import CREATED, DemoError, Script, identifier, read, response, stream
from bluesminds.providers.demo.text import alternatives, logprob, prose, tokens_of, truncate, usage_of

_DEFAULT_TOKENS = 16  # as OpenAI's
_MAX_TOKENS = 2048  # of a completion
_MAX_PROMPTS = 16


class _CompletionRequest(Struct):
    model: str
    prompt: str | list[str | int | list[int]] | None = None
    suffix: str | None = None
    echo: bool | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: DemoStreamOptions | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None


class _Completion(Struct, frozen=True):
    """One of the `n` completions of a prompt."""

    echoed: list[str]
    tokens: list[str]
    finish: str


def texts_of(given: str | list[Any], param: str) -> list[str]:
    """The texts of `prompt` or `input`: texts or lists of token numbers, one or several. Raises DemoError."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(item, int) for item in given):
        given = [given]
    if any(isinstance(item, int) for item in given):
        raise DemoError(f"{param} mixes texts and token numbers in one list.", param)
    return [item if isinstance(item, str) else " ".join(f"<{number}>" for number in item) for item in given]


def completions(body: bytes) -> Script:
    """Raises DemoError."""
    request = read(body, _CompletionRequest)
    prompts = texts_of(request.prompt or "", "prompt")
    if not 1 <= len(prompts) <= _MAX_PROMPTS:
        raise DemoError(f"prompt must contain 1 to {_MAX_PROMPTS} texts.", "prompt")
    variations = [(request.seed or 0) + n for n in range(request.n or 1)]
    results = [_completion(request, prompt, variation) for prompt in prompts for variation in variations]
    prompt_tokens = sum(len(tokens_of(prompt)) for prompt in (*prompts, request.suffix or ""))
    usage = usage_of(prompt_tokens, 0, sum(len(one.tokens) for one in results))
    head = {"id": identifier("cmpl", body), "object": "text_completion", "created": CREATED}
    head |= {"model": request.model, "system_fingerprint": "fp_demo"}
    if request.stream:
        return stream(_chunks(request, head, results, usage))
    rows = [_row(request, n, one.echoed + one.tokens, one.finish) for n, one in enumerate(results)]
    return response(head | {"choices": rows, "usage": usage})


def _completion(request: _CompletionRequest, prompt: str, variation: int) -> _Completion:
    limit = _DEFAULT_TOKENS if request.max_tokens is None else min(request.max_tokens, _MAX_TOKENS)
    text = prompt.strip() or "(nothing)"
    if request.model != "demo/echo":
        text = prose(text + (request.suffix or ""), variation)
    tokens, finish = truncate(" " + text, request.stop, limit)
    return _Completion(tokens_of(prompt) if request.echo else [], tokens, finish)


def _chunks(
    request: _CompletionRequest, head: dict[str, Any], results: list[_Completion], usage: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    extra = {"usage": None} if include_usage else {}
    for n, one in enumerate(results):
        for token in one.echoed + one.tokens:
            yield head | {"choices": [_row(request, n, [token], None)]} | extra
        yield head | {"choices": [_row(request, n, [], one.finish)]} | extra
    if include_usage:
        yield head | {"choices": [], "usage": usage}


def _row(request: _CompletionRequest, index: int, tokens: list[str], finish: str | None) -> dict[str, Any]:
    logprobs = None
    if request.logprobs is not None:
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [logprob(token) for token in tokens],
            "top_logprobs": [
                {one: logprob(one) for one in alternatives(token, request.logprobs)} for token in tokens
            ],
            "text_offset": list(accumulate(map(len, tokens), initial=0))[:-1],
        }
    return {"index": index, "text": "".join(tokens), "finish_reason": finish, "logprobs": logprobs}
