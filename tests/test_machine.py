"""The programs that the checks need are installed or named in an error."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120.0
BARE_PROGRAMS = ("bash", "dirname", "env", "id")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory with very few programs. Its apt-get only writes its arguments to a file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in BARE_PROGRAMS:
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    for name, text in (("apt-get", f'echo "$@" >> {tmp_path}/asked'), ("sudo", 'exec "$@"')):
        (programs / name).write_text(f"#!{programs}/bash\n{text}\n")
        (programs / name).chmod(0o755)
    return programs


@pytest.mark.process
def test_ci_run_bare_machine_installs_all_programs(bare: Path) -> None:
    done = subprocess.run(
        (bare / "bash", ROOT / ".ci" / "run"), env={"PATH": str(bare)}, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 127, "there is no make, because apt-get installed nothing"
    asked = (bare.parent / "asked").read_text().splitlines()
    packages = set(asked[-1].split())
    assert "update" in asked[0].split() and "install" in packages
    assert {"make", "python3", "python3-venv", "binutils", "curl", "strace"} <= packages


def test_ci_run_installs_every_program_that_tests_look_for() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    wanted = {name for source in sources for name in re.findall(r'which\("(\w+)"\) is None', source)}
    assert wanted
    wanted -= {"helm"}  # Debian has no package of it
    assert {name for name in wanted if f"need {name} ||" not in text} == set()


@pytest.mark.process
def test_selftest_without_build_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "packaging").mkdir()
    copy = shutil.copy(ROOT / "packaging" / "selftest.py", tmp_path / "packaging")
    done = subprocess.run((sys.executable, copy), capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "selftest: there is no dist/bluesminds: run `make binary` first\n"
