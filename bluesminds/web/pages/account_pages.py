"""The pages that mailed links lead to: confirming an address, choosing a new password, taking an invitation.

They are forms for routes of the API and know nothing themselves: what is wrong with a token or a password is
said by the API, in its words. Everything they are made of comes from the gateway; the policy lets nothing
else in, and the password nowhere but to the script, which sends it to the gateway. Without the script there
is no form: one that is sent by the browser alone would lose the token, which the browser keeps to itself.
"""

from html import escape
from typing import Final

from msgspec import Struct

from bluesminds.identity.password import MIN_LENGTH
from bluesminds.web.assets import asset
from bluesminds.web.guard import Access
from bluesminds.web.routes import Answer, Handler, RawBody, Route, route

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
    """`name` is that of the API's input, `autocomplete` what the browser may fill in."""

    name: str
    label: str
    autocomplete: str
    kind: str = "text"
    hint: str = ""
    required: bool = True
    max_length: int = 100


class Form(Struct, frozen=True, kw_only=True):
    """`token` is the name it has in the link and in the API's input; `to` is the API's path. The last of the
    fields is named password: what follows it can show it.
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
        hint=f"At least {MIN_LENGTH} characters. A few words in a row are easy to keep in mind.",
        max_length=1024,
    )


FORMS: Final = (
    Form(
        path="/account/verify",
        title="Confirm your e-mail address",
        intro="Enter the password of your account: it shows that the account is yours, not only the mailbox.",
        fields=(FormField("password", "Password", "current-password", kind="password", max_length=1024),),
        button="Confirm the address",
        to="/api/auth/email/verify",
        token="token",  # noqa: S106 - the name of a field
        done="Your address is confirmed",
        next="You can sign in with it and your password from now on.",
    ),
    Form(
        path="/account/reset",
        title="Choose a new password",
        intro="It counts at once, and whoever is signed in to your account is signed out.",
        fields=(_new_password("New password"),),
        button="Set the password",
        to="/api/auth/password/reset",
        token="token",  # noqa: S106 - the name of a field
        done="Your password is changed",
        next="Sign in with the new password from now on.",
    ),
    Form(
        path="/account/signup",
        title="Accept your invitation",
        intro="Say who you are and choose a password, and the account is yours.",
        fields=(
            FormField(
                "email",
                "E-mail address",
                "username",
                kind="email",
                hint="The one that the invitation was sent to.",
                max_length=254,
            ),
            FormField("full_name", "Full name (optional)", "name", required=False),
            _new_password("Password"),
        ),
        button="Create the account",
        to="/api/auth/signup",
        token="invite",  # noqa: S106 - the name of a field
        done="Your account is ready",
        next="You can sign in with your address and password from now on.",
    ),
)


def routes() -> list[Route]:
    style = asset("base.css") + asset("account.css")
    return [
        *(_route(form.path, page(form), "text/html; charset=utf-8") for form in FORMS),
        _route("/account/style.css", style, "text/css; charset=utf-8"),
        _route("/account/script.js", asset("account.js"), "text/javascript; charset=utf-8"),
    ]


def page(form: Form) -> str:
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
<noscript><p class="problem">This page needs JavaScript. Allow it here, and open the link of the mail
again.</p></noscript>
<p class="problem" id="missing" role="alert" hidden>Something is missing from this address: open the link of
the mail again, or copy it whole.</p>
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
<p>How programs sign in and get their keys is in the <a href="../docs">reference of the API</a>.</p>
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
    return route("GET", path, Access.PUBLIC, _shown(RawBody(text.encode(), media)), tag="Pages", media=media)


def _shown(document: RawBody) -> Handler:
    answer = Answer(document, headers=_HEADERS)

    async def show() -> Answer[RawBody]:
        return answer

    return show
