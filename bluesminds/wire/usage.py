"""Reads usage reports of all servers into one form, and estimates missing counts.

Formats: OpenAI chat (prompt_tokens, *_details) and Responses (input_tokens), Anthropic
(cache_read_input_tokens, cache_creation_input_tokens, thinking_tokens), DeepSeek (prompt_cache_hit_tokens),
Moonshot (cached_tokens), Cohere (billed_units, tokens), Jina and Voyage (total_tokens alone), Gemini
(usageMetadata), OpenRouter and LiteLLM (cost, in USD). A count is an integer from 0 to MAX_TOKENS; some
servers write it as 5.0. Any other value of a main count makes the report implausible; any other value of a
detail is ignored.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, structs

from bluesminds.common.money import MAX_USD, NANO
from bluesminds.common.values import NO_AMOUNT, Usage
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.json_text import NOT_JSON, read_value

MAX_TOKENS = 10**8  # a value above this is an error
BYTES_PER_TOKEN = 4  # the usual rule of thumb for English text
# A report of less than 1 token per 40 bytes of delivered text is impossible: real text has 2 to 6 bytes per
# token. The first bytes do not count, because proxies insert short texts that cost no tokens.
MOST_BYTES_PER_TOKEN = 40
FREE_BYTES = 1000
MAX_TIER = 32  # characters of the name of a service tier
MAX_COST_TEXT = 64  # characters
CONTEXTS = 10
_STANDARD_TIERS = frozenset(("", "default", "standard", "auto"))

_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_OUTPUT = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_CACHE_READ = (
    "cache_read_input_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "cachedContentTokenCount",
)
_CACHE_WRITE_DETAIL = ("cache_write_tokens", "cache_creation_tokens")
_CACHE_WRITE = ("cache_creation_input_tokens",)
_CACHE_WRITE_HOUR = ("ephemeral_1h_input_tokens",)  # Anthropic's, in `cache_creation`
_REASONING_DETAIL = ("reasoning_tokens", "thinking_tokens")
_REASONING = ("reasoning_tokens", "thoughtsTokenCount")
_MEDIA_DETAILS = ("audio_tokens", "image_tokens")
_OTHER_UNITS = (
    "cache_write_hour_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
    "images",
    "audio_ms",
    "characters",
)


class ImplausibleUsage(ValueError):
    """The report is impossible."""


_Count = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
_DetailCount = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class _PlainDetails(Struct, gc=False):
    cached_tokens: _DetailCount | None = None
    cache_write_tokens: None = None
    cache_creation_tokens: None = None
    reasoning_tokens: _DetailCount | None = None
    audio_tokens: Literal[0] | None = None
    image_tokens: Literal[0] | None = None


class _PlainReport(Struct, gc=False, forbid_unknown_fields=True):
    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: _PlainDetails | None = None
    completion_tokens_details: _PlainDetails | None = None


_plain_report = msgspec.json.Decoder(_PlainReport)


def _read_plain(raw: Raw | bytes) -> Usage | None:
    """A fast path for OpenAI's own reports of text (a fifth of the time). None for any other report, or if
    its parts do not add up.
    """
    try:
        report = _plain_report.decode(raw)
    except NOT_JSON:
        return None
    input_, output = report.prompt_tokens, report.completion_tokens
    details, output_details = report.prompt_tokens_details, report.completion_tokens_details
    cached = None if details is None else details.cached_tokens
    reasoning = None if output_details is None else output_details.reasoning_tokens
    if report.total_tokens != input_ + output or (cached or 0) > input_ or (reasoning or 0) > output:
        return None
    return Usage(input_, output, cached, None, reasoning, "upstream")


def with_tier(usage: Usage | None, tier: object) -> Usage | None:
    """The usage with the service tier that the response names, unless that is the standard one."""
    if usage is None or not isinstance(tier, str) or tier in _STANDARD_TIERS or len(tier) > MAX_TIER:
        return usage
    return structs.replace(usage, service_tier=tier)


def read_usage(raw: Raw | bytes, *, cache_beside: bool = False, total_is_input: bool = False) -> Usage | None:
    """The usage in a server's report; None without counts. Raises ImplausibleUsage.

    `cache_beside`: the input excludes tokens read from and written to a cache (Anthropic). `total_is_input`:
    a total without other counts is the input (embeddings, rerank).
    """
    if not cache_beside and (plain := _read_plain(raw)) is not None:
        return plain
    try:
        report = read_value(raw)
    except NOT_JSON:
        raise ImplausibleUsage from None
    if not isinstance(report, dict):
        raise ImplausibleUsage
    for name in ("billed_units", "tokens"):
        if isinstance(inner := report.get(name), dict) and any(key in inner for key in (*_INPUT, *_OUTPUT)):
            report = inner
            break
    return _normalise(report, cache_beside=cache_beside, total_is_input=total_is_input)


def _normalise(report: dict[str, Any], *, cache_beside: bool, total_is_input: bool) -> Usage | None:
    input_, output = _main(report, _INPUT), _main(report, _OUTPUT)
    total = _first(report, _TOTAL)
    cache_read = _detail(report, _INPUT_DETAILS, ("cached_tokens",), _CACHE_READ)
    cache_write = _detail(report, _INPUT_DETAILS, _CACHE_WRITE_DETAIL, _CACHE_WRITE)
    reasoning = _detail(report, _OUTPUT_DETAILS, _REASONING_DETAIL, _REASONING)
    if cache_beside and input_ is not None:
        input_ += (cache_read or 0) + (cache_write or 0)
    if tools := _count(report.get("toolUsePromptTokenCount")):
        input_ = (input_ or 0) + tools
    cached = (cache_read or 0) + (cache_write or 0)
    input_, output = _with_total(input_, output, total, cached, reasoning or 0, total_is_input)
    if input_ is None and output is None:
        return None
    if input_ is not None and cache_read is not None:
        cache_read = min(cache_read, input_)
    if input_ is not None and cache_write is not None:
        cache_write = min(cache_write, input_ - (cache_read or 0))
    if output is not None and reasoning is not None:
        reasoning = min(reasoning, output)
    usage = Usage(input_, output, cache_read, cache_write, reasoning, "upstream")
    if cache_write and (hour := _detail(report, ("cache_creation",), _CACHE_WRITE_HOUR, ())):
        usage = structs.replace(usage, cache_write_hour_tokens=min(hour, cache_write))
    if (tier := report.get("service_tier")) is not None:  # Anthropic
        usage = with_tier(usage, tier) or usage
    if (cost := report.get("cost")) is not None:
        usage = structs.replace(usage, cost=read_cost(cost))
    inputs = [_detail(report, _INPUT_DETAILS, (name,), ()) for name in _MEDIA_DETAILS]
    outputs = [_detail(report, _OUTPUT_DETAILS, (name,), ()) for name in _MEDIA_DETAILS]
    return _with_media(usage, inputs, outputs) if any(inputs) or any(outputs) else usage


def _with_media(usage: Usage, inputs: Sequence[int | None], outputs: Sequence[int | None]) -> Usage:
    """`inputs` and `outputs`: tokens of audio and of images. They cannot be more than the main counts."""
    audio_input, image_input = [min(count or 0, usage.input_tokens or 0) or None for count in inputs]
    audio_output, image_output = [min(count or 0, usage.output_tokens or 0) or None for count in outputs]
    return structs.replace(
        usage,
        audio_input_tokens=audio_input,
        audio_output_tokens=audio_output,
        image_input_tokens=image_input,
        image_output_tokens=image_output,
    )


def _with_total(
    input_: int | None,
    output: int | None,
    total: int | None,
    cached: int,
    reasoning: int,
    total_is_input: bool,
) -> tuple[int | None, int | None]:
    """Correct both counts with the total. It adds missing counts and raises them, and never lowers one."""
    if not total:
        if output is not None and reasoning > output:  # it cannot be inside
            output += reasoning
        return input_, output
    if input_ is None and output is None:
        return (total, None) if total_is_input else (None, None)
    if output is None:
        return input_, None if total_is_input else max(total - (input_ or 0), 0)
    if input_ is None:
        return max(total - output, 0), output
    more = total - input_ - output
    if more > 0 and more == cached != reasoning:
        return input_ + more, output
    return input_, output + max(more, 0)


def _main(report: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first count above 0. Raises ImplausibleUsage if a value is not a count."""
    found = None
    for name in names:
        if (value := report.get(name)) is not None:
            count = _count(value)
            if count is None:
                raise ImplausibleUsage
            if count:
                return count
            found = 0
    return found


def _detail(
    report: dict[str, Any], groups: tuple[str, ...], names: tuple[str, ...], outside: tuple[str, ...]
) -> int | None:
    """The nested value has priority over one next to the main counts."""
    for group in groups:
        if isinstance(details := report.get(group), dict) and (found := _first(details, names)) is not None:
            return found
    return _first(report, outside)


def _first(report: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        if (count := _count(report.get(name))) is not None:
            return count
    return None


def read_cost(value: object) -> int | None:
    """Nano-USD of an amount of USD: a number, or its text, such as 2.85e-05. NO_AMOUNT for a number that is
    negative, not finite or too large; None for anything else.
    """
    if isinstance(value, str):
        try:
            value = float(value[:MAX_COST_TEXT])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(value * NANO) if 0 <= value <= MAX_USD else NO_AMOUNT


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOKENS:
        return None
    return int(value) if value == int(value) else None


def add_usage(one: Usage, other: Usage) -> Usage:
    """The usage of two attempts together. It is estimated if one of them is."""
    counts: dict[str, Any] = {
        name: None if mine is None and theirs is None else (mine or 0) + (theirs or 0)
        for name in Usage.__struct_fields__
        if name not in ("usage_source", "service_tier")
        for mine, theirs in [(getattr(one, name), getattr(other, name))]
    }
    source = "estimated" if "estimated" in (one.usage_source, other.usage_source) else one.usage_source
    return Usage(
        usage_source=source,
        service_tier=one.service_tier,
        **counts | {"cost": _sum_of_costs(one.cost, other.cost)},
    )


def _sum_of_costs(one: int | None, other: int | None) -> int | None:
    """Unknown if one of them is, and no amount if one of them is none."""
    if one is None or other is None:
        return None
    return NO_AMOUNT if NO_AMOUNT in (one, other) else one + other


def merge_reports(later: Usage, earlier: Usage | None) -> Usage:
    """The later report, with missing and zero counts taken from the earlier one."""
    if earlier is None:
        return later
    input_, output = later.input_tokens, later.output_tokens
    cache_read, cache_write, reasoning = (
        later.cache_read_tokens,
        later.cache_write_tokens,
        later.reasoning_tokens,
    )
    if input_ is None or (earlier.input_tokens and input_ in (0, earlier.input_tokens)):
        input_ = earlier.input_tokens
        cache_read, cache_write = (
            _larger(cache_read, earlier.cache_read_tokens),
            _larger(cache_write, earlier.cache_write_tokens),
        )
    if output is None or (earlier.output_tokens and output in (0, earlier.output_tokens)):
        output = earlier.output_tokens
        reasoning = _larger(reasoning, earlier.reasoning_tokens)
    units = {name: _larger(getattr(later, name), getattr(earlier, name)) for name in _OTHER_UNITS}
    tier = later.service_tier or earlier.service_tier
    cost = earlier.cost if later.cost is None else later.cost
    return Usage(
        input_,
        output,
        cache_read,
        cache_write,
        reasoning,
        later.usage_source,
        **units,
        service_tier=tier,
        cost=cost,
    )


def _larger(one: int | None, other: int | None) -> int | None:
    return max(one or 0, other or 0) if one is not None or other is not None else None


def estimate_input(text_bytes: int) -> int:
    return -(-text_bytes // BYTES_PER_TOKEN)


def expected_input(request: RequestFacts) -> int:
    """The gateway's own count, which no report of a server changes."""
    return estimate_input(request.text_bytes) + request.media_tokens


def estimate_output(delivered: int, pieces: int, request: RequestFacts) -> int:
    """The tokens of `delivered` bytes of text in `pieces` pieces: at least one token per piece, and at most
    the maximum of the request.
    """
    tokens = max(-(-delivered // BYTES_PER_TOKEN), pieces)
    if request.max_output is None:
        return tokens
    return min(tokens, request.max_output * request.choices)


def is_too_large(
    usage: Usage, request: RequestFacts, context_length: int | None, own_output: int | None
) -> bool:
    """Whether a report is more than the model could have used: ten times its context, or an answer of twice
    the request's maximum with more tokens than bytes. Tools at the server may use the context several times.
    """
    if context_length and (usage.input_tokens or 0) + (usage.output_tokens or 0) > CONTEXTS * context_length:
        return True
    if request.max_output is None or usage.output_tokens is None or own_output is None:
        return False
    written = usage.output_tokens - (usage.reasoning_tokens or 0)
    maximum = request.max_output * request.choices
    return written > 2 * maximum and written > BYTES_PER_TOKEN * own_output


def settle_usage(
    reported: Usage | None,
    request: RequestFacts,
    *,
    delivered: int,
    pieces: int,
    complete: bool = True,
) -> tuple[Usage, bool]:
    """The usage to charge, and whether the report was implausible. For JSON answers and streams.

    Missing and impossible counts are estimated. Impossible are: an input of 0; an output of 0 if text was
    delivered; an output of less than one token per MOST_BYTES_PER_TOKEN bytes of a long text. If the report
    is not `complete`, the answer continued after it, so the output is at least the estimate of the delivered
    text. Tokens are not estimated for an answer that is measured in another unit.
    """
    if not request.text_answer:
        return _settle_media(reported, request), False
    if reported is not None and reported.input_tokens is None and reported.output_tokens is None:
        return reported, False
    if reported is None:
        expected = estimate_output(delivered, pieces, request)
        return Usage(expected_input(request), expected, usage_source="estimated"), False
    input_, output = reported.input_tokens, reported.output_tokens
    if input_ and output and complete and delivered <= FREE_BYTES:
        return reported, False
    expected = estimate_output(delivered, pieces, request)
    no_input = input_ == 0 and request.text_bytes > 0
    too_low = output is not None and (
        (output == 0 and pieces > 0) or output * MOST_BYTES_PER_TOKEN < delivered - FREE_BYTES
    )
    if output is None or too_low or (not complete and output < expected):
        output = max(output or 0, expected, reported.reasoning_tokens or 0)
    if input_ is None or no_input:
        cached = (reported.cache_read_tokens or 0) + (reported.cache_write_tokens or 0)
        input_ = max(expected_input(request), cached)
    if (input_, output) == (reported.input_tokens, reported.output_tokens):
        return reported, False
    settled = structs.replace(reported, input_tokens=input_, output_tokens=output, usage_source="estimated")
    return settled, complete and (no_input or too_low)


def _settle_media(reported: Usage | None, request: RequestFacts) -> Usage:
    """The usage of an answer with audio or images. Output tokens are unknown unless they are reported."""
    reported = reported or Usage()
    if reported.input_tokens is not None:
        return structs.replace(reported, characters=request.characters)
    return structs.replace(
        reported,
        input_tokens=expected_input(request),
        usage_source="estimated",
        characters=request.characters,
    )
