"""Items of the output of a response while they are written: the events of each, and the whole item.

Format: OpenAI API reference, responses streaming. A text is a message with one part; reasoning has one
summary.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal

from bluesminds.wire.conversation import ClientTool, PartKind
from bluesminds.wire.json_text import NOT_JSON, read_value
from bluesminds.wire.responses_tools import read_custom_input

ItemStatus = Literal["in_progress", "completed", "incomplete"]
OutputEvent = tuple[str, dict[str, Any]]  # type and fields, without the sequence number


class OutputItem:
    """One item. `index`: its place in the output. `texts`: what was generated of it so far. `delta_type`: of
    the events that bring more, "" for items that are sent whole; `place`: their other fields.
    """

    prefix = ""  # of ids
    delta_type = ""

    def __init__(self, id_: str, index: int) -> None:
        self.id = f"{self.prefix}_{id_}_{index}"
        self.index = index
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    def write(self, status: ItemStatus) -> dict[str, Any]:
        """The whole item."""
        raise NotImplementedError

    def opened(self) -> Iterator[OutputEvent]:
        """The events before anything is generated."""
        added = {"output_index": self.index, "item": self.write("in_progress")}
        yield "response.output_item.added", added

    def began(self) -> Iterator[OutputEvent]:
        """The events before the first text."""
        return iter(())

    def closed(self, status: ItemStatus) -> Iterator[OutputEvent]:
        """The events of the end."""
        yield "response.output_item.done", {"output_index": self.index, "item": self.write(status)}


class MessageOutput(OutputItem):
    """A text, or the model's refusal."""

    prefix = "msg"

    def __init__(self, id_: str, index: int, *, refusal: bool = False) -> None:
        super().__init__(id_, index)
        self.refusal = refusal
        self.delta_type = "response.refusal.delta" if refusal else "response.output_text.delta"

    @property
    def place(self) -> dict[str, Any]:
        more = {"content_index": 0} if self.refusal else {"content_index": 0, "logprobs": []}
        return super().place | more

    def _part(self, text: str) -> dict[str, Any]:
        if self.refusal:
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def write(self, status: ItemStatus) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part(self.text)]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def opened(self) -> Iterator[OutputEvent]:
        yield from super().opened()
        place = super().place | {"content_index": 0}
        yield "response.content_part.added", place | {"part": self._part("")}

    def closed(self, status: ItemStatus) -> Iterator[OutputEvent]:
        text = self.text
        if self.refusal:
            yield "response.refusal.done", self.place | {"refusal": text}
        else:
            yield "response.output_text.done", self.place | {"text": text}
        place = super().place | {"content_index": 0}
        yield "response.content_part.done", place | {"part": self._part(text)}
        yield from super().closed(status)


class ReasoningOutput(OutputItem):
    """`encrypted`: what the client sends back, so that the server can read its reasoning again."""

    prefix = "rs"
    delta_type = "response.reasoning_summary_text.delta"

    def __init__(self, id_: str, index: int, encrypted: str = "") -> None:
        super().__init__(id_, index)
        self.encrypted = encrypted

    @property
    def place(self) -> dict[str, Any]:
        return super().place | {"summary_index": 0}

    def write(self, status: ItemStatus) -> dict[str, Any]:
        text = "" if status == "in_progress" else self.text
        item: dict[str, Any] = {"id": self.id, "type": "reasoning"}
        item["summary"] = [_summary(text)] if text else []
        if self.encrypted:
            item["encrypted_content"] = self.encrypted
        return item

    def began(self) -> Iterator[OutputEvent]:
        yield "response.reasoning_summary_part.added", self.place | {"part": _summary("")}

    def closed(self, status: ItemStatus) -> Iterator[OutputEvent]:
        if text := self.text:
            yield "response.reasoning_summary_text.done", self.place | {"text": text}
            yield "response.reasoning_summary_part.done", self.place | {"part": _summary(text)}
        yield from super().closed(status)


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


class FunctionCallOutput(OutputItem):
    """A call of a function. `namespace`: of the function, if it is in one."""

    prefix = "fc"
    delta_type = "response.function_call_arguments.delta"

    def __init__(self, id_: str, index: int, call_id: str, name: str, namespace: str = "") -> None:
        super().__init__(id_, index)
        self.call_id = call_id
        self.name = name
        self.namespace = namespace

    def write(self, status: ItemStatus) -> dict[str, Any]:
        item = {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "" if status == "in_progress" else self.text,
        }
        return item | {"namespace": self.namespace} if self.namespace else item

    def closed(self, status: ItemStatus) -> Iterator[OutputEvent]:
        yield (
            "response.function_call_arguments.done",
            self.place
            | {
                "name": self.name,
                "arguments": self.text,
            },
        )
        yield from super().closed(status)


class CustomCallOutput(FunctionCallOutput):
    """A call of a custom tool. Its input is a part of the arguments, and is sent when it is whole."""

    prefix = "ctc"
    delta_type = ""

    def write(self, status: ItemStatus) -> dict[str, Any]:
        item = {
            "id": self.id,
            "type": "custom_tool_call",
            "status": status,
            "call_id": self.call_id,
            "name": self.name,
            "input": "" if status == "in_progress" else read_custom_input(self.text),
        }
        return item | {"namespace": self.namespace} if self.namespace else item

    def closed(self, status: ItemStatus) -> Iterator[OutputEvent]:
        text = read_custom_input(self.text)
        yield "response.custom_tool_call_input.delta", self.place | {"delta": text}
        yield "response.custom_tool_call_input.done", self.place | {"input": text}
        yield from OutputItem.closed(self, status)


class ToolSearchOutput(FunctionCallOutput):
    """A search for tools that the client carries out."""

    prefix = "tsc"
    delta_type = ""

    def write(self, status: ItemStatus) -> dict[str, Any]:
        arguments: object = {}
        if status != "in_progress":
            try:
                arguments = read_value(self.text.encode(errors="replace"))
            except NOT_JSON:
                arguments = {}
        return {
            "id": self.id,
            "type": "tool_search_call",
            "status": status,
            "call_id": self.call_id,
            "execution": "client",
            "arguments": arguments,
        }

    def closed(self, status: ItemStatus) -> Iterator[OutputEvent]:
        yield from OutputItem.closed(self, status)


_CALLS: Final = {"custom": CustomCallOutput, "search": ToolSearchOutput, "function": FunctionCallOutput}


def call_output(id_: str, index: int, call_id: str, name: str, tool: ClientTool | None) -> OutputItem:
    """A call as the client knows it. `name`: of the function; `tool`: what the client calls it."""
    if tool is None:
        return FunctionCallOutput(id_, index, call_id, name)
    return _CALLS[tool.kind](id_, index, call_id, tool.client_name, tool.namespace)


def text_output(id_: str, index: int, kind: PartKind) -> OutputItem:
    """A text, a refusal or reasoning."""
    if kind in ("text", "refusal"):
        return MessageOutput(id_, index, refusal=kind == "refusal")
    return ReasoningOutput(id_, index)
