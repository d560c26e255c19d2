"""Code, messages, comments and documentation use plain technical English."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "gateway.toml.example")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MODULES = [
    path
    for package in ("bluesminds", "storage", "tests", "bench", "packaging")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != Path(__file__).resolve() and "node_modules" not in path.parts
]
BANNED = re.compile(
    r"\b(?:who(?:so)?ever|somebody|anybody|nobody|nought|anew|in vain|mend(?:ed|s)?|(?:is|are|be) told"
    r"|of (?:its|their) own accord|his|him|(?:that|which) (?:are|is) none"
    r"|no counterpart|has no words|cannot be true|in mid-stream|comes? to (?:its|their) end|goes on)\b",
    re.IGNORECASE,
)
SUBJECTLESS = re.compile(
    r"(?:^|[.:] |\"\"\")Who (?:has|is|does|may|can|gets|brings|wants)\b(?![^.?]*\?)", re.MULTILINE
)


def text_of(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a module, or all lines of a document, with their line numbers."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string


def banned_in(path: Path) -> list[str]:
    text = path.read_text()
    if not BANNED.search(text) and not SUBJECTLESS.search(text):  # most modules: tokens take time
        return []
    return [
        f"{path.relative_to(ROOT)}:{line + text.count(chr(10), 0, match.start())}: {match[0].strip()}"
        for line, text in text_of(path)
        for pattern in (BANNED, SUBJECTLESS)
        for match in pattern.finditer(text)
    ]


def test_banned_patterns_are_absent() -> None:
    assert [found for path in (*DOCUMENTS, *MODULES) for found in banned_in(path)] == []
