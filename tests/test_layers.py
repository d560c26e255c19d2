"""The shape of the code: arrows point down, no cycles, no hidden imports, asyncio in its place."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the top down; a module may import its own layer (siblings excepted, below) and any layer further down.
LAYERS = (
    ("bluesminds.__main__",),
    ("bluesminds.cli",),
    ("bluesminds.main", "bluesminds.operate"),
    ("bluesminds.house",),
    ("bluesminds.core",),
    ("bluesminds.dashboard",),
    ("bluesminds.web",),
    ("bluesminds.gateway", "bluesminds.accounts"),
    ("bluesminds.providers", "bluesminds.payments", "bluesminds.identity", "bluesminds.notify"),
    ("storage", "bluesminds.http"),
    (
        "bluesminds.values",
        "bluesminds.errors",
        "bluesminds.money",
        "bluesminds.crypto",
        "bluesminds.clock",
        "bluesminds.log",
        "bluesminds.config",
        "bluesminds.state",
        "bluesminds",
    ),
)
STRANGERS = (
    ("bluesminds.gateway", "bluesminds.accounts"),
    ("bluesminds.accounts", "bluesminds.gateway"),
    ("bluesminds.providers", "storage"),
    ("bluesminds.identity", "storage"),
    ("bluesminds.http", "storage"),
    ("storage", "bluesminds"),
)


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("bluesminds", "storage"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Every module named in an import, the statement, and whether it stands inside a function."""
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node, id(node) in inner
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in KNOWN else node.module, node, id(node) in inner


KNOWN = dict(modules())


def within(module: str, package: str) -> bool:
    return module == package or (module.startswith(package + ".") and package != "bluesminds")


def layer(module: str) -> int:
    for depth, packages in enumerate(LAYERS):
        if any(within(module, package) for package in packages):
            return depth
    raise AssertionError(f"{module} has no place in LAYERS")


def own(module: str) -> bool:
    return module.partition(".")[0] in ("bluesminds", "storage")


@pytest.mark.parametrize("module", KNOWN)
def test_arrows_point_down(module: str) -> None:
    for target, node, _ in imports(KNOWN[module]):
        if own(target):
            assert layer(module) <= layer(target), f"{module}:{node.lineno} imports {target} from above"
            for importer, stranger in STRANGERS:
                forbidden = within(module, importer) and (within(target, stranger) or target == stranger)
                assert not forbidden, f"{module}:{node.lineno} must not know {target}"


def test_no_cycles() -> None:
    graph = {
        module: {target for target, _, _ in imports(path) if target in KNOWN and target != module}
        for module, path in KNOWN.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        pytest.fail(f"import cycle: {' > '.join(exc.args[1])}")


@pytest.mark.parametrize("module", KNOWN)
def test_imports_stand_at_the_top(module: str) -> None:
    for target, node, inner in imports(KNOWN[module]):
        assert not (inner and own(target)), f"{module}:{node.lineno} imports {target} inside a function"


@pytest.mark.parametrize("module", [name for name in KNOWN if not within(name, "storage")])
def test_asyncio_stays_in_storage(module: str) -> None:
    for target, node, _ in imports(KNOWN[module]):
        assert target.partition(".")[0] not in ("asyncio", "trio_asyncio"), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", [name for name in KNOWN if name.startswith("bluesminds.")])
def test_quart_stays_in_the_web(module: str) -> None:
    for target, node, _ in imports(KNOWN[module]):
        quart = target.partition(".")[0] in ("quart", "quart_trio", "werkzeug")
        assert not quart or within(module, "bluesminds.web"), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", KNOWN)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(KNOWN[module].read_text())), f"{module} has no docstring"
