"""Write dist/SHA256SUMS, and with the address of a release the Homebrew formula dist/bluesminds.rb.

`python packaging/checksums.py [https://.../releases/v0.1.0]`. The formula has a part for each archive in
dist/.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
NAME = "SHA256SUMS"
sys.path.insert(0, str(ROOT))

from bluesminds import __version__  # noqa: E402 - the tree being built, whatever is installed

PATTERNS = ("bluesminds", "bluesminds-*.tar.gz", "bluesminds_*.deb", "bluesminds-*.cdx.json")
BLOCKS = {"darwin": "on_macos", "linux": "on_linux"}
PROCESSORS = {"x86_64": "on_intel", "arm64": "on_arm", "aarch64": "on_arm"}
FORMULA = """\
class Bluesminds < Formula
  desc "Self-hosted AI gateway"
  version "{version}"
  license "MIT"
{parts}
  def install
    libexec.install Dir["*"]
    bin.install_symlink libexec/"bluesminds"
    generate_completions_from_executable(bin/"bluesminds", "completion")
    system bin/"bluesminds", "man-pages", man1
  end

  service do
    run [opt_bin/"bluesminds", "serve"]
    keep_alive true
    log_path var/"log/bluesminds.log"
    error_log_path var/"log/bluesminds.log"
  end

  test do
    assert_match version.to_s, shell_output("#{{bin}}/bluesminds version")
  end
end
"""
PART = """
  {system} do
    {processor} do
      url "{url}"
      sha256 "{digest}"
    end
  end
"""


def write_sums(dist: Path = DIST) -> dict[str, str]:
    """SHA-256 by file name, in the format of sha256sum."""
    files = sorted({path for pattern in PATTERNS for path in dist.glob(pattern) if path.is_file()})
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (dist / NAME).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return sums


def formula(base: str, sums: Mapping[str, str]) -> str:
    parts = ""
    for name, digest in sums.items():
        if name.endswith(".tar.gz"):
            system, processor = name.removesuffix(".tar.gz").split("-", 3)[2:]
            parts += PART.format(
                system=BLOCKS[system],
                processor=PROCESSORS[processor],
                url=f"{base.rstrip('/')}/{name}",
                digest=digest,
            )
    return FORMULA.format(version=__version__, parts=parts)


def main() -> None:
    sums = write_sums()
    if len(sys.argv) > 1:
        (DIST / "bluesminds.rb").write_text(formula(sys.argv[1], sums))


if __name__ == "__main__":
    main()
