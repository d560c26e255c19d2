"""Pages around signing in: those that mailed links open, and with the dashboard those that lead to it.

They are forms for routes of the API and show its error messages. The content security policy only allows
resources of the gateway. The form is sent by a script and hidden without it, because the token of a link is
in the URL fragment, which browsers do not send.
"""

from collections.abc import Sequence
from html import escape
from typing import Final

from msgspec import Struct

from bluesminds.identity.password import MIN_LENGTH
from bluesminds.web.assets import asset
from bluesminds.web.guard import Access
from bluesminds.web.routes import Handler, HandlerResponse, RawBody, Route, route

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HTML: Final = "text/html; charset=utf-8"
PAGE_HEADERS: Final = (
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
)


class FormField(Struct, frozen=True):
    """`name` is the field of the API. `autocomplete` is the HTML attribute. A `deferred` field is shown when
    the API asks for it.
    """

    name: str
    label: str
    autocomplete: str
    kind: str = "text"
    hint: str = ""
    required: bool = True
    max_length: int = 100
    deferred: bool = False


class Form(Struct, frozen=True, kw_only=True):
    """`token` is the name of the token in the link and in the API, "" for a page that needs no link. `to` is
    the path of the API. If there is a password, it is the last field, because the checkbox that shows it
    comes after it. With `opens_dashboard` the page leads to the dashboard, or to the page of it in its
    query, and has no end of its own. `sends_itself`: the script sends the form when the page opens.
    """

    path: str
    title: str
    intro: str
    fields: tuple[FormField, ...]
    button: str
    to: str
    token: str = ""
    done: str = ""
    next: str = ""
    opens_dashboard: bool = False
    sends_itself: bool = False


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


LOGIN: Final = "/account/login"
SIGN_IN: Final = Form(
    path=LOGIN,
    title="Sign in",
    intro="",
    fields=(
        FormField("email", "E-mail address", "username", kind="email", max_length=254),
        FormField("password", "Password", "current-password", kind="password", max_length=1024),
        FormField(
            "code",
            "Code",
            "one-time-code",
            hint="Of your authenticator app. Or one of your recovery codes.",
            required=False,
            max_length=40,
            deferred=True,
        ),
    ),
    button="Sign in",
    to="/api/auth/login",
    opens_dashboard=True,
)
CODE_PAGE: Final = "/account/code"
SECOND_FACTOR: Final = Form(
    path=CODE_PAGE,
    title="Enter your code",
    intro="Your account has a second factor.",
    fields=(
        FormField(
            "code",
            "Code",
            "one-time-code",
            hint="Of your authenticator app. Or one of your recovery codes.",
            max_length=40,
        ),
    ),
    button="Sign in",
    to="/api/auth/second-factor/sign-in",
    opens_dashboard=True,
)
MAILED_CODE_PAGE: Final = "/account/mailed-code"
MAILED_CODE: Final = Form(
    path=MAILED_CODE_PAGE,
    title="Check your mail",
    intro="A code was sent to the address of your account at the other service. It proves that it is yours.",
    fields=(
        FormField(
            "code",
            "Code",
            "one-time-code",
            hint="Eight digits. It is valid for 10 minutes.",
            max_length=40,
        ),
    ),
    button="Sign in",
    to="/api/auth/second-factor/sign-in",
    opens_dashboard=True,
)
DASHBOARD_FORMS: Final = (
    SIGN_IN,
    Form(
        path="/account/forgot",
        title="Forgotten password",
        intro="Enter the e-mail address of your account. A link to set a new password is sent to it.",
        fields=(FormField("email", "E-mail address", "username", kind="email", max_length=254),),
        button="Send the link",
        to="/api/auth/password/forgot",
        done="Check your mail",
        next="If the address has an account, a link was sent to it.",
    ),
    Form(
        path="/account/setup",
        title="Create the first administrator",
        intro="You sign in with this address and password from now on.",
        fields=(
            FormField("email", "E-mail address", "username", kind="email", max_length=254),
            _new_password("Password"),
        ),
        button="Create the administrator",
        to="/api/setup",
        token="token",  # noqa: S106 - the name of a field
        done="The administrator is ready",
        next="You can sign in now.",
    ),
    Form(
        path="/account/enter",
        title="Open the dashboard",
        intro="This link signs you in once.",
        fields=(),
        button="Sign in",
        to="/api/auth/local",
        token="token",  # noqa: S106 - the name of a field
        opens_dashboard=True,
        sends_itself=True,
    ),
)
JOIN: Final = Form(
    path="/account/join",
    title="Create an account",
    intro="A link to confirm the address is sent to it.",
    fields=(
        FormField("email", "E-mail address", "username", kind="email", max_length=254),
        FormField("full_name", "Full name (optional)", "name", required=False),
        _new_password("Password"),
    ),
    button="Create the account",
    to="/api/auth/signup",
    done="Check your mail",
    next="Open the link in the mail to confirm your address. Then you can sign in.",
)


class ProviderLink(Struct, frozen=True):
    """A service to sign in with: its name for users, and the path that starts it."""

    title: str
    path: str


def routes(*, dashboard: bool, open_signup: bool, providers: Sequence[ProviderLink] = ()) -> list[Route]:
    """With `dashboard` also the pages that lead to it."""
    style = asset("base.css") + asset("account.css")
    forms = [*FORMS, *(DASHBOARD_FORMS if dashboard else ()), *((JOIN,) if dashboard and open_signup else ())]
    if providers:
        forms += [SECOND_FACTOR, MAILED_CODE]
    pages = (
        (form.path, account_page(form, dashboard=dashboard, open_signup=open_signup, providers=providers))
        for form in forms
    )
    return [
        *(_route(path, page, HTML) for path, page in pages),
        _route("/account/style.css", style, "text/css; charset=utf-8"),
        _route("/account/icon.svg", asset("icon.svg"), "image/svg+xml"),
        _route("/account/script.js", asset("account.js"), "text/javascript; charset=utf-8"),
    ]


def account_page(
    form: Form, *, dashboard: bool, open_signup: bool, providers: Sequence[ProviderLink] = ()
) -> str:
    title = escape(form.title)
    has_password = any(field.kind == "password" for field in form.fields)
    shown = providers if form in (SIGN_IN, JOIN) else ()
    return f"""{_head(title, _SCRIPT)}
<div id="ask">
<h1>{title}</h1>
<noscript>
<p class="problem">This page needs JavaScript. Enable it and {_again(form)}.</p>
</noscript>
<p class="problem" id="missing" role="alert" hidden>This link is incomplete. Open it again,
or copy all of it.</p>
<form data-to="..{form.to}"{_behaviour(form)} method="post" hidden>
{f"<p>{escape(form.intro)}</p>" if form.intro else ""}
<p class="problem" id="problem" role="alert" tabindex="-1" hidden></p>
{"".join(_field(field) for field in form.fields if not field.deferred)}
{_SHOW if has_password else ""}
{"".join(f"<div data-deferred hidden>{_field(field)}</div>" for field in form.fields if field.deferred)}
<button>{escape(form.button)}</button>
</form>
{_provider_links(shown)}
{_links(form, open_signup=open_signup) if dashboard else ""}
</div>
<div id="done" tabindex="-1" hidden>
<h1>{escape(form.done)}</h1>
<p>{escape(form.next)}</p>
{_AFTER_DASHBOARD if dashboard else _AFTER}
</div>
{_END}"""


def message_page(title: str, text: str) -> str:
    """A page that says something and leads to the sign-in. `text` is HTML."""
    return f"""{_head(escape(title))}
<h1>{escape(title)}</h1>
<p>{text}</p>
<p><a class="button" href="/account/login">Sign in</a></p>
{_END}"""


def _head(title: str, script: str = "") -> str:
    """Up to the content of the page. The pages below /account are not the only ones with it."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - BluesMinds</title>
<link rel="icon" href="/account/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/account/style.css">
{script}</head>
<body>
<main>
<p class="name"><svg viewBox="0 0 24 24" aria-hidden="true"><rect width="24" height="24" rx="6"/>\
<path d="M7 14.5v-5M12 17V7M17 13v-2"/></svg>BluesMinds</p>"""


_SCRIPT: Final = '<script type="module" src="/account/script.js"></script>\n'
_END: Final = """</main>
</body>
</html>
"""
_SHOW: Final = '<label class="choice"><input type="checkbox" id="show"> Show the password</label>'
_AFTER_DASHBOARD: Final = '<p><a class="button" href="login">Sign in</a></p>'
_AFTER: Final = (
    '<p>The <a href="../docs">API reference</a> describes how programs sign in and create API keys.</p>'
)


def _again(form: Form) -> str:
    return "open the link again" if form.token else "load the page again"


def _behaviour(form: Form) -> str:
    token = f' data-token-name="{form.token}"' if form.token else ""
    opens = ' data-opens="../dashboard"' if form.opens_dashboard else ""
    return token + opens + (" data-sends-itself" if form.sends_itself else "")


def _provider_links(providers: Sequence[ProviderLink]) -> str:
    links = (
        f'<a class="button plain" data-provider href="{one.path}">Continue with {escape(one.title)}</a>'
        for one in providers
    )
    return f'<p class="or">or</p>\n{"".join(links)}' if providers else ""


def _links(form: Form, *, open_signup: bool) -> str:
    if form is not SIGN_IN:
        return "" if form.sends_itself else '<p class="links"><a href="login">Sign in</a></p>'
    join = '<a href="join">Create an account</a>' if open_signup else ""
    return f'<p class="links"><a href="forgot">Forgotten your password?</a>{join}</p>'


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
    answer = HandlerResponse(document, headers=PAGE_HEADERS)

    async def show() -> HandlerResponse[RawBody]:
        return answer

    return show
