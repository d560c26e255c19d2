"""The table of wire formats."""

from collections.abc import Mapping
from typing import Final

from bluesminds.wire.base import ClientCodec, Codec, Format, FormatName
from bluesminds.wire.chat import CHAT
from bluesminds.wire.compaction import COMPACT
from bluesminds.wire.completions import COMPLETIONS
from bluesminds.wire.embeddings import EMBEDDINGS
from bluesminds.wire.gemini import GEMINI, GEMINI_COUNT
from bluesminds.wire.gemini_embeddings import GEMINI_BATCH_EMBED, GEMINI_EMBED
from bluesminds.wire.images import IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES
from bluesminds.wire.messages import COUNT_TOKENS, MESSAGES
from bluesminds.wire.moderations import MODERATIONS
from bluesminds.wire.rerank import RERANK
from bluesminds.wire.responses import INPUT_TOKENS, RESPONSES
from bluesminds.wire.speech import SPEECH
from bluesminds.wire.transcription import AUDIO_TRANSLATION, TRANSCRIPTION
from bluesminds.wire.vectors import ClientVectorCodec, VectorCodec

FORMATS: Final[Mapping[FormatName, Format]] = {
    format_.name: format_
    for format_ in (
        CHAT,
        MESSAGES,
        RESPONSES,
        COUNT_TOKENS,
        INPUT_TOKENS,
        COMPACT,
        GEMINI,
        GEMINI_COUNT,
        GEMINI_EMBED,
        GEMINI_BATCH_EMBED,
        COMPLETIONS,
        EMBEDDINGS,
        MODERATIONS,
        RERANK,
        IMAGES,
        IMAGE_EDITS,
        IMAGE_VARIATIONS,
        SPEECH,
        TRANSCRIPTION,
        AUDIO_TRANSLATION,
    )
}


def codec_of(name: FormatName) -> Codec:
    """The codec of a format that requests can be translated to. Raises LookupError for other formats."""
    codec = FORMATS[name].codec
    if not isinstance(codec, Codec):
        raise LookupError(f"requests are not translated to {name}")
    return codec


def client_codec_of(name: FormatName) -> ClientCodec:
    """The codec of a format for conversations. Raises LookupError for other formats."""
    if (codec := FORMATS[name].codec) is None:
        raise LookupError(f"{name} is not a conversation")
    return codec


def vectors_of(name: FormatName) -> VectorCodec:
    """As `codec_of`, for embeddings."""
    codec = FORMATS[name].vectors
    if not isinstance(codec, VectorCodec):
        raise LookupError(f"requests for embeddings are not translated to {name}")
    return codec


def client_vectors_of(name: FormatName) -> ClientVectorCodec:
    """As `client_codec_of`, for embeddings."""
    if (codec := FORMATS[name].vectors) is None:
        raise LookupError(f"{name} is not for embeddings")
    return codec
