"""POST /responses and /responses/input_tokens: the answers of chat completions, as Responses."""

import msgspec

from bluesminds.common.errors import InvalidRequest
from bluesminds.providers.demo.chat import chat
from bluesminds.providers.demo.script import CREATED, DemoError, Script, Step, read, response
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import NO_LINKS, ConversationRequest, EncodingOptions, ReplyLinks
from bluesminds.wire.json_text import Fields, write_fields
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.translation import Translation


class _Marked(msgspec.Struct):
    """`demo_links` is not a client's: DemoObjects adds it to requests whose response it keeps."""

    demo_links: ReplyLinks = NO_LINKS


def responses(body: bytes) -> Script:
    """Raises DemoError."""
    links = read(body, _Marked).demo_links
    conversation = msgspec.structs.replace(_conversation(body), links=links)
    script = _answer(conversation)
    if conversation.stream:
        return _stream(script, conversation)
    (step,) = script.steps
    reply = CHAT_CODEC.decode_reply(step.data or b"", conversation)
    whole = RESPONSES_CODEC.encode_reply(reply, conversation)
    return msgspec.structs.replace(script, steps=(Step(step.delay, whole),))


def input_tokens(body: bytes) -> Script:
    """Raises DemoError."""
    conversation = msgspec.structs.replace(_conversation(body), stream=False)
    (step,) = _answer(conversation).steps
    usage = msgspec.json.decode(step.data or b"")["usage"]
    return response({"object": "response.input_tokens", "input_tokens": usage["prompt_tokens"]})


def _conversation(body: bytes) -> ConversationRequest:
    try:
        return RESPONSES_CODEC.decode_request(read(body, Fields), CREATED)
    except InvalidRequest as exc:
        raise DemoError(exc.message, exc.param, code=exc.code) from exc


def _answer(conversation: ConversationRequest) -> Script:
    options = EncodingOptions(model=conversation.model, bound="max_completion_tokens")
    return chat(write_fields(CHAT_CODEC.encode_request(conversation, options).fields))


def _stream(script: Script, conversation: ConversationRequest) -> Script:
    """Each event when the chunk that it comes from would be sent."""
    stage = Translation(CHAT_CODEC, RESPONSES_CODEC, conversation, RequestFacts(conversation.model))
    steps = [Step(step.delay, stage.feed(step.data or b"")) for step in script.steps]
    sent = [step for step in steps if step.data]
    return msgspec.structs.replace(script, steps=(*sent, Step(0.0, stage.finish())))
