"""routes add, set, list, remove, and models."""

import json
from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User

CONFIG = """
[[servers]]
name = "one"
url = "http://127.0.0.1:9/v1"
models = ["m"]

[[routes]]
model = "alias"
targets = [{server = "one", model = "m"}]
"""


CONDITIONS = "tier=pro,enterprise needs=tools prompt_tokens_over=5"


@pytest.fixture
def user(home: Path) -> User:
    (home / "gateway.toml").write_text(CONFIG)
    return User(home).prepare()


def test_route_added_set_and_removed_by_its_model(user: User) -> None:
    words = ("--target", "one,model=m,weight=3,priority=-1", "--policy", "weighted", "--fallback", "m")
    when = [word for one in CONDITIONS.split() for word in ("--when", one)]
    added = user.call("routes", "add", "gpt-5*", *words, *when, "--fallback-on", "limit")
    assert added.returncode == 0, added.stderr
    assert added.stdout.startswith("added the route for gpt-5*: ")
    route_id = added.stdout.split()[-1]
    lines = [line.split("\t") for line in user.call("routes", "list").stdout.splitlines()]
    assert lines == [
        ["model", "when", "targets", "policy", "fallback", "fallback_on", "origin", "id"],
        [
            "alias",
            "-",
            "one,model=m",
            "priority",
            "-",
            "error,limit,timeout,context_length",
            "file",
            "file-1",
        ],
        [
            "gpt-5*",
            CONDITIONS,
            "one,model=m,weight=3,priority=-1",
            "weighted",
            "m",
            "limit",
            "database",
            route_id,
        ],
    ]
    extra = "--hedge-after 3 --hedge-share 0.1 --hedge-daily-usd 2 --shadow one --shadow-share 0.2"
    changed = json.loads(user.call("routes", "set", "gpt-5*", *extra.split(), "--json").stdout)
    assert (changed["hedge_after"], changed["hedge_share"], changed["hedge_daily_usd"]) == (3, 0.1, "2")
    assert (changed["shadow"], changed["shadow_share"]) == ("one", 0.2)
    words = "--policy region --prefer-region eu --prefer-region us --json"
    changed = json.loads(user.call("routes", "set", "gpt-5*", *words.split()).stdout)
    assert (changed["policy"], changed["prefer_regions"]) == ("region", ["eu", "us"])
    off = user.call("routes", "set", "gpt-5*", "--shadow", "none", "--json")
    assert json.loads(off.stdout)["shadow"] is None
    changed = user.call("routes", "set", "gpt-5*", "--target", "any", "--fallback", "none", "--json")
    assert json.loads(changed.stdout)["targets"] is None
    assert json.loads(changed.stdout)["fallback"] == []
    assert user.call("routes", "remove", "gpt-5*").stdout == "removed gpt-5*\n"
    assert user.call("routes", "remove", "gpt-5*").returncode == exits.NOT_FOUND


MISTAKES: list[tuple[tuple[str, ...], int, str]] = [
    (("add", "x", "--target", "one,weight=x"), exits.USAGE, "is not a target"),
    (("add", "x", "--target", "one,region=eu"), exits.USAGE, "is not a target"),
    (("add", "x", "--when", "size=3"), exits.USAGE, "is not a condition"),
    (("add", "x", "--when", "prompt_tokens_over=x"), exits.USAGE, "is not a condition"),
    (("add", "x", "--target", "two"), exits.USAGE, "no server named two"),
    (("add", "x", "--target", "one", "--shadow", "two"), exits.USAGE, "no server named two"),
    (("set", "alias"), exits.USAGE, "no option was given"),
    (("set", "alias", "--policy", "weighted"), exits.CONFLICT, "in the configuration"),
    (("remove", "no/model"), exits.NOT_FOUND, "there is no route for 'no/model'"),
    (("remove", "none"), exits.NOT_FOUND, "no route with this id"),
]


def test_route_command_with_a_mistake_says_what_is_wrong(user: User, subtests: pytest.Subtests) -> None:
    for words, code, text in MISTAKES:
        with subtests.test(words=words):
            done = user.call("routes", *words)
            assert done.returncode == code
            assert text in done.stderr


def test_models_without_a_gateway_lists_those_of_the_configuration(user: User) -> None:
    lines = [line.split("\t") for line in user.call("models").stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        ["id", "servers", "routes"],
        ["alias", "-", "alias"],
        ["m", "one", "-"],
    ]


def test_explain_shows_the_order_and_the_reasons(user: User) -> None:
    done = user.call("explain", "--model", "alias")
    assert done.stdout.splitlines() == ["alias (route alias, policy priority)", "  1. one, as m"], done.stderr
    done = user.call("explain", "--model", "alias", "--endpoint", "messages")
    assert done.stdout.splitlines()[1] == "  1. one, as m, translated to chat"
    user.call(
        "routes", "add", "other", "--target", "one,model=m", "--fallback", "alias", "--fallback", "gone"
    )
    assert user.call("explain", "--model", "other").stdout.splitlines()[2:] == [
        "not used: one for alias: an earlier model has the same target",
        "not used: gone: no server offers this model",
    ]
    refused = user.call("explain", "--model", "gone")
    assert refused.stdout.startswith("the client gets 404 model_not_found: No server offers")
    assert json.loads(user.call("explain", "--model", "gone", "--json").stdout)["models"] == []
