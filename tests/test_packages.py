"""The files in packaging/: bill of materials, Debian package, install script and Homebrew formula."""

import hashlib
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from bluesminds import __version__
from tests.terminal import ROOT

pytestmark = pytest.mark.process

PACKAGING = ROOT / "packaging"
# Does what the packages need of the executable.
EXECUTABLE = """\
#!/bin/sh
case $1 in
    man-pages) mkdir -p "$2"; echo page > "$2/bluesminds.1" ;;
    *) echo "bluesminds $*" ;;
esac
"""


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of packaging/ as a module. The directory has the name of a library, so it is not importable."""
    monkeypatch.syspath_prepend(PACKAGING)
    spec = importlib.util.spec_from_file_location(f"packaging_{name}", PACKAGING / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def directory_form(at: Path) -> Path:
    at.mkdir()
    (at / "bluesminds").write_text(EXECUTABLE)
    (at / "bluesminds").chmod(0o755)
    (at / "lib").mkdir()
    (at / "lib" / "base.zip").write_text("archive")
    return at


def archive(at: Path, name: str = f"bluesminds-{__version__}-linux-x86_64.tar.gz") -> Path:
    """An archive with its checksums beside it."""
    tree = directory_form(at / "tree")
    with tarfile.open(at / name, "w:gz") as tar:
        tar.add(tree, f"bluesminds-{__version__}")
    digest = hashlib.sha256((at / name).read_bytes()).hexdigest()
    (at / "SHA256SUMS").write_text(f"{digest}  {name}\n")
    return at / name


def test_sbom_names_every_package_of_the_lock_with_its_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    document = script("sbom", monkeypatch).bill()
    pins = re.findall(r"^([\w.-]+)==", (PACKAGING / "locks/run.lock").read_text(), re.MULTILINE)
    assert [one["name"] for one in document["components"]] == ["python", *pins]
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    trio = next(one for one in document["components"] if one["name"] == "trio")
    assert trio["purl"] == f"pkg:pypi/trio@{trio['version']}"
    assert trio["hashes"] and all(len(one["content"]) == 64 for one in trio["hashes"])
    assert json.dumps(document) == json.dumps(script("sbom", monkeypatch).bill())


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_deb_has_units_pages_and_scripts_and_is_reproducible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no packages for this processor")
    deb = script("deb", monkeypatch)
    made = []
    for name in ("one", "two"):
        dist = tmp_path / name
        dist.mkdir()
        directory_form(dist / "bluesminds-dir")
        monkeypatch.setattr(deb, "DIST", dist)
        monkeypatch.setattr(deb, "ROOT", ROOT)
        monkeypatch.setattr(deb.checksums, "write_sums", lambda: None)
        deb.main(report=lambda text: None)
        (package,) = dist.glob("*.deb")
        made.append(package)
    assert made[0].read_bytes() == made[1].read_bytes()
    listed = subprocess.run(
        ["dpkg-deb", "--contents", made[0]], capture_output=True, text=True, check=True
    ).stdout
    for path in (
        "./usr/bin/bluesminds -> ../lib/bluesminds/bluesminds",
        "./usr/lib/systemd/system/bluesminds.service",
        "./usr/lib/systemd/system/bluesminds.socket",
        "./usr/share/man/man1/bluesminds.1.gz",
        "./usr/share/bash-completion/completions/bluesminds",
        "./usr/share/doc/bluesminds/sbom.cdx.json",
        "./etc/bluesminds/gateway.toml",
    ):
        assert path in listed
    assert " root/root " in listed
    unpacked = tmp_path / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", made[0], unpacked], check=True)
    control = (unpacked / "DEBIAN/control").read_text()
    assert f"Version: {__version__}\n" in control and "Depends: libc6 (>= " in control
    assert (unpacked / "DEBIAN/conffiles").read_text() == "/etc/bluesminds/gateway.toml\n"
    unit = (unpacked / "usr/lib/systemd/system/bluesminds.service").read_text()
    assert "ExecStart=/usr/bin/bluesminds serve" in unit and "User=bluesminds\n" in unit
    assert "DynamicUser" not in unit and "/opt" not in unit


@pytest.mark.parametrize("name", ["deb/postinst", "deb/prerm", "deb/postrm", "install.sh"])
def test_shell_script_of_a_package_has_no_syntax_error(name: str) -> None:
    done = subprocess.run(["sh", "-n", PACKAGING / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_configuration_of_the_deb_is_valid(tmp_path: Path) -> None:
    text = (
        (PACKAGING / "deb/gateway.toml").read_text().replace("/var/lib/bluesminds", str(tmp_path / "state"))
    )
    (tmp_path / "gateway.toml").write_text(text)
    command = [sys.executable, "-m", "bluesminds", "config", "show", "-c", str(tmp_path / "gateway.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f'state_dir = "{tmp_path}/state"' in done.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("form", ["archive", "deb"])
def test_systemd_unit_is_exposed_at_most_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    text = (PACKAGING / "systemd/bluesminds.service").read_text()
    unit = tmp_path / "bluesminds.service"
    unit.write_text(script("deb", monkeypatch).packaged_unit(text) if form == "deb" else text)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_install_script_installs_updates_and_uninstalls(tmp_path: Path) -> None:
    made = archive(tmp_path)
    places = ["--prefix", str(tmp_path / "opt/bluesminds"), "--bin", str(tmp_path / "bin")]
    command = ["sh", str(PACKAGING / "install.sh"), *places]
    dry = subprocess.run([*command, "--dry-run", made], capture_output=True, text=True)
    assert dry.returncode == 0 and "would run: " in dry.stdout and not (tmp_path / "opt").exists()
    left = tmp_path / "opt/bluesminds.new/left"  # of an installation that was interrupted
    for _ in range(2):
        left.parent.mkdir(parents=True)
        left.touch()
        done = subprocess.run([*command, made], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    installed = subprocess.run([tmp_path / "bin/bluesminds", "x"], capture_output=True, text=True)
    assert installed.stdout == "bluesminds x\n"
    assert sorted(path.name for path in (tmp_path / "opt").iterdir()) == ["bluesminds"]
    assert not (tmp_path / "opt/bluesminds/left").exists()
    assert subprocess.run([*command, "--uninstall"]).returncode == 0
    assert not (tmp_path / "opt/bluesminds").exists() and not (tmp_path / "bin/bluesminds").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("damage", "the checksum of"),
        ("forget", "SHA256SUMS does not name"),
        ("foreign", "exists and is not BluesMinds"),
        ("plain", "is not an https URL"),
    ],
)
def test_install_script_refuses_what_it_cannot_trust(tmp_path: Path, change: str, message: str) -> None:
    made, prefix = archive(tmp_path), tmp_path / "opt/bluesminds"
    name = str(made)
    if change == "damage":
        made.write_bytes(made.read_bytes() + b"x")
    elif change == "forget":
        (tmp_path / "SHA256SUMS").write_text("")
    elif change == "foreign":
        prefix.mkdir(parents=True)
    else:
        name = "http://127.0.0.1:9/bluesminds.tar.gz"
    command = ["sh", PACKAGING / "install.sh", "--prefix", prefix, "--bin", tmp_path / "bin", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not (prefix / "bluesminds").exists()


def test_homebrew_formula_has_each_archive_with_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksums = script("checksums", monkeypatch)
    for name in ("linux-x86_64", "darwin-arm64"):
        (tmp_path / f"bluesminds-{__version__}-{name}.tar.gz").write_text(name)
    sums = checksums.write_sums(tmp_path)
    text = checksums.formula("https://example.com/v1/", sums)
    for name, digest in sums.items():
        assert f'url "https://example.com/v1/{name}"\n      sha256 "{digest}"' in text
    assert text.index("on_macos") and text.index("on_arm") and text.index("on_intel")
    assert text.count(" do\n") + text.count("\n  def ") + 1 == len(re.findall(r"^ *end$", text, re.MULTILINE))
