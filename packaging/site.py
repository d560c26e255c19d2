"""Prepare build/docs for the documentation site: `python packaging/site.py`. `make docs` then builds the
site.

It has the files of docs/, and pages that are generated: the commands from the command tree, the settings from
gateway.toml.example, and the changelog. Links to files outside of docs/ become text.
"""

import re
import shutil
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "docs"
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!guides|decisions)[A-Za-z][^)]*\)")
sys.path.insert(0, str(ROOT))

from bluesminds.cli.app import cli  # noqa: E402 - the tree being built, whatever is installed
from bluesminds.cli.lazy import subcommands  # noqa: E402


def commands() -> str:
    """A page with the help of each command."""
    parts = ["# Commands", ""]
    for path, command in _tree(cli, ("bluesminds",)):
        context = click.Context(command, info_name=" ".join(path))
        parts += [f"## {' '.join(path)}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


def _tree(command: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name, inner in sorted(subcommands(command).items()):
            found += _tree(inner, (*path, name))
    return found


def main(target: Path = TARGET) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target)
    (target / "commands.md").write_text(commands())
    example = (ROOT / "gateway.toml.example").read_text()
    (target / "settings.md").write_text(f"# Settings\n\n```toml\n{example}```\n")
    (target / "changelog.md").write_text((ROOT / "CHANGELOG.md").read_text().replace("(docs/", "("))
    for page in target.rglob("*.md"):
        if page.parent == target:
            page.write_text(_OUTSIDE.sub(r"\1", page.read_text()))


if __name__ == "__main__":
    main()
