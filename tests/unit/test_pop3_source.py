"""POP3 against a scripted server: two-step sign-in, listings, pipelining, and deletions that count only when confirmed."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.bed.placeholder import PLACEHOLDER
from tests.bed.scripted import Answers, Scripted
from worker.demo.certificates import Certificates
from worker.errors import LoginRefused, Misconfigured, Throttled, Unreachable
from worker.sources import Credentials, Endpoint, Fetched, Opened, Ref, Withheld
from worker.sources.pop3 import Pop3Source

TOKEN = Credentials("support@contoso.com", "t0ken")
MESSAGE = base64.b64encode(b"user=support@contoso.com\x01auth=Bearer t0ken\x01\x01")
INBOX = Opened("INBOX", None, None, 3)
NOTHING: frozenset[str] = frozenset()


def listing(*lines: bytes) -> bytes:
    return b"+OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b".\r\n"


SIGNED_IN: dict[bytes, bytes | Sequence[bytes]] = {
    b"CAPA": listing(b"SASL PLAIN XOAUTH2", b"UIDL"),
    b"AUTH": b"+ \r\n",
    MESSAGE: b"+OK User successfully logged on.\r\n",
    b"UIDL": listing(b"1 a", b"2 b", b"4 c"),
    **{b"LIST %d" % number: b"+OK %d %d00\r\n" % (number, number) for number in (1, 2, 4)},
    b"LIST": listing(b"1 100", b"2 200", b"4 400"),
    b"DELE": b"+OK\r\n",
    b"QUIT": b"+OK bye\r\n",
}


def connect(server: Scripted, credentials: Credentials = TOKEN, message_max: int = 1 << 20) -> Pop3Source:
    return Pop3Source(
        Endpoint("localhost", server.port, "implicit", str(server.ca_file)),
        credentials,
        message_max=message_max,
        answer_seconds=5,
        clock=lambda: 0,
    )


@contextmanager
def session(
    certificates: Certificates, answers: Answers | None = None, message_max: int = 1 << 20
) -> Iterator[tuple[Pop3Source, Scripted]]:
    with Scripted(certificates, b"+OK ready\r\n", {**SIGNED_IN, **(answers or {})}, tagged=False) as server:
        source = connect(server, message_max=message_max)
        try:
            yield source, server
        finally:
            source.close()


# -- signing in ------------------------------------------------------------------------------------------------------


def test_xoauth2_is_always_sent_in_two_steps(certificates: Certificates) -> None:
    """Exchange hangs up when the token comes on the line of the command; nobody minds two steps."""
    with session(certificates) as (_, server):
        assert server.said == [b"CAPA", b"AUTH XOAUTH2", MESSAGE]


def test_a_server_without_capa_is_asked_for_the_usual_mechanism(certificates: Certificates) -> None:
    """CAPA is an extension."""
    with session(certificates, {b"CAPA": b"-ERR unknown\r\n"}) as (_, server):
        assert b"AUTH XOAUTH2" in server.said


@pytest.mark.parametrize("invitation", [b"+ eyJzdGF0dXMiOiI0MDAifQ==\r\n", b"+\r\n"])
def test_a_challenge_with_the_reason_is_answered_so_that_the_refusal_comes(
    certificates: Certificates, invitation: bytes
) -> None:
    """Else both sides would wait for ever."""
    refused = b"-ERR [AUTH] Authentication failure: unknown user name or bad password.\r\n"
    answers = {**SIGNED_IN, MESSAGE: invitation, b"": refused}
    with Scripted(certificates, b"+OK ready\r\n", answers, tagged=False) as server:
        with pytest.raises(LoginRefused, match="unknown user name"):
            connect(server)
        assert server.said[-1] == b""


def test_a_password_goes_by_user_and_pass(certificates: Certificates) -> None:
    """And one with a line end is not sent at all: it would be a command."""
    answers = {**SIGNED_IN, b"USER": b"+OK\r\n", b"PASS": b"+OK\r\n"}
    with Scripted(certificates, b"+OK ready\r\n", answers, tagged=False) as server:
        connect(server, Credentials("b", "two words", bearer=False)).close()
        assert server.said[1:3] == [b"USER b", b"PASS two words"]
        with pytest.raises(Misconfigured, match="line break"):
            connect(server, Credentials("b", "x\r\nDELE 1", bearer=False))


@pytest.mark.parametrize(
    ("greeting", "answers", "expected", "words"),
    [
        (b"-ERR [SYS/TEMP] busy\r\n", {}, Unreachable, "tried again"),
        (b"* OK IMAP4rev1 ready\r\n", {}, Unreachable, "outside the protocol"),
        (b"+OK\r\n", {b"CAPA": listing(b"SASL NTLM")}, Misconfigured, "it offers NTLM"),
        (
            b"+OK\r\n",
            {b"AUTH": b"-ERR Protocol error. Connection is closed. 10\r\n"},
            LoginRefused,
            "no reason",
        ),
        (
            b"+OK\r\n",
            {MESSAGE: b"-ERR [IN-USE] Do you have another POP session running?\r\n"},
            Throttled,
            "minute",
        ),
        (b"+OK\r\n", {MESSAGE: b"-ERR [LOGIN-DELAY] too soon\r\n"}, Throttled, "five minutes"),
        (b"+OK\r\n", {MESSAGE: b""}, Unreachable, "closed the connection"),
    ],
)
def test_every_way_of_refusing_says_who_must_act(
    certificates: Certificates, greeting: bytes, answers: Answers, expected: type[Exception], words: str
) -> None:
    """At the greeting, at the listing of what it can do, and at the sign-in itself."""
    with (
        Scripted(certificates, greeting, {**SIGNED_IN, **answers}, tagged=False) as server,
        pytest.raises(expected, match=words),
    ):
        connect(server)


# -- listing ---------------------------------------------------------------------------------------------------------


def test_what_is_new_is_what_was_not_seen(certificates: Certificates) -> None:
    """In the server's order, with sizes, by UIDL; numbers have gaps in no session but are not relied on."""
    with session(certificates) as (source, server):
        assert source.open("INBOX", writable=False).exists == 3
        assert list(source.new(INBOX, after=0, seen=frozenset({"b"}))) == [
            [Ref(uidl="a", number=1, size=100), Ref(uidl="c", number=4, size=400)]
        ]
        assert source.find(INBOX, [], ["c", "gone"]) == [Ref(uidl="c", number=4)]
        assert source.gone(INBOX, frozenset({"a", "z", "y"})) == ["y", "z"]
        assert source.start(INBOX, None) == (0, frozenset("abc"))
        assert server.commands(b"UIDL") == [b"UIDL"]


def test_a_poll_without_news_asks_for_no_sizes(certificates: Certificates) -> None:
    """One listing is enough to know it."""
    with session(certificates) as (source, server):
        assert list(source.new(INBOX, after=0, seen=frozenset("abc"))) == []
        assert server.commands(b"LIST") == []


def test_lines_of_a_listing_that_make_no_sense_are_passed_over(certificates: Certificates) -> None:
    """And sizes that are missing or followed by more words do no harm."""
    answers: Answers = {
        b"UIDL": listing(b"1 a", b"", b"x y", b"3 with space"),
        b"LIST": listing(b"1 100 octets"),
    }
    with session(certificates, answers) as (source, _):
        ((*found,),) = source.new(INBOX, after=0, seen=NOTHING)
        assert [(ref.uidl, ref.size) for ref in found] == [("a", 100), ("with space", 0)]


def test_messages_without_a_uidl_are_not_passed_over_in_silence(certificates: Certificates) -> None:
    """They could neither be told apart nor remembered."""
    with (
        session(certificates, {b"UIDL": listing(b"1 a", b"2", b"3 ")}) as (source, _),
        pytest.raises(Unreachable, match="2 messages without a UIDL"),
    ):
        source.open("INBOX", writable=False)


# -- fetching --------------------------------------------------------------------------------------------------------

RETRIEVED: Answers = {
    b"RETR 1": b"+OK\r\nSubject: one\r\n\r\n..dot\r\n.\r\n",
    b"RETR 2": b"+OK 5 octets\r\n\xff\x00\r\n.\r\n",
    b"RETR 4": b"+OK\r\n.\r\n",
}


def told(messages: Iterable[Fetched | Withheld]) -> list[tuple[str | None, bytes | None]]:
    """Each message with its bytes, or with None when it was withheld."""
    return [
        (message.ref.uidl, b"".join(message.chunks) if isinstance(message, Fetched) else None)
        for message in messages
    ]


def fetched(source: Pop3Source, *groups: Sequence[Ref]) -> list[list[tuple[str | None, bytes | None]]]:
    return [told(messages) for _, messages in source.fetch(groups)]


GROUPS = ([Ref(uidl="a", number=1), Ref(uidl="b", number=2)], [Ref(uidl="c", number=4)])
RAW = [[("a", b"Subject: one\r\n\r\n.dot\r\n"), ("b", b"\xff\x00\r\n")], [("c", b"")]]


def test_messages_come_byte_for_byte_one_by_one(certificates: Certificates) -> None:
    """Without PIPELINING a command goes out after the answer to the one before."""
    with session(certificates, RETRIEVED) as (source, server):
        groups = source.fetch(GROUPS)
        _, first = next(groups)
        one = next(iter(first))
        assert isinstance(one, Fetched)
        list(one.chunks)
        assert server.commands(b"RETR") == [b"RETR 1"]
        assert told(first) == [RAW[0][1]]


def test_messages_come_byte_for_byte_pipelined(certificates: Certificates) -> None:
    """With PIPELINING the next group is asked for while this one is read; answers come in order."""
    answers = {**RETRIEVED, b"CAPA": listing(b"SASL XOAUTH2", b"PIPELINING")}
    with session(certificates, answers) as (source, server):
        assert fetched(source, *GROUPS) == RAW
        assert server.commands(b"RETR") == [b"RETR 1", b"RETR 2", b"RETR 4"]


def test_a_consumer_that_stops_early_does_not_lose_the_place(certificates: Certificates) -> None:
    """The rest of a message is never taken for the next answer."""
    answers = {**RETRIEVED, b"CAPA": listing(b"SASL XOAUTH2", b"PIPELINING")}
    with session(certificates, answers) as (source, _):
        _, messages = next(source.fetch(GROUPS))
        assert [message.ref.uidl for message in messages] == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"-ERR Server Unavailable. 21\r\n", "Server Unavailable"),
        (b"+OK\r\nhalf of it\r\n", "closed the connection"),
        (b"+OK\r\n" + b"x" * 70_000 + b"\r\n.\r\n", "more than 50000 octets"),
    ],
)
def test_a_message_that_breaks_off_or_is_too_large_is_not_taken(
    certificates: Certificates, answer: bytes, words: str
) -> None:
    """Never half a message (promise P6), never more than the limit (promise P8)."""
    # The scripted server hangs up when it is asked for the second message.
    answers: Answers = {b"CAPA": listing(b"SASL XOAUTH2", b"PIPELINING"), b"RETR 1": answer, b"RETR 2": b""}
    with (
        session(certificates, answers, message_max=50_000) as (source, _),
        pytest.raises(Unreachable, match=words),
    ):
        # One group: a command that the server leaves unread would make its hanging up destroy what it has sent.
        fetched(source, GROUPS[0])


EMPTY = {
    "a refusal": b"-ERR [SYS/PERM] cannot be converted\r\n",
    "nothing in it": b"+OK\r\n.\r\n",
    "Exchange's placeholder": b"+OK\r\n" + PLACEHOLDER.replace(b"IMAP4", b"POP3") + b".\r\n",
}
"""Ways in which servers do not give a message that they list."""


@pytest.mark.parametrize("pipelining", [b"PIPELINING", b"UIDL"])
@pytest.mark.parametrize("said", EMPTY.values(), ids=EMPTY)
def test_a_message_that_is_withheld_costs_no_other(
    certificates: Certificates, said: bytes, pipelining: bytes
) -> None:
    """Whether answers are waited for or not, each is taken for its own message."""
    answers = {**RETRIEVED, b"CAPA": listing(b"SASL XOAUTH2", pipelining), b"RETR 1": said}
    group = [Ref(uidl="a", number=1, size=10), Ref(uidl="b", number=2, size=10)]
    with session(certificates, answers) as (source, _):
        assert fetched(source, group, GROUPS[1]) == [[("a", None), RAW[0][1]], RAW[1]]
        assert [told(messages) for _, messages in source.rescue(group)] == [[("a", None)], [RAW[0][1]]]


def test_a_message_that_is_listed_as_too_large_is_not_asked_for(certificates: Certificates) -> None:
    """Sizes in LIST are exact (RFC 1939 section 5), and what is on the wire could not be stopped."""
    answers = {**RETRIEVED, b"CAPA": listing(b"SASL XOAUTH2", b"PIPELINING")}
    group = [Ref(uidl="a", number=1, size=1001), Ref(uidl="b", number=2, size=10)]
    with session(certificates, answers, message_max=1000) as (source, server):
        assert fetched(source, group) == [[("a", None), RAW[0][1]]]
        assert server.commands(b"RETR") == [b"RETR 2"]


# -- settling --------------------------------------------------------------------------------------------------------


def test_deletions_count_when_quit_is_confirmed(certificates: Certificates) -> None:
    """RFC 1939 section 6: a session that ends otherwise deletes nothing."""
    with session(certificates) as (source, server):
        source.settle(source.find(INBOX, [], ["a", "c"]), "delete")
        source.finish()
        assert server.said[-3:] == [b"DELE 1", b"DELE 4", b"QUIT"]


@pytest.mark.parametrize("answer", [b"-ERR some deleted messages were not removed\r\n", b""])
def test_a_quit_that_is_not_confirmed_is_told_again(certificates: Certificates, answer: bytes) -> None:
    """What the server may or may not have deleted is asked for once more by the next pull."""
    with session(certificates, {b"QUIT": answer}) as (source, _):
        source.settle([Ref(uidl="a", number=1)], "delete")
        with pytest.raises(Unreachable):
            source.finish()


def test_the_answer_to_a_quit_without_deletions_is_not_waited_for(certificates: Certificates) -> None:
    """It would cost each poll a round trip and tell nothing."""
    with session(certificates, {b"QUIT": b"-ERR never mind\r\n"}) as (source, server):
        source.open("INBOX", writable=True)
        source.finish()

    assert server.said[-1] == b"QUIT"


def test_whether_messages_may_be_asked_for_ahead_is_looked_up_once_and_only_when_some_are(
    certificates: Certificates,
) -> None:
    """Signed in, a server may be able to do other things than before; a poll without news need not know."""
    asked = []
    with session(certificates, RETRIEVED) as (source, server):
        opened = source.open("INBOX", writable=False)
        for seen in ("abc", "bc", "ac"):
            for window in source.new(opened, after=0, seen=frozenset(seen)):
                fetched(source, window)
            asked.append(len(server.commands(b"CAPA")))

    assert asked == [1, 2, 2]


@pytest.mark.parametrize("action", ["seen", "move:Done"])
def test_pop3_can_do_nothing_but_delete(certificates: Certificates, action: str) -> None:
    """A configuration that asks for more is named, and nothing is deleted."""
    with session(certificates) as (source, server):
        with pytest.raises(Misconfigured, match="AFTER"):
            source.settle([Ref(uidl="a", number=1)], action)
        source.close()
        assert server.commands(b"DELE") == []
