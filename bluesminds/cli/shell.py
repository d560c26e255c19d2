"""completion and man-pages: what a package installs for shells and readers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from bluesminds import __version__
from bluesminds.cli import exits
from bluesminds.cli.lazy import subcommands

_PROGRAM: Final = "bluesminds"
_VARIABLE: Final = "_BLUESMINDS_COMPLETE"
_MANUAL: Final = "BluesMinds"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completions for a shell.

    bash: bluesminds completion bash > /etc/bash_completion.d/bluesminds. zsh: write to a file _bluesminds in
    a directory of $fpath. fish: write to ~/.config/fish/completions/bluesminds.fish.
    """
    found = get_completion_class(shell)
    if found is None:
        raise exits.Failure(f"there are no completions for {shell}", exits.USAGE)
    complete = found(context.find_root().command, {}, _PROGRAM, _VARIABLE)
    # `source` would start bash to check its version, and this machine may not have it.
    click.echo(complete.source_template % complete.source_vars())


@click.command("man-pages")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def man_pages(context: click.Context, directory: Path) -> None:
    """Write a manual page for each command into DIRECTORY.

    To install them, use a directory of the manual such as /usr/local/share/man/man1.
    """
    root = context.find_root().command
    count = 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for inner in _contexts(click.Context(root, info_name=_PROGRAM)):
            name = inner.command_path.replace(" ", "-")
            (directory / f"{name}.1").write_text(manual_page(inner), encoding="utf-8")
            count += 1
    except OSError as exc:
        raise exits.Failure(f"cannot write to {directory}: {exc.strerror}", exits.UNAVAILABLE) from None
    click.echo(f"wrote {exits.counted(count, 'page')} to {directory}")


def manual_page(context: click.Context) -> str:
    """The page of a command in the man(7) macros of roff."""
    command = context.command
    name = context.command_path.replace(" ", "-")
    summary, _, rest = (command.help or "").partition("\n\n")
    lines = [
        f'.TH "{_escape(name.upper())}" "1" "" "{_MANUAL} {__version__}" "{_MANUAL}"',
        ".SH NAME",
        f"{_escape(name)} \\- {_escape(_joined(summary).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_escape(context.command_path)}",
        _escape(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        _escape(_joined(summary)),
    ]
    for paragraph in filter(None, re.split(r"\n\s*\n", rest)):
        lines += [".PP", _escape(_joined(paragraph))]
    options = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    if options:
        lines.append(".SH OPTIONS")
        for usage, text in options:
            lines += [".TP", f".B {_escape(usage)}", _escape(_joined(text))]
    lines += _see_also(context)
    if context.parent is None:
        lines.append(".SH EXIT STATUS")
        for code, meaning in exits.MEANINGS.items():
            lines += [".TP", f".B {code}", _escape(meaning)]
    return "\n".join(lines) + "\n"


def _see_also(context: click.Context) -> Iterator[str]:
    """The commands of a group, and the page above."""
    if isinstance(context.command, click.Group):
        yield ".SH COMMANDS"
        for name, inner in subcommands(context.command).items():
            page = f"{context.command_path} {name}".replace(" ", "-")
            yield from (".TP", f".BR {_escape(page)} (1)", _escape(inner.get_short_help_str(200)))
    if context.parent is not None:
        yield from (".SH SEE ALSO", f".BR {_escape(context.parent.command_path.replace(' ', '-'))} (1)")


def _contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name, inner in subcommands(context.command).items():
            yield from _contexts(click.Context(inner, parent=context, info_name=name))


def _joined(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


def _escape(text: str) -> str:
    """Text for roff. A line that begins with a control character would be a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
