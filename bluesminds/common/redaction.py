"""Removes personal data and secrets from texts: built-in patterns, and patterns of the operator."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

RedactionName = Literal["email", "card", "key"]
_Match = re.Match[str]

_EMAIL: Final = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
# 13 to 19 digits, in groups or not; ISO/IEC 7812 ends them with a check digit.
_CARD: Final = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])")
_KEY: Final = re.compile(
    r"\b(?:bms?_|sk-|sk_|pk_|rk_|gsk_|xai-|r8_|hf_|ghp_|gho_|ghs_|github_pat_|glpat-|npm_|pypi-"
    r"|xox[abps]-|AIza|AKIA|ASIA)"
    r"[A-Za-z0-9_-]{12,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def _is_card(match: _Match) -> bool:
    """The check of ISO/IEC 7812-1, annex B."""
    digits = [int(char) for char in match[0] if char.isdigit()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _always(match: _Match) -> bool:
    return True


_BUILT_IN: Final[Mapping[RedactionName, tuple[re.Pattern[str], Callable[[_Match], bool]]]] = {
    "key": (_KEY, _always),
    "email": (_EMAIL, _always),
    "card": (_CARD, _is_card),
}


class Redactor:
    """`names` are built-in patterns; `patterns` are regular expressions, whose matches become "[redacted]".
    Raises re.error for one that is invalid.
    """

    def __init__(self, names: Sequence[RedactionName] = (), patterns: Sequence[str] = ()) -> None:
        self._rules = [(*_BUILT_IN[name], f"[{name}]") for name in _BUILT_IN if name in names]
        self._rules += [(re.compile(pattern), _always, "[redacted]") for pattern in patterns]

    def text(self, text: str) -> tuple[str, int]:
        """The text without what the patterns find, and how many places were replaced."""
        count = 0
        for pattern, applies, instead in self._rules:

            def replace(
                match: _Match, applies: Callable[[_Match], bool] = applies, instead: str = instead
            ) -> str:
                nonlocal count
                if not match[0] or not applies(match):
                    return match[0]
                count += 1
                return instead

            text = pattern.sub(replace, text)
        return text, count

    def value(self, value: Any) -> tuple[Any, int]:  # noqa: ANN401 - any JSON
        """The same for all texts in a JSON value, so that it stays valid JSON."""
        match value:
            case str():
                return self.text(value)
            case list():
                done = [self.value(one) for one in value]
                return [one for one, _ in done], sum(count for _, count in done)
            case dict():
                named = {name: self.value(one) for name, one in value.items()}
                return {name: one for name, (one, _) in named.items()}, sum(n for _, n in named.values())
        return value, 0

    def __bool__(self) -> bool:
        return bool(self._rules)
