"""Forms (multipart/form-data) as clients write them."""

BOUNDARY = b"----boundary0123456789"
CONTENT_TYPE = b"multipart/form-data; boundary=" + BOUNDARY
END = b"\r\n--" + BOUNDARY + b"--\r\n"


def field(name: str, value: str | bytes) -> bytes:
    """One field, with the boundary before it."""
    return _part(f'name="{name}"', value if isinstance(value, bytes) else value.encode())


def file(content: bytes, name: str = "file", filename: str = "a.mp3") -> bytes:
    """One file, with the boundary before it."""
    return _part(f'name="{name}"; filename="{filename}"\r\nContent-Type: audio/mpeg', content)


def form(*parts: bytes) -> bytes:
    """The whole form."""
    return b"".join(parts).removeprefix(b"\r\n") + END


def _part(disposition: str, content: bytes) -> bytes:
    head = f"Content-Disposition: form-data; {disposition}\r\n\r\n".encode()
    return b"\r\n--" + BOUNDARY + b"\r\n" + head + content
