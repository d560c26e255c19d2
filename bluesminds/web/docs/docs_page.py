"""The API reference as one HTML page, generated from the OpenAPI document.

The page needs no scripts and no other files. Its style sheet is inline; the content security policy allows it
by its hash. It supports keyboards, screen readers, small screens, and light and dark color schemes.
"""

import hashlib
import json
import re
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from bluesminds.web.assets import asset
from bluesminds.web.docs.openapi import FORM

Schema = Mapping[str, Any]

STYLE: Final = (
    asset("base.css")
    + """
:root { --get: #14663a; --post: #1a4fb0; --patch: #7a4a00; --delete: #a3211f; }
@media (prefers-color-scheme: dark) { :root { --get: #6fd19a; --post: #8ab4ff; --patch: #f0b860;
  --delete: #ff9490; } }
.skip { position: absolute; left: -100vw; }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: .5rem; }
header, main, nav { padding: 0 1.25rem; }
header h1 { margin: 1.5rem 0 .25rem; font-size: 1.75rem; }
nav { font-size: .9rem; }
nav h2 { font-size: .8rem; margin: 1rem 0 .25rem; color: var(--soft); text-transform: uppercase;
  letter-spacing: .05em; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li { padding: .15rem 0; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
main { max-width: 60rem; padding-bottom: 4rem; }
h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
h4 { margin: 1rem 0 .25rem; font-size: .85rem; color: var(--soft); }
article { margin: 1.25rem 0; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem; }
article > p { margin: .5rem 0; }
code, pre { font: .875em/1.5 ui-monospace, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--raised); padding: .75rem; border-radius: .375rem; margin: .25rem 0;
  overflow-x: auto; }
.method { font-weight: 700; margin-right: .35rem; }
.get { color: var(--get); } .post { color: var(--post); } .patch { color: var(--patch); }
.delete { color: var(--delete); }
.credential { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td p { margin: 0; }
/* Wide screens always show the contents; narrow ones show them on demand. */
@media (min-width: 64rem) { @supports selector(::details-content) {
  .columns { display: grid; grid-template-columns: 20rem minmax(0, 1fr); }
  nav { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; align-self: start;
    border-right: 1px solid var(--line); padding-bottom: 2rem; }
  nav summary { display: none; }
  nav details::details-content { content-visibility: visible; }
} }
"""
)
_HASH: Final = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_REF: Final = "#/components/schemas/"
_CODE: Final = re.compile(r"`([^`]+)`")
_PATH_PARAM: Final = re.compile(r"\{(\w+)\}")


def docs_page(document: Schema) -> bytes:
    """The page in UTF-8."""
    info, schemas = document["info"], document["components"]["schemas"]
    tags = [tag["name"] for tag in document["tags"]]
    of_tag: dict[str, list[tuple[str, str, Schema]]] = {tag: [] for tag in tags}
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            of_tag[one["tags"][0]].append((method, path, one))
    title = escape(f"{info['title']} {info['version']}: API reference")
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the reference</a>
<header>
<h1>{title}</h1>
{_prose(info["description"])}
<p>For programs: <a href="openapi.json">openapi.json</a></p>
</header>
<div class="columns">
<nav aria-label="Contents"><details><summary>Contents</summary>
{"".join(_contents(tag, found) for tag, found in of_tag.items())}
<h2>Types</h2>
<ul>{"".join(f'<li><a href="#type-{name}">{name}</a></li>' for name in map(escape, sorted(schemas)))}</ul>
</details></nav>
<main id="main">
{_authentication(document["components"]["securitySchemes"])}
{"".join(_section(document, tag, found) for tag, found in of_tag.items())}
<h2 id="types">Types</h2>
{"".join(_type(name, schemas[name]) for name in sorted(schemas))}
</main>
</div>
</body>
</html>
"""
    return text.encode()


def _contents(tag: str, found: Iterable[tuple[str, str, Schema]]) -> str:
    rows = "".join(
        f'<li><a href="#{escape(one["operationId"])}">{_method(method)}{escape(path)}</a></li>'
        for method, path, one in found
    )
    return f"<h2>{escape(tag)}</h2><ul>{rows}</ul>"


def _authentication(schemes: Mapping[str, Schema]) -> str:
    rows = []
    for name, scheme in schemes.items():
        where = "Authorization: Bearer" if scheme["type"] == "http" else f"{scheme['name']} ({scheme['in']})"
        text = _prose(scheme["description"])
        rows.append(f"<tr><td>{escape(name)}</td><td><code>{escape(where)}</code></td><td>{text}</td></tr>")
    return f"""<h2 id="authentication">Authentication</h2>
<div class="wide"><table>
<thead><tr><th scope="col">Name</th><th scope="col">Location</th><th scope="col">Description</th></tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>"""


def _section(document: Schema, tag: str, found: Iterable[tuple[str, str, Schema]]) -> str:
    return f"<h2>{escape(tag)}</h2>" + "".join(
        _operation(document, method, path, one) for method, path, one in found
    )


def _operation(document: Schema, method: str, path: str, one: Schema) -> str:
    credential = " or ".join(" with ".join(choice) for choice in one["security"]) or "none"
    parts = [
        f'<article id="{escape(one["operationId"])}">',
        f"<h3>{_method(method)}<code>{escape(path)}</code></h3>",
        _prose(f"{one['summary']}.\n\n{one.get('description', '')}"),
        f'<p class="credential">Credential: {escape(credential)}</p>',
    ]
    if one.get("parameters"):
        rows = (
            (row["name"], row["schema"], row["required"], row.get("description")) for row in one["parameters"]
        )
        parts += ["<h4>Parameters</h4>", _fields(rows)]
    body = one.get("requestBody")
    if body is not None:
        kinds = [
            f"{_kind(content['schema'])} (<code>{escape(media)}</code>)"
            for media, content in body["content"].items()
        ]
        parts.append(f"<h4>Body</h4><p>{' or '.join(kinds)}</p>")
    parts.append(f"<h4>Response</h4>{''.join(_responses(one['responses']))}")
    parts.append(
        f'<h4>Example</h4><pre tabindex="0">{escape(_curl(document, method, path, one))}</pre></article>'
    )
    return "\n".join(parts)


def _responses(responses: Mapping[str, Schema]) -> Iterable[str]:
    for status, response in responses.items():
        if "$ref" in response:
            continue
        kinds = [
            f"{_kind(content['schema'])}" if "schema" in content else f"<code>{escape(media)}</code>"
            for media, content in response.get("content", {}).items()
        ]
        yield f"<p><code>{status}</code> {' or '.join(kinds) or 'no content'}</p>"


def _type(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = (
        (field, one, field in required, one.get("description"))
        for field, one in schema.get("properties", {}).items()
    )
    table = _fields(rows) if schema.get("properties") else f"<p>{_kind(schema)}</p>"
    text = _prose(schema.get("description", ""))
    return f'<article id="type-{escape(name)}"><h3>{escape(name)}</h3>{text}{table}</article>'


def _fields(rows: Iterable[tuple[str, Schema, bool, str | None]]) -> str:
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{_kind(schema)}</td>"
        f"<td>{'yes' if required else 'no'}</td><td>{_prose(text or '')}</td></tr>"
        for name, schema, required, text in rows
    ]
    return f"""<div class="wide"><table>
<thead><tr><th scope="col">Name</th><th scope="col">Type</th><th scope="col">Required</th>
<th scope="col">Description</th></tr></thead>
<tbody>{"".join(lines)}</tbody></table></div>"""


def _kind(schema: Schema) -> str:
    """A type in words, with links to named types."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REF))
        return f'<a href="#type-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(one))}</code>" for one in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_kind(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), Mapping):
            return f"object of {_kind(schema['additionalProperties'])}"
        case None:
            return "any"
        case str(plain):
            bounds = [
                f"{sign} {schema[rule]}"
                for rule, sign in (
                    ("minimum", "\N{GREATER-THAN OR EQUAL TO}"),
                    ("maximum", "\N{LESS-THAN OR EQUAL TO}"),
                )
                if rule in schema
            ]
            format_ = f" ({escape(schema['format'])})" if "format" in schema else ""
            return " ".join([plain + format_, *bounds])
    return "any"


def _curl(document: Schema, method: str, path: str, one: Schema) -> str:
    base = document["servers"][0]["url"].rstrip("/") or "http://127.0.0.1:3000"
    lines = [f"curl {base}{_PATH_PARAM.sub(lambda match: match[1].upper(), path)}"]
    if method != "get":
        lines[0] = lines[0].replace("curl ", f"curl -X {method.upper()} ")
    if one["security"]:
        lines.append(f'-H "Authorization: Bearer ${_VARIABLES[next(iter(one["security"][0]))]}"')
    body = one.get("requestBody")
    if body is not None:
        media, content = next(iter(body["content"].items()))
        example = _example(document["components"]["schemas"], content["schema"])
        if media == FORM:
            lines += [f"-F {name}={shlex.quote(str(value))}" for name, value in example.items()]
        else:
            lines += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(example)}'"]
    return " \\\n  ".join(lines)


_VARIABLES: Final = {"apiKey": "BLUESMINDS_API_KEY", "session": "BLUESMINDS_SESSION"}


def _example(schemas: Mapping[str, Schema], schema: Schema) -> Any:  # noqa: ANN401
    """An example value. Objects have their required fields, or the first one if none is required."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return _example(schemas, schemas[schema["$ref"].removeprefix(_REF)])
    if "anyOf" in schema:
        return _example(schemas, schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            names = schema.get("required") or list(fields)[:1]
            return {name: _example(schemas, fields[name]) for name in names}
        case "array":
            return []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
    return "..."


def _method(method: str) -> str:
    return f'<span class="method {method}">{method.upper()}</span>'


def _prose(text: str) -> str:
    """Paragraphs with `code`."""
    marked = _CODE.sub(r"<code>\1</code>", escape(text))
    return "".join(f"<p>{part.strip()}</p>" for part in marked.split("\n\n") if part.strip())
