"""The documents say what is: every command, setting, metric, log event and error code in them exists, and
none that exists is left out.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import trio

from bluesminds import __version__
from bluesminds.cli.app import cli
from bluesminds.cli.lazy import subcommands
from bluesminds.config import ServerSettings, Settings, load
from bluesminds.config.settings import RouteSettings
from bluesminds.gateway.operations import SCOPES_BY_FORMAT
from bluesminds.providers.profiles import find_profile
from bluesminds.providers.vendors import VENDORS, Vendor
from tests import gateways
from tests.cases import each
from tests.terminal import SECONDS, User, demo_user

ROOT = Path(__file__).resolve().parent.parent
GUIDES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
)
EVERYTHING = (*GUIDES, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "decisions").glob("*.md")))
SOURCES = sorted((ROOT / "bluesminds").rglob("*.py"))
OPERATE = (ROOT / "docs" / "operate.md").read_text()
ERRORS = (ROOT / "docs" / "errors.md").read_text()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def part(text: str, title: str) -> str:
    """What is under a heading."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The cells of table rows whose first cell is code."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


# Commands


def commands_in(path: Path) -> Iterator[list[str]]:
    for block in blocks(path, "", "sh"):
        for line in block.splitlines():
            words = line.partition(" #")[0].split()
            if words and words[0] in ("bluesminds", "/opt/bluesminds/bluesminds"):
                yield words[1:]
    for inline in re.findall(r"`bluesminds ([^`]+)`", path.read_text()):
        yield inline.split()


@each("path", GUIDES)
def test_every_command_shown_exists(path: Path) -> None:
    for words in commands_in(path):
        command: click.Command = cli
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            assert rest[0] in subcommands(command), f"bluesminds {' '.join(words)}"
            command = subcommands(command)[rest.pop(0)]
        if "--help" not in rest:
            command.make_context(command.name, rest)  # raises for unknown or missing parts


def test_some_commands_are_shown() -> None:
    assert len([words for path in GUIDES for words in commands_in(path)]) > 20


@each("path", EVERYTHING)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", aim.read_text(), re.MULTILINE)
            assert anchor in [
                re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles
            ]


@each("path", EVERYTHING)
def test_documents_are_plain(path: Path) -> None:
    text = path.read_text()
    assert all(len(line) <= 125 or line.startswith(("|", "data:")) for line in text.splitlines())
    assert not re.search(r"/work/|/tmp/[a-z]|TODO|FIXME", text)


# Settings


def settings_named() -> set[str]:
    sections = {name: getattr(load(None, {}, {}).settings, name) for name in Settings.__struct_fields__}
    names = set(sections)
    for section in sections.values():
        names |= set(getattr(section, "__struct_fields__", ()))
    return names | set(ServerSettings.__struct_fields__) | set(RouteSettings.__struct_fields__)


@each("path", [path for path in GUIDES if path.stem != "codex"])
def test_settings_that_are_mentioned_exist(path: Path) -> None:  # codex.md has the settings of Codex
    known = settings_named()
    for section, key in re.findall(r"`\[(\w+)\] (\w+)`", path.read_text()):
        settings = load(None, {}, {}).settings
        assert key in getattr(settings, section).__struct_fields__, f"[{section}] {key}"
    for key in re.findall(r"`(\w+) = [^`]+`", path.read_text()):
        assert key in known, key
    for block in blocks(path, "toml"):
        for section, value in tomllib.loads(block).items():
            assert section in known
            if isinstance(value, dict) and section != "routes_short":  # its keys are names of models
                assert set(value) <= known


def test_settings_named_by_errors_and_operation_exist() -> None:
    known = settings_named()
    words = {word for text in (ERRORS, OPERATE) for word in re.findall(r"`(\w+_\w+)`", text)}
    suspects = {
        word
        for word in words
        if re.match(r"(max|min|tls|drain|queue|settle|total|(?!proxy).*_timeout$)", word)
    }
    assert len(suspects) > 5
    assert suspects - error_codes().keys() <= known


# Metrics and logs


async def test_list_of_metrics_is_complete(home: Path, nursery: trio.Nursery) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    text = (await gateway.get("/metrics")).text
    await gateway.stop()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    listed = {row[0].strip("`"): row[1] for row in table(part(OPERATE, "Metrics"))}
    assert listed == kinds


async def test_labels_of_metrics_are_listed(home: Path, nursery: trio.Nursery) -> None:
    demo = {"name": "demo", "dialect": "demo"}
    gateway = await gateways.start(nursery, home, servers=[demo])
    ask = {"model": "demo/echo", "stream": True, "messages": [{"role": "user", "content": "a"}]}
    assert (await gateway.chat(ask)).status_code == 200
    text = (await gateway.get("/metrics")).text
    await gateway.stop()
    labels: dict[str, set[str]] = defaultdict(set)
    for name, inside in re.findall(r"^(\w+)\{(.+)\} ", text, re.MULTILINE):
        labels[re.sub("_(bucket|sum|count)$", "", name)] |= set(re.findall(r'(\w+)="', inside)) - {"le"}
    listed = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in table(part(OPERATE, "Metrics"))
    }
    assert labels
    for name, found in labels.items():
        assert listed[name] == found, name
    assert listed["bluesminds_http_refused_total"] == {"cause"}


LOG_METHODS = ("debug", "info", "warning", "error", "exception")


def events_logged() -> dict[str, set[str]]:
    """Every event of the code with the names of its fields."""
    events: dict[str, set[str]] = defaultdict(set)
    for call in calls():
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in LOG_METHODS:
            continue
        if call.args and isinstance(call.args[0], ast.Constant) and "log" in ast.unparse(call.func.value):
            named = {keyword.arg for keyword in call.keywords if keyword.arg}
            named |= {"error", "frames"} if call.func.attr == "exception" else set()
            events[str(call.args[0].value)] |= named
    for path in SOURCES:
        for event, field in re.findall(r'"event":"(\w+)","(\w+)":', path.read_text()):
            events[event].add(field)  # written by the log itself
    return events


@cache  # parsing the code takes seconds
def calls() -> list[ast.Call]:
    """The calls in the code that may log an event or create an error."""
    names = {*LOG_METHODS, *CODE_AT}
    return [call for path in SOURCES for call in calls_in(path) if called(call) in names]


def called(call: ast.Call) -> str:
    """The name of the function or method."""
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def calls_in(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def test_list_of_log_events_is_complete() -> None:
    listed = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in table(part(OPERATE, "Logs"))}
    logged = events_logged()
    assert listed.keys() == logged.keys()
    for event, fields in logged.items():
        assert fields <= listed[event], event


GATEWAY = ROOT / "bluesminds" / "gateway"


def test_list_of_outcomes_is_complete() -> None:
    listed = set(
        re.findall(r"`(\w+)`(?: \(|[;.])", part(OPERATE, "Logs").partition("`outcome` is one of:")[2])
    )
    found: set[str] = set()
    calls = [
        call for name in ("pipeline", "relay", "stream_relay") for call in calls_in(GATEWAY / f"{name}.py")
    ]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("close", "finish"):
            outcome = call.args[1:2] or call.args  # status, outcome; or both in one
            texts = [
                node.value for one in outcome for node in ast.walk(one) if isinstance(node, ast.Constant)
            ]
            found |= {text for text in texts if isinstance(text, str)}
    assert listed == found


# Error codes

# Where each kind of error takes its code and, if the call says it, its status.
LIMITED = ("RateLimited", "_Reason", "_Quota")
CODE_AT = dict.fromkeys(("GatewayError", "UpstreamFailed", "Rejection"), 1) | dict.fromkeys(
    (
        *("InvalidRequest", "Unauthenticated", "Forbidden", "NotFound", *LIMITED),
        *("Conflict", "InsufficientCredit", "Unavailable", "write_stream_error"),
    ),
    0,
)
STATUS = dict.fromkeys(LIMITED, 429) | {
    "InvalidRequest": 400,
    "Unauthenticated": 401,
    "InsufficientCredit": 402,
    "Forbidden": 403,
    "NotFound": 404,
    "Conflict": 409,
    "Unavailable": 503,
}


def error_codes() -> dict[str, set[int]]:
    """Every code in the code, with the statuses that the call shows."""
    codes: dict[str, set[int]] = defaultdict(set)
    for call in calls():
        kind = called(call)
        if kind not in CODE_AT or len(call.args) <= CODE_AT[kind]:
            continue
        code = call.args[CODE_AT[kind]]
        if isinstance(code, ast.Constant):
            status = call.args[0].value if CODE_AT[kind] and isinstance(call.args[0], ast.Constant) else None
            stated = [one.value for one in call.keywords if one.arg == "status"]
            if stated and isinstance(stated[0], ast.Constant):
                status = stated[0].value
            status = status or STATUS.get(kind)
            codes[str(code.value)] |= {int(str(status))} if status else set()
    control = (ROOT / "bluesminds" / "web" / "app.py").read_text()
    for status_text, name in re.findall(r'(\d{3}): "(\w+)"', control):
        codes[name].add(int(status_text))
    codes[re.findall(r'status, "(\w+)"', " ".join(control.split()))[0]].add(400)
    return codes


def test_list_of_error_codes_is_complete() -> None:
    rows = table(ERRORS)
    listed = {row[0].strip("`"): set(map(int, re.findall(r"\b\d{3}\b", row[1]))) for row in rows}
    assert len(listed) == len(rows), "a code is listed twice"
    codes = error_codes()
    assert len(codes) > 40, "the search still finds them"
    assert listed.keys() == codes.keys()
    for code, statuses in codes.items():
        assert statuses <= listed[code], code
    assert all(len(row) == 4 and all(row) for row in rows), "each says what to do"


# Vendors


def row_of(vendor: Vendor) -> str:
    speaks = find_profile(vendor.dialect, vendor.name, vendor.url, "").speaks
    unsupported = [
        f"{SCOPES_BY_FORMAT[name]}: {', '.join(f'`{one.name}`' for one in fields)}"
        for name, fields in vendor.unsupported.items()
    ]
    cells = (
        f"`{vendor.name}`",
        vendor.title,
        f"`{vendor.url}`" if vendor.url else "your own",
        f"`{vendor.key_variable}`" if vendor.key_variable else "none",
        ", ".join(dict.fromkeys(SCOPES_BY_FORMAT[name] for name in speaks)),
        "; ".join(unsupported) or "none",
    )
    return f"| {' | '.join(cells)} |"


def test_vendor_table_has_every_vendor() -> None:
    guide = (ROOT / "docs" / "configure.md").read_text()
    text = guide.partition("\n### Vendors\n")[2].partition("\n#")[0]
    listed = [line for line in text.splitlines() if line.startswith("| `")]
    assert listed == [row_of(vendor) for vendor in VENDORS.values()]
    undetected = [name for name, vendor in VENDORS.items() if vendor.key_variable and not vendor.is_detected]
    *first, last = [f"`{name}`" for name in undetected]
    assert f"except {', '.join(first)} and {last}" in text


# Code


@pytest.mark.process
@pytest.mark.parametrize("number", [0, 1], ids=["openai", "anthropic"])
def test_python_example_gets_response(home: Path, number: int) -> None:
    example = blocks(ROOT / "README.md", "python")[number]
    with User(home).serving("demo", "--port", "0") as gateway:
        program = example.replace("http://127.0.0.1:3000", gateway.url).replace("bm_...", gateway.key)
        assert gateway.url in program and gateway.key in program
        done = subprocess.run(
            (sys.executable, "-c", program), capture_output=True, text=True, timeout=SECONDS, check=True
        )
        assert gateway.stop() == 0
    assert len(done.stdout.split()) == 48


@pytest.mark.process
@pytest.mark.parametrize("statement", [".backup 'copy.db'", "VACUUM INTO 'copy.db'"])
def test_described_backup_can_be_restored(home: Path, statement: str) -> None:
    assert statement in part(OPERATE, "Backup")
    user = demo_user(home)
    program = (
        "import sqlite3; sqlite3.connect('bluesminds.db').execute(\"VACUUM INTO 'copy.db'\")"
        if statement.startswith("VACUUM")
        else "import sqlite3; sqlite3.connect('bluesminds.db').backup(sqlite3.connect('copy.db'))"
    )
    with user.serving("demo", "--port", "0") as gateway:
        key = user.run("keys", "create", "kept").stdout.strip()
        subprocess.run((sys.executable, "-c", program), cwd=user.state_dir, check=True, timeout=SECONDS)
        assert gateway.stop() == 0
    for path in user.state_dir.iterdir():
        if path.name not in ("copy.db", "pepper", "master.key"):
            path.unlink()
    (user.state_dir / "copy.db").rename(user.database)
    with user.serving("demo", "--port", "0") as gateway:
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{gateway.url}/v1/models", headers=headers, trust_env=False).status_code == 200
        assert gateway.stop() == 0


def test_lock_of_make_run_is_documented() -> None:
    found = re.search(r"^\$\(SERVES\): (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    install = (ROOT / "docs" / "install.md").read_text()
    assert f"`make run` creates `.venv` with exactly the dependencies of `{found[1]}`" in install


def test_current_version_is_in_changelog() -> None:
    assert re.search(
        rf"^## \[?{re.escape(__version__)}\]?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


@pytest.mark.process
async def test_first_steps_of_api_guide_succeed(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    steps = part((ROOT / "docs" / "api.md").read_text(), "First steps")
    shown = "".join(re.findall(r"^```sh\n(.*?)^```$", steps, re.MULTILINE | re.DOTALL)).replace("\\\n", "")
    environ: dict[str, str] = {}

    async def run(line: str) -> Any:
        line = line.replace("http://127.0.0.1:3000", gateway.url).replace("curl ", "curl -sS --fail ", 1)
        done = await trio.run_process(["sh", "-c", line], env=dict(os.environ) | environ, capture_stdout=True)
        return json.loads(done.stdout or b"null")

    login, create, show, audit, logout = shown.splitlines()
    account = json.loads(re.findall(r"-d '(.*)'", login)[0])
    async with gateway.operator() as operator:
        user = {"email": account["email"], "password": account["password"], "role": "admin"}
        assert (await operator.post("/api/admin/users", json=user)).status_code == 201
    environ["SESSION"] = (await run(login))["token"]
    made = await run(create)
    assert made["key"].startswith("bm_")
    assert [row["id"] for row in (await run(show))["data"]] == [made["id"]]
    assert (await run(audit))["data"][0]["subject"] == made["id"]
    assert await run(logout) is None
    with pytest.raises(subprocess.CalledProcessError):
        await run(show)
