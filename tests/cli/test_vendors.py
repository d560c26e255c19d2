"""vendors, and servers add --vendor."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bluesminds.cli import exits
from bluesminds.cli.app import cli
from bluesminds.providers.vendors import VENDORS
from tests.terminal import User


def rows(user: User) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(user.call("servers", "list", "--json").stdout)["data"]
    return found


def test_vendors_lists_every_vendor() -> None:
    shown = CliRunner().invoke(cli, ["vendors"])
    names = [line.partition("\t")[0] for line in shown.output.splitlines()]
    assert names == ["name", *VENDORS]
    assert (
        "groq\tGroq\topenai\thttps://api.groq.com/openai/v1\tGROQ_API_KEY\tchat.completions," in shown.output
    )


def test_vendors_json_has_paths_and_fields() -> None:
    listed = json.loads(CliRunner().invoke(cli, ["vendors", "--json"]).output)["data"]
    found = {row["name"]: row for row in listed}
    assert found["cohere"]["endpoints"] == {
        "chat.completions": "/compatibility/v1/chat/completions",
        "embeddings": "/compatibility/v1/embeddings",
        "rerank": "/v2/rerank",
    }
    assert found["groq"]["unsupported"]["chat.completions"] == ["logprobs", "top_logprobs", "logit_bias", "n"]
    assert found["litellm"]["endpoints"]["messages"] == "/v1/messages"
    assert found["litellm"]["health"] == "/health/liveliness"
    assert found["azure"]["url"] is None and found["azure"]["models"] is None


def test_servers_add_vendor_takes_name_and_url_from_it(home: Path) -> None:
    user = User(home).prepare()
    done = user.call("servers", "add", "--vendor", "groq", "--api-key-stdin", stdin="gsk-0123456789\n")
    assert (done.returncode, done.stdout) == (0, "added groq\n")
    assert user.call("servers", "add", "local", "--vendor", "vllm").returncode == 0
    found = {row["name"]: (row["vendor"], row["url"], row["has_api_key"]) for row in rows(user)}
    assert found["groq"] == ("groq", "https://api.groq.com/openai/v1", True)
    assert found["local"] == ("vllm", "http://127.0.0.1:8000/v1", False)


def test_servers_add_vendor_takes_the_key_from_its_variable(home: Path) -> None:
    user = User(home, {"MISTRAL_API_KEY": "mk-0123456789\n"}).prepare()
    done = user.call("servers", "add", "--vendor", "mistral")
    assert (done.returncode, done.stderr) == (0, "using the API key in MISTRAL_API_KEY\n")
    assert [row["has_api_key"] for row in rows(user)] == [True]


def test_servers_add_azure_takes_url_version_models_and_headers(home: Path) -> None:
    user = User(home, {"AZURE_OPENAI_API_KEY": "0123456789"}).prepare()
    words = ["servers", "add", "--vendor", "azure", "--url", "https://a.openai.azure.com"]
    assert user.call(*words).returncode == exits.USAGE  # without models
    words += ["--model", "gpt", "--api-version", "2024-10-21", "--header", "X-Team: red, blue"]
    assert user.call(*words).returncode == 0
    (row,) = rows(user)
    assert (row["name"], row["dialect"], row["models"]) == ("azure", "azure", ["gpt"])
    assert (row["api_version"], row["headers"]) == ("2024-10-21", ["X-Team"])
    assert user.call("servers", "set", "azure", "--header", "none", "--api-version", "").returncode == 0
    (row,) = rows(user)
    assert (row["api_version"], row["headers"]) == (None, [])


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        ((), "NAME is missing", "give the server a name, or a --vendor"),
        (("one",), "--url is missing", "give a --url, or a --vendor"),
        (("--vendor", "grok"), "'grok' is not a vendor", 'did you mean "groq"?'),
        (
            ("--vendor", "nothing-like-it"),
            "'nothing-like-it' is not a vendor",
            "list them: bluesminds vendors",
        ),
        (
            ("--vendor", "groq"),
            "the API key of Groq is missing",
            "set GROQ_API_KEY, or: bluesminds servers add --vendor groq --api-key-stdin < FILE",
        ),
        (
            ("one", "--url", "http://x", "--header", "X-Title"),
            "--header 'X-Title' is not a header",
            'write it like --header "X-Title: Our app"',
        ),
        (
            ("one", "--url", "http://x", "--header", "Authorization: Bearer x"),
            "--header Authorization would show a secret on the command line",
            "set it with headers of [[servers]] in gateway.toml, or with /api/admin/servers",
        ),
    ],
)
def test_servers_add_wrong_words_say_what_to_do(
    home: Path, words: tuple[str, ...], message: str, remedy: str
) -> None:
    done = User(home).prepare().call("servers", "add", *words)
    assert done.returncode == exits.USAGE
    assert done.stderr.splitlines() == [f"error: {message}", f"help: {remedy}"]
