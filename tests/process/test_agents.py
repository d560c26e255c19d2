"""Command-line agents finish a task through the gateway: they call a tool, stream, and report.

The agents are too large for every test run. `make test-agents` installs them and runs these tests.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes import anthropic_server, gemini_server, model_server, responses_server
from tests.fakes.model_server import ModelServer, error, refusal
from tests.gateways import Gateway, entry

PROJECT = Path(__file__).parent / "agents"
SECONDS = 600
MADE = "made by a tool"
COMMAND = f"echo {MADE} > made.txt"
SAID = "The tool returned"
SERVERS: Mapping[str, tuple[Any, dict[str, str]]] = {
    "chat": (model_server.serve, {}),
    "messages": (anthropic_server.serve, {"dialect": "anthropic", "api_key": "sk-ant-upstream"}),
    "responses": (responses_server.serve, {"dialect": "litellm"}),
    "gemini": (gemini_server.serve, {"dialect": "gemini", "api_key": "upstream"}),
}
CODEX_CONFIG = """
model = "m"
model_provider = "gateway"

[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
env_key = "BLUESMINDS_API_KEY"
wire_api = "responses"
"""
# GOOGLE_GEMINI_BASE_URL alone selects a login that does not work without a terminal.
GEMINI_SETTINGS = '{"security": {"auth": {"selectedType": "gemini-api-key"}}}'


@dataclass(frozen=True)
class Agent:
    """`order`: the line of the prompt that orders the scripted model to call the agent's shell tool. `files`
    are in the agent's home directory.
    """

    script: str
    order: str
    arguments: Callable[[str], list[str]]  # of the prompt
    environ: Callable[[Gateway], Mapping[str, str]]
    files: Callable[[Gateway], Mapping[str, str]] = lambda gateway: {}


def order(tool: str, **arguments: Any) -> str:
    return f"call {tool} {msgspec.json.encode(arguments).decode()}"


CLAUDE_CODE = Agent(
    script="@anthropic-ai/claude-code/cli-wrapper.cjs",
    order=order("Bash", command=COMMAND, description="Write a file"),
    arguments=lambda prompt: ["-p", prompt, "--model", "m", "--allowedTools", "Bash"],
    environ=lambda gateway: {
        "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_API_KEY": gateway.key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    },
)
CODEX = Agent(
    script="@openai/codex/bin/codex.js",
    order=order("exec_command", cmd=COMMAND),
    arguments=lambda prompt: [
        *("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", prompt)
    ],
    environ=lambda gateway: {"BLUESMINDS_API_KEY": gateway.key},
    files=lambda gateway: {".codex/config.toml": CODEX_CONFIG.format(url=gateway.url)},
)
GEMINI_CLI = Agent(
    script="@google/gemini-cli/bundle/gemini.js",
    order=order("run_shell_command", command=COMMAND, description="Write a file"),
    arguments=lambda prompt: ["-m", "m", "--yolo", "-p", prompt],
    environ=lambda gateway: {
        "GOOGLE_GEMINI_BASE_URL": gateway.url,
        "GEMINI_API_KEY": gateway.key,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
    },
    files=lambda gateway: {".gemini/settings.json": GEMINI_SETTINGS},
)


async def finish_task(agent: Agent, gateway: Gateway, home: Path) -> str:
    """Let the agent write a file in its directory. What it says at the end."""
    if shutil.which("node") is None or not (PROJECT / "node_modules" / agent.script).exists():
        pytest.skip("the agents are not installed: run `make test-agents`, which needs Node and npm")
    work = home / "work"
    work.mkdir()
    for name, text in agent.files(gateway).items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), **agent.environ(gateway)}
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            ["node", PROJECT / "node_modules" / agent.script, *agent.arguments(f"Do this.\n{agent.order}")],
            cwd=work, env=environ, capture_stdout=True, capture_stderr=True, check=False,
        )  # fmt: skip
    said = done.stdout.decode()
    assert done.returncode == 0, said + done.stderr.decode()
    assert (work / "made.txt").read_text() == f"{MADE}\n"
    requests = gateway.events("request")
    assert {request["status"] for request in requests} == {200}
    return said


async def start(nursery: trio.Nursery, home: Path, kind: str) -> tuple[Gateway, ModelServer]:
    """A gateway, and its only server, which has this format."""
    serve, fields = SERVERS[kind]
    models: ModelServer = await nursery.start(serve)
    return await gateways.start(nursery, home, servers=[entry("one", models.url, **fields)]), models


async def test_claude_code_task_on_a_native_server_is_finished(nursery: trio.Nursery, home: Path) -> None:
    gateway, claude = await start(nursery, home, "messages")
    said = await finish_task(CLAUDE_CODE, gateway, home)
    assert said.startswith(SAID)
    first, second = claude.asked
    betas = (first.header(b"anthropic-beta") or b"").split(b",")
    assert {b"claude-code-20250219", b"context-management-2025-06-27", b"effort-2025-11-24"} <= set(betas)
    assert first.body["stream"] is True
    assert {"context_management", "metadata", "output_config", "thinking"} <= first.body.keys()
    assert second.body["messages"][-1]["content"][0]["type"] == "tool_result"
    assert [row["usage_source"] for row in gateway.rows()] == ["upstream", "upstream"]


async def test_claude_code_task_on_a_translated_server_is_finished(nursery: trio.Nursery, home: Path) -> None:
    gateway, models = await start(nursery, home, "chat")
    said = await finish_task(CLAUDE_CODE, gateway, home)
    assert said.startswith(SAID)
    first, second = models.asked
    assert first.body["messages"][0]["role"] == "system"
    assert not first.body["messages"][0]["content"].startswith("x-anthropic-billing-header")
    assert second.body["messages"][-1]["role"] == "tool"
    assert [row["usage_source"] for row in gateway.rows()] == ["upstream", "upstream"]


async def test_claude_code_task_on_a_model_without_reasoning_is_finished(
    nursery: trio.Nursery, home: Path
) -> None:
    gateway, models = await start(nursery, home, "chat")
    models.plan(refusal(400, error("Unrecognized request argument supplied: reasoning_effort")))
    assert (await finish_task(CLAUDE_CODE, gateway, home)).startswith(SAID)
    assert [asked.body.get("reasoning_effort") for asked in models.asked] == ["high", None, None]


async def test_codex_task_on_a_native_server_is_finished(nursery: trio.Nursery, home: Path) -> None:
    gateway, models = await start(nursery, home, "responses")
    said = await finish_task(CODEX, gateway, home)
    assert said.startswith(SAID)
    first, second = models.asked
    assert first.body["stream"] is True and first.body["store"] is False
    assert {"client_metadata", "include", "prompt_cache_key"} <= first.body.keys()
    assert {tool["type"] for tool in first.body["tools"]} >= {"function", "namespace", "web_search"}
    assert second.body["input"][-1]["type"] == "function_call_output"
    assert [row["usage_source"] for row in gateway.rows()] == ["upstream", "upstream"]


async def test_gemini_cli_task_on_a_native_server_is_finished(nursery: trio.Nursery, home: Path) -> None:
    gateway, models = await start(nursery, home, "gemini")
    said = await finish_task(GEMINI_CLI, gateway, home)
    assert SAID in said
    first, second = models.asked
    assert first.body["generationConfig"]["thinkingConfig"] == {"includeThoughts": True}
    assert "functionResponse" in second.body["contents"][-1]["parts"][0]
    assert [row["usage_source"] for row in gateway.rows()] == ["upstream", "upstream"]


@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        (CLAUDE_CODE, "gemini"),
        (CODEX, "chat"),
        (CODEX, "messages"),
        (CODEX, "gemini"),
        (GEMINI_CLI, "chat"),
        (GEMINI_CLI, "messages"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.script.split("/")[1],
)
async def test_agent_task_on_a_translated_server_is_finished(
    nursery: trio.Nursery, home: Path, agent: Agent, kind: str
) -> None:
    gateway, models = await start(nursery, home, kind)
    assert SAID in await finish_task(agent, gateway, home)
    assert len(models.asked) == 2
    assert [row["usage_source"] for row in gateway.rows()] == ["upstream", "upstream"]
