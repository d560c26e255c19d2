"""The mails that the gateway sends, as text and HTML.

One template in `templates` gives subject, text and HTML of a kind of mail: it calls `p`, `button` and
`facts`, which are `TextParts` or `HtmlParts`. Tokens are in the URL fragment (#), which browsers never send,
so that they do not appear in access logs.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final, Protocol

import jinja2
from markupsafe import Markup
from msgspec import Struct

from bluesminds.notify.mail import Mail
from bluesminds.notify.mail_samples import OPTIONAL, SAMPLES

WIDTH: Final = 72  # characters of a line of text
MAX_SUBJECT: Final = 150  # characters
_CELL: Final = "padding:4px 16px 4px 0;text-align:left;vertical-align:top"
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d \w+)?")

Pairs = Sequence[tuple[str, object]]
"""Names and values. Pairs whose value is empty are left out."""


class MailParts(Protocol):
    """What templates call. `caller` gives the content of a `{% call %}` block."""

    def p(self, caller: Callable[[], str]) -> str: ...

    def button(self, label: str, url: str) -> str: ...

    def facts(self, pairs: Pairs) -> str: ...


class TextParts:
    def p(self, caller: Callable[[], str]) -> str:
        return f"{_filled(caller())}\n\n"

    def button(self, label: str, url: str) -> str:
        return f"{label}:\n{url}\n\n"

    def facts(self, pairs: Pairs) -> str:
        lines = [f"{' '.join(f'{name}: {value}'.split())}\n" for name, value in _known(pairs)]
        return f"{''.join(lines)}\n"


class HtmlParts:
    def p(self, caller: Callable[[], str]) -> str:
        # Browsers break lines after the hyphens of a date.
        kept = _DATE.sub(lambda date: f'<span style="white-space:nowrap">{date[0]}</span>', caller())
        return Markup('<p style="margin:0 0 16px">{}</p>\n').format(Markup(kept))  # noqa: S704 - escaped by the template

    def button(self, label: str, url: str) -> str:
        style = (
            "display:inline-block;padding:10px 18px;border-radius:6px;background:#1f5fbf;color:#ffffff;"
            "font-weight:600;text-decoration:none"
        )
        return Markup(
            '<p style="margin:0 0 16px"><a href="{url}" style="{style}">{label}</a></p>\n'
            '<p style="margin:0 0 16px;font-size:13px;word-break:break-all">{url}</p>'
        ).format(url=url, style=style, label=label)

    def facts(self, pairs: Pairs) -> str:
        row = Markup(
            '<tr><th scope="row" style="{style};min-width:100px;font-weight:600">{name}</th>'
            '<td style="{style}">{value}</td></tr>'
        )
        rows = Markup("\n").join(
            row.format(style=_CELL, name=name, value=value) for name, value in _known(pairs)
        )
        table = Markup('<table style="border-collapse:collapse;margin:0 0 16px">\n{}\n</table>')
        return table.format(rows)


class MailTemplates(Struct, frozen=True):
    """`base_url` is the public URL of the gateway, without a slash at the end."""

    base_url: str

    def verify_link(self, token: str) -> str:
        return f"{self.base_url}/account/verify#token={token}"

    def reset_link(self, token: str) -> str:
        return f"{self.base_url}/account/reset#token={token}"

    def invite_link(self, token: str) -> str:
        return f"{self.base_url}/account/signup#invite={token}"

    def verify(self, to: str, token: str) -> Mail:
        return self.render("verify_email", to, {"link": self.verify_link(token)})

    def reset(self, to: str, token: str) -> Mail:
        return self.render("reset_password", to, {"link": self.reset_link(token)})

    def invite(self, to: str, token: str) -> Mail:
        return self.render("invite", to, {"link": self.invite_link(token)})

    def email_taken(self, to: str) -> Mail:
        return self.render("account_exists", to)

    def password_changed(self, to: str) -> Mail:
        return self.render("password_changed", to)

    def email_changed(self, to: str) -> Mail:
        return self.render("email_changed", to)

    def render(self, kind: str, to: str, values: Mapping[str, object] | None = None) -> Mail:
        """`values` are the variables of the template."""
        given = {"base_url": self.base_url, "opt_out": "", **(values or {})}
        text = _environment("layout.txt").get_template(f"{kind}.mail")
        html = _environment("layout.html").get_template(f"{kind}.mail")
        subject = "".join(text.blocks["subject"](text.new_context(given)))
        return Mail(
            kind,
            to,
            _one_line(subject),
            _text(text.render(given)),
            html.render(given),
            str(given["opt_out"]),
        )

    def preview(self, kind: str) -> Mail:
        """A mail with made-up values. Raises KeyError."""
        opt_out = f"{self.base_url}/api/mail/unsubscribe?user=example" if kind in OPTIONAL else ""
        sample = {"link": f"{self.base_url}/account/example", "opt_out": opt_out, **SAMPLES[kind]}
        return self.render(kind, "ada@example.com", sample)


def _known(pairs: Pairs) -> Pairs:
    return [(name, value) for name, value in pairs if value not in (None, "")]


def _filled(text: str) -> str:
    """In lines of WIDTH; links stay in one piece."""
    words = " ".join(text.split())
    return textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False)


def _text(rendered: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", rendered.strip()) + "\n"


def _one_line(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text)
    return textwrap.shorten(printable, MAX_SUBJECT, placeholder="...")


@cache
def _environment(layout: str) -> jinja2.Environment:
    """Templates are compiled at their first use."""
    is_html = layout.endswith(".html")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bluesminds.notify"),
        autoescape=is_html,  # noqa: S701 - the other one is for plain text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts: MailParts = HtmlParts() if is_html else TextParts()
    environment.globals.update(layout=layout, p=parts.p, button=parts.button, facts=parts.facts)
    return environment
