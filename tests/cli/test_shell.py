"""Completions and manual pages."""

import os
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from bluesminds.cli import exits
from bluesminds.cli.app import cli
from bluesminds.cli.lazy import subcommands
from tests.terminal import SECONDS, User


@pytest.mark.process
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_of_the_shell(home: Path, shell: str) -> None:
    done = User(home).call("completion", shell)
    assert done.returncode == 0, done.stderr
    assert f"_BLUESMINDS_COMPLETE={shell}_complete" in done.stdout
    assert "%(" not in done.stdout, "every variable of the template is replaced"
    if program := shutil.which(shell):
        checked = subprocess.run(
            (program, "-n"), input=done.stdout, text=True, capture_output=True, timeout=SECONDS
        )
        assert (checked.returncode, checked.stderr) == (0, "")


def test_completion_of_unknown_shell_is_refused(home: Path) -> None:
    assert User(home).call("completion", "tcsh").returncode == exits.USAGE


@pytest.mark.process
def test_completion_offers_commands_and_options(home: Path) -> None:
    user = User(home)
    asked = {"_BLUESMINDS_COMPLETE": "bash_complete", "COMP_WORDS": "bluesminds ke", "COMP_CWORD": "1"}
    assert user.run(**asked).stdout.split() == ["plain,keys"]
    asked |= {"COMP_WORDS": "bluesminds restore --ch", "COMP_CWORD": "2"}
    assert user.run(**asked).stdout.split() == ["plain,--check"]


def commands(command: click.Command, path: str = "bluesminds") -> list[str]:
    inner = subcommands(command).items() if isinstance(command, click.Group) else ()
    return [path, *(found for name, one in inner for found in commands(one, f"{path}-{name}"))]


@pytest.mark.process
def test_manual_has_a_page_for_every_command(home: Path) -> None:
    directory = home / "man" / "man1"
    done = User(home).call("man-pages", str(directory))
    names = sorted(path.stem for path in directory.iterdir())
    assert names == sorted(commands(cli))
    assert done.stdout == f"wrote {len(names)} pages to {directory}\n"
    for path in directory.iterdir():
        text = path.read_text()
        assert text.startswith('.TH "BLUESMINDS'), path.name
        for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"):
            assert f"\n.SH {title}\n" in text, path.name
        requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
        assert requests <= {".TH", ".SH", ".PP", ".TP", ".B", ".BR"}, path.name
    page = (directory / "bluesminds-restore.1").read_text()
    assert "\\-\\-check" in page and ".BR bluesminds (1)" in page
    assert ".SH EXIT STATUS" in (directory / "bluesminds.1").read_text()
    if groff := shutil.which("groff"):
        for path in directory.iterdir():
            shown = subprocess.run(
                (groff, "-k", "-man", "-wmac", "-Wbreak", "-Tutf8", str(path)),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
            )
            assert (shown.returncode, shown.stderr) == (0, ""), path.name


def test_manual_in_directory_that_cannot_be_written_fails(home: Path) -> None:
    (home / "file").touch()
    done = User(home).call("man-pages", str(home / "file" / "man1"))
    assert done.returncode == exits.UNAVAILABLE
    assert "cannot write to" in done.stderr
