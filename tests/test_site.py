"""The documentation site: generated pages, navigation and links."""

import importlib.util
import re
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from tests.terminal import ROOT

CONFIG = yaml.safe_load((ROOT / "packaging" / "mkdocs.yml").read_text())


def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("packaging_site", ROOT / "packaging/site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(navigation: Any) -> set[str]:
    match navigation:
        case str():
            return {navigation}
        case dict():
            return {page for inner in navigation.values() for page in pages(inner)}
    return {page for inner in navigation for page in pages(inner)}


def test_site_has_every_page_in_its_navigation_and_no_broken_link(tmp_path: Path) -> None:
    target = tmp_path / "docs"
    site().prepare(target)
    names = {str(page.relative_to(target)) for page in target.rglob("*.md")}
    listed = pages(CONFIG["nav"])
    assert {name for name in names if not name.startswith("decisions/")} == listed - {"decisions/"}
    for name in names:
        page = target / name
        for link in re.findall(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).resolve().is_file(), f"{name}: {link}"


def test_site_has_all_commands_and_settings(tmp_path: Path) -> None:
    target = tmp_path / "docs"
    site().prepare(target)
    commands = (target / "commands.md").read_text()
    assert "## bluesminds keys create\n" in commands and "--usd-per-day" in commands
    settings = (target / "settings.md").read_text()
    assert "[tiers.free]" in settings
    assert "`BLUESMINDS__LOG__LEVEL`" in settings and "`BLUESMINDS__SERVER__PORT`" in settings
    (level,) = re.findall(r"^\| `level` \|.*$", settings, re.MULTILINE)
    assert level.endswith('| `"info"` | a reload |')
    assert "| `bluesminds_requests_running` | gauge |" in (target / "metrics.md").read_text()


def test_packed_site_has_no_inline_script_and_is_the_same_twice(tmp_path: Path) -> None:
    built = tmp_path / "site"
    (built / "guides").mkdir(parents=True)
    page = '<script>a=1</script><script type="application/json">{}</script><script src="b.js"></script>'
    (built / "index.html").write_text(page)
    (built / "guides" / "one.html").write_text(page)
    (built / "sitemap.xml").write_text("<urlset/>")
    archives = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for archive in archives:
        site().pack(built, archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as packed:
        (script,) = [name for name in packed.namelist() if name.endswith(".js")]
        assert packed.read(script) == b"a=1"
        assert packed.read("index.html").decode() == page.replace(
            "<script>a=1</script>", f'<script src="{script}"></script>'
        )
        assert f'"../{script}"' in packed.read("guides/one.html").decode()
        assert len(packed.namelist()) == 3


def test_guides_are_short_and_lines_are_wrapped() -> None:
    guides = sorted((ROOT / "docs/guides").iterdir())
    assert len(guides) >= 10
    for guide in guides:
        lines = guide.read_text().splitlines()
        assert lines[0].startswith("# ") and len(lines) < 60
        assert all(len(line) <= 125 for line in lines), guide
