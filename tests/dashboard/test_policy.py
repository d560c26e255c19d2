"""Rules for templates, scripts and the style sheet."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "bluesminds" / "dashboard"
TEMPLATES = sorted((ROOT / "templates").glob("*.html"))
SCRIPTS = sorted((ROOT / "assets").glob("*.js"))
CSS = (ROOT / "assets" / "dashboard.css").read_text()
MAX_SCRIPT = 20_000  # bytes of all scripts that one page loads


@pytest.mark.parametrize("path", [*TEMPLATES, *SCRIPTS, *ROOT.glob("*.py")], ids=lambda path: path.name)
def test_source_contains_no_way_around_escaping(path: Path) -> None:
    text = path.read_text()
    assert not re.search(
        r"\|\s*safe|Markup|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text
    )
    assert "autoescape false" not in text


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_template_has_no_inline_style_or_script(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?! type=\"module\" src=)", text)
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_small_and_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("// ")
    assert len(lines) < 250
    assert not re.search(r"\b(?:var|class)\s", path.read_text())


def loaded_with(*names: str) -> set[str]:
    """The scripts that a browser loads with these ones. Those of import() are loaded when they are needed."""
    found = set(names)
    for name in names:
        found |= loaded_with(*re.findall(r"^import [^;]*\"\./([\w-]+\.js)\"", script(name), re.MULTILINE))
    return found


def script(name: str) -> str:
    return (ROOT / "assets" / name).read_text()


def test_scripts_of_one_page_are_within_the_budget() -> None:
    for template in TEMPLATES:
        own = re.findall(r"assets }}/([\w-]+\.js)", template.read_text())
        size = sum(len(script(name).encode()) for name in loaded_with("app.js", *own))
        assert size <= MAX_SCRIPT, template.name


def test_scripts_loaded_later_are_within_the_budget() -> None:
    """Of each page, together."""
    for path in SCRIPTS:
        later = re.findall(r"import\(\"\./([\w-]+\.js)\"\)", path.read_text())
        assert sum(len(script(name).encode()) for name in later) <= MAX_SCRIPT, path.name


def token(name: str) -> tuple[str, str]:
    """A colour in the light and in the dark scheme."""
    found = re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", CSS)
    assert found is not None, name
    return found[1], found[2]


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("ink", "paper", "least"),
    [
        *((ink, paper, 4.5) for ink in ("ink", "soft") for paper in ("canvas", "paper", "raised")),
        ("accent", "paper", 4.5),
        ("accent", "wash", 4.5),
        ("on-accent", "accent", 4.5),
        *((name, f"{name}-wash", 4.5) for name in ("good", "warn", "bad")),
        ("bad", "paper", 4.5),
        ("edge", "canvas", 3),
        *((f"tone-{number}", "paper", 3) for number in range(6)),
    ],
)
def test_color_has_enough_contrast_in_both_schemes(ink: str, paper: str, least: float) -> None:
    """WCAG 2.2, AA: 4.5 to 1 for text, 3 to 1 for edges and parts of charts."""
    for scheme in (0, 1):
        assert contrast(token(ink)[scheme], token(paper)[scheme]) >= least
