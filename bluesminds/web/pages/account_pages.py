"""The pages that mailed links open: confirm an address, set a new password, accept an invitation.

They are forms for routes of the API and show its error messages. The content security policy only allows
resources of the gateway. The form is sent by a script and hidden without it, because the token is in the URL
fragment, which browsers do not send.
"""

from html import escape
from typing import Final

from msgspec import Struct

from bluesminds.identity.password import MIN_LENGTH
from bluesminds.web.assets import asset
from bluesminds.web.guard import Access
from bluesminds.web.routes import Handler, HandlerResponse, RawBody, Route, route

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'none';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
)


class FormField(Struct, frozen=True):
    """`name` is the field of the API. `autocomplete` is the HTML attribute."""

    name: str
    label: str
    autocomplete: str
    kind: str = "text"
    hint: str = ""
    required: bool = True
    max_length: int = 100


class Form(Struct, frozen=True, kw_only=True):
    """`token` is the name of the token in the link and in the API. `to` is the path of the API. The last
    field is the password, because the checkbox that shows it comes after it.
    """

    path: str
    title: str
    intro: str
    fields: tuple[FormField, ...]
    button: str
    to: str
    token: str
    done: str
    next: str


def _new_password(label: str) -> FormField:
    return FormField(
        "password",
        label,
        "new-password",
        kind="password",
        hint=f"At least {MIN_LENGTH} characters. A few words are easy to remember.",
        max_length=1024,
    )


FORMS: Final = (
    Form(
        path="/account/verify",
        title="Confirm your e-mail address",
        intro="Enter the password of your account to confirm that the account is yours.",
        fields=(FormField("password", "Password", "current-password", kind="password", max_length=1024),),
        button="Confirm the address",
        to="/api/auth/email/verify",
        token="token",  # noqa: S106 - the name of a field
        done="Your address is confirmed",
        next="You can sign in now.",
    ),
    Form(
        path="/account/reset",
        title="Set a new password",
        intro="Takes effect immediately and signs out all sessions.",
        fields=(_new_password("New password"),),
        button="Set the password",
        to="/api/auth/password/reset",
        token="token",  # noqa: S106 - the name of a field
        done="Your password is changed",
        next="Sign in with the new password.",
    ),
    Form(
        path="/account/signup",
        title="Accept your invitation",
        intro="Enter the invited e-mail address and choose a password.",
        fields=(
            FormField(
                "email",
                "E-mail address",
                "username",
                kind="email",
                hint="The address that the invitation was sent to.",
                max_length=254,
            ),
            FormField("full_name", "Full name (optional)", "name", required=False),
            _new_password("Password"),
        ),
        button="Create the account",
        to="/api/auth/signup",
        token="invite",  # noqa: S106 - the name of a field
        done="Your account is ready",
        next="You can sign in with your e-mail address and password.",
    ),
)


def routes() -> list[Route]:
    style = asset("base.css") + asset("account.css")
    return [
        *(_route(form.path, account_page(form), "text/html; charset=utf-8") for form in FORMS),
        _route("/account/style.css", style, "text/css; charset=utf-8"),
        _route("/account/script.js", asset("account.js"), "text/javascript; charset=utf-8"),
    ]


def account_page(form: Form) -> str:
    title = escape(form.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - BluesMinds</title>
<link rel="stylesheet" href="style.css">
<script type="module" src="script.js"></script>
</head>
<body>
<main>
<p class="name">BluesMinds</p>
<div id="ask">
<h1>{title}</h1>
<noscript>
<p class="problem">This page needs JavaScript. Enable it and open the link in the mail again.</p>
</noscript>
<p class="problem" id="missing" role="alert" hidden>This link is incomplete. Open the link in the mail again,
or copy all of it.</p>
<form data-to="..{form.to}" data-token-name="{form.token}" method="post" hidden>
<p>{escape(form.intro)}</p>
<p class="problem" id="problem" role="alert" tabindex="-1" hidden></p>
{"".join(map(_field, form.fields))}
<label class="choice"><input type="checkbox" id="show"> Show the password</label>
<button>{escape(form.button)}</button>
</form>
</div>
<div id="done" tabindex="-1" hidden>
<h1>{escape(form.done)}</h1>
<p>{escape(form.next)}</p>
<p>The <a href="../docs">API reference</a> describes how programs sign in and create API keys.</p>
</div>
</main>
</body>
</html>
"""


def _field(field: FormField) -> str:
    name = field.name
    attributes = f'autocomplete="{field.autocomplete}" maxlength="{field.max_length}"'
    if field.required:
        attributes += " required"
    if field.kind != "text":
        attributes += ' autocapitalize="none" spellcheck="false"'
    hint = ""
    if field.hint:
        attributes += f' aria-describedby="{name}-hint"'
        hint = f'<p class="hint" id="{name}-hint">{escape(field.hint)}</p>\n'
    return (
        f'<label for="{name}">{escape(field.label)}</label>\n'
        f'<input id="{name}" name="{name}" type="{field.kind}" {attributes}>\n{hint}'
    )


def _route(path: str, text: str, media: str) -> Route:
    return route("GET", path, Access.PUBLIC, _static(RawBody(text.encode(), media)), tag="Pages", media=media)


def _static(document: RawBody) -> Handler:
    answer = HandlerResponse(document, headers=_HEADERS)

    async def show() -> HandlerResponse[RawBody]:
        return answer

    return show
