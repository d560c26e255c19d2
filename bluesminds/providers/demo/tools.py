"""Which tools a response calls, and with what arguments."""

import re
from typing import Any, Literal

import msgspec
from msgspec import Struct

from bluesminds.providers.demo.json_schema import instance
from bluesminds.providers.demo.script import DemoError


class _Function(Struct, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class DemoTool(Struct, omit_defaults=True):
    """An entry in `tools`, an entry in the `tool_calls` of a message, or an object as `tool_choice`."""

    type: Literal["function", "custom"]
    id: str = ""
    function: _Function | None = None
    custom: _Function | None = None

    @property
    def name(self) -> str:
        """Raises DemoError."""
        named = self.function if self.type == "function" else self.custom
        if named is None:
            raise DemoError(f"A tool of type `{self.type}` needs the field `{self.type}`.", "tools")
        return named.name

    def call(self, identifier: str, variation: int) -> dict[str, Any]:
        """An entry in `tool_calls`. Raises DemoError and UnsupportedSchema."""
        head = {"id": identifier, "type": self.type}
        if self.type == "custom" or self.function is None:
            return head | {"custom": {"name": self.name, "input": f"demo {self.name}"}}
        schema = {"type": "object", **(self.function.parameters or {})}
        arguments = msgspec.json.encode(instance(schema, self.name, variation)).decode()
        return head | {"function": {"name": self.name, "arguments": arguments}}


class _AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[DemoTool]


class DemoToolChoice(DemoTool, omit_defaults=True):
    """`tool_choice`, when it is an object."""

    type: Literal["function", "custom", "allowed_tools"]  # type: ignore[assignment]
    allowed_tools: _AllowedTools | None = None


def chosen_tools(
    tools: list[DemoTool], choice: str | DemoToolChoice | None, parallel: bool | None, user_text: str | None
) -> list[DemoTool]:
    """The tools to call: those that the user's text names, else the first, or all if `parallel` is True.

    `user_text` is None if the last message is not from the user: then only a required tool is called.
    `parallel` False allows one call. Raises DemoError.
    """
    mode = choice if isinstance(choice, str) else "auto"
    if isinstance(choice, DemoToolChoice):
        allowed = choice.allowed_tools
        names = [tool.name for tool in allowed.tools] if allowed else [choice.name]
        mode = allowed.mode if allowed else "required"
        tools = [tool for tool in tools if tool.name in names]
    if mode == "required" and not tools:
        raise DemoError("tool_choice requires a tool that is not in `tools`.", "tool_choice")
    if mode == "none" or not tools or (mode == "auto" and user_text is None):
        return []
    user_words = set(re.findall(r"[a-z]+", (user_text or "").lower()))
    named = [tool for tool in tools if user_words & set(re.findall(r"[a-z]{4,}", tool.name.lower()))]
    chosen = named or (tools if parallel else tools[:1])
    return chosen[:1] if parallel is False else chosen
