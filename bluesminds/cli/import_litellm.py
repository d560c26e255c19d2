"""import litellm: writes gateway.toml from the configuration of a LiteLLM proxy."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import echo_json, json_option
from bluesminds.cli.config import write_private
from bluesminds.cli.litellm_plan import LitellmPlan, plan_litellm
from bluesminds.cli.options import InvalidConfig
from bluesminds.config import MASK, ConfigError, load, toml_value

MAX_BYTES: Final = 10_000_000
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.command("litellm")
@click.argument("file", type=_FILE)
@click.option(
    "--apply", "apply_plan", is_flag=True, help="Write the configuration. Without it, nothing changes."
)
@click.option(
    "--output", type=_FILE, default="gateway.toml", show_default=True, help="The configuration to write."
)
@json_option
def import_litellm(file: Path, apply_plan: bool, output: Path, as_json: bool) -> None:
    """Import the configuration of a LiteLLM proxy.

    FILE is its config.yaml. Prints the plan, and what cannot be imported. With --apply, it writes
    a new gateway.toml: servers, routes, prices, timeouts and limits. Keys stay references to variables of the
    environment.
    """
    plan = read_litellm(file)
    text = configuration_text(plan, file.name)
    validate(text)
    if as_json:
        echo_json({"configuration": plan_json(plan), "left_out": plan.left_out})
    else:
        for line in plan_lines(plan):
            click.echo(exits.printable(line))
    if apply_plan:
        try:
            write_private(output, text, force=False)
        except FileExistsError:
            remedy = "choose another file with --output"
            raise exits.Failure(f"{output} exists already", exits.CONFLICT, remedy) from None
        except OSError as error:
            raise exits.Failure(f"{output} cannot be written: {error.strerror}") from None
        click.echo(f"wrote {output}; test it with `bluesminds check -c {output}`", err=True)
    elif not as_json:
        click.echo(f"nothing has been written; write {output} with --apply")


def read_litellm(file: Path) -> LitellmPlan:
    """Raises exits.Failure."""
    import yaml

    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise exits.Failure(f"{file} does not exist", exits.NOT_FOUND) from None
    except OSError as error:
        raise exits.Failure(f"{file} cannot be read: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise exits.Failure(f"{file} is larger than {MAX_BYTES // 1_000_000} MB", exits.USAGE)
    try:
        config = yaml.safe_load(text)
        lines = dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
    except yaml.MarkedYAMLError as error:
        where = f"{file}:{error.problem_mark.line + 1}" if error.problem_mark else str(file)
        raise exits.Failure(f"{where}: {error.problem}", exits.USAGE) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise exits.Failure(f"{file} is not YAML", exits.USAGE) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_list"), list):
        remedy = "name the config.yaml of a LiteLLM proxy"
        raise exits.Failure(f"{file} has no model_list", exits.USAGE, remedy)
    try:
        return plan_litellm(config, lines, os.environ)
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise exits.Failure(f"{file} has a value of the wrong type: {error}", exits.USAGE) from None


def _lines(root: Any) -> Iterator[tuple[tuple[str | int, ...], int]]:  # noqa: ANN401
    """The lines of sections, of the settings in them, and of the entries of lists."""
    for key, value in root.value if root is not None and root.id == "mapping" else ():
        yield (key.value,), key.start_mark.line + 1
        if value.id == "mapping":
            for inner, _ in value.value:
                yield (key.value, inner.value), inner.start_mark.line + 1
        elif value.id == "sequence":
            for index, entry in enumerate(value.value):
                yield (key.value, index), entry.start_mark.line + 1


def configuration_text(plan: LitellmPlan, origin: str) -> str:
    """The plan as TOML."""
    lines = [f"# Imported from {exits.printable(origin)} of LiteLLM."]
    lines += [exits.printable(f"# Not imported: {text}") for text in plan.left_out]
    for name, section in plan.sections.items():
        lines += ["", f"[{name}]", *_settings(section)]
    for name, rows in (("servers", plan.servers), ("routes", plan.routes), ("prices", plan.prices)):
        for row in rows:
            lines += ["", f"[[{name}]]", *_settings(row)]
    return "\n".join(lines) + "\n"


def _settings(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield f"{name} = {toml_value(value)}"


def validate(text: str) -> None:
    """Raises InvalidConfig."""
    with TemporaryDirectory(prefix="bluesminds-import-") as folder:
        path = Path(folder, "gateway.toml")
        write_private(path, text, force=False)
        try:
            load(path, {}, {}, defer_secrets=True)
        except ConfigError as error:
            raise InvalidConfig(error) from None


def plan_lines(plan: LitellmPlan) -> Iterator[str]:
    """Without secrets."""
    for server in plan.servers:
        where = server.get("url") or server["vendor"]
        models = exits.counted(len(server["models"]), "model") if "models" in server else "all models"
        yield f"server {server['name']}: {where}, {_key_text(server.get('api_key'))}, {models}"
    for route in plan.routes:
        targets = ", ".join(map(_target_text, route["targets"]))
        parts = [targets, *([route["policy"]] if "policy" in route else [])]
        if "fallback" in route:
            parts.append(f"fallback {', '.join(route['fallback'])}")
        yield f"route {route['model']}: {'; '.join(parts)}"
    for price in plan.prices:
        yield f"price of {price['model']} at {price['server']}"
    for name, section in plan.sections.items():
        for key, value in section.items():
            yield f"setting {name}.{key} = {toml_value(value)}"
    for text in plan.left_out:
        yield f"not imported: {text}"


def _key_text(key: Any) -> str:  # noqa: ANN401
    if key is None:
        return "no key"
    return f"key from {key['env']}" if isinstance(key, dict) else "key in the file"


def _target_text(target: Any) -> str:  # noqa: ANN401
    if isinstance(target, str):
        return target
    rest = " ".join(f"{name}={value}" for name, value in target.items() if name != "server")
    return f"{target['server']} ({rest})"


def plan_json(plan: LitellmPlan) -> dict[str, Any]:
    """The tables of the plan. Secrets that are text are masked."""
    servers = [{name: _masked(name, value) for name, value in row.items()} for row in plan.servers]
    return {"servers": servers, "routes": plan.routes, "prices": plan.prices, **plan.sections}


def _masked(name: str, value: Any) -> Any:  # noqa: ANN401
    if name == "headers":
        return {header: one if isinstance(one, dict) else MASK for header, one in value.items()}
    return MASK if name == "api_key" and isinstance(value, str) else value
