"""Build the executable with the interpreter this runs under: `python packaging/build.py`.

Writes dist/bluesminds (one file), dist/bluesminds-dir/ (one directory), the directory's archive
dist/bluesminds-<version>-<system>-<machine>.tar.gz, the bill of materials and SHA256SUMS, then runs both
forms and prints what is inside them. The archive is the same bytes for the same tree and tools;
SOURCE_DATE_EPOCH sets the time its entries carry.
The executable runs on the C library of this machine and newer ones: build on the oldest one to be supported.
"""

import gzip
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
WORK = ROOT / "build"
sys.path.insert(0, str(ROOT))

import checksums  # noqa: E402 - beside this file
import sbom  # noqa: E402

from bluesminds import __version__  # noqa: E402 - the tree being built, whatever is installed

# What goes beside the executable into the archive.
EXTRAS = ("LICENSE", "README.md", "gateway.toml.example", "docs", "packaging/systemd")
SBOM = "sbom.cdx.json"


def main() -> None:
    environ = {**os.environ, "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": str(_epoch())}
    subprocess.run(
        [
            *(sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level=WARN"),
            *(f"--distpath={DIST}", f"--workpath={WORK}", str(ROOT / "packaging" / "bluesminds.spec")),
        ],
        env=environ,
        check=True,
    )
    onefile, onedir = DIST / "bluesminds", DIST / "bluesminds-dir"
    archive = DIST / f"bluesminds-{__version__}-{platform.system().lower()}-{platform.machine()}.tar.gz"
    bill = DIST / f"bluesminds-{__version__}.cdx.json"
    sbom.write(bill)
    _pack(onedir, archive, bill)
    checksums.write_sums()
    for form in (onefile, onedir / "bluesminds"):
        print(f"{form.relative_to(ROOT)}:", flush=True)
        subprocess.run([form, "version"], check=True)
    for made in (onefile, archive):
        print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB")


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))  # 1980-01-01, the first day of zip files


def _pack(onedir: Path, archive: Path, bill: Path) -> None:
    """One top directory, sorted entries, user id 0."""
    top = f"bluesminds-{__version__}"
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=_epoch(), fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, onedir, top)
        for extra in EXTRAS:
            _add(tar, ROOT / extra, f"{top}/{Path(extra).name}")
        _add(tar, bill, f"{top}/{SBOM}")


def _add(tar: tarfile.TarFile, source: Path, name: str) -> None:
    tar.add(source, name, recursive=False, filter=_anonymous)
    if source.is_dir() and not source.is_symlink():
        for child in sorted(source.iterdir()):
            _add(tar, child, f"{name}/{child.name}")


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = _epoch()
    return entry


if __name__ == "__main__":
    main()
