"""[[identity.providers]]: references to secrets, and mistakes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from bluesminds.config import ConfigError, Loaded, load

CANARY = "canary-0123456789abcdef"
PUBLIC = '[server]\npublic_url = "https://ai.example.com"\n'


def read(home: Path, text: str, environ: Mapping[str, str] | None = None, mode: int = 0o600) -> Loaded:
    path = home / "gateway.toml"
    path.write_text(text)
    path.chmod(mode)
    return load(path, environ or {}, {})


def provider(*lines: str, name: str = "company", issuer: str = "https://login.example.com") -> str:
    head = [f'name = "{name}"', 'client_id = "gateway"', *([f'issuer = "{issuer}"'] if issuer else [])]
    return "\n".join(["[[identity.providers]]", *head, *lines, ""])


@pytest.mark.parametrize("line", ['{env="ONE"}', '{file="one.secret"}', f'"{CANARY}"'])
def test_secret_of_a_provider_is_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "one.secret").write_text(f"{CANARY}\n")
    (tmp_path / "one.secret").chmod(0o600)
    loaded = read(tmp_path, PUBLIC + provider(f"client_secret = {line}"), {"ONE": CANARY})
    (row,) = loaded.settings.identity.providers
    assert row.client_secret is not None
    assert row.client_secret.reveal() == CANARY
    assert CANARY not in repr(loaded)
    assert loaded.warnings == ()


def test_secret_in_a_file_for_all_users_is_reported(tmp_path: Path) -> None:
    text = PUBLIC + provider() + provider(f'client_secret = "{CANARY}"', name="other")
    (warning,) = read(tmp_path, text, mode=0o644).warnings
    assert warning.message == (
        "client_secret in table 2 of providers in [identity] is in a file that other users can read"
    )


GOOGLE = 'kind = "google"'
SECRET = 'client_secret = "x"'
MISTAKES = {
    provider("client_secret = {env='GONE'}"): "reads the environment variable GONE, which is not set",
    provider("client_secret = 3"): "must be text",
    provider("secret = 'x'"): 'did you mean "client_secret"?',
    provider(issuer=""): 'issuer in [[identity.providers]] "company" is missing',
    provider(issuer="https://a.example/?x=1"): 'must not contain "?" or "#"',
    provider(GOOGLE, SECRET, name="google"): 'issuer in [[identity.providers]] "google" is not used',
    provider(GOOGLE, name="google", issuer=""): 'client_secret in [[identity.providers]] "google" is missing',
    provider(GOOGLE, SECRET, issuer=""): 'set name and kind to "google", or neither',
    provider(name="github"): 'set name and kind to "github", or neither',
    provider("scopes = ['email']"): 'must contain "openid"',
    provider("allowed_domains = ['Example.com']"): "a list of domains in lower case",
    provider() * 2: 'two [[identity.providers]] are named "company"',
    provider("kind = 'privy'", "key_file = 'gone.pem'", name="privy", issuer=""): "cannot be read",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake_in_a_provider_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, PUBLIC + text)
    found = "\n".join(f"{problem.message}\n{problem.help}" for problem in caught.value.problems)
    assert MISTAKES[text] in found


def test_provider_without_public_url_is_a_warning(tmp_path: Path) -> None:
    messages = {warning.message for warning in read(tmp_path, provider(issuer="http://a.example")).warnings}
    assert messages == {
        "[[identity.providers]] is set, but public_url in [server] is not",
        'issuer in [[identity.providers]] "company" is not encrypted',
    }
