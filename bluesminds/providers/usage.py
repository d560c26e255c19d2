"""A server's own account of the tokens of an answer, believed field by field.

Format: the `usage` object of OpenAI's chat completions. A count is a whole number from 0 to MAX_TOKENS; some
servers write it as 5.0. A main count that is anything else makes the whole report unbelievable; a detail that
is, is merely unknown.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.values import Usage

MAX_TOKENS = 10**8  # a usage figure above this is a fault, not a count


class _PromptDetails(Struct):
    cached_tokens: int | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class _Report(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


_report = msgspec.json.Decoder(_Report)
_anything = msgspec.json.Decoder()


class Implausible(ValueError):
    """The report cannot be true."""


def read_usage(raw: Raw) -> Usage | None:
    """None when it says nothing. Raises Implausible."""
    try:
        report = _report.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_odd(raw)
    prompt, completion = report.prompt_tokens_details, report.completion_tokens_details
    usage = Usage(
        input=report.prompt_tokens,
        output=report.completion_tokens,
        cache_read=prompt.cached_tokens if prompt else None,
        reasoning=completion.reasoning_tokens if completion else None,
        source="upstream",
    )
    if all(
        count is None or 0 <= count <= MAX_TOKENS
        for count in (usage.input, usage.output, usage.cache_read, usage.reasoning)
    ):
        return _if_any(usage)
    return _read_odd(raw)


def _read_odd(raw: Raw) -> Usage | None:
    try:
        report = _anything.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Implausible from None
    if not isinstance(report, dict):
        raise Implausible
    usage = Usage(
        input=_main_count(report, "prompt_tokens"),
        output=_main_count(report, "completion_tokens"),
        cache_read=_detail(report, "prompt_tokens_details", "cached_tokens"),
        reasoning=_detail(report, "completion_tokens_details", "reasoning_tokens"),
        source="upstream",
    )
    return _if_any(usage)


def _if_any(usage: Usage) -> Usage | None:
    return usage if usage.input is not None or usage.output is not None else None


def _main_count(report: dict[str, Any], name: str) -> int | None:
    value = report.get(name)
    count = _count(value)
    if count is None and value is not None:
        raise Implausible
    return count


def _detail(report: dict[str, Any], group: str, name: str) -> int | None:
    details = report.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOKENS:
        return None
    return int(value) if value == int(value) else None
