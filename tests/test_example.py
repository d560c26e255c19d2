"""gateway.toml.example and docs/configure.md know every setting, and no other, with its real default."""

import re
import tomllib
from functools import cache, reduce
from operator import getitem
from pathlib import Path

from bluesminds.cli.exits import MEANINGS
from bluesminds.config import Settings, load, toml_value
from bluesminds.config.fields import convert, fields_in, sections
from tests.cases import each

ROOT = Path(__file__).parent.parent
EXAMPLE = (ROOT / "gateway.toml.example").read_text()
GUIDE = (ROOT / "docs" / "configure.md").read_text()
SECTIONS = ["", *sections(), "servers"]
SETTING = re.compile(r"^#(?=[a-z_0-9]+ = |\[\[)", re.MULTILINE)


@cache
def uncommented() -> dict[str, dict[str, object]]:
    data = tomllib.loads(SETTING.sub("", EXAMPLE))
    (server,) = data.pop("servers")
    tables = {name: reduce(getitem, name.split("."), data) for name in sections()}
    for name in {name.partition(".")[0] for name in sections()}:
        del data[name]
    return {"": data, **tables, "servers": server}


def test_unchanged_example_has_no_effect(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(EXAMPLE)
    path.chmod(0o644)
    loaded = load(path, {"STATE_DIRECTORY": "/state"}, {})
    assert loaded.settings == Settings(state_dir=Path("/state"))
    assert loaded.warnings == ()


@each("section", SECTIONS)
def test_example_shows_every_setting_with_default(section: str) -> None:
    shown = uncommented()[section]
    assert list(shown) == list(fields_in(section))
    for name, field in fields_in(section).items():
        if field.default is not None:
            assert toml_value(shown[name]) == toml_value(field.default), name
        elif not field.secret:
            convert(field, shown[name], ROOT)
        else:
            given = shown[name]
            for one in given if isinstance(given, list) else [given]:
                assert isinstance(one, dict) and one.keys() <= {"env", "file", "cred"}, name


def test_every_setting_in_the_example_is_explained() -> None:
    rows = EXAMPLE.splitlines()
    settings = [at for at, row in enumerate(rows) if SETTING.match(row) and "[[" not in row]
    assert len(settings) == sum(len(fields_in(section)) for section in SECTIONS)
    assert [rows[at] for at in settings if not re.match(r"# [^ ]", rows[at - 1])] == []


def test_example_explains_settings_without_default() -> None:
    rows = EXAMPLE.splitlines()
    for section in SECTIONS:
        for name, field in fields_in(section).items():
            shown = f"#{name} = {toml_value(uncommented()[section][name]).replace('env = ', 'env=')}"
            places = [at for at, row in enumerate(rows) if row == shown]
            prose = ["\n".join(rows[at - 2 : at]).lower() for at in places]
            if field.default is None:
                assert any("default" in text or "required" in text for text in prose), name


def rows_of(section: str) -> dict[str, tuple[str, str]]:
    """The table of a section in the guide: setting -> default, meaning."""
    title = {"": "Top", "servers": "[[servers]]"}.get(section, f"[{section}]")
    part = GUIDE.partition(f"\n### {title}\n")[2].partition("\n#")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| (.+) \|$", part, re.MULTILINE)
    return {name: (default, meaning) for name, default, meaning in found}


@each("section", SECTIONS)
def test_guide_has_every_setting_with_default(section: str) -> None:
    rows = rows_of(section)
    assert list(rows) == list(fields_in(section))
    for name, field in fields_in(section).items():
        required = section == "servers" and name == "name"
        unset = "required" if required else "not set"
        assert rows[name][0] == (unset if field.default is None else f"`{toml_value(field.default)}`"), name


def test_guide_marks_all_secrets() -> None:
    secrets = {name for section in SECTIONS for name, field in fields_in(section).items() if field.secret}
    marked = {name for section in SECTIONS for name, row in rows_of(section).items() if "A secret." in row[1]}
    assert marked == secrets


def test_guide_lists_all_exit_codes() -> None:
    part = GUIDE.partition("\n## Exit codes\n")[2]
    listed = re.findall(r"^\| (\d+) \| (.+) \|$", part, re.MULTILINE)
    assert {int(code): meaning for code, meaning in listed} == MEANINGS
