"""One connection: lines and counted octets whatever the pieces they come in, deadlines, limits, and TLS that verifies."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.demo.certificates import Certificates, write_certificates
from worker.errors import Misconfigured, Unreachable
from worker.sources import Endpoint
from worker.sources.transport import Wire


@contextmanager
def wired(
    pieces: Sequence[bytes] = (), *, clock: Callable[[], float] = lambda: 0.0, answer_seconds: float = 5.0
) -> Iterator[tuple[Wire, socket.socket]]:
    """A wire, and the server's end of it. `pieces` are read one by one, however the network would put them together."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], "starttls")
        wire = Wire(endpoint, answer_seconds=answer_seconds, clock=clock)
        server, _ = listener.accept()
    left = [piece for piece in pieces if piece]

    def read(into: memoryview) -> int:
        piece, left[:1] = left[0][: len(into)], [rest] if (rest := left[0][len(into) :]) else []
        into[: len(piece)] = piece
        return len(piece)

    if pieces:
        wire._read = read
    try:
        yield wire, server
    finally:
        wire.close()
        server.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Data in pieces, cut at these places modulo its length."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


places = st.lists(st.integers(0, 1 << 30), max_size=8)
# The letters that matter to the protocol, so that they meet often.
raws = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"\r", b"\n", b"x", b"yz" * 40]), max_size=30).map(
    b"".join
)


@given(lines=st.lists(raws.map(lambda raw: re.sub(rb"[\r\n]", b"-", raw)), min_size=1), places=places)
def test_lines_come_whole_whatever_pieces_they_come_in(lines: list[bytes], places: list[int]) -> None:
    """With and without a carriage return before the line end."""
    data = b"".join(line + (b"\r\n" if n % 2 else b"\n") for n, line in enumerate(lines))
    with wired(cut(data, places)) as (wire, _):
        assert [wire.line(10_000) for _ in lines] == lines


@given(raw=raws, places=places)
def test_a_dotted_message_comes_byte_for_byte_and_leaves_the_next_answer_alone(
    raw: bytes, places: list[int]
) -> None:
    """Dot-stuffed as RFC 1939 section 3 has it, in any pieces; bare line ends in it are kept as they are."""
    raw += b"" if raw.endswith(b"\r\n") or not raw else b"\r\n"
    stuffed = re.sub(rb"(\A|\r\n)\.", rb"\1..", raw)
    with wired(cut(stuffed + b".\r\n+OK next\r\n", places)) as (wire, _):
        assert b"".join(wire.dotted(1 << 20)) == raw
        assert wire.line(100) == b"+OK next"


@given(raw=st.binary(max_size=400), places=places, size=st.integers(1, 99))
def test_counted_octets_come_exactly_and_in_pieces_when_they_are_many(
    raw: bytes, places: list[int], size: int
) -> None:
    """A literal may hold anything."""
    with wired(cut(raw + raw + b")\r\n", places)) as (wire, _):
        assert bytes(wire.exactly(len(raw))) == raw
        pieces = [bytes(piece) for piece in wire.chunks(len(raw), size)]
        assert b"".join(pieces) == raw
        assert all(len(piece) <= size for piece in pieces)
        assert wire.line(10) == b")"


def test_lines_longer_than_the_buffer_and_messages_of_megabytes_pass() -> None:
    """What is long comes in pieces of whole lines; one very long line is taken as long as its limit allows."""
    long = b"x" * 700_000 + b"\r\n"
    many = b"".join(b".%06d\r\n" % n for n in range(200_000))
    stuffed = re.sub(rb"(?m)^\.", b"..", many)
    data = long + long + stuffed + b".\r\nend\r\n"
    with wired([data[n : n + 100_003] for n in range(0, len(data), 100_003)]) as (wire, _):
        assert wire.line(1 << 20) == long[:-2]
        assert b"".join(wire.dotted(1 << 22)) == long + many
        assert wire.line(10) == b"end"


@pytest.mark.parametrize(
    ("read", "limit"),
    [
        (lambda wire: wire.line(1000), "line"),
        (lambda wire: list(wire.dotted(1_000_000)), "message"),
        (lambda wire: list(wire.dotted(1000)), "line"),
    ],
)
def test_a_server_that_floods_is_hung_up_on(read: Callable[[Wire], object], limit: str) -> None:
    """Promise P8: every size has a limit, with line ends and without."""
    piece = b"x" * 99_998 + (b"\r\n" if limit == "message" else b"xx")
    with wired([piece] * 30) as (wire, _), pytest.raises(Unreachable, match=f"a {limit} of more than"):
        read(wire)


@pytest.mark.parametrize(
    "read",
    [
        lambda wire: wire.line(1 << 30),
        lambda wire: list(wire.dotted(1 << 30)),
        lambda wire: wire.exactly(1 << 20),
    ],
)
def test_a_server_that_drips_runs_out_of_time(read: Callable[[Wire], object]) -> None:
    """Promise P8: one octet now and then does not hold a worker; each read takes a minute here."""
    minutes = count(step=60.0)
    with (
        wired([b"x"] * 1000, clock=lambda: next(minutes)) as (wire, _),
        pytest.raises(Unreachable, match="in time"),
    ):
        read(wire)


def test_a_server_that_hangs_runs_out_of_time() -> None:
    """In real seconds, before its first word and between two."""
    with wired(answer_seconds=0.1) as (wire, server):
        server.sendall(b"* OK\r\n* half a li")
        assert wire.line(100) == b"* OK"
        with pytest.raises(Unreachable, match="no answer in time"):
            wire.line(100)


def test_a_server_that_hangs_up_is_noticed_in_the_middle_of_anything() -> None:
    """A message that was cut off never passes for a whole one."""
    reads: list[tuple[Callable[[Wire], object], bytes]] = [
        (lambda wire: wire.line(100), b"half a li"),
        (lambda wire: list(wire.dotted(100)), b"a line\r\nand a half\r\n."),
        (lambda wire: wire.exactly(100), b"not a hundred"),
    ]
    for read, said in reads:
        with wired() as (wire, server):
            server.sendall(said)
            server.shutdown(socket.SHUT_WR)
            with pytest.raises(Unreachable, match="closed the connection"):
                read(wire)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Another authority, and a certificate for another name."""
    return write_certificates(tmp_path_factory.mktemp("elsewhere"), names=["mail.elsewhere.example"])


@contextmanager
def presenting(shown: Certificates) -> Iterator[int]:
    """A TLS server for one connection; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.chain_file, shown.key_file)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            try:
                with context.wrap_socket(connection, server_side=True) as encrypted:
                    encrypted.sendall(b"welcome\r\n")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def connected(port: int, ca_file: Path) -> bytes:
    wire = Wire(Endpoint("localhost", port, "implicit", str(ca_file)), answer_seconds=5, clock=lambda: 0)
    try:
        return wire.line(100)
    finally:
        wire.close()


def test_a_certificate_is_verified_for_its_authority_and_its_name(
    certificates: Certificates, elsewhere: Certificates
) -> None:
    """There is no way to switch that off; each refusal names the variable that may be wrong."""
    with presenting(certificates) as port:
        assert connected(port, certificates.ca_file) == b"welcome"
    with presenting(certificates) as port, pytest.raises(Misconfigured, match="CA_FILE"):
        connected(port, elsewhere.ca_file)
    with presenting(elsewhere) as port, pytest.raises(Misconfigured, match="HOST"):
        connected(port, elsewhere.ca_file)


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    """Missing or garbage: the sentence says CA_FILE, and no worker dies of it."""
    garbage = tmp_path / "ca.pem"
    for content in (None, "no certificate"):
        if content:
            garbage.write_text(content)
        with wired() as (wire, _):
            wire.endpoint = Endpoint("localhost", 1, "starttls", str(garbage))
            with pytest.raises(Misconfigured, match=r"CA_FILE .*ca\.pem"):
                wire.start_tls()


def test_a_port_without_tls_is_named() -> None:
    """The usual mistake: TLS=implicit on a plain port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"* OK ready\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unreachable, match="Check PORT and TLS"):
            Wire(Endpoint("127.0.0.1", port, "implicit"), answer_seconds=5, clock=lambda: 0)
        thread.join()
    with pytest.raises(Unreachable, match="Check HOST and PORT"):
        Wire(Endpoint("127.0.0.1", port, "implicit"), answer_seconds=5, clock=lambda: 0)


def test_words_ahead_of_the_handshake_are_not_believed() -> None:
    """RFC 3501 section 6.2.1: an attacker could put them there, to be taken for answers from inside TLS."""
    with wired([b"A1 OK begin TLS\r\nA2 OK injected\r\n"]) as (wire, _):
        wire.line(100)
        with pytest.raises(Unreachable, match="ahead of the TLS handshake"):
            wire.start_tls()
