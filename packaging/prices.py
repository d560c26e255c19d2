"""Build the table of prices from two wheels: `python packaging/prices.py genai_prices.whl litellm.whl`.

genai-prices has the better data: dates, long contexts, service tiers. LiteLLM's table adds the models that it
lacks, units other than tokens, and the maximum output. The wheels are read, not imported. Prints what has
changed since the last table; if nothing has, the file stays the same.
"""

import ast
import json
import lzma
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zipfile import ZipFile

TABLE = Path(__file__).resolve().parent.parent / "bluesminds" / "app" / "prices.json.xz"
NANO_PER_USD = 10**9
MILLION = 10**6

# The names of vendors in the gateway, by the names in each source. The first vendors have priority if a model
# is looked up by its name alone, so the makers of models come first.
GENAI_VENDORS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "gemini",
    "mistral": "mistral",
    "x-ai": "xai",
    "deepseek": "deepseek",
    "cohere": "cohere",
    "perplexity": "perplexity",
    "moonshotai": "moonshotai",
    "zai": "zai",
    "minimax": "minimax",
    "meta": "meta",
    "voyageai": "voyage",
    "elevenlabs": "elevenlabs",
    "azure": "azure",
    "groq": "groq",
    "cerebras": "cerebras",
    "together": "together",
    "fireworks": "fireworks",
    "novita": "novita",
    "baseten": "baseten",
    "openrouter": "openrouter",
}
LITELLM_VENDORS = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "mistral": "mistral",
    "codestral": "mistral",
    "xai": "xai",
    "deepseek": "deepseek",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "perplexity": "perplexity",
    "moonshot": "moonshotai",
    "zai": "zai",
    "minimax": "minimax",
    "voyage": "voyage",
    "elevenlabs": "elevenlabs",
    "jina_ai": "jina",
    "deepgram": "deepgram",
    "azure": "azure",
    "groq": "groq",
    "cerebras": "cerebras",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "fireworks_ai-embedding-models": "fireworks",
    "deepinfra": "deepinfra",
    "nvidia_nim": "nvidia",
    "featherless_ai": "featherless",
}
GENAI_UNITS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "output_image_mtok": "image_output",
}
LITELLM_UNITS = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_hour",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
}
LITELLM_OTHER_UNITS = {
    "audio_transcription": {"input_cost_per_second": "second"},
    "audio_speech": {"input_cost_per_character": "character"},
    "image_generation": {"output_cost_per_image": "image", "input_cost_per_image": "image"},
    "image_edit": {"output_cost_per_image": "image", "input_cost_per_image": "image"},
    "rerank": {"input_cost_per_query": "request"},
}
SERVICE_TIERS = ("flex", "priority")
_ABOVE = re.compile(r"(.+)_above_(\d+)k_tokens")
_PICTURE_SIZE = re.compile(r"\d+-x-\d+")  # such names are a vendor's price list, not models

Rates = dict[str, int]
Steps = list[list[Any]]  # [from this many input tokens on, rates]
Row = dict[str, Any]
Vendors = dict[str, dict[str, list[Row]]]


class Node:
    """A call in the source of genai-prices: the name of the class and its arguments."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.fields = fields

    def get(self, name: str) -> Any:  # noqa: ANN401
        return self.fields.get(name)


def main(genai: Path, litellm: Path) -> None:
    vendors: Vendors = {
        name: {} for name in dict.fromkeys([*GENAI_VENDORS.values(), *LITELLM_VENDORS.values()])
    }
    for vendor, model, rows in read_genai(_member(genai, "genai_prices/data.py").decode()):
        vendors[vendor].setdefault(model, rows)
    listed = json.loads(_member(litellm, "litellm/model_prices_and_context_window_backup.json"))
    for vendor, model, row in read_litellm(listed):
        known = vendors[vendor].get(model)
        if known is None:
            vendors[vendor][model] = [row]
            continue
        for one in known:
            if "max_output" in row:
                one["max_output"] = row["max_output"]
            add_hour(one["steps"], row["steps"][0][1])
    sources = [_source(genai), _source(litellm)]
    rows = {name: dict(sorted(models.items())) for name, models in vendors.items() if models}
    write(sources, share_aliases(rows))


def add_hour(steps: Steps, listed: Rates) -> None:
    """The rate of cache writes for an hour, which genai-prices lacks: a multiple of the rate of input."""
    hour, base = listed.get("cache_write_hour"), listed.get("input")
    for _, rates in steps:
        if hour and base and rates.get("input") and "cache_write" in rates:
            rates["cache_write_hour"] = rates["input"] * hour // base


def _member(wheel: Path, name: str) -> bytes:
    with ZipFile(wheel) as archive:
        return archive.read(name)


def _source(wheel: Path) -> dict[str, str]:
    name, version, *_ = wheel.name.split("-")
    name = name.replace("_", "-")
    return {
        "name": name,
        "version": version,
        "licence": "MIT",
        "url": f"https://pypi.org/project/{name}/{version}/",
    }


def read_genai(source: str) -> Iterator[tuple[str, str, list[Row]]]:
    """Vendor, name of a model, and its prices from the oldest to the newest."""
    (table,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "providers" and node.value
    )
    for provider in _value(table):
        vendor = GENAI_VENDORS.get(provider.get("id"))
        for model in provider.get("models") or () if vendor else ():
            rows = _genai_rows(model)
            if rows:
                for name in dict.fromkeys([model.get("id"), *_equal_names(model.get("match"))]):
                    yield str(vendor), name.lower(), [dict(row) for row in rows]


def _value(node: ast.expr) -> Any:  # noqa: ANN401
    """The value of an expression; calls of classes are nodes."""
    match node:
        case ast.Constant():
            return node.value
        case ast.List():
            return [_value(one) for one in node.elts]
        case ast.Dict():
            return {
                _value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key
            }
        case ast.Call(func=ast.Name(id="Decimal")):
            return Decimal(_value(node.args[0]))
        case ast.Call(func=ast.Attribute(attr="date" | "time")):
            return [_value(one) for one in node.args]
        case ast.Call(func=ast.Name(id=name)):
            return Node(name, {one.arg: _value(one.value) for one in node.keywords if one.arg})
        case ast.Attribute():
            return None  # datetime.timezone.utc
    raise ValueError(f"line {node.lineno} of the data of genai-prices has an unknown form")


def _equal_names(match: Node) -> list[str]:
    """The names that match exactly. Prefixes would give new models the price of old ones."""
    if match.name == "ClauseEquals":
        return [match.get("equals")]
    if match.name == "ClauseOr":
        return [name for one in match.get("or_") for name in _equal_names(one)]
    return []


def _genai_rows(model: Node) -> list[Row]:
    prices = model.get("prices")
    rows: list[Row] = []
    for one in prices if isinstance(prices, list) else [Node("ConditionalPrice", {"prices": prices})]:
        steps = _genai_steps(one.get("prices"))
        if steps:
            rows.append(_conditions(one.get("constraint")) | {"steps": steps})
    tiers: dict[str, Steps] = {}
    for variant in model.get("price_variants") or ():
        tier = variant.get("when").get("service_tier")
        if (
            tier in SERVICE_TIERS
            and len(variant.get("when")) == 1
            and (steps := _genai_steps(variant.get("prices")))
        ):
            tiers[tier] = steps
    if rows and tiers:
        rows[-1]["tiers"] = tiers
    return rows


def _conditions(constraint: Node | None) -> Row:
    """`since` is a day, `hours` are minutes of the day in UTC."""
    if constraint is None:
        return {}
    if constraint.name == "StartDateConstraint":
        year, month, day = constraint.get("start_date")
        return {"since": f"{year:04}-{month:02}-{day:02}"}
    return {"hours": [_minutes(constraint.get("start_time")), _minutes(constraint.get("end_time"))]}


def _minutes(time: list[int]) -> int:
    return time[0] * 60 + (time[1] if len(time) > 1 and time[1] else 0)


def _genai_steps(prices: Node) -> Steps:
    at: dict[int, Rates] = {0: {}}
    for name, unit in GENAI_UNITS.items():
        price = prices.get(name)
        if price is None:
            continue
        if isinstance(price, Decimal):
            at[0][unit] = _nano(price)
            continue
        at[0][unit] = _nano(price.get("base"))
        for tier in price.get("tiers"):
            # The higher rate is charged above the threshold; a step begins with the tokens after it.
            at.setdefault(tier.get("start") + 1, {})[unit] = _nano(tier.get("price"))
    kilo = prices.get("requests_kcount")
    if isinstance(kilo, Decimal):
        at[0]["request"] = _nano(kilo * 1000)
    return _filled(at)


def _filled(at: dict[int, Rates]) -> Steps:
    """Each step has all rates: those that it does not name are the ones of the step before."""
    steps: Steps = []
    rates: Rates = {}
    for start in sorted(at):
        rates = rates | at[start]
        steps.append([start, rates])
    return steps if rates else []


def _nano(usd: Decimal) -> int:
    return round(usd * NANO_PER_USD)


def read_litellm(listed: dict[str, Any]) -> Iterator[tuple[str, str, Row]]:
    for full, entry in listed.items():
        provider = entry.get("litellm_provider")
        vendor = LITELLM_VENDORS.get(provider)
        if vendor is None or full.startswith("ft:") or _PICTURE_SIZE.search(full):
            continue
        steps = _litellm_steps(entry, "")
        if not steps:
            continue
        row: Row = {"steps": steps}
        # Flex and priority have the units of the standard price that they do not name.
        tiers = {
            tier: _filled({0: steps[0][1] | named[0][1], **dict(named[1:])})
            for tier in SERVICE_TIERS
            if (named := _litellm_steps(entry, f"_{tier}"))
        }
        if tiers:
            row["tiers"] = tiers
        if isinstance(most := entry.get("max_output_tokens"), int) and 0 < most <= 10**7:
            row["max_output"] = most
        yield vendor, full.removeprefix(f"{provider}/").lower(), row


def _litellm_steps(entry: dict[str, Any], suffix: str) -> Steps:
    at: dict[int, Rates] = {0: {}}
    for field, usd in entry.items():
        if not isinstance(usd, int | float) or not field.endswith(suffix):
            continue
        name, start = field.removesuffix(suffix), 0
        if above := _ABOVE.fullmatch(name):
            name, start = above[1], int(above[2]) * 1000 + 1
        if unit := LITELLM_UNITS.get(name):
            at.setdefault(start, {})[unit] = _nano(Decimal(repr(usd)) * MILLION)
    if not suffix and not any(at[0].values()):
        for name, unit in LITELLM_OTHER_UNITS.get(entry.get("mode", ""), {}).items():
            if isinstance(usd := entry.get(name), int | float) and usd:
                at[0][unit] = _nano(Decimal(repr(usd)) * MILLION)
    return _filled(at)


def share_aliases(vendors: Vendors) -> dict[str, dict[str, list[Row] | str]]:
    """A name with the same prices as an earlier one of the vendor has only that name."""
    shared: dict[str, dict[str, list[Row] | str]] = {}
    for vendor, models in vendors.items():
        first: dict[str, str] = {}
        mine = shared[vendor] = {}
        for name, rows in models.items():
            text = json.dumps(rows, sort_keys=True)
            original = first.setdefault(text, name)
            mine[name] = rows if original == name else original
    return shared


def write(sources: list[dict[str, str]], vendors: dict[str, Any]) -> None:
    before = json.loads(lzma.decompress(TABLE.read_bytes())) if TABLE.exists() else {"vendors": {}}
    old, new = _flat(before["vendors"]), _flat(vendors)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            print(f"{name}: {_shown(old.get(name))} -> {_shown(new.get(name))}")
    if old == new and before.get("sources") == sources:
        print(f"unchanged since {before['date']}")
        return
    table = {"date": datetime.now(UTC).date().isoformat(), "sources": sources, "vendors": vendors}
    text = json.dumps(table, separators=(",", ":"), sort_keys=False).encode()
    TABLE.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(new)} prices, {TABLE.stat().st_size} bytes")


def _flat(vendors: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{vendor}/{name}": models[rows] if isinstance(rows, str) else rows
        for vendor, models in vendors.items()
        for name, rows in models.items()
    }


def _shown(rows: list[Row] | None) -> str:
    return "no price" if rows is None else json.dumps(rows, sort_keys=True)


if __name__ == "__main__":
    wheels = {Path(name).name.partition("-")[0]: Path(name) for name in sys.argv[1:]}
    main(wheels["genai_prices"], wheels["litellm"])
