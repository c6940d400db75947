"""The listener for a browser's answer: takes the one that it waits for, and nothing that anybody sends disturbs it."""

from __future__ import annotations

import http.client
import logging
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlencode, urlsplit

import pytest

from worker.loopback import _BODY_LIMIT, _REQUEST_SECONDS, Loopback

FORM = "application/x-www-form-urlencoded"
SOON = 5.0
"""Far more than an answer takes, and far less than a silent connection is waited for."""


@pytest.fixture
def state() -> str:
    return secrets.token_urlsafe(24)


@pytest.fixture
def loopback(state: str) -> Iterator[Loopback]:
    """One that waits for the answer with `state`."""
    with Loopback() as loopback:
        loopback.expect(state)
        yield loopback


def port_of(loopback: Loopback) -> int:
    port = urlsplit(loopback.redirect_uri).port
    assert port
    return port


def connected(loopback: Loopback) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(loopback)), timeout=SOON)


def asked(
    loopback: Loopback, method: str, path: str, body: str = "", **headers: str
) -> http.client.HTTPResponse:
    """The whole answer to one request, as a browser makes it."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(loopback), timeout=SOON)
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    response.page = response.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return response


def comes_by(loopback: Loopback, method: str, said: dict[str, str]) -> http.client.HTTPResponse:
    """Send an answer in the address (GET) or as a form (POST)."""
    if method == "GET":
        return asked(loopback, "GET", f"/?{urlencode(said)}")
    return asked(loopback, "POST", "/", urlencode(said), **{"Content-Type": FORM})


def raw(loopback: Loopback, request: bytes) -> bytes:
    """Everything that comes back for these octets."""
    with connected(loopback) as connection:
        connection.sendall(request)
        found = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                found += piece
    return found


def still_waits(loopback: Loopback, state: str) -> bool:
    """Whether nothing was taken so far, and the right answer still is."""
    if loopback.answer(seconds=0) is not None:
        return False
    comes_by(loopback, "POST", {"code": "right", "state": state})
    return loopback.answer(seconds=SOON) == {"code": "right", "state": state}


def all_connections_are_done() -> bool:
    """Wait until no thread of a listener works on a connection any more."""
    give_up = time.monotonic() + SOON
    while any("process_request_thread" in thread.name for thread in threading.enumerate()):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


# -- the answer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_answer_with_the_right_state_is_taken(loopback: Loopback, state: str, method: str) -> None:
    """With all that the provider said, whatever characters stand in it."""
    said = {"code": "0.A+b/c=&d %é\x00", "state": state, "session_state": "x"}

    assert comes_by(loopback, method, said).status == 200
    assert loopback.answer(seconds=SOON) == said


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_first_answer_counts(loopback: Loopback, state: str, method: str) -> None:
    """Whoever saw the address could send a code of his own right behind it."""
    first, second = ({"code": code, "state": state} for code in ("first", "second"))

    assert comes_by(loopback, method, first).status == 200
    assert comes_by(loopback, method, second).status == 404
    assert loopback.answer(seconds=SOON) == first


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refusal_is_an_answer_too(loopback: Loopback, state: str, method: str) -> None:
    """Who waits has to hear that the person declined."""
    said = {"error": "access_denied", "error_description": "declined", "state": state}

    assert comes_by(loopback, method, said).status == 200
    assert loopback.answer(seconds=SOON) == said


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_page_that_says_so_gives_nothing_away(loopback: Loopback, state: str, method: str) -> None:
    """The code must not stand in a page, a cache, or the Referer of whatever is opened next."""
    code = secrets.token_urlsafe(24)

    response = comes_by(loopback, method, {"code": code, "state": state})

    page = response.page  # type: ignore[attr-defined]
    assert "has arrived" in page
    for shown in (page, str(response.headers)):
        assert code not in shown
        assert state not in shown
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-store"
    assert "src=" not in page
    assert "href=" not in page


def test_the_person_sees_the_page_although_the_listener_ends_at_once(state: str) -> None:
    """The program goes on, and may end, as soon as it has the answer."""
    with ExitStack() as stack:
        with Loopback() as loopback:
            loopback.expect(state)
            connection = stack.enter_context(connected(loopback))
            connection.sendall(f"GET /?state={state} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert loopback.answer(seconds=SOON)
        page = b""
        while piece := connection.recv(65536):
            page += piece

    assert b"has arrived" in page


# -- everything else -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_other_answer_is_not_found_and_ends_nothing(
    loopback: Loopback, state: str, method: str
) -> None:
    """Somebody else's page may send the browser here with a code of his own (RFC 6749 section 10.12)."""
    for said in (
        {},
        {"code": "x"},
        {"code": "x", "state": ""},
        {"code": "x", "state": state[:-1]},
        {"code": "x", "state": state + "x"},
        {"code": "x", "state": state.swapcase()},
        {"code": "x", "state": "None"},
        {"code": "x", "State": state},
        {"code": state},
    ):
        response = comes_by(loopback, method, said)
        assert (response.status, response.page) == (404, ""), said  # type: ignore[attr-defined]
        assert response.headers["Referrer-Policy"] == "no-referrer"

    assert still_waits(loopback, state)


def test_what_browsers_and_others_ask_for_beside_ends_nothing(loopback: Loopback, state: str) -> None:
    """Icons, robots, tools; and a state at a place where it does not belong."""
    for method, path in (
        ("GET", "/favicon.ico"),
        ("GET", f"/{state}"),
        ("GET", f"/#state={state}"),
        ("GET", f"/back?state={state}"),
        ("GET", f"//?state={state}/x"),
        ("POST", f"/?state={state}"),
        ("HEAD", f"/?state={state}"),
        ("PUT", f"/?state={state}"),
        ("OPTIONS", "*"),
        ("CONNECT", "example.com:443"),
    ):
        assert asked(loopback, method, path).status in {404, 501}, (method, path)

    assert still_waits(loopback, state)


def test_nothing_is_taken_before_it_is_known_what_to_expect(state: str) -> None:
    """An empty state is not the one that nobody has set yet."""
    with Loopback() as loopback:
        for said in ({"code": "x"}, {"code": "x", "state": ""}, {"code": "x", "state": "None"}):
            assert comes_by(loopback, "GET", said).status == 404
        loopback.expect(state)
        assert still_waits(loopback, state)


def test_nobody_waits_for_ever(loopback: Loopback) -> None:
    """A person who closed the window never answers."""
    assert loopback.answer(seconds=0.01) is None


# -- connections that do not behave --------------------------------------------------------------------------------------


def test_silent_connections_do_not_keep_the_answer_out(state: str) -> None:
    """Browsers open some ahead; others stop in the middle of a line, of the head, or of a form. Nor is the end kept up."""
    begun = (
        b"",
        b"GET /",
        b"GET / HTTP/1.1\r\nHost:",
        b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nstate=",
    )
    started = time.monotonic()
    with ExitStack() as stack:
        with Loopback() as loopback:
            loopback.expect(state)
            for part in begun:
                stack.enter_context(connected(loopback)).sendall(part)
            assert still_waits(loopback, state)
        assert time.monotonic() - started < SOON < _REQUEST_SECONDS

    assert all_connections_are_done()


@pytest.mark.parametrize(("size", "taken"), [(_BODY_LIMIT, True), (_BODY_LIMIT + 1, False)])
def test_a_form_is_read_up_to_a_limit(loopback: Loopback, state: str, size: int, taken: bool) -> None:
    """A form of any length would fill the memory; what is too long is not even waited for."""
    form = f"state={state}&code=".encode()
    head = f"POST / HTTP/1.1\r\nContent-Type: {FORM}\r\nContent-Length: {size}\r\n\r\n".encode()
    if taken:
        assert raw(loopback, head + form.ljust(size, b"x")).startswith(b"HTTP/1.0 200")
        answer = loopback.answer(seconds=SOON)
        assert answer
        assert len(answer["code"]) == size - len(form)
    else:
        assert raw(loopback, head + form).startswith(b"HTTP/1.0 404")
        assert still_waits(loopback, state)


def test_a_length_that_is_none_counts_as_nothing(loopback: Loopback, state: str) -> None:
    """Nothing is read then, and so nothing is taken."""
    for length in ("", "-1", "+9", "0x40", "1e3", "9" * 5000, "²", "x"):
        head = f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode("latin-1")
        assert b" 200 " not in raw(loopback, head + f"state={state}".encode()), length[:10]
    for head in (b"", b"Transfer-Encoding: chunked\r\n"):
        assert b" 200 " not in raw(loopback, b"POST / HTTP/1.1\r\n" + head + b"\r\nstate=" + state.encode())

    assert still_waits(loopback, state)


def test_nothing_is_written_to_the_log_or_to_the_terminal(
    loopback: Loopback, state: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The address holds the code (P7); and a person at a terminal has no use for the mishaps of a browser."""
    caplog.set_level(logging.DEBUG)
    for request in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"BREW /?code=x HTTP/1.1\r\n\r\n",
        b"GET /?code=x HTTP/9\r\n\r\n",
        b"GET /?code=x y z\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /" + b"x" * 70000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    ):
        raw(loopback, request)
    for part in (b"", b"GET /?code=x", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"):
        hangs_up(loopback, part)
    assert still_waits(loopback, state)
    assert all_connections_are_done()

    assert tuple(capfd.readouterr()) == ("", "")
    assert caplog.records == []


def hangs_up(loopback: Loopback, part: bytes) -> None:
    """Begin a request and reset the connection."""
    with connected(loopback) as connection:
        connection.sendall(part)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# -- ports ---------------------------------------------------------------------------------------------------------------


def test_a_port_may_be_chosen_and_must_be_free() -> None:
    """Two that share a port would take each other's answers. A port is free again when the block has ended."""
    with Loopback() as first:
        port = port_of(first)
        with pytest.raises(OSError, match="in use"):
            Loopback(port=port)
        assert asked(first, "GET", "/").status == 404

    with Loopback(port=port) as again:
        assert again.redirect_uri == f"http://localhost:{port}"


def test_it_is_heard_on_loopback_alone(loopback: Loopback) -> None:
    """Nobody else in the network can send an answer."""
    assert loopback._server.socket.getsockname()[0] == "127.0.0.1"


def test_two_sign_ins_at_once_do_not_share_answers(loopback: Loopback, state: str) -> None:
    """An answer counts for the one that it belongs to, although it may come to the other."""
    with Loopback() as other:
        other.expect("another")
        assert comes_by(other, "GET", {"code": "1", "state": state}).status == 404
        assert comes_by(loopback, "GET", {"code": "2", "state": "another"}).status == 404
        assert comes_by(loopback, "GET", {"code": "3", "state": state}).status == 200
        assert other.answer(seconds=0) is None
        assert comes_by(other, "GET", {"code": "4", "state": "another"}).status == 200

        assert loopback.answer(seconds=SOON) == {"code": "3", "state": state}
        assert other.answer(seconds=SOON) == {"code": "4", "state": "another"}
