"""The templates of mails: each with its values, as text and as HTML."""

import re
from importlib.resources import files

import pytest

from bluesminds.notify.mail import build_message
from bluesminds.notify.mail_samples import SAMPLES
from bluesminds.notify.mail_templates import MAX_SUBJECT, MailTemplates

TEMPLATES = MailTemplates("https://gateway.example")
HOSTILE = "<script>alert(1)</script>\r\nBcc: eve@example.com\u2028" + "x" * 300


def test_every_template_has_made_up_values() -> None:
    directory = files("bluesminds.notify") / "templates"
    names = {file.name.removesuffix(".mail") for file in directory.iterdir() if file.name.endswith(".mail")}
    assert names == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_mail_has_the_same_links_and_values_in_text_and_html(name: str) -> None:
    mail = TEMPLATES.preview(name)
    assert mail.subject.strip() and mail.subject.isprintable()
    links = set(re.findall(r'href="([^"]+)"', mail.html))
    assert links <= set(mail.text.split())
    for value in SAMPLES[name].values():
        for part in value if isinstance(value, list) else [value]:
            shown = str(part[1] if isinstance(part, tuple) else part)
            assert shown in mail.html and shown in " ".join(f"{mail.subject} {mail.text}".split())
    assert all(len(line) <= 110 for line in mail.text.splitlines())
    message = build_message("id", mail, "gateway@example.com", 0)
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


@pytest.mark.parametrize("name", SAMPLES)
def test_html_of_a_mail_loads_nothing(name: str) -> None:
    html = TEMPLATES.preview(name).html
    assert not re.search(r"<(script|link|img|iframe|style|form)|\bsrc=|url\(|@import", html)
    assert 'name="color-scheme" content="light dark"' in html


@pytest.mark.parametrize("name", [name for name, values in SAMPLES.items() if values])
def test_hostile_values_stay_text(name: str) -> None:
    values: dict[str, object] = {"link": "https://gateway.example"}
    for key, value in SAMPLES[name].items():
        values[key] = [(HOSTILE, HOSTILE)] if isinstance(value, list) else HOSTILE
    mail = TEMPLATES.render(name, "ada@example.com", values)
    assert "<script" not in mail.html
    assert "\nBcc" not in mail.text and "\rBcc" not in mail.text
    assert mail.subject.isprintable() and len(mail.subject) <= MAX_SUBJECT
    assert build_message("id", mail, "gateway@example.com", 0)["bcc"] is None
