"""IMAP against a scripted server: what no real server says on demand, to the byte."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime

import pytest

from tests.bed.placeholder import PLACEHOLDER
from tests.bed.scripted import Answers, Scripted
from worker.demo.certificates import Certificates
from worker.errors import LoginRefused, Misconfigured, SessionExpired, Throttled, Unreachable
from worker.sources import Credentials, Endpoint, Fetched, Opened, Ref, TooLarge, Withheld
from worker.sources.imap import ImapSource

CAPABLE = b"[CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 AUTH=PLAIN UIDPLUS MOVE]"
SIGNED_IN: dict[bytes, bytes | Sequence[bytes]] = {
    b"AUTHENTICATE": b"<tag> OK " + CAPABLE + b" welcome\r\n",
    b"LOGOUT": b"* BYE\r\n<tag> OK\r\n",
}
INBOX = Opened("INBOX", 7, None, 3)
TOKEN = Credentials("support@contoso.com", "t0ken")


@contextmanager
def session(
    certificates: Certificates,
    answers: Answers,
    *,
    greeting: bytes = b"* OK " + CAPABLE + b" ready\r\n",
    credentials: Credentials = TOKEN,
    message_max: int = 1 << 22,
) -> Iterator[tuple[ImapSource, Scripted]]:
    with Scripted(certificates, greeting, {**SIGNED_IN, **answers}, tagged=True) as server:
        source = ImapSource(
            Endpoint("localhost", server.port, "implicit", str(server.ca_file)),
            credentials,
            message_max=message_max,
            answer_seconds=5,
            clock=lambda: 0,
        )
        try:
            yield source, server
        finally:
            source.close()


def refs(*uids: int, size: int = 10) -> list[Ref]:
    return [Ref(uid=uid, size=size) for uid in uids]


def told(messages: Iterable[Fetched | Withheld]) -> list[tuple[int | None, bytes | None]]:
    """Each message with its bytes, or with None when it was withheld."""
    return [
        (message.ref.uid, b"".join(message.chunks) if isinstance(message, Fetched) else None)
        for message in messages
    ]


def fetched(source: ImapSource, *groups: Sequence[Ref]) -> list[list[tuple[int | None, bytes | None]]]:
    return [told(messages) for _, messages in source.fetch(groups)]


def literal(raw: bytes) -> bytes:
    return b"{%d}\r\n%s" % (len(raw), raw)


# -- signing in ------------------------------------------------------------------------------------------------------


def test_a_token_goes_out_with_the_command_where_the_server_takes_it(certificates: Certificates) -> None:
    """SASL-IR saves a round trip; no CAPABILITY is asked for that was announced already."""
    with session(certificates, {}) as (_, server):
        (command,) = server.said
    mechanism, _, message = command.removeprefix(b"AUTHENTICATE ").partition(b" ")
    assert mechanism == b"XOAUTH2"
    assert base64.b64decode(message) == b"user=support@contoso.com\x01auth=Bearer t0ken\x01\x01"


def test_without_sasl_ir_the_token_follows_the_invitation(certificates: Certificates) -> None:
    """And capabilities are asked for when the server does not name them; afterwards only when they matter."""
    answers: Answers = {
        b"CAPABILITY": b"* CAPABILITY IMAP4rev1 AUTH=OAUTHBEARER\r\n<tag> OK\r\n",
        b"AUTHENTICATE": b"+ \r\n",
        b"bixh": b"A2 OK welcome\r\n",
    }
    with session(certificates, answers, greeting=b"* OK ready\r\n") as (_, server):
        assert [line[:24] for line in server.said] == [
            b"CAPABILITY", b"AUTHENTICATE OAUTHBEARER", b"bixhPXN1cHBvcnRAY29udG9z",
        ]  # fmt: skip


def test_a_token_too_long_for_a_command_follows_the_invitation(certificates: Certificates) -> None:
    """Exchange takes lines of 10,500 octets, other servers of 8,192; with many groups a token is longer."""
    token = Credentials("b", secrets.token_hex(4_000), bearer=True)
    answers: Answers = {b"AUTHENTICATE": b"+ \r\n", b"dXNlcj1i": b"A1 OK " + CAPABLE + b" welcome\r\n"}
    with session(certificates, answers, credentials=token) as (_, server):
        assert server.said[0] == b"AUTHENTICATE XOAUTH2"


@pytest.mark.parametrize(("mechanism", "answered"), [(b"XOAUTH2", b""), (b"OAUTHBEARER", b"AQ==")])
def test_a_challenge_with_the_reason_is_answered_so_that_the_refusal_comes(
    certificates: Certificates, mechanism: bytes, answered: bytes
) -> None:
    """Else both sides would wait for ever."""
    reason = base64.b64encode(b'{"status":"400"}')
    with Scripted(
        certificates,
        b"* OK [CAPABILITY SASL-IR AUTH=" + mechanism + b"] ready\r\n",
        {b"AUTHENTICATE": b"+ " + reason + b"\r\n", answered: b"A1 NO AUTHENTICATE failed.\r\n"},
        tagged=True,
    ) as server:
        endpoint = Endpoint("localhost", server.port, "implicit", str(server.ca_file))
        with pytest.raises(LoginRefused):
            ImapSource(endpoint, TOKEN, message_max=1, answer_seconds=5, clock=lambda: 0)
        assert server.said[1] == answered


@pytest.mark.parametrize(
    ("capabilities", "sent"),
    [
        (b"AUTH=PLAIN SASL-IR", b"AUTHENTICATE PLAIN AGIAcyJcY3JldA=="),
        (b"AUTH=CRAM-MD5", b'LOGIN "b" "s\\"\\\\cret"'),
    ],
)
def test_a_password_goes_by_plain_or_by_login(
    certificates: Certificates, capabilities: bytes, sent: bytes
) -> None:
    """Whatever letters it has."""
    greeting = b"* OK [CAPABILITY IMAP4rev1 " + capabilities + b"] ready\r\n"
    password = Credentials("b", 's"\\cret', bearer=False)
    answers: Answers = {b"LOGIN": b"<tag> OK [CAPABILITY IMAP4rev1]\r\n"}
    with session(certificates, answers, greeting=greeting, credentials=password) as (_, server):
        assert server.said == [sent]


@pytest.mark.parametrize(
    ("greeting", "bearer", "expected", "words"),
    [
        (b"* OK [CAPABILITY AUTH=PLAIN AUTH=NTLM] ready\r\n", True, Misconfigured, "it offers NTLM, PLAIN"),
        (
            b"* OK [CAPABILITY LOGINDISABLED AUTH=XOAUTH2] ready\r\n",
            False,
            Misconfigured,
            "it offers XOAUTH2",
        ),
        (b"+OK POP3 ready\r\n", True, Misconfigured, "does not speak IMAP. Check HOST, PORT, PROTOCOL"),
        (b"* BYE Too many simultaneous connections. (Failure)\r\n", True, Throttled, "parked for a minute"),
        (b"* BYE [UNAVAILABLE] maintenance\r\n", True, Unreachable, "tried again"),
    ],
)
def test_what_is_wrong_before_signing_in_is_said_in_words(
    certificates: Certificates, greeting: bytes, *, bearer: bool, expected: type[Exception], words: str
) -> None:
    """No secret is sent to a server that cannot take it."""
    with Scripted(certificates, greeting, {}, tagged=True) as server:
        endpoint = Endpoint("localhost", server.port, "implicit", str(server.ca_file))
        credentials = Credentials("b", "s3cret", bearer=bearer)
        with pytest.raises(expected, match=words):
            ImapSource(endpoint, credentials, message_max=1, answer_seconds=5, clock=lambda: 0)
        assert server.said == []


# -- opening and listing ---------------------------------------------------------------------------------------------


def test_a_folder_is_opened_read_only_unless_it_is_going_to_be_settled(certificates: Certificates) -> None:
    """Under its name in modified UTF-7, quoted."""
    opened = b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 42] x\r\n<tag> OK [READ-ONLY] done\r\n"
    with session(certificates, {b"EXAMINE": opened, b"SELECT": opened}) as (source, server):
        assert source.open('Entwürfe "& more"', writable=False) == Opened('Entwürfe "& more"', 7, 42, 3)
        assert source.open("INBOX", writable=True) == Opened("INBOX", 7, 42, 3)
        assert server.said[1:] == [rb'EXAMINE "Entw&APw-rfe \"&- more\""', b'SELECT "INBOX"']


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (b"<tag> NO [NONEXISTENT] no such mailbox\r\n", Misconfigured, "Check FOLDERS"),
        (b"<tag> NO User is authenticated but not connected.\r\n", LoginRefused, "full access"),
        (b"* 3 EXISTS\r\n<tag> OK done\r\n", Unreachable, "without a UIDVALIDITY"),
        (b"* BYE Session expired, please login again.\r\n", SessionExpired, "ran out"),
        (
            b"* BYE Request is throttled. Suggested Backoff Time: 1500 milliseconds\r\n",
            Throttled,
            "asked for 2 s",
        ),
        (b"Server Unavailable. 15\r\n", Unreachable, "Server Unavailable. 15"),
        (b"", Unreachable, "closed the connection"),
    ],
)
def test_every_way_of_refusing_a_folder_says_who_must_act(
    certificates: Certificates, answer: bytes, expected: type[Exception], words: str
) -> None:
    """Tagged, as a farewell, or outside the protocol."""
    with session(certificates, {b"EXAMINE": answer}) as (source, _), pytest.raises(expected, match=words):
        source.open("INBOX", writable=False)


def test_an_empty_folder_and_one_without_news_cost_no_command(certificates: Certificates) -> None:
    """A poll that finds nothing ends with the folder opened."""
    with session(certificates, {}) as (source, server):
        assert list(source.new(Opened("INBOX", 7, 42, 0), after=0, seen=frozenset())) == []
        assert list(source.new(Opened("INBOX", 7, 42, 9), after=41, seen=frozenset())) == []
        assert len(server.said) == 1


def listing(*uids: int) -> bytes:
    return (
        b"".join(b"* 1 FETCH (RFC822.SIZE %d UID %d)\r\n" % (uid * 10, uid) for uid in uids) + b"<tag> OK\r\n"
    )


def test_a_large_folder_is_listed_in_windows_that_widen_over_gaps(certificates: Certificates) -> None:
    """A million messages cost nothing to begin with; a gap of a million uids costs a few commands."""
    answers: Answers = {
        b"UID FETCH 11:2010 ": listing(2010, 11),
        b"UID FETCH 2011:4010 ": listing(),
        b"UID FETCH 4011:12010 ": listing(),
        b"UID FETCH 12011:44010 ": listing(44010),
        b"UID FETCH 44011:45000 ": listing(),
    }
    with session(certificates, answers) as (source, server):
        windows = list(source.new(Opened("INBOX", 7, 45_001, 3), after=10, seen=frozenset()))
        assert len(server.commands(b"UID FETCH")) == 5
    assert [[(ref.uid, ref.size) for ref in window] for window in windows if window] == [
        [(11, 110), (2010, 20_100)], [(44010, 440_100)],
    ]  # fmt: skip


def test_a_server_without_uidnext_names_its_highest_message_which_is_not_new(
    certificates: Certificates,
) -> None:
    """`*` always names one, however old it is (RFC 3501 section 6.4.8)."""
    with session(certificates, {b"UID FETCH * ": listing(10)}) as (source, _):
        assert list(source.new(INBOX, after=10, seen=frozenset())) == []
        assert source.start(INBOX, None) == (10, frozenset())


def test_a_new_mailbox_begins_behind_what_is_there_or_at_a_day(certificates: Certificates) -> None:
    """The answer to a search is one line, so a large folder is searched range by range, until something is found."""
    answers: Answers = {
        b"UID SEARCH UID 1:90000 SINCE 5-Jan-2026": b"* SEARCH\r\n<tag> OK\r\n",
        b"UID SEARCH UID 90001:180000 SINCE 5-Jan-2026": b"* SEARCH 123456 99999\r\n<tag> OK\r\n",
        b"UID SEARCH UID 1:41 SINCE 6-Jan-2026": b"<tag> OK\r\n",
    }
    with session(certificates, answers) as (source, _):
        assert source.start(Opened("INBOX", 7, 42, 9), None) == (41, frozenset())
        assert source.start(Opened("INBOX", 7, 500_000, 9), date(2026, 1, 5)) == (99_998, frozenset())
        assert source.start(Opened("INBOX", 7, 42, 9), date(2026, 1, 6)) == (41, frozenset())
        assert source.start(Opened("INBOX", 7, 1, 0), date(2026, 1, 6)) == (0, frozenset())


# -- fetching --------------------------------------------------------------------------------------------------------


def test_messages_come_whatever_is_said_around_them(certificates: Certificates) -> None:
    """Items in any order, news in between, empty bodies, and answers to nothing that was asked."""
    answer = (
        b"* 9 EXISTS\r\n"
        b"* 2 FETCH (FLAGS (\\Seen))\r\n"
        b"* 1 FETCH (BODY[] " + literal(b"one {5}\r\n)\r\n") + b" FLAGS (\\Seen) UID 1)\r\n"
        b'* 2 FETCH (UID 2 INTERNALDATE " 1-Feb-2026 09:08:07 +0000" BODY[] "")\r\n'
        b"* 3 EXPUNGE\r\n"
        b"* 4 FETCH (X {3}\r\n)\r\n UID 4 BODY[] " + literal(b"\x00\xff") + b")\r\n"
        b"<tag> OK done\r\n"
    )  # fmt: skip
    with session(certificates, {b"UID FETCH": answer}) as (source, server):
        asked = [Ref(uid=1, size=10), Ref(uid=2), Ref(uid=4, size=10)]
        ((_, messages),) = source.fetch([asked])
        found = [
            (one.ref.uid, b"".join(one.chunks), one.flags, one.received)
            for one in messages
            if isinstance(one, Fetched)
        ]
        assert server.said[-1] == b"UID FETCH 1:2,4 (UID FLAGS INTERNALDATE BODY.PEEK[])"
    assert found == [
        (1, b"one {5}\r\n)\r\n", ("\\Seen",), None),
        (2, b"", (), datetime(2026, 2, 1, 9, 8, 7, tzinfo=UTC)),
        (4, b"\x00\xff", (), None),
    ]


def one(uid: int) -> bytes:
    return b"* 1 FETCH (UID %d BODY[] %s)\r\n" % (uid, literal(b"raw %d" % uid))


def test_the_next_group_is_asked_for_ahead_and_may_be_answered_early(certificates: Certificates) -> None:
    """A server may answer two commands at once; each message still lands in its own group."""
    answers: Answers = {
        b"UID FETCH 1:2 ": one(2) + one(3) + one(1) + b"<tag> OK\r\n",
        b"UID FETCH 3:4 ": one(4) + b"<tag> OK\r\n",
        b"UID FETCH 5 ": one(5) + b"<tag> OK\r\n",
    }
    with session(certificates, answers) as (source, _):
        assert fetched(source, refs(1, 2), refs(3, 4), refs(5)) == [
            [(2, b"raw 2"), (1, b"raw 1")], [(3, b"raw 3"), (4, b"raw 4")], [(5, b"raw 5")],
        ]  # fmt: skip


EMPTY = {
    "OK without the message": b"<tag> OK FETCH completed.\r\n",
    "OK with its flags only": b"* 2 FETCH (UID 2 FLAGS ())\r\n<tag> OK\r\n",
    "NIL": b"* 2 FETCH (UID 2 BODY[] NIL)\r\n<tag> OK\r\n",
    "nothing in it": b"* 2 FETCH (UID 2 BODY[] {0}\r\n)\r\n<tag> OK\r\n",
    "a refusal": b"<tag> NO [SERVERBUG] FETCH Server error while fetching messages\r\n",
    "an argument error": b"<tag> BAD Command Argument Error. 11\r\n",
    "Exchange's placeholder": b"* 2 FETCH (UID 2 BODY[] " + literal(PLACEHOLDER) + b")\r\n<tag> OK\r\n",
}
"""Ways in which servers do not give a message that they list."""


@pytest.mark.parametrize("said", EMPTY.values(), ids=EMPTY)
def test_a_message_that_is_withheld_costs_no_other(certificates: Certificates, said: bytes) -> None:
    """Those that came in the same answer are good, the next group is read, and the one is named with a reason."""
    answers: Answers = {b"UID FETCH 1:2 ": one(1) + said, b"UID FETCH 3 ": one(3) + b"<tag> OK\r\n"}
    with session(certificates, answers) as (source, _):
        groups = source.fetch([refs(1, 2), refs(3)])
        came = list(next(groups)[1])
        (after,) = next(groups)[1]

    first, second = sorted(came, key=lambda message: message.ref.uid or 0)
    assert isinstance(first, Fetched)
    assert isinstance(second, Withheld)
    assert (second.ref, second.size) == (Ref(uid=2, size=10), 10)
    assert re.search("left it out|without any content|in its place|refused while fetching", second.reason)
    assert isinstance(after, Fetched)


@pytest.mark.parametrize("said", EMPTY.values(), ids=EMPTY)
def test_a_withheld_message_is_rescued_by_its_header_and_its_text(
    certificates: Certificates, said: bytes
) -> None:
    """Exchange gives some messages in two parts that it does not give as a whole; together they are the same bytes."""
    parts = (
        b"* 2 FETCH (BODY[TEXT] " + literal(b"body\r\n") + b" UID 2 BODY[HEADER] " + literal(b"A: b\r\n\r\n")
    )
    answers: Answers = {
        b"UID FETCH 2 (UID FLAGS INTERNALDATE BODY.PEEK[])": said,
        b"UID FETCH 2 (UID FLAGS INTERNALDATE BODY.PEEK[HEADER] BODY.PEEK[TEXT])": parts
        + b")\r\n<tag> OK\r\n",
        b"UID FETCH 3 ": one(3) + b"<tag> OK\r\n",
    }
    with session(certificates, answers) as (source, _):
        rescued = [told(messages) for _, messages in source.rescue(refs(2, 3))]
    assert rescued == [[(2, b"A: b\r\n\r\nbody\r\n")], [(3, b"raw 3")]]


@pytest.mark.parametrize("text", [b"NIL", b'""', b"{0}\r\n"])
def test_a_header_alone_is_no_message(certificates: Certificates, text: bytes) -> None:
    """Else it would be delivered without its text, and never again."""
    parts = b"* 2 FETCH (UID 2 BODY[HEADER] " + literal(b"A: b\r\n\r\n") + b" BODY[TEXT] " + text + b")\r\n"
    answers: Answers = {
        b"UID FETCH 2 (UID FLAGS INTERNALDATE BODY.PEEK[])": b"<tag> OK\r\n",
        b"UID FETCH 2 (": parts + b"<tag> OK\r\n",
    }
    with session(certificates, answers) as (source, _):
        assert [told(messages) for _, messages in source.rescue(refs(2))] == [[(2, None)]]


@pytest.mark.parametrize(
    ("probed", "expected"), [(b"BODY[]<1000> {1}\r\nx", None), (b'BODY[]<1000> ""', b"raw 1")]
)
def test_a_message_that_is_listed_as_too_large_is_asked_for_one_octet_behind_the_limit(
    certificates: Certificates, probed: bytes, expected: bytes | None
) -> None:
    """RFC822.SIZE is an estimate, so the server's word alone decides nothing, and not a megabyte is read in vain."""
    answers: Answers = {
        b"UID FETCH 1 (UID BODY.PEEK[]<1000.1>)": b"* 1 FETCH (UID 1 " + probed + b")\r\n<tag> OK\r\n",
        b"UID FETCH 1 ": one(1) + b"<tag> OK\r\n",
        b"UID FETCH 2 ": one(2) + b"<tag> OK\r\n",
    }
    with session(certificates, answers, message_max=1000) as (source, _):
        assert fetched(source, refs(1, size=1001), refs(2)) == [[(1, expected)], [(2, b"raw 2")]]


def test_a_message_that_turns_out_too_large_is_named_before_the_session_ends(
    certificates: Certificates,
) -> None:
    """So that the next session goes on behind it; of several it is not known which, and each is going to be asked alone."""
    huge = b"* 1 FETCH (BODY[] {4294967295}\r\n"
    answers: Answers = {b"UID FETCH 1:3 ": one(1) + huge, b"UID FETCH 3 ": huge}
    for asked, sizes in ((refs(1, 2, 3), [10, 10]), (refs(3), [4294967295])):
        with session(certificates, answers, message_max=1000) as (source, _):
            ((_, messages),) = source.fetch([asked])
            named: list[Fetched | Withheld] = []
            with pytest.raises(TooLarge, match="MESSAGE_MAX"):
                named.extend(messages)
        assert [message.size for message in named if isinstance(message, Withheld)] == sizes


@pytest.mark.parametrize("behind", [b" UID 1)", b" UID 1 FLAGS (\\Seen) X " + literal(b")\r\n") + b")"])
def test_a_huge_message_is_streamed_whatever_stands_behind_it(
    certificates: Certificates, behind: bytes
) -> None:
    """It never lies in memory whole; the next answer is found again."""
    raw = bytes(range(256)) * 12_000
    answers: Answers = {
        b"UID FETCH 1 ": b"* 1 FETCH (BODY[] " + literal(raw) + behind + b"\r\n<tag> OK\r\n",
        b"UID FETCH 2 ": one(2) + b"<tag> OK\r\n",
    }
    with session(certificates, answers) as (source, _):
        groups = source.fetch([refs(1, size=len(raw)), refs(2)])
        _, huge = next(groups)
        pieces = [bytes(piece) for message in huge for piece in message.chunks]
        _, small = next(groups)
        assert [b"".join(message.chunks) for message in small] == [b"raw 2"]
    assert len(pieces) > 2
    assert b"".join(pieces) == raw


def test_a_message_larger_than_the_limit_is_not_read(certificates: Certificates) -> None:
    """A server that announces four gigabytes fills nobody's memory (promise P8)."""
    answer = b"* 1 FETCH (UID 1 BODY[] {4294967295}\r\n"
    with (
        session(certificates, {b"UID FETCH": answer}, message_max=1000) as (source, _),
        pytest.raises(TooLarge, match="MESSAGE_MAX"),
    ):
        fetched(source, refs(1))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"<tag> NO [LIMIT] Request is throttled.\r\n", Throttled),
        (b"<tag> NO Server Unavailable. 15\r\n", Unreachable),
        (one(1) + b"* BYE Connection closed. AccessTokenExpired\r\n", SessionExpired),
        (b"* 1 FETCH (UID 1 BODY[] {100}\r\nhalf of it", Unreachable),
        (b"* 1 FETCH (UID 1 BODY[] {1", Unreachable),
    ],
)
def test_a_fetch_that_breaks_off_says_why(
    certificates: Certificates, answer: bytes, expected: type[Exception]
) -> None:
    """A farewell in the middle, a refusal, or nothing more at all: never half a message."""
    answers: Answers = {b"UID FETCH 1": answer, b"UID FETCH 2": b""}
    with session(certificates, answers) as (source, _), pytest.raises(expected):
        assert fetched(source, refs(1), refs(2)) == []


# -- settling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "action", "commands"),
    [
        (b"UIDPLUS MOVE", "seen", [rb"UID STORE 1:2,9 +FLAGS.SILENT (\Seen)"]),
        (b"", "seen", [rb"UID STORE 1:2,9 +FLAGS.SILENT (\Seen)"]),
        (b"MOVE", "move:Erledigt/Ü", [b'UID MOVE 1:2,9 "Erledigt/&ANw-"']),
        (
            b"UIDPLUS",
            "move:Done",
            [b'UID COPY 1:2,9 "Done"', rb"UID STORE 1:2,9 +FLAGS.SILENT (\Deleted)", b"UID EXPUNGE 1:2,9"],
        ),
        (b"UIDPLUS MOVE", "delete", [rb"UID STORE 1:2,9 +FLAGS.SILENT (\Deleted)", b"UID EXPUNGE 1:2,9"]),
    ],
)
def test_settling_is_done_by_uid_and_touches_nothing_else(
    certificates: Certificates, capabilities: bytes, action: str, commands: list[bytes]
) -> None:
    """With what the server can do; never by a bare EXPUNGE."""
    greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] ready\r\n"
    answers: Answers = {
        b"AUTHENTICATE": b"<tag> OK [CAPABILITY IMAP4rev1 " + capabilities + b"]\r\n",
        b"UID": b"<tag> OK\r\n",
    }
    with session(certificates, answers, greeting=greeting) as (source, server):
        source.settle(refs(1, 2, 9), action)
        assert server.commands(b"UID") == commands


def test_what_a_server_can_do_is_asked_again_before_the_first_settling(certificates: Certificates) -> None:
    """Exchange announces MOVE and UIDPLUS only after signing in, and not by itself; a poll without news need not know."""
    answers: Answers = {
        b"AUTHENTICATE": b"<tag> OK AUTHENTICATE completed.\r\n",
        b"CAPABILITY": b"* CAPABILITY IMAP4rev1 UIDPLUS MOVE\r\n<tag> OK\r\n",
        b"UID MOVE": b"<tag> OK\r\n",
    }
    with session(certificates, answers, greeting=b"* OK [CAPABILITY IMAP4 SASL-IR AUTH=XOAUTH2]\r\n") as (
        source,
        server,
    ):
        for uid in (1, 2):
            source.settle(refs(uid), "move:Done")

        assert server.said[1:] == [b"CAPABILITY", b'UID MOVE 1 "Done"', b'UID MOVE 2 "Done"']


@pytest.mark.parametrize(
    ("capabilities", "action"), [(b"", "delete"), (b"", "move:Done"), (b"MOVE", "delete")]
)
def test_without_uidplus_nothing_is_deleted(
    certificates: Certificates, capabilities: bytes, action: str
) -> None:
    """A bare EXPUNGE would remove what other people have marked."""
    answers: Answers = {b"AUTHENTICATE": b"<tag> OK [CAPABILITY IMAP4rev1 " + capabilities + b"]\r\n"}
    with session(certificates, answers) as (source, server):
        with pytest.raises(Misconfigured, match="UIDPLUS"):
            source.settle(refs(1), action)
        assert server.commands(b"UID") == []


def test_a_move_that_fails_marks_nothing_as_deleted(certificates: Certificates) -> None:
    """The copy comes first, and everything else only after it succeeded."""
    answers: Answers = {
        b"AUTHENTICATE": b"<tag> OK [CAPABILITY UIDPLUS]\r\n",
        b"UID COPY": b"<tag> NO [TRYCREATE] Mailbox doesn't exist: Done\r\n",
    }
    with session(certificates, answers) as (source, server):
        with pytest.raises(Misconfigured):
            source.settle(refs(1), "move:Done")
        assert server.commands(b"UID") == [b'UID COPY 1 "Done"']


def test_many_scattered_messages_are_settled_and_found_in_commands_that_servers_take(
    certificates: Certificates,
) -> None:
    """Ten thousand uids with gaps do not fit into one line."""
    uids = range(1_000_001, 1_020_001, 2)
    answers: Answers = {b"UID STORE": b"<tag> OK\r\n", b"UID FETCH": b"<tag> OK\r\n"}
    with session(certificates, answers) as (source, server):
        source.settle(refs(*uids), "seen")
        assert source.find(INBOX, list(uids), []) == []
        for verb in (b"UID STORE", b"UID FETCH"):
            commands = server.commands(verb)
            assert max(map(len, commands)) < 8_000
            assert sum(len(re.findall(rb"\d{7}", command)) for command in commands) == 10_000
