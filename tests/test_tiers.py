"""The rules that keep tests independent of the speed of the machine, and in the right tier.

Fast tests and process tests wait for events or use `eventually`. They never sleep for a fixed time, and they
set no deadline that a slow machine could miss. Tests that start processes have the `process` marker.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
MODULES = [path.relative_to(TESTS) for path in sorted(TESTS.rglob("*.py"))]
SHORTEST = 60  # seconds; the shortest deadline that may be set against hangs
# These may wait: fake servers, load tests, and the helpers that poll or send slowly.
MAY_WAIT = ("fakes/", "load/", "gateways.py", "pressure.py", "trickle.py", "storage/postgres_server.py")
VIRTUAL_CLOCKS = {"autojump_clock", "mock_clock"}
PROCESS_CALLS = {
    ("subprocess", "run"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("trio", "run_process"),
    ("lowlevel", "open_process"),
}
USER_CALLS = {"run", "serving", "start", "launch"}  # methods of tests.terminal.User
STARTS = USER_CALLS | {name for _, name in PROCESS_CALLS}
# The length of these waits decides nothing: helpers on a virtual clock, a response that is later than a
# timeout which must not apply, and clients that give up on a connection in any state.
HARMLESS_WAITS = (
    "gateway/test_supervision.py",
    "gateway/upstream/test_failures.py",
    "http/server/test_http1_conformance.py",
    "http/server/test_survival.py",
)
WAITS = re.compile(r"\.(?:sleep|fail_after|move_on_after)\(")
STARTS_TEXT = re.compile(r"subprocess|run_process|open_process|\buser\.|\bUser\(|demo_user\(")
TEST = re.compile(r"^ *(?:async )?def (test_\w*)", re.MULTILINE)
NAME = re.compile(r"test_(?!(?:a|an|the|it|its|what|who|of)_)[a-z0-9]+(?:_[a-z0-9]+){2,}")


@cache
def parse(module: Path) -> ast.Module:
    return ast.parse((TESTS / module).read_text())


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")


def constants(tree: ast.Module) -> dict[str, float]:
    """The numbers that are assigned to names of the module."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, int | float)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def has_virtual_clock(tree: ast.Module) -> set[ast.AST]:
    """All nodes inside functions that take a virtual clock, or of a module that uses one for all tests."""
    found: set[ast.AST] = set()
    for node in functions(tree):
        names = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
        marks = {name.value for name in ast.walk(node) if isinstance(name, ast.Constant)}
        if (names | marks) & VIRTUAL_CLOCKS:
            found |= set(ast.walk(node))
    return found


def waits(module: Path) -> list[str]:
    """Calls that sleep for a fixed time, or that set a short deadline on the real clock."""
    if not WAITS.search((TESTS / module).read_text()):
        return []
    tree = parse(module)
    known = constants(tree)
    virtual = has_virtual_clock(tree)
    found = []
    for node in ast.walk(tree):
        if node in virtual or not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        first = node.args[0] if node.args else None
        value = known.get(first.id) if isinstance(first, ast.Name) else None
        if isinstance(first, ast.Constant) and isinstance(first.value, int | float):
            value = first.value
        sleeps = (owner, name) == ("time", "sleep") or ((owner, name) == ("trio", "sleep") and bool(value))
        expires = owner == "trio" and name in ("fail_after", "move_on_after")
        if sleeps or (expires and value is not None and value < SHORTEST):
            found.append(f"tests/{module}:{node.lineno}: {ast.unparse(node)}")
    return found


def starts_process(node: ast.AST) -> bool:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            if call.func.attr not in STARTS:
                continue
            owner = ast.unparse(call.func.value)
            if (owner.rpartition(".")[2], call.func.attr) in PROCESS_CALLS:
                return True
            if call.func.attr in USER_CALLS and re.match(r"(?:user\b|User\(|demo_user\()", owner):
                return True
    return False


def unmarked(module: Path) -> list[str]:
    """Tests that start a process themselves, without the marker."""
    if not STARTS_TEXT.search((TESTS / module).read_text()):  # most modules: parsing takes time
        return []
    tree = parse(module)
    whole = [node for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    if any("mark.process" in ast.unparse(node) for node in whole):
        return []
    return [
        f"tests/{module}:{node.lineno}: {node.name}"
        for node in functions(tree)
        if is_test(node)
        and starts_process(node)
        and not any("mark.process" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]


def found_in(modules: Iterable[Path], find: Callable[[Path], Iterable[object]]) -> dict[str, list[object]]:
    """What `find` finds in the modules, without those in which it finds nothing."""
    return {str(module): found for module in modules if (found := list(find(module)))}


def test_fixed_waits_are_absent() -> None:
    checked = [module for module in MODULES if not str(module).startswith((*MAY_WAIT, *HARMLESS_WAITS))]
    assert found_in(checked, waits) == {}


@pytest.mark.parametrize("module", HARMLESS_WAITS)
def test_allowed_module_still_waits(module: str) -> None:
    assert waits(Path(module)), "remove it from HARMLESS_WAITS"


def test_tests_that_start_processes_are_marked() -> None:
    checked = [module for module in MODULES if not str(module).startswith(("process/", "load/"))]
    assert found_in(checked, unmarked) == {}


def test_test_names_have_subject_condition_and_result() -> None:
    def bad_names(module: Path) -> list[str]:
        names = TEST.findall((TESTS / module).read_text())
        return [name for name in names if not NAME.fullmatch(name)]

    assert found_in(MODULES, bad_names) == {}
