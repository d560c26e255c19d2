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
from tests.fakes import anthropic_server, model_server
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry

PROJECT = Path(__file__).parent / "agents"
SECONDS = 600
MADE = "made by a tool"
COMMAND = f"echo {MADE} > made.txt"


@dataclass(frozen=True)
class Agent:
    """`order`: the line of the prompt that orders the scripted model to call the agent's shell tool."""

    script: str
    order: str
    arguments: Callable[[str], list[str]]  # of the prompt
    environ: Callable[[Gateway], Mapping[str, str]]


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


async def finish_task(agent: Agent, gateway: Gateway, home: Path) -> str:
    """Let the agent write a file in its directory. What it says at the end."""
    if shutil.which("node") is None or not (PROJECT / "node_modules" / agent.script).exists():
        pytest.skip("the agents are not installed: run `make test-agents`, which needs Node and npm")
    work = home / "work"
    work.mkdir()
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


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **more: Any) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", models.url, **more)])


async def test_claude_code_task_on_a_native_server_is_finished(nursery: trio.Nursery, home: Path) -> None:
    claude: ModelServer = await nursery.start(anthropic_server.serve)
    gateway = await start(nursery, home, claude, dialect="anthropic", api_key="sk-ant-upstream")
    said = await finish_task(CLAUDE_CODE, gateway, home)
    assert said.startswith("The tool returned")
    first, second = claude.asked
    betas = (first.header(b"anthropic-beta") or b"").split(b",")
    assert {b"claude-code-20250219", b"context-management-2025-06-27", b"effort-2025-11-24"} <= set(betas)
    assert first.body["stream"] is True
    assert {"context_management", "metadata", "output_config", "thinking"} <= first.body.keys()
    assert second.body["messages"][-1]["content"][0]["type"] == "tool_result"
    assert [row["usage_source"] for row in gateway.rows()] == ["upstream", "upstream"]


async def test_claude_code_task_on_a_translated_server_is_finished(nursery: trio.Nursery, home: Path) -> None:
    models: ModelServer = await nursery.start(model_server.serve)
    gateway = await start(nursery, home, models)
    said = await finish_task(CLAUDE_CODE, gateway, home)
    assert said.startswith("The tool returned")
    first, second = models.asked
    assert first.body["messages"][0]["role"] == "system"
    assert not first.body["messages"][0]["content"].startswith("x-anthropic-billing-header")
    assert second.body["messages"][-1]["role"] == "tool"
    assert [row["usage_source"] for row in gateway.rows()] == ["upstream", "upstream"]
