"""`bluesminds import litellm`: the plan, what is left out, and the configuration that is written."""

import json
import os
import tomllib
from pathlib import Path

import pytest
import yaml

from bluesminds.cli import exits
from bluesminds.cli.import_litellm import configuration_text, plan_lines, read_litellm, validate
from tests.terminal import User

_LIBRARY = Path(os.environ.get("LITELLM_VENV") or ".venv-litellm", "lib")
# The example configurations that the LiteLLM package contains, if it is installed.
PUBLISHED = next(_LIBRARY.glob("python3*/site-packages/litellm/proxy/example_config_yaml"), None)

# The shape of the example configurations in LiteLLM's repository and documentation.
CONFIG = """\
model_list:
  - model_name: gpt-5
    litellm_params:
      model: azure/gpt-5-eu
      api_base: https://eu-endpoint.openai.azure.com/
      api_key: "os.environ/AZURE_API_KEY_EU"
      api_version: "2024-10-21"
      rpm: 6
  - model_name: gpt-5
    litellm_params:
      model: azure/gpt-5-ca
      api_base: https://ca-endpoint.openai.azure.com/
      api_key: "os.environ/AZURE_API_KEY_CA"
      rpm: 12
      temperature: 0.2
  - model_name: gpt-5
    litellm_params: {model: gpt-5, api_key: os.environ/OPENAI_API_KEY}
  - model_name: claude-sonnet-5
    litellm_params:
      model: anthropic/claude-sonnet-5
      input_cost_per_token: 0.000003
      output_cost_per_token: 1.5e-05
    model_info: {mode: chat}
  - model_name: local
    litellm_params:
      model: openai/facebook/opt-125m
      api_base: http://127.0.0.1:9999/v1
      api_key: canary-literal
  - model_name: llama
    litellm_params: {model: ollama/llama3, api_base: "http://127.0.0.1:11434"}
  - model_name: nova
    litellm_params: {model: bedrock/amazon.nova-pro-v1:0, aws_region_name: us-east-1}
  - model_name: "groq/*"
    litellm_params: {model: "groq/*"}
  - model_name: "*"
    litellm_params: {model: "*", api_key: os.environ/OPENAI_API_KEY}

litellm_settings:
  drop_params: true
  num_retries: 2
  request_timeout: 300
  success_callback: ["langfuse"]
  fallbacks: [{"gpt-5": ["claude-sonnet-5"]}, {"claude-sonnet-5": ["gpt-5"]}, {"local": ["gone"]}]
  context_window_fallbacks: [{"local": ["claude-sonnet-5"]}]
  cache: true
  cache_params: {type: redis, ttl: 600}
  default_internal_user_params: {max_budget: 12.50, budget_duration: 30d, rpm_limit: 20}

router_settings:
  routing_strategy: usage-based-routing-v2
  model_group_alias: {"gpt-4": "gpt-5", "old": "missing"}
  redis_host: os.environ/REDIS_HOST
  cooldown_time: 45
  allowed_fails: 3

general_settings:
  master_key: canary-master
environment_variables:
  REDIS_HOST: canary-host
guardrails: []
"""


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_import_litellm_prints_the_plan_and_writes_nothing(home: Path, config: Path) -> None:
    done = User(home).call("import", "litellm", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "server eu-endpoint: https://eu-endpoint.openai.azure.com, key from AZURE_API_KEY_EU, 1 model",
        "server ca-endpoint: https://ca-endpoint.openai.azure.com, key from AZURE_API_KEY_CA, 1 model",
        "server openai: openai, key from OPENAI_API_KEY, 1 model",
        "server anthropic: anthropic, key from ANTHROPIC_API_KEY, 1 model",
        "server server: http://127.0.0.1:9999/v1, key in the file, 1 model",
        "server ollama: http://127.0.0.1:11434/v1, no key, 1 model",
        "server groq: groq, key from GROQ_API_KEY, all models",
        "server openai-2: openai, key from OPENAI_API_KEY, all models",
        (
            "route gpt-5: eu-endpoint (model=gpt-5-eu weight=6), ca-endpoint (model=gpt-5-ca weight=12),"
            " openai; weighted; fallback claude-sonnet-5"
        ),
        "route local: server (model=facebook/opt-125m); fallback claude-sonnet-5",
        "route llama: ollama (model=llama3)",
        "route *: openai-2",
        (
            "route gpt-4: eu-endpoint (model=gpt-5-eu weight=6), ca-endpoint (model=gpt-5-ca weight=12),"
            " openai (model=gpt-5); weighted"
        ),
        "price of claude-sonnet-5 at anthropic",
        "setting upstream.total_timeout = 300.0",
        "setting upstream.attempts = 3",
        "setting upstream.eject_after = 4",
        "setting upstream.eject_seconds = 45.0",
        'setting tiers.free.usd_per_month = "12.5"',
        "setting tiers.free.rpm = 20",
        "setting cache.enabled = true",
        "setting cache.ttl = 600.0",
        'not imported: line 9: model "gpt-5": temperature',
        'not imported: line 31: model "nova": its provider "bedrock" has no vendor here',
        "not imported: line 33: model \"groq/*\": clients use the names without 'groq/'",
        'not imported: line 51: alias "old": there is no model "missing"',
        'not imported: line 43: fallbacks: "claude-sonnet-5" to "gpt-5" would be a loop',
        'not imported: line 43: fallbacks: "local" to "gone": there is no such model',
        'not imported: line 50: routing_strategy "usage-based-routing-v2": "weighted" is used',
        "not imported: line 46: the cache is in memory, not in redis",
        (
            "not imported: line 39: litellm_settings.drop_params: fields that a vendor does not support"
            " are removed anyway"
        ),
        "not imported: line 42: litellm_settings.success_callback",
        "not imported: line 52: router_settings.redis_host",
        (
            "not imported: line 57: general_settings.master_key: create an administrator with"
            " `bluesminds users create --role admin`"
        ),
        (
            "not imported: line 58: environment_variables: set these in the environment of the gateway:"
            " REDIS_HOST"
        ),
        "not imported: line 60: guardrails",
        "nothing has been written; write gateway.toml with --apply",
    ]
    assert "canary" not in done.stdout + done.stderr
    assert not (home / "gateway.toml").exists()


def test_import_litellm_applied_writes_a_configuration_that_is_valid(home: Path, config: Path) -> None:
    user = User(home)
    done = user.call("import", "litellm", "config.yaml", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    assert "canary" not in done.stdout + done.stderr
    written = home / "gateway.toml"
    assert written.stat().st_mode & 0o777 == 0o600
    settings = tomllib.loads(written.read_text())
    servers = {row["name"]: row for row in settings["servers"]}
    assert servers["eu-endpoint"] == {
        "name": "eu-endpoint",
        "vendor": "azure",
        "url": "https://eu-endpoint.openai.azure.com",
        "api_key": {"env": "AZURE_API_KEY_EU"},
        "api_version": "2024-10-21",
        "rpm": 6,
        "models": ["gpt-5-eu"],
    }
    assert servers["server"]["api_key"] == "canary-literal"
    (price,) = settings["prices"]
    assert (price["input_usd"], price["output_usd"]) == ("3", "15")
    plan = json.loads(done.stdout)["configuration"]
    assert plan["servers"][4]["api_key"] == "********"
    again = user.call("import", "litellm", "config.yaml", "--apply")
    assert again.returncode == exits.CONFLICT
    assert "--output" in again.stderr
    names = ("AZURE_API_KEY_EU", "AZURE_API_KEY_CA", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GROQ_API_KEY")
    checked = User(home, environ=dict.fromkeys(names, "k")).call("check", "-c", "gateway.toml")
    assert checked.returncode == 0, checked.stderr


def test_import_litellm_of_weights_and_equal_keys_shares_a_server(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "model_list:\n"
        "- {model_name: a, litellm_params: {model: openai/x, weight: 0.7, order: 1}}\n"
        "- {model_name: a, litellm_params: {model: openai/y, weight: 0.3, order: 2}}\n"
    )
    plan = read_litellm(path)
    assert list(plan_lines(plan)) == [
        "server openai: openai, key from OPENAI_API_KEY, 2 models",
        "route a: openai (model=x priority=1 weight=7), openai (model=y priority=2 weight=3); weighted",
    ]


def test_import_litellm_of_capacities_makes_weights_and_merges_equal_deployments(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "model_list:\n"
        "- {model_name: a, litellm_params: {model: openai/a, tpm: 1000000}}\n"
        "- {model_name: a, litellm_params: {model: groq/a, tpm: 200000}}\n"
        "- {model_name: b, litellm_params: {model: openai/b}}\n"
        "- {model_name: b, litellm_params: {model: openai/b}}\n"
        "- {model_name: b, litellm_params: {model: groq/b}}\n"
        "- {model_name: c, litellm_params: {model: openai/c, api_base: os.environ/NOT_SET}}\n"
    )
    plan = read_litellm(path)
    assert [line for line in plan_lines(plan) if line.startswith(("route", "not"))] == [
        "route a: openai (weight=5), groq; weighted",
        "route b: openai (weight=2), groq; weighted",
        'not imported: line 2: model "a": tpm',
        'not imported: line 3: model "a": tpm',
        'not imported: line 7: model "c": set its address, NOT_SET, and import again',
    ]


@pytest.mark.process
def test_import_litellm_of_every_published_example_makes_a_valid_configuration() -> None:
    if PUBLISHED is None:
        pytest.skip("LiteLLM is not installed: run make test-process")
    names = [path for path in PUBLISHED.glob("*.yaml") if "\nmodel_list:" in f"\n{path.read_text()}"]
    assert len(names) > 20
    for path in names:
        plan = read_litellm(path)
        validate(configuration_text(plan, path.name))
        models = len(yaml.safe_load(path.read_text())["model_list"])
        placed = sum(len(one.get("models", [1])) for one in plan.servers)
        assert placed or sum("model " in text for text in plan.left_out) >= models, path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_list: [", "config.yaml:1: "),
        ("general_settings: {}", "has no model_list"),
        ("!!python/object/apply:os.getcwd []", "config.yaml:1: could not determine a constructor"),
        ("a: &a [*a]\nmodel_list: 5", "has no model_list"),
        ("model_list:\n- {model_name: a, litellm_params: {model: openai/a, rpm: many}}", "wrong type"),
    ],
)
def test_import_litellm_of_another_file_fails_with_a_sentence(home: Path, text: str, message: str) -> None:
    (home / "config.yaml").write_text(text)
    done = User(home).call("import", "litellm", "config.yaml")
    assert done.returncode == exits.USAGE
    assert message in done.stderr, done.stderr


def test_import_litellm_of_a_missing_file_fails(home: Path) -> None:
    assert User(home).call("import", "litellm", "gone.yaml").returncode == exits.NOT_FOUND
