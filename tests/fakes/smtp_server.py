"""A mail server for tests on a real socket. It accepts every message, or sends the planned refusals.

mail_server = await nursery.start(serve)
...
message = await mail_server.arrived("ada@example.com")
"""

import re
import ssl
from collections import deque
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import trio

from tests.gateways import eventually


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message with its envelope, whether it was sent over TLS, and the credentials (base64)."""

    sender: str
    to: str
    message: EmailMessage
    encrypted: bool
    signed_in: str

    @property
    def text(self) -> str:
        body = self.message.get_body(("plain",))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")

    @property
    def token(self) -> str:
        found = re.search(r"#(?:token|invite)=([\w-]{43})\b", self.text)
        assert found, self.text
        return found[1]


@dataclass
class MailServer:
    """`refusals` are the responses to the next recipients, in order; an empty one closes the connection. With
    `silent` it accepts connections and never responds.
    """

    port: int = 0
    mails: list[Delivered] = field(default_factory=list)
    refusals: deque[bytes] = field(default_factory=deque)
    silent: bool = False
    connections: int = 0
    tls: ssl.SSLContext | None = None

    def to(self, address: str) -> list[Delivered]:
        return [mail for mail in self.mails if mail.to == address]

    async def arrived(self, address: str, count: int = 1) -> Delivered:
        """Wait for `count` messages to an address; the newest of them."""
        await eventually(lambda: len(self.to(address)) >= count)
        return self.to(address)[-1]

    async def play(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        try:
            await _Session(self, stream).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass
        finally:
            await trio.aclose_forcefully(stream)


class _Session:
    def __init__(self, server: MailServer, stream: trio.abc.Stream) -> None:
        self._server = server
        self._stream = stream
        self._buffer = b""
        self._encrypted = False
        self._signed_in = ""
        self._envelope = ("", "")

    async def run(self) -> None:
        if self._server.silent:
            await trio.sleep_forever()
        await self._say(b"220 mail.test ESMTP")
        while (line := await self._line()) is not None:
            if not await self._obey(line):
                return

    async def _obey(self, line: str) -> bool:
        """Whether the session continues."""
        verb = line.upper()
        if verb.startswith("EHLO"):
            await self._say(*self._abilities())
        elif verb == "STARTTLS" and self._server.tls is not None:
            await self._say(b"220 go on")
            assert not self._buffer, "nothing may be sent before TLS"
            self._stream = trio.SSLStream(
                self._stream, self._server.tls, server_side=True, https_compatible=True
            )
            self._encrypted = True
        elif verb.startswith("AUTH PLAIN "):
            self._signed_in = line[11:]
            await self._say(b"235 welcome")
        elif verb.startswith("MAIL FROM:"):
            self._envelope = (_address(line), "")
            await self._say(b"250 ok")
        elif verb.startswith("RCPT TO:"):
            return await self._recipient(line)
        elif verb == "DATA":
            return await self._take()
        elif verb == "QUIT":
            await self._say(b"221 bye")
            return False
        else:
            await self._say(b"250 ok" if verb == "RSET" else b"502 unknown")
        return True

    def _abilities(self) -> list[bytes]:
        if self._server.tls is not None and not self._encrypted:
            return [b"250-mail.test", b"250 STARTTLS"]
        return [b"250-mail.test", b"250 AUTH PLAIN"]

    async def _recipient(self, line: str) -> bool:
        refusal = self._server.refusals.popleft() if self._server.refusals else b"250 ok"
        if refusal == b"":
            return False
        self._envelope = (self._envelope[0], _address(line))
        await self._say(refusal)
        return True

    async def _take(self) -> bool:
        """False if the client disconnected before the end of its message, which is then ignored."""
        await self._say(b"354 go on")
        lines = []
        while (line := await self._line()) != ".":
            if line is None:
                return False
            lines.append(line.removeprefix("."))
        message = message_from_bytes("\r\n".join(lines).encode(), policy=default)
        assert isinstance(message, EmailMessage)
        self._server.mails.append(Delivered(*self._envelope, message, self._encrypted, self._signed_in))
        await self._say(b"250 taken")
        return True

    async def _say(self, *lines: bytes) -> None:
        await self._stream.send_all(b"".join(line + b"\r\n" for line in lines))

    async def _line(self) -> str | None:
        while b"\r\n" not in self._buffer:
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode()


def _address(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


async def serve(
    tls: ssl.SSLContext | None = None,
    implicit: bool = False,
    *,
    task_status: trio.TaskStatus[MailServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """With `tls` it offers STARTTLS; with `implicit` TLS begins with the first byte."""
    server = MailServer(tls=None if implicit else tls)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]

    async def play(stream: trio.SocketStream) -> None:
        if implicit and tls is not None:
            await server.play(trio.SSLStream(stream, tls, server_side=True, https_compatible=True))
        else:
            await server.play(stream)

    task_status.started(server)
    await trio.serve_listeners(play, listeners)
