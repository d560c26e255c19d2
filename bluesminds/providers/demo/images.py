"""POST /images: striped images whose colours follow from the request, as PNG."""

import hashlib
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bluesminds.providers.demo.forms import UploadedForm
from bluesminds.providers.demo.script import CREATED, DemoError, Script, events, read, response
from bluesminds.providers.demo.text import tokens_of

_STRIPES = 16
_LARGEST = 2048  # pixels of a side
_DEFAULT_SIZE = "256x256"
_TOKENS_PER_IMAGE = 272
_TOKENS_PER_PARTIAL = 100
_TOKENS_PER_SOURCE = 50
_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")


class ImageOptions(Struct):
    """What every endpoint of images takes."""

    model: str = "demo/image"
    prompt: str = ""
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None


class _GenerationRequest(ImageOptions, kw_only=True):
    prompt: str


class _ImageReference(Struct):
    image_url: str = ""
    file_id: str = ""


class _EditRequest(ImageOptions, kw_only=True):
    prompt: str
    images: Annotated[list[_ImageReference], Meta(min_length=1, max_length=16)]


def generations(body: bytes) -> Script:
    """Raises DemoError."""
    return make_images(read(body, _GenerationRequest), "image_generation", source_tokens=0)


def edits(body: bytes) -> Script:
    """Of images that JSON refers to. Raises DemoError."""
    request = read(body, _EditRequest)
    return make_images(request, "image_edit", source_tokens=_TOKENS_PER_SOURCE * len(request.images))


def edits_of_form(form: UploadedForm) -> Script:
    """Raises DemoError."""
    request = form.read(_GenerationRequest)
    sizes = form.sizes("image", "image[]")
    return make_images(request, "image_edit", source_tokens=_TOKENS_PER_SOURCE * len(sizes), seed=str(sizes))


def variations(form: UploadedForm) -> Script:
    """Raises DemoError."""
    request = form.read(ImageOptions)
    sizes = form.sizes("image")
    return make_images(request, "image_edit", source_tokens=_TOKENS_PER_SOURCE, seed=str(sizes))


def make_images(request: ImageOptions, kind: str, *, source_tokens: int, seed: str = "") -> Script:
    """`kind`: what the events are called. `source_tokens`: of the images in the request. `seed`: what the
    colours follow from besides the prompt.
    """
    width, height = _size_of(request.size)
    count = request.n or 1
    partials = request.partial_images or 0
    usage = _usage(len(tokens_of(request.prompt)), source_tokens, count, partials if request.stream else 0)
    head = {"output_format": "png", "quality": "low", "background": "opaque", "size": f"{width}x{height}"}
    seeds = [f"{request.prompt}\n{seed}\n{number}" for number in range(count)]
    if request.stream:
        return events(_events(kind, head, seeds, partials, usage))
    data = [_row(png(seed, width, height), request.response_format) for seed in seeds]
    return response({"created": CREATED, "data": data} | head | {"usage": usage})


def _events(
    kind: str, head: dict[str, Any], seeds: list[str], partials: int, usage: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    width, height = _size_of(str(head["size"]))
    head = head | {"created_at": CREATED}
    for seed in seeds:
        for index in range(partials):
            part = png(seed, width, height, stripes=_STRIPES * (index + 1) // (partials + 1))
            partial = {"type": f"{kind}.partial_image", "partial_image_index": index}
            yield partial | head | {"b64_json": b64encode(part).decode()}
        whole = b64encode(png(seed, width, height)).decode()
        yield {"type": f"{kind}.completed"} | head | {"b64_json": whole, "usage": usage}


def _row(image: bytes, form: str | None) -> dict[str, str]:
    encoded = b64encode(image).decode()
    return {"url": f"data:image/png;base64,{encoded}"} if form == "url" else {"b64_json": encoded}


def _usage(text: int, source: int, count: int, partials: int) -> dict[str, Any]:
    output = count * (_TOKENS_PER_IMAGE + partials * _TOKENS_PER_PARTIAL)
    return {
        "input_tokens": text + source,
        "output_tokens": output,
        "total_tokens": text + source + output,
        "input_tokens_details": {"text_tokens": text, "image_tokens": source},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
    }


def _size_of(size: str | None) -> tuple[int, int]:
    found = _SIZE.fullmatch(_DEFAULT_SIZE if size in (None, "auto") else str(size))
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not found or max(width, height) > _LARGEST:
        raise DemoError(f"size must be `auto` or like 256x256, with sides up to {_LARGEST}.", "size")
    return width, height


@lru_cache(maxsize=16)
def png(seed: str, width: int, height: int, stripes: int = _STRIPES) -> bytes:
    """Horizontal stripes; those after the first `stripes` are white (PNG specification, 2003)."""
    digest = hashlib.sha256(seed.encode()).digest() * 2
    palette = b"\xff\xff\xff" + digest[: 3 * _STRIPES]
    rows = []
    for y in range(height):
        stripe = y * _STRIPES // height
        rows.append(b"\0" + bytes([stripe + 1 if stripe < stripes else 0]) * width)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _block(b"PLTE", palette),
            _block(b"IDAT", zlib.compress(b"".join(rows), 9)),
            _block(b"IEND", b""),
        )
    )


def _block(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
