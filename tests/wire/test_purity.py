"""Wire formats do no I/O and know no clock."""

import ast
from pathlib import Path

import bluesminds.wire

ALLOWED = (
    "bluesminds.common.values",
    "bluesminds.common.errors",
    "bluesminds.common.money",
    "bluesminds.common.routes",
    "bluesminds.http.sse",
    "bluesminds.wire",
)
PURE = {
    "abc",
    "ast",
    "base64",
    "binascii",
    "collections",
    "datetime",
    "functools",
    "hashlib",
    "json",
    "math",
    "msgspec",
    "re",
    "struct",
    "typing",
}


def test_wire_imports_values_and_formats_only() -> None:
    for path in Path(bluesminds.wire.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= PURE, path.name
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert module.startswith(ALLOWED) or module.split(".")[0] in PURE, (path.name, module)
