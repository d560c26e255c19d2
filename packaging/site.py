"""The documentation site in two steps, around MkDocs: `make docs`.

`python packaging/site.py prepare` writes build/docs: the files of docs/, and pages that are generated. These
are the commands from the command tree, the settings from their types and from gateway.toml.example, the
metrics from docs/operate.md, where a test compares them with the code, and the changelog. Links to files
outside of docs/ become text.

`python packaging/site.py pack` packs build/site into the archive that the gateway serves under /docs/guide.
Inline scripts become files, because the content security policy of the gateway allows none. The archive is
the same bytes for the same site.
"""

import hashlib
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, get_args, get_origin, get_type_hints

import click
import msgspec

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
ARCHIVE = ROOT / "bluesminds" / "web" / "docs" / "guide.zip"
SCRIPTS = "assets/javascripts"
# Debug files, pages for search engines, and other languages.
_NOT_PACKED = re.compile(r"\.map$|^sitemap|^404\.html$|^assets/javascripts/lunr/")
_INLINE_SCRIPT = re.compile(r"<script>(.+?)</script>", re.DOTALL)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!guides|decisions)[A-Za-z][^)]*\)")
sys.path.insert(0, str(ROOT))

from bluesminds.app.reload import is_live  # noqa: E402 - the tree being built, whatever is installed
from bluesminds.cli.app import cli  # noqa: E402
from bluesminds.cli.lazy import subcommands  # noqa: E402
from bluesminds.config import Settings, load  # noqa: E402
from bluesminds.config.values import Secret  # noqa: E402


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


def settings() -> str:
    """A page with each setting of a section, and the example file, which has the repeated tables as well."""
    defaults = load(None, {}, {}).settings
    parts = ["# Settings", "", "What they mean is in [Configure](configure.md).", ""]
    for section in Settings.__struct_fields__:
        values = getattr(defaults, section)
        if isinstance(values, msgspec.Struct):
            parts += [f"## [{section}]", "", "| Setting | Variable | Value | Default | A change needs |"]
            parts += ["|---|---|---|---|---|", *_rows(section, values), ""]
    example = (ROOT / "gateway.toml.example").read_text()
    return "\n".join([*parts, "## Example", "", f"```toml\n{example}```", ""])


def _rows(section: str, values: msgspec.Struct) -> Iterator[str]:
    hints = get_type_hints(type(values), include_extras=True)
    for name in values.__struct_fields__:
        default = getattr(values, name)
        if isinstance(default, msgspec.Struct) and not isinstance(default, Secret):
            continue  # a table of its own, which configure.md describes
        variable = f"BLUESMINDS__{section}__{name}".upper()
        shown = "not set" if default is None else f"`{msgspec.json.encode(default, enc_hook=str).decode()}`"
        needs = "a reload" if is_live(f"{section}.{name}") else "a restart"
        yield f"| `{name}` | `{variable}` | {_accepted(hints[name])} | {shown} | {needs} |"


def _accepted(kind: object) -> str:
    """The values of a type, in words."""
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        found = [note.description for note in notes if isinstance(note, msgspec.Meta) and note.description]
        return found[0] if found else _accepted(inner)
    words = {bool: "`true` or `false`", str: "text", Path: "a path", Secret: "a secret", int: "a number"}
    if kind in words:
        return words[kind]  # type: ignore[index]
    choices = [one for one in get_args(kind) if one is not type(None)]
    if choices and all(isinstance(one, str) for one in choices):
        return ", ".join(f'`"{one}"`' for one in choices)
    return ", ".join(_accepted(one) for one in choices if one is not ...) or "a list"


def metrics() -> str:
    """The list of docs/operate.md as a page."""
    text = (ROOT / "docs" / "operate.md").read_text()
    found = text.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    return f"# Metrics\n{found}".replace("](#", "](operate.md#")


def prepare(target: Path = TARGET) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target)
    (target / "commands.md").write_text(commands())
    (target / "settings.md").write_text(settings())
    (target / "metrics.md").write_text(metrics())
    (target / "changelog.md").write_text((ROOT / "CHANGELOG.md").read_text().replace("(docs/", "("))
    for page in target.rglob("*.md"):
        if page.parent == target:
            page.write_text(_OUTSIDE.sub(r"\1", page.read_text()))


def pack(site: Path = SITE, archive: Path = ARCHIVE) -> None:
    content: dict[str, bytes] = {}
    for file in site.rglob("*"):
        name = file.relative_to(site).as_posix()
        if not file.is_file() or _NOT_PACKED.search(name):
            continue
        if file.suffix == ".html":
            page, scripts = _external_scripts(name, file.read_text())
            content |= scripts | {name: page.encode()}
        else:
            content[name] = file.read_bytes()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name)  # with the first day of zip files as its date
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, content[name])


def _external_scripts(name: str, page: str) -> tuple[str, dict[str, bytes]]:
    """The page with its inline scripts as files, and these files by name."""
    scripts: dict[str, bytes] = {}
    up = "../" * (len(PurePosixPath(name).parts) - 1)

    def moved(found: re.Match[str]) -> str:
        text = found[1].encode()
        file = f"{SCRIPTS}/page.{hashlib.sha256(text).hexdigest()[:8]}.js"
        scripts[file] = text
        return f'<script src="{up}{file}"></script>'

    return _INLINE_SCRIPT.sub(moved, page), scripts


if __name__ == "__main__":
    {"prepare": prepare, "pack": pack}[sys.argv[1]]()
