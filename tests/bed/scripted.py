"""A mail server that says what a test wrote down, byte for byte: for answers that no real server gives on demand.

It speaks implicit TLS on loopback, takes one connection at a time, and keeps what it was told.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.demo.certificates import Certificates

Answers = Mapping[bytes, bytes | Sequence[bytes]]
"""What a command begins with -> what is answered; several answers are given in turn, the last one again and again.

`<tag>` stands for the command's tag, `<silence>` for nothing: alone it is a server that does not answer. An empty answer
hangs up; so does `<end>` behind what is said before it."""


class Scripted:
    """A server for the length of a `with` block. `tagged`: commands begin with a tag, as in IMAP.

    `said` are the lines that clients sent, without tags. A command that no answer fits is answered `BAD` or `-ERR`.
    """

    def __init__(
        self, certificates: Certificates, greeting: bytes, answers: Answers, *, tagged: bool
    ) -> None:
        self.said: list[bytes] = []
        self.ca_file: Path = certificates.ca_file
        self._greeting = greeting
        self._answers = {
            start: [said] if isinstance(said, bytes) else list(said) for start, said in answers.items()
        }
        self._tagged = tagged
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.chain_file, certificates.key_file)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="scripted")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone would not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def commands(self, start: bytes = b"") -> list[bytes]:
        """The lines so far that begin like this."""
        return [line for line in self.said if line.startswith(start)]

    def _serve(self) -> None:
        # A client that hangs up, or distrusts the certificate, ends its own session only.
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain, suppress(OSError):
                plain.settimeout(10)
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._converse(connection)

    def _converse(self, connection: ssl.SSLSocket) -> None:
        connection.sendall(self._greeting)
        with connection.makefile("rb") as lines:
            for line in lines:
                tag, _, command = (
                    line.rstrip(b"\r\n").partition(b" ") if self._tagged else (b"", b"", line.strip())
                )
                # A line that answers a challenge has no tag.
                said = command or tag
                self.said.append(said)
                answer = self._answer(said)
                if not answer:
                    return
                spoken, end, _ = answer.partition(b"<end>")
                connection.sendall(spoken.replace(b"<tag>", tag or b"*").replace(b"<silence>", b""))
                if end:
                    return

    def _answer(self, said: bytes) -> bytes:
        for start, answers in self._answers.items():
            if said.startswith(start):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return b"<tag> BAD unknown command\r\n" if self._tagged else b"-ERR unknown command\r\n"
