"""What the checks need of the machine is installed, or asked for in words."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120.0
TO_START_WITH = ("bash", "dirname", "env", "id")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory of programs with almost nothing in it, whose apt-get writes down what is asked of it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in TO_START_WITH:
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    for name, text in (("apt-get", f'echo "$@" >> {tmp_path}/asked'), ("sudo", 'exec "$@"')):
        (programs / name).write_text(f"#!{programs}/bash\n{text}\n")
        (programs / name).chmod(0o755)
    return programs


def test_a_bare_machine_gets_all_that_the_checks_use(bare: Path) -> None:
    done = subprocess.run(
        (bare / "bash", ROOT / ".ci" / "run"), env={"PATH": str(bare)}, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 127, "there is still no make: apt-get only wrote down what it should install"
    asked = (bare.parent / "asked").read_text().splitlines()
    packages = set(asked[-1].split())
    assert "update" in asked[0].split() and "install" in packages
    assert {"make", "python3", "python3-venv", "binutils", "curl", "strace"} <= packages


def test_no_test_is_skipped_for_a_program_that_is_not_installed() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    wanted = {name for source in sources for name in re.findall(r'which\("(\w+)"\) is None', source)}
    assert wanted
    assert {name for name in wanted if f"need {name} ||" not in text} == set()


def test_the_selftest_asks_for_a_build(tmp_path: Path) -> None:
    (tmp_path / "packaging").mkdir()
    copy = shutil.copy(ROOT / "packaging" / "selftest.py", tmp_path / "packaging")
    done = subprocess.run((sys.executable, copy), capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "selftest: there is no dist/bluesminds: run `make binary` first\n"
