"""Converts the configuration of a LiteLLM proxy into settings of the gateway.

The names are those of LiteLLM's documentation: docs.litellm.ai/docs/proxy/config_settings.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from bluesminds.cli.litellm_values import (
    LOCAL,
    REFERENCE,
    VENDORS,
    per_million,
    plain_number,
    read_seconds,
    read_secret,
    server_caps,
    split_model,
)

Lines = Mapping[tuple[str | int, ...], int]
"""Line numbers by path, such as ("model_list", 0) and ("router_settings", "timeout")."""

_POLICIES: Final = {
    "simple-shuffle": "weighted",
    "latency-based-routing": "least_latency",
    "least-busy": "least_busy",
    "cost-based-routing": "cheapest",
}
_FALLBACKS: Final = {
    "fallbacks": ("error", "limit", "timeout", "context_length"),
    "context_window_fallbacks": ("context_length",),
    "content_policy_fallbacks": ("content_filter",),
}
_RATES: Final = {
    "input_cost_per_token": "input_usd",
    "output_cost_per_token": "output_usd",
    "cache_read_input_token_cost": "cached_input_usd",
    "cache_creation_input_token_cost": "cache_write_usd",
    "cache_creation_input_token_cost_above_1hr": "cache_write_hour_usd",
    "output_cost_per_reasoning_token": "reasoning_usd",
}
_MAX_WEIGHT: Final = 10_000
# What its simple-shuffle reads, in this order: the first one that a deployment of the group has.
_WEIGHTS: Final = ("weight", "rpm", "tpm")
_READ: Final = {
    *("model", "api_key", "api_base", "base_url", "api_version", "custom_llm_provider", "extra_headers"),
    *("rpm", "max_parallel_requests", "timeout", "stream_timeout", "weight", "order", "organization"),
    *("region_name", "tags", *_RATES),
}
_BUDGETS: Final = {None: "usd_total", "1d": "usd_per_day", "24h": "usd_per_day"} | dict.fromkeys(
    ("30d", "1mo", "31d"), "usd_per_month"
)
_HINTS: Final = {
    ("general_settings", "master_key"): "create an administrator with `bluesminds users create --role admin`",
    ("general_settings", "database_url"): "its users create new API keys here",
    ("litellm_settings", "max_budget"): "set a budget for each tier, user or key",
    ("litellm_settings", "budget_duration"): "set a budget for each tier, user or key",
    ("litellm_settings", "drop_params"): "fields that a vendor does not support are removed anyway",
    ("litellm_settings", "set_verbose"): 'set level = "debug" in [log]',
}


class LitellmPlan(Struct, frozen=True):
    """`servers`, `routes` and `prices` are tables of gateway.toml, `sections` its other tables. A secret is
    text, or {"env": NAME}.
    """

    servers: list[dict[str, Any]]
    routes: list[dict[str, Any]]
    prices: list[dict[str, Any]]
    sections: dict[str, dict[str, Any]]
    left_out: list[str]


def plan_litellm(config: Mapping[str, Any], lines: Lines, environ: Mapping[str, str]) -> LitellmPlan:
    """`environ` is only used for addresses that LiteLLM reads from it; keys stay references."""
    return _Planner(config, lines, environ).plan()


class _Planner:
    def __init__(self, config: Mapping[str, Any], lines: Lines, environ: Mapping[str, str]) -> None:
        self._config = config
        self._lines = lines
        self._environ = environ
        self._plan = LitellmPlan([], [], [], {}, [])
        self._groups: dict[str, list[dict[str, Any]]] = {}  # targets by the name that clients use
        self._fallbacks: dict[str, tuple[list[str], list[str]]] = {}  # models and reasons

    def plan(self) -> LitellmPlan:
        for index, row in enumerate(_rows(self._config.get("model_list"))):
            self._add_deployment(index, row)
        self._add_aliases()
        self._add_fallbacks()
        self._add_routes()
        self._add_timeouts()
        self._add_budget()
        self._add_cache()
        self._name_the_rest()
        return self._plan

    def _leave_out(self, text: str, *where: str | int) -> None:
        line = self._lines.get(where)
        self._plan.left_out.append(text if line is None else f"line {line}: {text}")

    def _settings(self, section: str) -> Mapping[str, Any]:
        found = self._config.get(section)
        return found if isinstance(found, dict) else {}

    # Deployments

    def _add_deployment(self, index: int, row: Mapping[str, Any]) -> None:
        where = ("model_list", index)
        params = row.get("litellm_params")
        name = str(row.get("model_name") or "")
        if not isinstance(params, dict) or not name or not params.get("model"):
            self._leave_out("a model without model_name or litellm_params.model", *where)
            return
        title = f'model "{name}"'
        provider, model = split_model(str(params["model"]), params)
        vendor, variable = VENDORS.get(provider, ("", ""))
        if not vendor:
            self._leave_out(f'{title}: its provider "{provider or model}" has no vendor here', *where)
            return
        server = self._server(title, where, vendor, variable, params)
        if server is None:
            return
        unread = sorted(set(params) - _READ)
        if unread:
            self._leave_out(f"{title}: {', '.join(unread)}", *where)
        wild = model.endswith("*")
        found = self._place(server, "" if wild else model)
        if wild and name not in ("*", model):
            self._leave_out(f"{title}: clients use the names without {name[:-1]!r}", *where)
            return
        target: dict[str, Any] = {"server": found["name"]}
        if not wild and model != name:
            target["model"] = model
        if "order" in params:
            target["priority"] = int(params["order"])
        target["weight"] = {key: params.get(key) for key in _WEIGHTS}
        self._groups.setdefault(name, []).append(target)
        self._add_price(model, found["name"], params | (row.get("model_info") or {}))

    def _server(
        self, title: str, where: tuple[str, int], vendor: str, variable: str, params: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The server of a deployment, without its name and models. None: it cannot be imported."""
        given = params.get("api_base") or params.get("base_url")
        url = self._value(given)
        if url is None or (vendor == "azure" and not url):
            source = str(given).removeprefix(REFERENCE) if given else "api_base, which it does not have"
            self._leave_out(f"{title}: set its address, {source}, and import again", *where)
            return None
        server: dict[str, Any] = {} if url and vendor in ("openai", "litellm") else {"vendor": vendor}
        if vendor == "litellm" and url:
            server = {"dialect": "litellm"}
        if url:
            server["url"] = url.rstrip("/")
            if vendor in LOCAL and vendor != "litellm" and not re.search(r"/v\d+$", server["url"]):
                server["url"] += "/v1"
        key = params.get("api_key") or (f"{REFERENCE}{variable}" if variable else None)
        if key is not None and not (url and vendor == "openai" and str(key).lower() in ("none", "")):
            server["api_key"] = read_secret(str(key))
        if vendor == "azure" and (version := self._value(params.get("api_version"))):
            server["api_version"] = version
        headers = {
            str(one): read_secret(str(value)) for one, value in (params.get("extra_headers") or {}).items()
        }
        if organization := params.get("organization"):
            headers["OpenAI-Organization"] = read_secret(str(organization))
        return server | ({"headers": headers} if headers else {}) | server_caps(params)

    def _value(self, text: Any) -> str | None:  # noqa: ANN401
        """ "" if it is not given, None if its variable is not set."""
        if text is None:
            return ""
        text = str(text)
        return self._environ.get(text.removeprefix(REFERENCE)) if text.startswith(REFERENCE) else text

    def _place(self, server: dict[str, Any], model: str) -> dict[str, Any]:
        """The planned server that equals this one, with the model. A server with caps has one model."""
        capped = "rpm" in server or "max_concurrency" in server
        for one in self._plan.servers:
            rest = {key: value for key, value in one.items() if key not in ("name", "models")}
            if (
                rest == server
                and bool(model) == ("models" in one)
                and not (capped and model not in one["models"])
            ):
                if model and model not in one["models"]:
                    one["models"].append(model)
                return one
        named = {"name": self._free_name(server)} | server | ({"models": [model]} if model else {})
        self._plan.servers.append(named)
        return named

    def _free_name(self, server: Mapping[str, Any]) -> str:
        host = urlsplit(server.get("url", "")).hostname or ""
        label = "" if re.fullmatch(r"[\d.:a-f]*", host) else host.split(".")[0]
        base = re.sub(r"[^a-z0-9_-]+", "-", (label or server.get("vendor", "") or "server").lower()).strip(
            "-"
        )
        if server.get("vendor") in LOCAL:
            base = server["vendor"]
        taken = {one["name"] for one in self._plan.servers}
        names = (base if number == 1 else f"{base}-{number}" for number in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _add_price(self, model: str, server: str, params: Mapping[str, Any]) -> None:
        rates = {ours: per_million(params[theirs]) for theirs, ours in _RATES.items() if theirs in params}
        row = {"model": model, "server": server} | {name: rate for name, rate in rates.items() if rate}
        if len(row) > 2 and row not in self._plan.prices and not model.endswith("*"):
            self._plan.prices.append(row)

    # Routes

    def _add_aliases(self) -> None:
        aliases = self._settings("router_settings").get("model_group_alias")
        for alias, given in (aliases if isinstance(aliases, dict) else {}).items():
            name = str(given.get("model", "")) if isinstance(given, dict) else str(given)
            if name not in self._groups:
                where = ("router_settings", "model_group_alias")
                self._leave_out(f'alias "{alias}": there is no model "{name}"', *where)
                continue
            # The server must get the name that it knows.
            self._groups[str(alias)] = [{"model": name} | target for target in self._groups[name]]

    def _add_fallbacks(self) -> None:
        for section in ("litellm_settings", "router_settings"):
            settings = self._settings(section)
            for key, reasons in _FALLBACKS.items():
                for row in _rows(settings.get(key)):
                    for model, others in row.items():
                        self._add_fallback(section, key, str(model), others, reasons)
            default = settings.get("default_fallbacks")
            if default:
                for model in list(self._groups):
                    self._add_fallback(
                        section, "default_fallbacks", model, default, _FALLBACKS["fallbacks"], default=True
                    )

    def _add_fallback(
        self,
        section: str,
        key: str,
        model: str,
        others: Any,  # noqa: ANN401
        reasons: Sequence[str],
        *,
        default: bool = False,
    ) -> None:
        names = others if isinstance(others, list) else [others]
        models, known = self._fallbacks.setdefault(model, ([], []))
        for other in names:
            if not isinstance(other, str):
                self._leave_out(f'{key} of "{model}": a fallback with its own parameters', section, key)
            elif model not in self._groups or other not in self._groups:
                self._leave_out(f'{key}: "{model}" to "{other}": there is no such model', section, key)
            elif other == model or other in models:
                continue
            elif model in self._reachable(other):
                if not default:
                    self._leave_out(f'{key}: "{model}" to "{other}" would be a loop', section, key)
                continue
            else:
                models.append(other)
        if models:
            known.extend(reason for reason in reasons if reason not in known)

    def _reachable(self, model: str) -> set[str]:
        found, waiting = {model}, [model]
        while waiting:
            for other in self._fallbacks.get(waiting.pop(), ([], []))[0]:
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return found

    def _add_routes(self) -> None:
        strategy = self._settings("router_settings").get("routing_strategy", "simple-shuffle")
        policy = _POLICIES.get(strategy, "weighted")
        if strategy not in _POLICIES:
            text = f'routing_strategy "{strategy}": "{policy}" is used'
            self._leave_out(text, "router_settings", "routing_strategy")
        offered = [model for server in self._plan.servers for model in server.get("models", ())]
        for name, targets in self._groups.items():
            fallback, reasons = self._fallbacks.get(name, ([], []))
            plain = len(targets) == 1 and "model" not in targets[0] and offered.count(name) == 1
            if plain and not fallback:
                continue
            if "*" in name[:-1]:
                self._leave_out(f'model "{name}": "*" is only possible at the end of a name')
                continue
            route: dict[str, Any] = {"model": name, "targets": _weighted(targets)}
            if len(targets) > 1:
                route["policy"] = policy
            if fallback:
                route |= {"fallback": fallback, "fallback_on": reasons}
            self._plan.routes.append(route)

    # Everything else

    def _add_timeouts(self) -> None:
        router, library = self._settings("router_settings"), self._settings("litellm_settings")
        upstream: dict[str, Any] = {}
        if (timeout := router.get("timeout", library.get("request_timeout"))) is not None:
            upstream["total_timeout"] = read_seconds(timeout)
        if (stream := router.get("stream_timeout")) is not None:
            upstream["first_token_timeout"] = read_seconds(stream)
        if (retries := router.get("num_retries", library.get("num_retries"))) is not None:
            upstream["attempts"] = min(20, int(retries) + 1)
        if (fails := router.get("allowed_fails", library.get("allowed_fails"))) is not None:
            upstream["eject_after"] = int(fails) + 1
        if (cooldown := router.get("cooldown_time", library.get("cooldown_time"))) is not None:
            upstream["eject_seconds"] = read_seconds(cooldown)
        if upstream:
            self._plan.sections["upstream"] = upstream

    def _add_budget(self) -> None:
        """What every new user of LiteLLM gets becomes the limits of the tier that new users get here."""
        library = self._settings("litellm_settings")
        given = library.get("default_internal_user_params")
        given = given if isinstance(given, dict) else {}
        budget = given.get("max_budget", library.get("max_internal_user_budget"))
        duration = given.get("budget_duration", library.get("internal_user_budget_duration"))
        tier: dict[str, Any] = {}
        if budget is not None and duration in _BUDGETS:
            tier[_BUDGETS[duration]] = plain_number(Decimal(str(budget)))
        elif budget is not None:
            key = "default_internal_user_params"
            self._leave_out(f'a budget of {budget} USD for "{duration}"', "litellm_settings", key)
        for theirs, ours in (("rpm_limit", "rpm"), ("tpm_limit", "tpm")):
            if given.get(theirs) is not None:
                tier[ours] = int(given[theirs])
        if tier:
            self._plan.sections["tiers.free"] = tier

    def _add_cache(self) -> None:
        library = self._settings("litellm_settings")
        if library.get("cache") is True:
            cache: dict[str, Any] = {"enabled": True}
            params = library.get("cache_params")
            params = params if isinstance(params, dict) else {}
            if "ttl" in params:
                cache["ttl"] = max(60.0, read_seconds(params["ttl"]))
            if params.get("type", "local") != "local":
                text = f"the cache is in memory, not in {params['type']}"
                self._leave_out(text, "litellm_settings", "cache_params")
            self._plan.sections["cache"] = cache

    def _name_the_rest(self) -> None:
        read = {
            "router_settings": {
                *_FALLBACKS,
                *("routing_strategy", "model_group_alias", "timeout", "stream_timeout", "num_retries"),
                *("allowed_fails", "cooldown_time", "default_fallbacks"),
            },
            "litellm_settings": {
                *_FALLBACKS,
                *(
                    "request_timeout",
                    "num_retries",
                    "allowed_fails",
                    "cooldown_time",
                    "cache",
                    "cache_params",
                ),
                *("default_fallbacks", "default_internal_user_params", "max_internal_user_budget"),
                "internal_user_budget_duration",
            },
        }
        for section, value in self._config.items():
            if section == "model_list":
                continue
            if section == "environment_variables" and isinstance(value, dict):
                names = ", ".join(map(str, value))
                self._leave_out(f"{section}: set these in the environment of the gateway: {names}", section)
            elif section in ("router_settings", "litellm_settings", "general_settings") and isinstance(
                value, dict
            ):
                for key in value:
                    if key not in read.get(section, ()):
                        hint = _HINTS.get((section, key))
                        self._leave_out(f"{section}.{key}" + (f": {hint}" if hint else ""), section, key)
            else:
                self._leave_out(str(section), section)


def _rows(value: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401
    yield from (row for row in (value if isinstance(value, list) else ()) if isinstance(row, dict))


def _weighted(targets: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Targets with whole weights. Equal targets become one; one with nothing but a server is its name."""
    merged: list[tuple[dict[str, Any], float]] = []
    for target, weight in zip(targets, _weights(targets), strict=True):
        row = {key: value for key, value in target.items() if key != "weight"}
        at = next((index for index, (known, _) in enumerate(merged) if known == row), None)
        if at is None:
            merged.append((row, weight))
        else:
            merged[at] = (row, merged[at][1] + weight)
    whole = _whole([weight for _, weight in merged])
    found = [
        row | ({} if weight == 1 else {"weight": weight})
        for (row, _), weight in zip(merged, whole, strict=True)
    ]
    return [row["server"] if len(row) == 1 else row for row in found]


def _weights(targets: Sequence[Mapping[str, Any]]) -> list[float]:
    for key in _WEIGHTS:
        given = [float(target["weight"][key] or 0) for target in targets]
        if any(given):
            return given
    return [1.0] * len(targets)


def _whole(weights: Sequence[float]) -> list[int]:
    """In the same proportions, from 1 to 10,000."""
    largest = max(weights)
    smallest = min(weight for weight in weights if weight)
    scale = _MAX_WEIGHT / largest if largest > _MAX_WEIGHT else 1 if smallest >= 1 else 100
    whole = [max(1, min(_MAX_WEIGHT, round(weight * scale))) for weight in weights]
    common = math.gcd(*whole)
    return [weight // common for weight in whole]
