"""[[routes]] and [routes_short]: values, and problems with their line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from bluesminds.cli.config import check, config_group
from bluesminds.common.routes import FALLBACK_ON, ModelRoute, RouteTarget
from bluesminds.config import ConfigError, Problem, configured_routes, load

SERVERS = "\n".join(
    f'[[servers]]\nname = "{name}"\nurl = "http://127.0.0.1:4000/v1"' for name in ("main", "other")
)


def written(tmp_path: Path, text: str, servers: str = SERVERS) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(f"{text}\n{servers}\n")
    path.chmod(0o600)
    return path


def problems_of(path: Path) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    return caught.value.problems


def routes_in(path: Path, environ: dict[str, str] | None = None) -> list[ModelRoute]:
    return configured_routes(load(path, environ or {}, {}).settings)


def test_routes_are_read_with_every_field(tmp_path: Path) -> None:
    text = """
[[routes]]
model = "gpt-5*"
targets = ["main", {server = "other", model = "gpt-5-eu", weight = 3, priority = 2}]
policy = "weighted"
fallback = ["claude", "qwen"]
fallback_on = ["limit", "content_filter"]
"""
    assert routes_in(written(tmp_path, text)) == [
        ModelRoute(
            "gpt-5*",
            (RouteTarget("main"), RouteTarget("other", "gpt-5-eu", 3, 2)),
            "weighted",
            ("claude", "qwen"),
            ("limit", "content_filter"),
        )
    ]


def test_short_routes_try_servers_in_order(tmp_path: Path) -> None:
    text = '[routes_short]\n"llama*" = "main"\ngpt-4 = ["other", "main"]\n'
    first, second = routes_in(written(tmp_path, text))
    assert first == ModelRoute("llama*", (RouteTarget("main", priority=0),))
    assert second == ModelRoute("gpt-4", (RouteTarget("other", priority=0), RouteTarget("main", priority=1)))
    assert second.fallback_on == FALLBACK_ON


def test_routes_of_the_environment_replace_those_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[routes_short]\na = "main"\n')
    environ = {
        "BLUESMINDS__ROUTES_SHORT": '{"b*": ["other"]}',
        "BLUESMINDS__ROUTES": '[{"model": "c", "targets": ["main"]}]',
    }
    assert [route.model for route in routes_in(path, environ)] == ["c", "b*"]


def test_environment_of_servers_allows_any_server_name(tmp_path: Path) -> None:
    path = written(tmp_path, '[routes_short]\n"llama*" = "ollama"\n', servers="")
    assert [route.targets[0].server for route in routes_in(path)] == ["ollama"]


ONE_PROBLEM = [
    (
        '[[routes]]\nmodel = "m"\ntargets = [\n  "main",\n  "mian",\n]\n',
        'targets in [[routes]] "m" names the server "mian", which is not configured',
        5,
        'did you mean "main"?',
    ),
    (
        '[[routes]]\nmodel = "m"\ntargets = [{server = "xyz"}]\n',
        'targets in [[routes]] "m" names the server "xyz", which is not configured',
        3,
        'add a [[servers]] entry named "xyz"',
    ),
    (
        '[routes_short]\na = "main"\n"b*" = ["main", "xyz"]\n',
        '"b*" in [routes_short] names the server "xyz", which is not configured',
        3,
        'add a [[servers]] entry named "xyz"',
    ),
    (
        '[[routes]]\nmodel = "m"\ntargets = ["main"]\n[[routes]]\nmodel = "m"\ntargets = ["other"]\n',
        'the model "m" has more than one route',
        4,
        "keep one of them",
    ),
    (
        '[[routes]]\nmodel = "m"\ntargets = ["main"]\n[routes_short]\nm = "other"\n',
        'the model "m" has more than one route',
        5,
        "keep one of them",
    ),
    (
        '[[routes]]\nmodel = "m"\ntargets = ["main", {server = "main", weight = 2}]\n',
        'targets in [[routes]] "m" names the server "main" twice',
        3,
        "keep one of them, or set a different model in each",
    ),
    (
        '[[routes]]\nmodel = "m"\n\ntargets = []\n',
        'targets in [[routes]] "m" is empty',
        4,
        "name at least one server, or remove targets to use every server that offers the model",
    ),
    (
        "[routes_short]\nm = []\n",
        '"m" in [routes_short] has no server',
        2,
        'write it like "m" = "main"',
    ),
    (
        '[[routes]]\nmodel = "m"\nshadow = "mian"\n',
        'shadow in [[routes]] "m" names the server "mian", which is not configured',
        3,
        'did you mean "main"?',
    ),
    (
        '[[routes]]\nmodel = "m"\n',
        '[[routes]] "m" has no effect',
        1,
        "add targets, a policy or a fallback, or remove the route",
    ),
    (
        '[[routes]]\nmodel = "a"\nfallback = ["b"]\n[[routes]]\nmodel = "b"\nfallback = ["a"]\n',
        'fallback in [[routes]] "a" is a loop: a -> b -> a',
        3,
        "remove one of these models from a fallback, or give it a route without this fallback",
    ),
    (
        '[[routes]]\nmodel = "gpt-5*"\nfallback = ["gpt-5-mini"]\n',
        'fallback in [[routes]] "gpt-5*" is a loop: gpt-5-mini -> gpt-5-mini',
        3,
        "remove one of these models from a fallback, or give it a route without this fallback",
    ),
    (
        '[[routes]]\nmodel = "a"\nfallback = ["b*"]\n',
        'fallback in [[routes]] "a" contains "b*", which is not the name of a model',
        3,
        "name one model",
    ),
    (
        '[[routes]]\nmodel = "a"\nfallback = ["b", "c", "b"]\n',
        'fallback in [[routes]] "a" contains "b" twice',
        3,
        "keep one of them",
    ),
    (
        '[[routes]]\nmodel = "a*b"\ntargets = ["main"]\n',
        'model in [[routes]] "a*b" must be a model name, or a prefix followed by "*", not "a*b"',
        2,
        'write it like model = "gpt-5*"',
    ),
    (
        '[[routes]]\ntargets = ["main"]\n',
        "model in [[routes]] is missing",
        1,
        'add a line like model = "gpt-5*"',
    ),
    (
        '[[routes]]\nmodel = "m"\ntarget = ["main"]\n',
        '"target" in [[routes]] "m" is not a known key',
        3,
        'did you mean "targets"?',
    ),
    (
        '[[routes]]\nmodel = "m"\ntargets = [{server = "main", weihgt = 3}]\n',
        'targets in [[routes]] "m" must be a list of server names, or of tables with server, model, weight',
        3,
        "write it like targets = [",
    ),
    (
        '[[routes]]\nmodel = "m"\npolicy = "fastest"\n',
        'policy in [[routes]] "m" must be one of "priority", "weighted", "least_latency"',
        3,
        'write it like policy = "priority"',
    ),
    (
        '[[routes]]\nmodel = "m"\nfallback = ["a"]\nfallback_on = ["errors"]\n',
        'fallback_on in [[routes]] "m" must be a list of "error", "limit", "timeout", "context_length"',
        4,
        "write it like fallback_on = [",
    ),
    (
        '[routes_short]\na = "main"\nb = 3\n',
        '"b" in [routes_short] must be the name of a server, or a list of names, not 3',
        3,
        'write it like b = "main"',
    ),
    (
        '[routes_short]\n"a*b" = "main"\n',
        '"a*b" in [routes_short] must be a model name, or a prefix followed by "*"',
        2,
        "write it like ",
    ),
    (
        "routes_short = 1\n",
        "routes_short must be a table of model names, each with a server or a list of servers, not 1",
        1,
        "write it like routes_short = {",
    ),
]


@pytest.mark.parametrize(("text", "message", "line", "remedy"), ONE_PROBLEM, ids=range(len(ONE_PROBLEM)))
def test_wrong_route_has_message_line_and_fix(
    tmp_path: Path, text: str, message: str, line: int, remedy: str
) -> None:
    path = written(tmp_path, text)
    (problem,) = problems_of(path)
    assert problem.message.startswith(message)
    assert problem.where == f"{path}:{line}"
    assert problem.help.startswith(remedy)


def test_config_show_prints_routes(tmp_path: Path) -> None:
    text = '[[routes]]\nmodel = "m"\ntargets = [{server = "main", weight = 2}, "other"]\n'
    path = written(tmp_path, text + '[routes_short]\n"b*" = "main"\n')
    shown = CliRunner().invoke(config_group, ["show", "--config", str(path)], catch_exceptions=False).stdout
    assert 'targets=[{server="main", weight=2}, "other"]' in shown.replace(" = ", "=")
    assert 'routes_short={"b*"=["main"]}' in shown.replace(" = ", "=")
    again = tmp_path / "again.toml"
    again.write_text(shown)
    again.chmod(0o600)
    assert routes_in(again) == routes_in(path)
    as_json = CliRunner().invoke(config_group, ["show", "--json", "--config", str(path)])
    assert as_json.exit_code == 0
    checked = CliRunner().invoke(check, ["--config", str(path)], catch_exceptions=False).stdout
    assert "\n2 servers (main, other), 2 routes, 0 prices, " in checked
