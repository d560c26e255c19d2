"""LangChain's standard tests of chat models and embeddings against the gateway."""

import os
import re
from pathlib import Path

import pytest
import trio

from tests import gateways
from tests.fakes import anthropic_server, model_server, responses_server
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry

SUITE = Path(__file__).parent / "langchain"
SECONDS = 900


@pytest.fixture
def python() -> Path:
    """The interpreter of LangChain's own virtual environment."""
    found = Path(os.environ.get("LANGCHAIN_VENV") or ".venv-langchain").absolute() / "bin" / "python"
    if not found.exists():
        absent = f"there is no LangChain at {found}: run `make test-process`, or set LANGCHAIN_VENV"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    return found


async def passed(python: Path, gateway: Gateway, model: str, *classes: str) -> int:
    """Run the tests of these classes, of which none may fail. How many have passed."""
    environ = {
        "PATH": os.environ["PATH"],
        "BASE_URL": gateway.url,
        "API_KEY": gateway.key,
        "MODEL": model,
        "OTHER_MODEL": "other",
    }
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            [python, "-m", "pytest", *(f"standard.py::{name}" for name in classes)],
            cwd=SUITE, env=environ, capture_stdout=True, capture_stderr=True, check=False,
        )  # fmt: skip
    report = done.stdout.decode()
    assert done.returncode == 0, report + done.stderr.decode()
    count = re.search(r"(\d+) passed", report)
    assert count
    return int(count[1])


@pytest.mark.parametrize("format_name", ["chat", "messages"])
async def test_langchain_chat_models_pass_the_standard_tests(
    nursery: trio.Nursery, home: Path, python: Path, format_name: str
) -> None:
    """The server has one format, so that each integration meets its own format and a translation."""
    serve = model_server.serve if format_name == "chat" else anthropic_server.serve
    models: ModelServer = await nursery.start(serve)
    dialect = "openai" if format_name == "chat" else "anthropic"
    server = entry("one", models.url, dialect=dialect, models=["m", "other"])
    gateway = await gateways.start(nursery, home, servers=[server])
    classes = ("TestChatOpenAI", "TestChatOpenAIResponses", "TestChatAnthropic")
    assert await passed(python, gateway, "m", *classes) > 120
    paths = {asked.received.line for asked in models.asked}
    wanted = b"POST /v1/chat/completions HTTP/1.1" if format_name == "chat" else b"POST /v1/messages HTTP/1.1"
    assert paths == {wanted}


async def test_langchain_responses_pass_the_standard_tests(
    nursery: trio.Nursery, home: Path, python: Path
) -> None:
    """The server has the Responses API; the test above translates from it."""
    models: ModelServer = await nursery.start(responses_server.serve)
    server = entry("one", models.url, dialect="litellm", models=["m", "other"])
    gateway = await gateways.start(nursery, home, servers=[server])
    assert await passed(python, gateway, "m", "TestChatOpenAIResponses") > 40
    assert {asked.received.line for asked in models.asked} == {b"POST /v1/responses HTTP/1.1"}


async def test_langchain_embeddings_pass_the_standard_tests(
    nursery: trio.Nursery, home: Path, python: Path
) -> None:
    gateway = await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])
    assert await passed(python, gateway, "demo/embedding", "TestEmbeddings") >= 4
