"""Units of work share no changing state: on SQLite they run in a thread, next to Trio and to each other."""

import ast
import re
from collections.abc import Iterator
from typing import TypeAlias

import pytest

from tests.test_layers import KNOWN, within

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

CHANGES = re.compile(
    "add|append(left)?|clear|discard|extend|insert|pop(item|left)?|remove|set(default)?|update"
)
# Only the units of the dispatcher of events use it, and units that write run one at a time.
EXEMPT = {("bluesminds.notify.webhooks", "self._left_out")}


def functions(tree: ast.Module) -> dict[str, Function]:
    """The functions of a module by name, and its methods as `self.name`."""
    methods = [node for each in tree.body if isinstance(each, ast.ClassDef) for node in each.body]
    return {node.name: node for node in tree.body if isinstance(node, Function)} | {
        f"self.{node.name}": node for node in methods if isinstance(node, Function)
    }


def parameters(function: Function) -> set[str]:
    return {one.arg for one in (*function.args.args, *function.args.kwonlyargs)}


def is_unit(function: Function) -> bool:
    annotated = (one.annotation for one in (*function.args.args, *function.args.kwonlyargs))
    return any(isinstance(one, ast.Name) and one.id == "Connection" for one in annotated)


def root(node: ast.expr) -> str:
    """`a` of `a.b[0].c`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def shared_changes(function: Function, shared: set[str]) -> Iterator[str]:
    """What a function changes of its parameters, and its uses of Trio and of variables outside."""
    awaited = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Await)}
    for node in ast.walk(function):
        match node:
            case ast.Name(id="trio"):
                yield "trio"
            case ast.Nonlocal() | ast.Global():
                yield from node.names
            case ast.Attribute(ctx=ast.Store() | ast.Del()) if root(node) in shared:
                yield ast.unparse(node)
            case ast.Subscript(ctx=ast.Store() | ast.Del()) if root(node) in shared:
                yield ast.unparse(node.value)
            case ast.Call(func=ast.Attribute(attr=name, value=target)) if CHANGES.fullmatch(name):
                if root(target) in shared and id(node) not in awaited:  # others await their connection
                    yield ast.unparse(target)


def called(function: Function, known: dict[str, Function]) -> Iterator[Function]:
    """The functions of the same module, and methods of `self`, that a function calls."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in known:
            yield known[name]


def changes_of_units(tree: ast.Module) -> set[str]:
    known = functions(tree)
    found: set[str] = set()
    waiting = [one for one in ast.walk(tree) if isinstance(one, Function) and is_unit(one)]
    seen = set(waiting)
    while waiting:
        function = waiting.pop()
        # The other parameters of a function that a unit calls may be objects that the unit has made.
        found |= set(shared_changes(function, parameters(function) if is_unit(function) else {"self"}))
        new = set(called(function, known)) - seen
        seen |= new
        waiting += new
    return found - {"connection.has_events"}


def test_units_change_nothing_shared() -> None:
    sources = {
        module: path.read_text() for module, path in KNOWN.items() if not within(module, "bluesminds.http")
    }
    found = {
        (module, change)
        for module, source in sources.items()
        if "Connection" in source
        for change in changes_of_units(ast.parse(source))
    }
    assert found == EXEMPT


# The rule above must be able to fail.


@pytest.mark.parametrize(
    ("body", "change"),
    [
        ("self.count += 1", "self.count"),
        ("self.rows[key] = 1", "self.rows"),
        ("del self.rows[key]", "self.rows"),
        ("self.changed.set()", "self.changed"),
        ("rows.append(1)", "rows"),
        ("trio.Event()", "trio"),
        ("self.helper()", "self.helped"),
        ("outer()", "outside"),
    ],
)
def test_changes_of_units_change_is_found(body: str, change: str) -> None:
    source = f"""
class A:
    async def unit(self, connection: Connection, rows):
        found = []
        found.append(1)
        connection.has_events = True
        {body}

    def helper(self):
        self.helped = True

def outer():
    global outside
"""
    assert changes_of_units(ast.parse(source)) == {change}
