"""Build dist/bluesminds_<version>_<architecture>.deb from the directory form: `python packaging/deb.py`.

Run it after packaging/build.py; it needs dpkg-deb. The package has the executable, the systemd units, manual
pages and completions. It creates the system user bluesminds, and `purge` removes the user and the state
directory. The same directory form gives the same bytes.
"""

import gzip
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
FILES = ROOT / "packaging" / "deb"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = os.environ.get("SOURCE_DATE_EPOCH", "315532800")
sys.path.insert(0, str(ROOT))

import checksums  # noqa: E402 - beside this file
import sbom  # noqa: E402

from bluesminds import __version__  # noqa: E402 - the tree being built, whatever is installed

CONTROL = """\
Package: bluesminds
Version: {version}
Architecture: {architecture}
Maintainer: BluesMinds <packages@bluesminds.invalid>
Installed-Size: {kilobytes}
Depends: libc6 (>= {libc}), passwd
Section: net
Priority: optional
Description: self-hosted AI gateway
 A gateway for the APIs of OpenAI, Anthropic and Google: API keys, limits,
 routing to many model servers, usage records and a dashboard.
"""


def main(report: Callable[[str], None] = print) -> None:
    onedir = DIST / "bluesminds-dir"
    if not (onedir / "bluesminds").is_file():
        sys.exit("error: there is no dist/bluesminds-dir: run `make binary` first")
    architecture = ARCHITECTURES[platform.machine()]
    package = DIST / f"bluesminds_{__version__}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        build_tree(tree, onedir, architecture)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, package],
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    checksums.write_sums()
    report(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB")


def build_tree(tree: Path, onedir: Path, architecture: str) -> None:
    """The files of the package, and DEBIAN/ with what dpkg reads."""
    library, units = tree / "usr/lib/bluesminds", tree / "usr/lib/systemd/system"
    share = tree / "usr/share"
    shutil.copytree(onedir, library, symlinks=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/bluesminds").symlink_to("../lib/bluesminds/bluesminds")
    units.mkdir(parents=True)
    for unit in sorted((ROOT / "packaging" / "systemd").iterdir()):
        (units / unit.name).write_text(packaged_unit(unit.read_text()))
    _shell_files(share, library / "bluesminds")
    documents = share / "doc/bluesminds"
    shutil.copytree(ROOT / "docs", documents / "docs")
    shutil.copy(ROOT / "gateway.toml.example", documents)
    shutil.copy(ROOT / "LICENSE", documents / "copyright")
    sbom.write(documents / "sbom.cdx.json")
    (documents / "changelog.gz").write_bytes(_gzip((ROOT / "CHANGELOG.md").read_bytes()))
    (tree / "etc/bluesminds").mkdir(parents=True)
    shutil.copy(FILES / "gateway.toml", tree / "etc/bluesminds/gateway.toml")
    for entry in (tree, *tree.rglob("*")):
        if not entry.is_symlink():
            entry.chmod(0o755 if entry.is_dir() or entry.stat().st_mode & 0o100 else 0o644)
    _control(tree, architecture)


def packaged_unit(text: str) -> str:
    """The unit for the paths and the static user of the package."""
    head, _, rest = text.partition("[Unit]")
    del head  # how to install it by hand
    changes = {
        "/opt/bluesminds/bluesminds": "/usr/bin/bluesminds",
        "DynamicUser=yes\n": "User=bluesminds\nGroup=bluesminds\n",
    }
    rest = re.sub(r"# Only the service gets this path.*\n", "", rest)
    for old, new in changes.items():
        rest = rest.replace(old, new)
    return "[Unit]" + rest


def _shell_files(share: Path, executable: Path) -> None:
    """Manual pages and completions, made by the executable itself."""
    manual = share / "man/man1"
    _run(executable, "man-pages", str(manual))
    for page in sorted(manual.iterdir()):
        page.with_suffix(".1.gz").write_bytes(_gzip(page.read_bytes()))
        page.unlink()
    for shell, place in (
        ("bash", "bash-completion/completions/bluesminds"),
        ("zsh", "zsh/vendor-completions/_bluesminds"),
        ("fish", "fish/vendor_completions.d/bluesminds.fish"),
    ):
        target = share / place
        target.parent.mkdir(parents=True)
        target.write_text(_run(executable, "completion", shell))


def _run(executable: Path, *words: str) -> str:
    return subprocess.run([executable, *words], check=True, capture_output=True, text=True).stdout


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _control(tree: Path, architecture: str) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    sums = "".join(
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n"  # noqa: S324 - dpkg's format
        for path in files
    )
    size = sum(path.stat().st_size for path in files) // 1024
    control = tree / "DEBIAN"
    control.mkdir(0o755)
    text = CONTROL.format(
        version=__version__,
        architecture=architecture,
        kilobytes=size,
        libc=platform.libc_ver()[1],
    )
    (control / "control").write_text(text)
    (control / "md5sums").write_text(sums)
    (control / "conffiles").write_text("/etc/bluesminds/gateway.toml\n")
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(FILES / name, control / name)
        (control / name).chmod(0o755)


if __name__ == "__main__":
    main()
