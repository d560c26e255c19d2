"""Examples that call the gateway, for pages: the same request for several SDKs and programs."""

import json
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

KEY_IN_EXAMPLES: Final = "YOUR_API_KEY"
"""Stands for a key. keys.js replaces it with a new one."""


class CodeExample(Struct, frozen=True):
    name: str
    title: str
    text: str


def examples(base_url: str, model: str | None) -> Sequence[CodeExample]:
    """`base_url` ends with /v1."""
    name = model or "MODEL"
    quoted = json.dumps(name)
    root = base_url.removesuffix("/v1")
    return [
        CodeExample("curl", "curl", _curl(base_url, name)),
        CodeExample(
            "python",
            "Python",
            f"""from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key="{KEY_IN_EXAMPLES}")
response = client.chat.completions.create(
    model={quoted},
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(response.choices[0].message.content)""",
        ),
        CodeExample(
            "node",
            "Node",
            f"""import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{base_url}", apiKey: "{KEY_IN_EXAMPLES}" }});
const response = await client.chat.completions.create({{
  model: {quoted},
  messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(response.choices[0].message.content);""",
        ),
        CodeExample(
            "anthropic",
            "Anthropic SDK",
            f"""from anthropic import Anthropic

client = Anthropic(base_url="{root}", api_key="{KEY_IN_EXAMPLES}")
message = client.messages.create(
    model={quoted},
    max_tokens=1024,
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(message.content[0].text)""",
        ),
        CodeExample(
            "claude-code",
            "Claude Code",
            f"""export ANTHROPIC_BASE_URL="{root}"
export ANTHROPIC_API_KEY="{KEY_IN_EXAMPLES}"
export ANTHROPIC_MODEL={_shell(name)}
claude""",
        ),
    ]


def _curl(base_url: str, model: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    return (
        f"curl {base_url}/chat/completions \\\n"
        f'  -H "Authorization: Bearer {KEY_IN_EXAMPLES}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {_shell(body)}"
    )


def _shell(text: str) -> str:
    quoted = text.replace("'", "'\\''")
    return f"'{quoted}'"
