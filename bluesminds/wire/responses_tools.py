"""The tools of the Responses API as functions, which is what other formats have.

Format: OpenAI API reference, responses, tools. A custom tool takes a text in place of JSON: it becomes a
function whose one argument is the text. A namespace groups tools: its name becomes a part of theirs. The
client's own search for tools becomes a function; what it finds is added to the tools. Tools that the server
itself would have to run are refused, as no other format has them.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.conversation import (
    ClientTool,
    ConversationRequest,
    ToolChoice,
    ToolDefinition,
    unsupported,
)
from bluesminds.wire.field_reading import FieldReader
from bluesminds.wire.json_text import NOT_JSON, read_value

SEARCH: Final = "tool_search"
_DEFAULT_NAMESPACE: Final = "functions"  # of tools that are in no other
_LEGAL: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ILLEGAL: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST: Final = 55  # characters of a name that gets a hash
# Agents send these with every request, whether or not they are needed, and work without them.
_OPTIONAL: Final = ("web_search", "image_generation")
_INPUT: Final = "The whole input of the tool, as plain text."


def function_name(name: str, namespace: str = "") -> str:
    """The name of a tool's function. It depends on nothing else, so that earlier calls have the same one."""
    full = f"{namespace}__{name}" if namespace not in ("", _DEFAULT_NAMESPACE) else name
    if _LEGAL.fullmatch(full):
        return full
    digest = hashlib.sha256(full.encode(errors="replace")).hexdigest()[:8]
    return f"{_ILLEGAL.sub('_', full)[:_LONGEST]}_{digest}"


def write_custom_arguments(text: str) -> str:
    """The arguments of a custom tool's function."""
    return msgspec.json.encode({"input": text}).decode()


def read_custom_input(arguments: str) -> str:
    """The text in the arguments of a custom tool's function; all of them when they have another form."""
    try:
        value = read_value(arguments.encode(errors="replace"))
    except NOT_JSON:
        return arguments
    text = value.get("input", "" if not value else None) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


class ToolReader:
    """Collects the tools of a request: of its `tools`, and of items in its input. `lenient`: tools that the
    client's kind always sends are left out. Every method raises InvalidRequest.
    """

    def __init__(self, dropped: list[str], *, lenient: bool) -> None:
        self._dropped = dropped
        self._lenient = lenient
        self._definitions: dict[str, ToolDefinition] = {}
        self._client_tools: dict[str, ClientTool] = {}

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        return tuple(self._definitions.values())

    @property
    def client_tools(self) -> tuple[ClientTool, ...]:
        return tuple(self._client_tools.values())

    def read(self, tools: Iterable[FieldReader], namespace: str = "") -> list[str]:
        """The names of their functions."""
        names: list[str] = []
        for tool in tools:
            kind = tool.text("type", "function")
            if kind == "function":
                names.append(self._read_function(tool, namespace))
            elif kind == "custom":
                names.append(self._read_custom(tool, namespace))
            elif kind == "namespace" and not namespace:
                tool.drop("description")
                names += self.read(tool.items("tools"), tool.needed("name"))
            elif kind == SEARCH:
                self._read_search(tool)
            elif self._lenient and kind.startswith(_OPTIONAL):
                self._dropped.append(f"tools.{kind[:40]}")
            else:
                raise unsupported("tools.type", f"no server of the model has the tool `{kind[:40]}`.")
        return names

    def read_choice(self, reader: FieldReader) -> tuple[ToolChoice | None, tuple[ToolDefinition, ...]]:
        """The `tool_choice`, and the tools that it allows."""
        choice, allowed = self._read_choice(reader)
        tools = [one for one in self.definitions if allowed is None or one.name in allowed]
        if choice is not None and choice.mode in ("required", "tool") and not tools:
            raise unsupported("tool_choice", "the request has no tool that the model can call.")
        return choice, tuple(tools)

    def _read_choice(self, reader: FieldReader) -> tuple[ToolChoice | None, set[str] | None]:
        if reader.is_text("tool_choice"):
            return _mode(reader.text("tool_choice")), None
        choice = reader.inner("tool_choice")
        if choice is None:
            return None, None
        kind = choice.needed("type")
        if kind in ("function", "custom"):
            return ToolChoice("tool", _chosen_name(choice)), None
        if kind == "allowed_tools":
            allowed = {_chosen_name(tool) for tool in choice.items("tools")}
            return _mode(choice.text("mode", "auto")), allowed
        raise unsupported("tool_choice", f"no server of the model has the tool `{kind[:40]}`.")

    def _read_function(self, tool: FieldReader, namespace: str) -> str:
        name = self._add(tool.needed("name"), "function", namespace)
        self._definitions[name] = ToolDefinition(
            name=name,
            description=tool.text("description"),
            schema=bytes(tool.raw("parameters")),
            strict=tool.flag("strict"),
        )
        return name

    def _read_custom(self, tool: FieldReader, namespace: str) -> str:
        text = _INPUT
        form = tool.inner("format")
        if form is not None and form.text("type") == "grammar":
            text += f" It must match this {form.text('syntax')} grammar:\n{form.text('definition')}"
        name = self._add(tool.needed("name"), "custom", namespace)
        schema = {
            "type": "object",
            "properties": {"input": {"type": "string", "description": text}},
            "required": ["input"],
            "additionalProperties": False,
        }
        self._definitions[name] = ToolDefinition(name, tool.text("description"), msgspec.json.encode(schema))
        return name

    def _read_search(self, tool: FieldReader) -> None:
        """A search by the server is not needed: the model gets all tools at once."""
        if tool.text("execution") != "client":
            self._dropped.append(f"tools.{SEARCH}")
            return
        self._client_tools[SEARCH] = ClientTool(SEARCH, "search", SEARCH)
        self._definitions[SEARCH] = ToolDefinition(
            SEARCH, tool.text("description"), bytes(tool.raw("parameters"))
        )

    def _add(self, client_name: str, kind: Literal["function", "custom"], namespace: str) -> str:
        name = function_name(client_name, namespace)
        if kind == "custom" or namespace or name != client_name:
            self._client_tools[name] = ClientTool(name, kind, client_name, namespace)
        return name


def _mode(said: str) -> ToolChoice:
    for mode in ("auto", "required", "none"):
        if said == mode:
            return ToolChoice(mode)
    raise InvalidRequest("invalid_value", "Use auto, required, none or a tool.", param="tool_choice")


def _chosen_name(choice: FieldReader) -> str:
    return function_name(choice.needed("name"), choice.text("namespace"))


def client_tools_by_name(request: ConversationRequest) -> dict[str, ClientTool]:
    return {tool.name: tool for tool in request.client_tools}
