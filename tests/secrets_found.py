"""Searches what gateways leave behind and what commands print for secrets, in all tests.

`tests.gateways` searches the log and the database at the end of every gateway, and the errors and metrics
that its clients get. The fixture `home` searches databases of gateways in other processes. `tests.terminal`
searches the output of commands that describe a gateway.
API keys, sessions, secrets of webhooks and tokens of links have a form that is found anywhere. Secrets of the
settings and the prompt of `gateways.ASK` are searched for as they are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from bluesminds.config import Secret

PROMPT = b"Say hello."
# A session is only found between other characters, because encrypted data is the same alphabet at random.
# By their first bytes, which are found in a database a hundred times faster than a pattern.
SHAPES = {
    b"bm_": re.compile(rb"\bbm_[0-9A-Za-z]{36}\b"),
    b"bms_": re.compile(rb"(?<![\w-])bms_[A-Za-z0-9_-]{43}(?![\w-])"),
    b"whsec_": re.compile(rb"\bwhsec_[A-Za-z0-9+/]{43}="),
    b"#token=": re.compile(rb"#token=[A-Za-z0-9_-]{43}"),
    b"#invite=": re.compile(rb"#invite=[A-Za-z0-9_-]{43}"),
}
SHORTEST = 12  # characters: shorter ones are words that appear for other reasons
DESCRIBING = frozenset(("--version", "check", "config", "doctor", "support-bundle", "version"))
_IN_FILE = re.compile(r'(?:api_key|password|secret|pepper)\s*=\s*"([^"]{12,})"')
_IN_NAME = re.compile(r"KEY|SECRET|PASSWORD|PEPPER|TOKEN")


def secrets_of(value: object) -> Iterator[bytes]:
    """Those in settings that are long enough to be recognised."""
    if isinstance(value, Secret):
        text = value.reveal()
        if len(text) >= SHORTEST and "://" not in text:
            yield text.encode()
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from secrets_of(getattr(value, name))
    elif isinstance(value, dict):
        yield from secrets_of(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from secrets_of(one)


def found_in(place: str, content: bytes, secrets: Iterable[bytes]) -> list[str]:
    """Messages that contain only the beginning of a secret."""
    shapes = {shape[:12] for start, form in SHAPES.items() for shape in _matches(content, start, form)}
    known = {secret[:12] for secret in secrets if secret in content}
    return [f"{place}: {start.decode(errors='replace')}..." for start in shapes | known]


def _matches(content: bytes, start: bytes, form: re.Pattern[bytes]) -> Iterator[bytes]:
    at = content.find(start)
    while at >= 0:
        if found := form.match(content, at):
            yield found[0]
        at = content.find(start, at + 1)


def found_after(state_dir: Path, log: bytes, known: Iterable[bytes]) -> list[str]:
    """Secrets in the log, and those of the settings in the files of the database."""
    secrets = {PROMPT, *known}
    contents = {path.name: _content(path) for path in _databases(state_dir)}
    return [
        *found_in("log", log, secrets),
        *(f"{name}: {one[:12]!r}..." for name, text in contents.items() for one in secrets if one in text),
    ]


def found_below(home: Path) -> list[str]:
    """Secrets in all databases below a directory."""
    return [one for path in _databases(home) for one in found_in(path.name, _content(path), (PROMPT,))]


def found_in_output(
    words: Sequence[str], output: str, directory: Path, environ: Mapping[str, str]
) -> list[str]:
    """Secrets in the output of a command that describes the gateway."""
    if not DESCRIBING.intersection(words[:1]):
        return []
    secrets = {value for name, value in environ.items() if _IN_NAME.search(name) and len(value) >= SHORTEST}
    for path in directory.glob("*.toml"):
        secrets |= set(_IN_FILE.findall(_content(path).decode(errors="replace")))
    return found_in(" ".join(words), output.encode(), [one.encode() for one in secrets])


def _databases(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.db*"))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # some tests make it unreadable
        return b""
