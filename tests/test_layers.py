"""The layers of the code: modules import only lower layers, without cycles. Only storage uses asyncio."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the top down. A module may import its own layer and any lower one, except for FORBIDDEN.
LAYERS = (
    ("bluesminds.__main__",),
    ("bluesminds.cli",),
    ("bluesminds.app",),
    ("bluesminds.dashboard",),
    ("bluesminds.web",),
    ("bluesminds.gateway", "bluesminds.accounts"),
    ("bluesminds.providers", "bluesminds.payments", "bluesminds.identity", "bluesminds.notify"),
    ("bluesminds.wire",),
    ("storage", "bluesminds.http"),
    ("bluesminds.config",),
    ("bluesminds.common", "bluesminds"),
)
FORBIDDEN = (
    ("bluesminds.gateway", "bluesminds.accounts"),
    ("bluesminds.accounts", "bluesminds.gateway"),
    ("bluesminds.providers", "storage"),
    ("bluesminds.identity", "storage"),
    ("bluesminds.payments", "storage"),
    ("bluesminds.http", "storage"),
    ("storage", "bluesminds"),
)

# Imports inside functions, of what most processes never use and what takes long to load.
DEFERRED = (
    ("bluesminds.accounts.billing.invoice_files", "bluesminds.accounts.billing.invoice_pdf"),
    ("bluesminds.app.operator", "bluesminds.app.operator_api"),
    ("storage.store", "storage.postgres"),
)
BY_NAME = ("bluesminds.cli.lazy",)  # modules that import others by name
MAY_HIDE = re.compile("__import__|import_module|modules")  # one of these is in the text of a hidden import


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("bluesminds", "storage"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


Import = tuple[str, ast.stmt, bool]  # the module it names, the statement, whether it is inside a function
KNOWN = dict(modules())


class Facts(NamedTuple):
    """What the tests ask of a module."""

    imports: tuple[Import, ...]
    hidden_imports: list[int]
    docstring: str | None
    classes: list[str]


@cache  # parsing the code takes seconds
def facts(module: str) -> Facts:
    path = KNOWN[module]
    text = path.read_text()
    tree = ast.parse(text)
    package = module if path.stem == "__init__" else package_of(module)
    return Facts(
        tuple(imports_in(tree, package)),
        list(hidden_imports(tree)) if MAY_HIDE.search(text) else [],
        ast.get_docstring(tree),
        exported_classes(tree),
    )


def imports(module: str) -> tuple[Import, ...]:
    return facts(module).imports


def imports_in(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every import of a module in `package`, relative ones resolved."""
    for node, inner in statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node, inner
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield deeper if deeper in KNOWN else base, node, inner


def statements(node: ast.AST, *, inner: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """All statements below a node, and whether they are inside a function. Expressions contain none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child, inner
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from statements(child, inner=inner or function)


def package_of(module: str) -> str:
    return module.rpartition(".")[0]


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The module after `from`: each dot but the first leaves one package."""
    for _ in range(node.level - 1):
        package = package_of(package)
    return ".".join(filter(None, (package if node.level else "", node.module)))


def hidden_imports(tree: ast.Module) -> Iterator[int]:
    """Lines that could import a module whose name is not written in an import statement."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="__import__" | "import_module")
            ):
                yield node.lineno
            case ast.ImportFrom(module="importlib", names=names) if any(
                alias.name == "import_module" for alias in names
            ):
                yield node.lineno
            case ast.Attribute(value=ast.Name(id="sys"), attr="modules"):
                yield node.lineno


def within(module: str, package: str) -> bool:
    return module == package or (module.startswith(package + ".") and package != "bluesminds")


def layer(module: str) -> int:
    for depth, packages in enumerate(LAYERS):
        if any(within(module, package) for package in packages):
            return depth
    raise AssertionError(f"{module} is in no layer of LAYERS")


def own(module: str) -> bool:
    return module.partition(".")[0] in ("bluesminds", "storage")


def check_arrows(module: str, found: Iterable[Import]) -> None:
    for target, node, _ in found:
        if own(target):
            assert layer(module) <= layer(target), f"{module}:{node.lineno} imports {target} from above"
            for importer, imported in FORBIDDEN:
                forbidden = within(module, importer) and f"{target}.".startswith(f"{imported}.")
                assert not forbidden, f"{module}:{node.lineno} must not import {target}"


def check_cycles(found: Mapping[str, Iterable[Import]]) -> None:
    graph = {
        module: {target for target, _, _ in targets if target in KNOWN and target != module}
        for module, targets in found.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        pytest.fail(f"import cycle: {' > '.join(exc.args[1])}")


def check_import_level(module: str, found: Iterable[Import]) -> None:
    for target, node, inner in found:
        allowed = not inner or not own(target) or (module, target) in DEFERRED
        assert allowed, f"{module}:{node.lineno} imports {target} inside a function"


def test_modules_import_no_higher_layer() -> None:
    for module in KNOWN:
        check_arrows(module, imports(module))


def test_modules_have_no_import_cycle() -> None:
    check_cycles({module: imports(module) for module in KNOWN})


def test_modules_import_nothing_inside_functions() -> None:
    for module in KNOWN:
        check_import_level(module, imports(module))


def test_modules_have_no_hidden_import() -> None:
    found = {module: facts(module).hidden_imports for module in KNOWN if module not in BY_NAME}
    assert {module: names for module, names in found.items() if names} == {}


def importers(packages: set[str]) -> set[str]:
    """The modules that import one of these packages."""
    return {
        module for module in KNOWN for target, _, _ in imports(module) if target.partition(".")[0] in packages
    }


def test_asyncio_outside_storage_is_not_imported() -> None:
    found = importers({"asyncio", "trio_asyncio"})
    assert {module for module in found if not within(module, "storage")} == set()


def test_quart_outside_web_is_not_imported() -> None:
    found = importers({"quart", "quart_trio", "werkzeug"})
    assert {module for module in found if not within(module, "bluesminds.web")} == set()


def test_modules_have_a_docstring() -> None:
    assert [module for module in KNOWN if not facts(module).docstring] == []


def exported_classes(tree: ast.Module) -> list[str]:
    classes = [node.name for node, _ in statements(tree) if isinstance(node, ast.ClassDef)]
    return [name for name in classes if not name.startswith("_")]


def duplicates(classes: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Exported class names that more than one module defines, with these modules."""
    defined: dict[str, list[str]] = {}
    for module, names in classes.items():
        for name in names:
            defined.setdefault(name, []).append(module)
    return {name: found for name, found in defined.items() if len(found) > 1}


def test_exported_class_name_is_unique() -> None:
    assert duplicates({module: facts(module).classes for module in KNOWN}) == {}


# The rules above must be able to fail.


def test_duplicates_class_in_two_modules_is_found() -> None:
    sources = {"a": "class A: ...\nclass B: ...", "b": "class A: ...\nclass _C: ..."}
    classes = {module: exported_classes(ast.parse(source)) for module, source in sources.items()}
    assert classes == {"a": ["A", "B"], "b": ["A"]}
    assert duplicates(classes) == {"A": ["a", "b"]}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bluesminds.gateway.pipeline", "from bluesminds.web import data_plane"),
        ("bluesminds.gateway.pipeline", "import bluesminds.app.serve"),
        ("bluesminds.gateway.pipeline", "from ..web import data_plane"),
        ("bluesminds.gateway.pipeline", "from .. import web"),
        ("bluesminds.gateway.pipeline", "from ..accounts.keys import Keys"),
        ("bluesminds.http.client.pool", "import storage.base"),
        ("storage.store", "from bluesminds import clock"),
    ],
)
def test_check_arrows_import_of_higher_layer_fails(module: str, source: str) -> None:
    with pytest.raises(AssertionError, match=r"from above|must not import"):
        check_arrows(module, imports_in(ast.parse(source), package_of(module)))


@pytest.mark.parametrize(
    "source",
    ["from bluesminds.gateway.pipeline import x", "from . import pipeline", "from .pipeline import x"],
)
def test_check_cycles_cycle_fails(source: str) -> None:
    found: dict[str, Sequence[Import]] = {module: imports(module) for module in KNOWN}
    (below, *_) = [
        name for name, *_ in found["bluesminds.gateway.pipeline"] if within(name, "bluesminds.gateway")
    ]
    found[below] = [*found[below], *imports_in(ast.parse(source), "bluesminds.gateway")]
    with pytest.raises(pytest.fail.Exception, match="import cycle"):
        check_cycles(found)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import bluesminds.common.clock",
        "async def f():\n    from ..common.clock import Clock",
        "class A:\n    def f(self):\n        if self:\n            from .pipeline import x",
    ],
)
def test_check_import_level_import_inside_function_fails(source: str) -> None:
    with pytest.raises(AssertionError, match="inside a function"):
        check_import_level("bluesminds.gateway.pipeline", imports_in(ast.parse(source), "bluesminds.gateway"))


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nimportlib.import_module('bluesminds.app.serve')",
        "from importlib import import_module as load",
        "__import__('bluesminds.app.serve')",
        "import builtins\nbuiltins.__import__('bluesminds.app.serve')",
        "import sys\nsys.modules['bluesminds.app.serve']",
    ],
)
def test_hidden_imports_hidden_import_is_found(source: str) -> None:
    assert list(hidden_imports(ast.parse(source)))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("from . import pipeline", "bluesminds.gateway.pipeline"),
        ("from .pipeline import Gateway", "bluesminds.gateway.pipeline"),
        ("from ..common import clock", "bluesminds.common.clock"),
        ("from ..http.client.pool import Pool", "bluesminds.http.client.pool"),
        ("from storage.base import Store", "storage.base"),
    ],
)
def test_imports_in_relative_import_is_resolved(source: str, target: str) -> None:
    assert [name for name, *_ in imports_in(ast.parse(source), "bluesminds.gateway")] == [target]
