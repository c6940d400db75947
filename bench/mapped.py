"""How much anonymous memory a mapped message takes that is parsed, written as JSON, and read: each in a process of its own.

    python -m bench.mapped [--megabytes 150]

Each kind of message is made in a file, mapped as the deliverers map the members of a batch, and worked on while its
RssAnon is read from /proc every millisecond (Linux). Printed is the growth in MB at its peak, over what the process had
before it parsed; the bar is 20 MB. `decode`, all content at once, is beside it for comparison.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import mmap
import multiprocessing
import random
import re
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from pipelines import Message, parse

_EVERY_SECONDS = 0.001
_SPAWN = multiprocessing.get_context("spawn")
_HEAD = (
    b'From: ann@example.org\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n'
)
_PART = b"Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n"
_RANDOM = random.Random(8621).randbytes(57 * 1_000)

# What a message is made of: the type of its part, its encoding, and a piece that is repeated.
KINDS: dict[str, tuple[bytes, bytes, bytes]] = {
    "base64": (b"application/pdf", b"base64", base64.encodebytes(_RANDOM).replace(b"\n", b"\r\n")),
    "base64 in one line": (b"application/pdf", b"base64", base64.b64encode(_RANDOM)),
    "quoted-printable": (b"application/pdf", b"quoted-printable", binascii.b2a_qp(_RANDOM)),
    "binary": (b"application/pdf", b"binary", _RANDOM),
    "text": (b"text/plain", b"8bit", b"Gr\xc3\xb6\xc3\x9fe and price of it\r\n" * 1_000),
    "text in base64": (b"text/html", b"base64", base64.encodebytes(b"<p>a line</p>\n" * 399)),
}


def _json(message: Message) -> None:
    message.to_json()


def _chunks(message: Message) -> None:
    for part in message.structure.walk():
        for _ in part.chunks():
            pass


def _sha256(message: Message) -> None:
    for part in message.structure.walk():
        part.sha256()


def _decode(message: Message) -> None:
    for part in message.structure.walk():
        part.decode()


WORK: dict[str, Callable[[Message], None]] = {
    "parse": lambda _: None,
    "to_json": _json,
    "chunks": _chunks,
    "sha256": _sha256,
    "decode": _decode,
}


def anonymous_mb(pid: int) -> float:
    """Return the RssAnon of a process."""
    (found,) = re.findall(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found) / 1000


def work(path: Path, name: str, way: Connection) -> None:
    """Say when it begins, parse the message in a file, do the work of that name, say that it is done, and wait."""
    # Modules and caches are no matter of the message.
    WORK[name](parse(memoryview(bytearray(_HEAD + b"\r\nx\r\n--b--\r\n"))))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        way.send("ready")
        way.recv()
        message = parse(view)
        WORK[name](message)
        way.send("done")
        way.recv()
        del message
        view.release()


def growth(path: Path, name: str) -> float:
    """Return by how many MB a process that does the work grew at most; it is watched from outside, also amid a call."""
    way, its_way = _SPAWN.Pipe()
    process = _SPAWN.Process(target=work, args=(path, name, its_way))
    process.start()
    its_way.close()
    assert process.pid is not None
    way.recv()
    before = highest = anonymous_mb(process.pid)
    way.send("go")
    while not way.poll(_EVERY_SECONDS):
        highest = max(highest, anonymous_mb(process.pid))
    way.recv()
    way.send("end")
    process.join()
    return highest - before


def write(path: Path, kind: str, *, size: int) -> None:
    """Write a message of about `size` bytes."""
    media_type, encoding, piece = KINDS[kind]
    with path.open("wb") as made:
        made.write(_HEAD + _PART % (media_type, encoding))
        for _ in range(size // len(piece)):
            made.write(piece)
        made.write(b"\r\n--b--\r\n")


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--megabytes", type=int, default=150, help="size of a message")
    size = arguments.parse_args().megabytes * 1_000_000
    print(f"{'MB at the peak':<20}" + "".join(f"{name:>10}" for name in WORK))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.eml"
        for kind in KINDS:
            write(path, kind, size=size)
            grown = [growth(path, name) for name in WORK]
            print(f"{kind:<20}" + "".join(f"{mb:>10.1f}" for mb in grown))


if __name__ == "__main__":
    main()
