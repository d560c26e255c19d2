"""The software bill of materials: CycloneDX 1.6 as JSON, from the lock file of the executable.

`python packaging/sbom.py FILE` writes it; packaging/build.py puts it into the archive and the packages. The
same lock gives the same bytes. Licences are those that the installed packages declare.
"""

import json
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bluesminds import __version__  # noqa: E402 - the tree being built, whatever is installed

LOCK = ROOT / "packaging" / "locks" / "run.lock"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill(lock: Path = LOCK) -> dict[str, Any]:
    """The document. Raises ValueError for a lock without packages."""
    components = [_python(), *_components(lock.read_text())]
    if len(components) == 1:
        raise ValueError(f"{lock} names no packages")
    name = f"bluesminds@{__version__}"
    product = {
        "type": "application",
        "bom-ref": name,
        "name": "bluesminds",
        "version": __version__,
        "purl": f"pkg:generic/{name}",
        "licenses": [{"license": {"id": "MIT"}}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [one["bom-ref"] for one in components]}],
    }


def _python() -> dict[str, Any]:
    version = platform.python_version()
    return {
        "type": "platform",
        "bom-ref": f"python@{version}",
        "name": "python",
        "version": version,
        "purl": f"pkg:generic/python@{version}",
    }


def _components(lock: str) -> list[dict[str, Any]]:
    """One for each package, with the hashes of the files that pip accepts for it."""
    found: list[dict[str, Any]] = []
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            name, version = pin[1].lower().replace("_", "-"), pin[2]
            purl = f"pkg:pypi/{name}@{version}"
            found.append(
                {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
                | _licence(name)
                | {"hashes": []}
            )
        elif (digest := _HASH.search(line)) and found:
            found[-1]["hashes"].append({"alg": "SHA-256", "content": digest[1]})
    return found


def _licence(name: str) -> dict[str, Any]:
    try:
        declared = metadata(name)["License-Expression"]
    except PackageNotFoundError:
        return {}
    return {"licenses": [{"expression": declared}]} if declared else {}


def write(path: Path) -> None:
    path.write_text(json.dumps(bill(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
