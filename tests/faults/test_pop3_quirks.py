"""POP3 servers with habits: whole pulls against byte-exact scripts, and what a person sees of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.scripted import Answers, Scripted
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.test_token_in_use import on_script
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB
from worker.identity import pop3_id
from worker.quay import Quay
from worker.timetable import pull_entry

GREETING = b"+OK The Microsoft Exchange POP3 service is ready.\r\n"


def listing(*lines: bytes) -> bytes:
    """A multi-line answer."""
    return b"+OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b".\r\n"


def stuffed(raw: bytes) -> bytes:
    """A message as RETR answers it (RFC 1939 section 3)."""
    body = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in raw.split(b"\r\n"))
    return b"+OK %d octets\r\n" % len(raw) + body + b".\r\n"


def maildrop(
    letters: Sequence[bytes],
    *,
    uidls: Sequence[bytes] = (),
    sizes: Mapping[int, bytes] | None = None,
    pipelining: bool = True,
) -> dict[bytes, bytes | Sequence[bytes]]:
    """A server with these messages, numbered from 1. `uidls` and `sizes` are what it lists instead of the truth."""
    numbers = range(1, len(letters) + 1)
    size = {number: b"%d" % len(letters[number - 1]) for number in numbers} | dict(sizes or {})
    names = uidls or [b"u%d" % number for number in numbers]
    return {
        b"CAPA": listing(b"UIDL", b"USER", b"SASL PLAIN XOAUTH2", *([b"PIPELINING"] if pipelining else [])),
        b"USER": b"+OK\r\n",
        b"PASS": b"+OK User successfully logged on.\r\n",
        b"UIDL": listing(*(b"%d %s" % pair for pair in zip(numbers, names, strict=False))),
        **{b"LIST %d" % number: b"+OK %d %s\r\n" % (number, size[number]) for number in reversed(numbers)},
        b"LIST": listing(*(b"%d %s" % (number, size[number]) for number in numbers)),
        **{b"RETR %d" % number: stuffed(letters[number - 1]) for number in reversed(numbers)},
        b"QUIT": b"+OK\r\n",
    }


@contextmanager
def serving(
    installation: Installation, certificates: Certificates, answers: Answers, **said: str
) -> Iterator[Scripted]:
    """The mailbox `box` on a server that answers like this."""
    with Scripted(certificates, GREETING, answers, tagged=False) as server:
        installation.mailbox(
            "box", protocol="pop3", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), **{"since": "all", "outputs": "lines,post", **said},
        )  # fmt: skip
        yield server


def impatient(installation: Installation, **more: str) -> Quay:
    """A process that waits half a second for an answer."""
    quay = installation.quay(**more)
    quay._answer_seconds = 0.5
    return quay


def due_in(quay: Quay, asked: str = "box") -> float:
    """Pull a mailbox that is polled every minute; returns in how many seconds it is due again."""
    entry = pull_entry(asked)
    quay.timetable.sync({entry: 60.0}, quay.clock())
    pulled(quay, asked)
    due = quay.timetable.due(entry)
    assert due is not None
    return due - quay.clock()


def letters(count: int, size: int = 200) -> list[bytes]:
    """The messages numbered 0 to `count`."""
    return [numbered(number, size) for number in range(count)]


# -- signing in ------------------------------------------------------------------------------------------------------


def test_the_form_that_exchange_hangs_up_on_is_not_sent(
    installation: Installation, certificates: Certificates, fresh_identity: Identity
) -> None:
    """The token never stands on the line of the command, not even when the server names its mechanism in CAPA."""
    token = fresh_identity.token(ALICE)
    answers: Answers = {
        b"AUTH XOAUTH2 ": b"-ERR Protocol error. Connection is closed. 10\r\n<end>",
        b"AUTH XOAUTH2": b"+ \r\n",
        b"dXNlcj": b"+OK User successfully logged on.\r\n",
        **maildrop(letters(2)),
    }
    with Scripted(certificates, GREETING, answers, tagged=False) as server:
        quay = on_script(installation, fresh_identity, server, secret=token, protocol="pop3")
        result = pulled(quay, "box")
        assert (result.trouble, server.commands(b"AUTH")) == (None, [b"AUTH XOAUTH2"])


@pytest.mark.parametrize("end", [b"", b"<end>"], ids=["goes on", "hangs up"])
def test_a_server_that_refuses_two_steps_is_given_one_line_once(
    installation: Installation, certificates: Certificates, fresh_identity: Identity, end: bytes
) -> None:
    """Some proxies know the one-line form only (RFC 5034 section 4); where the refusal ends the session, in a new one."""
    token = fresh_identity.token(ALICE)
    answers: Answers = {
        b"AUTH XOAUTH2 ": b"+OK User successfully logged on.\r\n",
        b"AUTH XOAUTH2": b"-ERR Syntax error: initial response required.\r\n" + end,
        **maildrop(letters(2)),
    }
    with Scripted(certificates, GREETING, answers, tagged=False) as server:
        quay = on_script(installation, fresh_identity, server, secret=token, protocol="pop3")
        assert pulled(quay, "box").trouble is None
        assert [len(line) > 20 for line in server.commands(b"AUTH")] == [False, True]


def test_a_server_that_refuses_both_forms_is_asked_no_third_time(
    installation: Installation, certificates: Certificates, fresh_identity: Identity
) -> None:
    """Both refusals are told, because nobody knows which one holds the reason; the token is in neither."""
    token = fresh_identity.token(ALICE)
    answers: Answers = {
        b"AUTH XOAUTH2 ": b"-ERR Protocol error. Connection is closed. 10\r\n<end>",
        b"AUTH XOAUTH2": b"-ERR Command is not valid in this state.\r\n",
        **maildrop(letters(2)),
    }
    with Scripted(certificates, GREETING, answers, tagged=False) as server:
        quay = on_script(installation, fresh_identity, server, secret=token, protocol="pop3")
        pulled(quay, "box")
        assert len(server.commands(b"AUTH XOAUTH2 ")) <= 2  # the second is the one with another token
        standing = quay.standings.of("box")
        assert standing.state == "login refused"
        assert "Protocol error" in standing.sentence
        assert "Command is not valid in this state" in standing.sentence
        assert token[:12] not in standing.sentence


@pytest.mark.parametrize(
    ("refusal", "state", "least", "most"),
    [
        (b"-ERR Server Unavailable. 21\r\n", "unreachable", 2, 60),
        (b"-ERR [IN-USE] Do you have another POP session running?\r\n", "throttled", 59, 90),
        (b"-ERR [LOGIN-DELAY] minimum time between mail checks violation\r\n", "throttled", 299, 450),
        (b"-ERR [SYS/TEMP] Server busy\r\n", "unreachable", 2, 60),
        (b"-ERR [SYS/PERM] maildrop is corrupt\r\n", "login refused", 2, 60),
        (b"-ERR [AUTH] Authentication failure\r\n", "login refused", 2, 60),
        (b"-ERR Logon failure: unknown user name or bad password.\r\n", "login refused", 2, 60),
    ],
)
def test_a_refused_sign_in_says_who_must_act_and_waits_as_long_as_it_takes(  # noqa: PLR0917  (parameters)
    installation: Installation,
    certificates: Certificates,
    refusal: bytes,
    state: str,
    least: float,
    most: float,
) -> None:
    """RFC 2449 section 8 and RFC 3206 name the codes; a maildrop in use is free again soon, a login delay is longer."""
    answers = {**maildrop(letters(3)), b"PASS": [refusal, b"+OK\r\n"]}
    with serving(installation, certificates, answers):
        quay = installation.quay()

        wait = due_in(quay)

        assert quay.standings.of("box").state == state
        assert least <= wait <= most
        flow(quay, "box")
    assert delivered_once(installation, range(3))


# -- listing ---------------------------------------------------------------------------------------------------------


def test_numbers_that_shift_between_sessions(installation: Installation, certificates: Certificates) -> None:
    """A number is good for one session; what is new is known by its UIDL (TA-dmarc#36 imported everything again)."""
    with serving(installation, certificates, maildrop(letters(3))):
        assert flow(quay := installation.quay(), "box").messages == 3
    # Somebody deleted the first one, and two have come.
    shifted = maildrop(letters(5)[1:], uidls=[b"u2", b"u3", b"u4", b"u5"])
    with serving(installation, certificates, shifted) as server:
        quay = installation.quay()
        assert flow(quay, "box").messages == 2
        assert server.commands(b"RETR") == [b"RETR 3", b"RETR 4"]
    assert delivered_once(installation, range(5))


def test_equal_copies_with_one_uidl(installation: Installation, certificates: Certificates) -> None:
    """RFC 1939 section 7 allows a server to name messages by their content: one copy is enough."""
    drop = maildrop([numbered(0), numbered(1), numbered(0)], uidls=[b"same", b"other", b"same"])
    with serving(installation, certificates, drop):
        quay = installation.quay()
        assert [flow(quay, "box").messages for _ in range(2)] == [2, 0]
    assert delivered_once(installation, range(2))


def test_different_messages_with_one_uidl(installation: Installation, certificates: Certificates) -> None:
    """Their sizes tell that they are no copies; each is pulled once, and none is lost."""
    drop = maildrop(
        [numbered(0), numbered(1, 300), numbered(2), numbered(3, 400)],
        uidls=[b"same", b"same", b"other", b"same"],
    )
    with serving(installation, certificates, drop):
        quay = installation.quay()
        assert [flow(quay, "box").messages for _ in range(2)] == [4, 0]
    assert delivered_once(installation, range(4))


def test_a_message_that_is_missing_in_uidl_waits_until_it_is_named(
    installation: Installation, certificates: Certificates
) -> None:
    """It could neither be told apart nor remembered; the others do not wait for it."""
    drop = maildrop(letters(3))
    late = {**drop, b"UIDL": [listing(b"1 u1", b"3 u3"), listing(b"1 u1", b"2 u2", b"3 u3")]}
    with serving(installation, certificates, late):
        quay = installation.quay()
        assert [flow(quay, "box").messages for _ in range(2)] == [2, 1]
    assert delivered_once(installation, range(3))


def test_a_line_of_uidl_without_a_name_stops_the_mailbox_in_words(
    installation: Installation, certificates: Certificates
) -> None:
    """The server says that it has a message and not which; when it does, all goes on."""
    drop = maildrop(letters(3))
    nameless = {**drop, b"UIDL": [listing(b"1 u1", b"2", b"3 u3"), drop[b"UIDL"]]}
    with serving(installation, certificates, nameless):
        quay = installation.quay()
        flow(quay, "box")
        assert "1 messages without a UIDL" in quay.standings.of("box").sentence
        flow(quay, "box")
    assert delivered_once(installation, range(3))


def test_uidls_of_any_length_and_of_any_octets(
    installation: Installation, certificates: Certificates
) -> None:
    """RFC 1939 allows 70 printable ones. Among these are some that Python takes for line ends and for blanks."""
    names = [b"x" * 500, b"\x85\x0c\x1c1", b"\xa0", b"\xff\x00%s", b"a b", b"=?utf-8?q?x?="]
    with serving(installation, certificates, maildrop(letters(6), uidls=names)):
        quay = installation.quay()
        assert [flow(quay, "box").messages for _ in range(2)] == [6, 0]
    assert delivered_once(installation, range(6))
    ids = {line["id"] for line in installation.lines()}
    assert {pop3_id("box", name.decode("latin-1")) for name in names} == ids


@pytest.mark.parametrize("size", [b"1", b"100000", b"-5", b"nonsense", b"", b"9" * 5000])
def test_sizes_that_lie_in_both_directions(
    installation: Installation, certificates: Certificates, size: bytes
) -> None:
    """What LIST says plans the batches, and decides nothing else: Exchange estimates it, others invent it."""
    drop = maildrop(letters(4, 2_000), sizes={1: size, 3: size})
    with serving(installation, certificates, drop):
        quay = impatient(installation, BATCH_SIZE="50KB")
        for _ in range(2):
            flow(quay, "box")
        assert quay.standings.of("box").state == "ok"
    assert delivered_once(installation, range(4))


def test_a_maildrop_of_a_hundred_thousand_messages(
    installation: Installation, certificates: Certificates
) -> None:
    """Kept mail is listed at every poll, and that is all: one new message costs one RETR, and the memory is bounded."""
    many = 100_000
    old = [b"%d kept-%032d" % (number, number) for number in range(1, many + 1)]
    answers: dict[bytes, bytes | Sequence[bytes]] = {
        b"UIDL": [listing(*old), listing(*old, b"%d new" % (many + 1))],
        b"LIST %d" % (many + 1): b"+OK %d 300\r\n" % (many + 1),
        b"LIST": listing(*(b"%d 1000" % number for number in range(1, many + 1)), b"%d 300" % (many + 1)),
        b"RETR %d" % (many + 1): stuffed(numbered(0)),
    }
    with serving(
        installation,
        certificates,
        answers | {verb: said for verb, said in maildrop([]).items() if verb not in answers},
        since="now",
    ) as server:
        quay = installation.quay()
        assert flow(quay, "box").messages == 0
        tracemalloc.start()
        try:
            assert flow(quay, "box").messages == 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(server.commands(b"RETR")) == 1
    assert delivered_once(installation, range(1))
    assert peak < 100 << 20


# -- fetching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2_048, 2_049, 70_000, 10_000_000])
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one by one"])
def test_a_long_line_keeps_the_session_in_step(
    installation: Installation, certificates: Certificates, length: int, *, pipelining: bool
) -> None:
    """`poplib` gives up behind 2,048 octets and takes the rest for the next answer (odoo#10920)."""
    drop = maildrop([numbered(0), numbered(1, length), numbered(2)], sizes={2: b"300"}, pipelining=pipelining)
    with serving(installation, certificates, drop):
        assert flow(installation.quay(), "box").messages == 3
    assert delivered_once(installation, range(3))
    assert max(map(len, installation.posted().values())) > length


ODD = {
    "dots": b".\r\n..\r\n...\r\n.x\r\n\r\n.",
    "a dot alone in the middle": b"a\r\n.\r\nb\r\n.\r\n",
    "bare line feeds around a dot": b"a\n.\nb\n.\r\nc",
    "bare carriage returns around a dot": b"a\r.\rb\r\r\n",
    "NUL": b"\x00.\x00\r\n\x00",
    "an answer": b"\r\n+OK 3 u3\r\n-ERR no such message\r\n+OK",
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_bytes_come_as_they_are_whatever_stands_around_a_dot(
    installation: Installation, certificates: Certificates, body: bytes
) -> None:
    """Only CRLF, dot, CRLF ends a message: a sender who writes bare line feeds around a dot cannot speak for the server."""
    odd = numbered(1) + body + b"\r\n"
    with serving(installation, certificates, maildrop([numbered(0), odd, numbered(2)])):
        assert flow(installation.quay(), "box").messages == 3
    assert odd in installation.posted().values()
    assert delivered_once(installation, range(3))


def test_a_dot_that_the_server_forgot_to_double_is_kept(
    installation: Installation, certificates: Certificates
) -> None:
    """It belongs to the message, whatever the standard says."""
    forgotten = numbered(0) + b".signature\r\n"
    drop = {**maildrop(letters(2)), b"RETR 1": b"+OK\r\n" + forgotten + b".\r\n"}
    with serving(installation, certificates, drop):
        flow(installation.quay(), "box")
    assert forgotten in installation.posted().values()


def test_a_message_without_a_line_end_before_the_last_dot_never_ends_for_longer_than_an_answer(
    installation: Installation, certificates: Certificates
) -> None:
    """Nobody can tell where it ends. The messages before it are kept, and the next pull does not run into it pipelined."""
    drop = {
        **maildrop(letters(3)),
        b"RETR 2": [b"+OK\r\n" + numbered(1).rstrip() + b".\r\n", stuffed(numbered(1))],
    }
    with serving(installation, certificates, drop):
        quay = impatient(installation)
        first = flow(quay, "box")
        assert first.messages <= 1
        assert quay.standings.of("box").state == "unreachable"
        flow(quay, "box")
    assert delivered_once(installation, range(3))


def test_a_refusal_in_the_middle_of_a_pipelined_group(
    installation: Installation, certificates: Certificates
) -> None:
    """It costs its own message only, which waits in the repair queue; every answer is taken for its own message."""
    drop = {**maildrop(letters(5)), b"RETR 3": b"-ERR message cannot be converted\r\n"}
    with serving(installation, certificates, drop):
        quay = installation.quay()
        assert flow(quay, "box").messages == 4
        (repair,) = quay.repairs.of("box")
    assert repair.place.uidl == "u3"
    assert "cannot be converted" in repair.reason
    assert sorted(line["subject"] for line in installation.lines()) == [f"Crate {n}" for n in (0, 1, 3, 4)]


def test_a_message_that_vanishes_in_the_middle_of_a_pipelined_group(
    installation: Installation, certificates: Certificates
) -> None:
    """Another client deleted it: both its answers are refusals, and those behind it are taken for what they are."""
    drop = {
        **maildrop(letters(5)),
        b"RETR 3": b"-ERR There is no such message.\r\n",
        b"LIST 3": b"-ERR There is no such message.\r\n",
    }
    with serving(installation, certificates, drop):
        assert flow(installation.quay(), "box").messages == 4
    assert sorted(line["subject"] for line in installation.lines()) == [f"Crate {n}" for n in (0, 1, 3, 4)]


def test_throttling_in_the_middle_of_a_pipelined_group(
    installation: Installation, certificates: Certificates, events: Events
) -> None:
    """It is a word about the mailbox and not about a message: what came is kept, and nothing is put into the repair queue."""
    drop = maildrop(letters(5))
    drop[b"RETR 3"] = [b"-ERR Server Unavailable. 21\r\n", stuffed(numbered(2))]
    with serving(installation, certificates, drop):
        quay = installation.quay()
        assert flow(quay, "box").messages == 2
        assert quay.repairs.of("box") == []
        flow(quay, "box")
    assert delivered_once(installation, range(5))
    assert "Server Unavailable. 21" in of(events, "pull.failed")[0]["reason"]


def test_a_server_that_falls_silent_in_the_middle_of_a_pipelined_group(
    installation: Installation, certificates: Certificates
) -> None:
    """It is left after one answer's time; the messages before it are kept, and the rest comes with the next pull."""
    drop = maildrop(letters(6))
    quiet = {f"{verb} {number}".encode(): [b"<silence>", drop[f"{verb} {number}".encode()]] for number in range(4, 7) for verb in ("RETR", "LIST")}  # fmt: skip
    with serving(installation, certificates, {**quiet, **drop, **quiet}):  # type: ignore[dict-item]
        quay = impatient(installation)
        assert flow(quay, "box").messages == 3
        assert "no answer in time" in quay.standings.of("box").sentence
        flow(quay, "box")
    assert delivered_once(installation, range(6))


LOST = {
    "a RETR": {b"RETR 2"},
    "a LIST": {b"LIST 2"},
    "both": {b"RETR 2", b"LIST 2"},
    "several": {b"RETR 2", b"LIST 2", b"RETR 3", b"LIST 3"},
    "a LIST and the next RETR": {b"LIST 2", b"RETR 3"},
    "all but the first": {f"{verb} {n}".encode() for n in range(1, 5) for verb in ("RETR", "LIST")} - {b"RETR 1"},
}  # fmt: skip


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_server_that_promises_pipelining_and_loses_commands(
    installation: Installation, certificates: Certificates, lost: set[bytes]
) -> None:
    """No message comes under the name of another one, and the next pull asks one by one and gets everything."""
    drop = maildrop(letters(6))
    # It loses what arrives while it is busy: asked one by one, it loses nothing.
    forgetful: dict[bytes, bytes | Sequence[bytes]] = {}
    for command in drop:
        answer = drop[command]
        assert isinstance(answer, bytes)
        forgetful[command] = [b"<silence>", answer] if command in lost else answer
    with serving(installation, certificates, forgetful):
        quay = impatient(installation, BATCH_MESSAGES="2")
        flow(quay, "box")
        assert quay.standings.of("box").state == "unreachable"
        flow(quay, "box")
        deliver_due(quay)
        assert quay.standings.of("box").state == "ok"
    assert delivered_once(installation, range(6))
    subjects = {line["id"]: line["subject"] for line in installation.lines()}
    assert subjects == {pop3_id("box", f"u{n + 1}"): f"Crate {n}" for n in range(6)}
