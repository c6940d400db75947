"""IMAP servers of every make, and hostile ones: what they say, to the byte, and what a whole pull makes of it."""

from __future__ import annotations

import re
import time

import pytest

import worker.sources.chatter
from tests.bed.errands import flow
from tests.bed.installation import Installation, numbered
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.quirky import (
    COUNT,
    DONE,
    EXAMINED,
    FETCH,
    LIST,
    Quirky,
    all_came,
    checkpoint,
    impatient,
    numbers,
    opened,
    quay,
    server,
)
from worker.backfill import ask
from worker.catch_up import alone
from worker.errors import Throttled, Unreachable
from worker.quay import Quay
from worker.timetable import pull_entry

__all__ = ["impatient", "quay", "server"]


# -- lines around what was asked for ---------------------------------------------------------------------------------

NOISE = {
    "an alert": b"* OK [ALERT] The server goes down on Sunday\r\n",
    "a warning": b"* NO Disk is 98% full, please delete unneeded files\r\n",
    "HIGHESTMODSEQ without a number": b"* OK [HIGHESTMODSEQ]\r\n",
    "an ESEARCH that nobody asked for": b'* ESEARCH (TAG "A99") UID ALL 1:4028\r\n* ESEARCH\r\n',
    "a LIST that nobody asked for": b'* LIST () "/" INBOX\r\n* LSUB\r\n',
    "a continuation that nobody asked for": b"+ go on\r\n+\r\n",
    "an unknown answer": b'* XYZZY (PLUGH) "\r\n*\r\n* \r\n\r\n',
    "a line outside the protocol": b"hello\r\n",
    "a foreign tag": b"Z9 OK done\r\nA99 NO failed\r\n",
    "NUL bytes": b"* OK \0\0\r\n\0\r\n* 1 FETCH (X \0 BODY[] \0)\r\n",
    "flags of another message": b"* 77 FETCH (UID 4000000000 FLAGS (\\Seen))\r\n",
    "flags without a uid": b"* 2 FETCH (FLAGS (\\Seen))\r\n",
    "numbers of thousands of digits": b"* "
    + b"9" * 5000
    + b" EXISTS\r\n* 2 FETCH (UID "
    + b"9" * 5000
    + b")\r\n",
    "octets of every kind": b"* OK " + bytes(set(range(256)) - {10, 13}) + b"\r\n",
    "a STATUS with spaces behind it": b"* STATUS INBOX (MESSAGES 5)  \r\n",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_lines_that_nobody_asked_for_are_passed_over(
    installation: Installation, server: Quirky, quay: Quay, noise: bytes
) -> None:
    """Before the answer to every command (RFC 3501 section 7); none moves the checkpoint."""
    letters = b"".join(server.whole(number) + noise for number in range(1, 6))
    server.instead = {
        b"EXAMINE": [noise + EXAMINED],
        LIST: [noise + server._imap(LIST) .replace(b"<tag>", noise + b"<tag>")],
        FETCH: [noise + letters + DONE],
    }  # fmt: skip

    all_came(installation, quay)


def test_lines_end_as_they_like(installation: Installation, server: Quirky, quay: Quay) -> None:
    """With LF alone; a message in between keeps its own line ends (promise P6)."""
    server.instead = {
        b"EXAMINE": [EXAMINED.replace(b"\r\n", b"\n")],
        LIST: [server._imap(LIST).replace(b"\r\n", b"\n")],
    }

    all_came(installation, quay)
    assert sorted(installation.posted().values()) == sorted(server.letters.values())


def test_a_tagged_line_needs_no_text(installation: Installation, server: Quirky, quay: Quay) -> None:
    """`A1 OK` and nothing behind it, after every command."""
    answered = server._imap
    server._say = lambda said: answered(said).replace(b" OK done", b" OK")

    all_came(installation, quay)


def test_news_of_another_message_in_a_listing_do_not_move_the_checkpoint(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """Else a flag that somebody set on a message far ahead would skip all that lies before it."""
    server.instead[LIST] = [b"* 9 FETCH (UID 900 RFC822.SIZE 10 FLAGS (\\Seen))\r\n" + server._imap(LIST)]

    all_came(installation, quay)
    assert not [said for said in server.said if b"900" in said]


@pytest.mark.parametrize("size", [200, 3_000_000], ids=["small", "streamed"])
def test_messages_that_nobody_asked_for_are_read_and_dropped(
    installation: Installation, server: Quirky, size: int
) -> None:
    """Whole, at any place; never in the place of one that was asked for."""
    quay = installation.quay(BATCH_SIZE="1MB")
    server.letters[3] = numbered(2, size=size)
    stranger = b"* 9 FETCH (UID 900 BODY[] {9}\r\nstrange\r\n)\r\n"
    large = b"* 9 FETCH (UID 901 BODY[] {9000000}\r\n" + b"x" * 9_000_000 + b")\r\n"
    between = server.whole(1) + stranger + large
    answered = server._imap

    def strange(said: bytes) -> bytes:
        answer = answered(said)
        return stranger + (answer if b"FLAGS" not in said else answer.replace(b"<tag>", between + b"<tag>"))

    server._say = strange

    all_came(installation, quay)
    assert sorted(installation.posted().values()) == sorted(server.letters.values())


def test_a_server_that_answers_everything_with_ok_is_not_taken_for_an_empty_one(
    server: Quirky, quay: Quay
) -> None:
    """Without a UIDVALIDITY nothing is known of a folder."""
    server._say = lambda _: DONE

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, Unreachable)
    assert "without a UIDVALIDITY" in trouble.sentence


@pytest.mark.parametrize("line", [b"* OK .\r\n", b"* OK " + b"x" * 900_000 + b"\r\n"], ids=["short", "long"])
@pytest.mark.parametrize("command", [b"LOGIN", b"EXAMINE", FETCH], ids=["signing in", "opening", "fetching"])
def test_a_server_that_talks_without_an_end_is_hung_up_on(
    server: Quirky, quay: Quay, line: bytes, command: bytes
) -> None:
    """A hundred megabytes of lines that nobody asked for are an attack on the worker's time."""
    server.instead[command] = [line * min(100_000_000 // len(line), 600_000)]

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, Unreachable)
    assert "that nobody asked for" in trouble.sentence
    assert flow(quay, "box").messages == COUNT


@pytest.mark.parametrize("drop", [b"* OK Still here\r\n", b"x"], ids=["lines", "octets"])
@pytest.mark.parametrize("command", [b"EXAMINE", FETCH], ids=["opening", "fetching"])
def test_a_server_that_drips_is_hung_up_on(
    server: Quirky, impatient: Quay, events: Events, drop: bytes, command: bytes
) -> None:
    """Each line is in time and the answer never comes: that would hold a worker for ever."""
    server.drips = (command, drop)
    begun = time.monotonic()

    flow(impatient, "box")

    assert time.monotonic() - begun < 5
    assert re.search("did not come to an end|no answer in time", of(events, "pull.failed")[0]["reason"])
    server.drips = None
    assert flow(impatient, "box").messages == COUNT


# -- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [b"", b"* OK [UIDVALIDITY 0]\r\n", b"* OK [UIDVALIDITY]\r\n"], ids=["absent", "zero", "empty"]
)
def test_a_folder_without_a_uidvalidity_is_not_pulled(
    installation: Installation, server: Quirky, quay: Quay, said: bytes
) -> None:
    """No message could be told from another. When it gives one again, the folder goes on where it was."""
    server.letters.pop(5)
    flow(quay, "box")
    server.letters[5] = numbered(4)
    server.instead[b"EXAMINE"] = [opened(5, uidvalidity=said, uidnext=b"* OK [UIDNEXT 6]\r\n")]

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, Unreachable)
    assert "nothing is pulled until it gives one" in trouble.sentence
    assert checkpoint(quay) == 4
    all_came(installation, quay)


@pytest.mark.parametrize("uidvalidity", [3, 4_294_967_295], ids=["backwards", "ten digits"])
def test_a_uidvalidity_that_changes_lists_the_folder_again_and_delivers_nothing_twice(
    installation: Installation, server: Quirky, quay: Quay, events: Events, uidvalidity: int
) -> None:
    """Whether it grows or goes back: any other number is a new generation."""
    flow(quay, "box")
    server.uidvalidity = uidvalidity
    server.letters[6] = numbered(5)

    result = flow(quay, "box")

    assert (result.messages, result.recognised) == (1, COUNT)
    assert delivered_once(installation, range(6))
    assert len(of(events, "folder.renumbered")) == 1


def test_a_uidvalidity_that_changes_between_two_openings_of_one_pull(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """A folder is opened again after each turn at what is old: what comes then has the new numbers, and comes once."""
    flow(quay, "box")
    with_numbers = {7: EXAMINED, 8: EXAMINED.replace(b"UIDVALIDITY 7", b"UIDVALIDITY 8")}
    server.instead[b"EXAMINE"] = [with_numbers[7], with_numbers[8]]
    server.uidvalidity = 8
    with alone(quay, quay.settings.mailboxes["box"]) as (errand, source):
        ask(errand, source, "INBOX", None, word="all")

    for _ in range(2):
        flow(quay, "box")

    assert delivered_once(installation, range(COUNT))
    at = quay.checkpoints.load("box", "INBOX")
    assert at is not None
    assert (at.uidvalidity, at.uid) == (8, COUNT)


def test_a_uidvalidity_that_changes_while_the_folder_is_read_ends_the_session(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """What comes after it would be kept under numbers that mean other messages."""
    server.instead[FETCH] = [server.whole(1) + b"* OK [UIDVALIDITY 8] rebuilt\r\n" + server.whole(2) + DONE]

    result = flow(quay, "box")

    assert isinstance(result.trouble, Unreachable)
    assert "new numbers" in result.trouble.sentence
    assert result.messages == 1
    all_came(installation, quay)


@pytest.mark.parametrize("uidnext", [b"", b"* OK [UIDNEXT 0]\r\n", b"* OK [UIDNEXT 3]\r\n", b"* OK [UIDNEXT " + b"9" * 15 + b"]\r\n"], ids=["absent", "zero", "too low", "beyond all uids"])  # fmt: skip
def test_a_uidnext_that_cannot_be_true_is_not_believed(
    installation: Installation, server: Quirky, quay: Quay, uidnext: bytes
) -> None:
    """Mail behind a UIDNEXT that never grows would not be seen for ever: the newest message is asked for its uid."""
    server.always = {
        b"EXAMINE": opened(COUNT, uidnext=uidnext),
        b"UID FETCH * ": b"* 5 FETCH (UID 5 RFC822.SIZE 200)\r\n" + DONE,
    }

    all_came(installation, quay)
    assert flow(quay, "box").messages == 0
    server.letters[6] = numbered(5)
    server.always = {
        b"EXAMINE": opened(6, uidnext=uidnext),
        b"UID FETCH * ": b"* 6 FETCH (UID 6 RFC822.SIZE 200)\r\n" + DONE,
    }
    assert flow(quay, "box").messages == 1


def test_n_to_the_end_names_the_newest_message_though_it_is_old(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """RFC 3501 section 6.4.8: a range that ends with `*` is never empty, so what is not above the checkpoint is not new."""
    flow(quay, "box")
    server.instead[b"EXAMINE"] = [opened(6, uidnext=b"* OK [UIDNEXT 7]\r\n")]
    server.instead[b"UID FETCH 6:6 "] = [b"* 5 FETCH (UID 5 RFC822.SIZE 200)\r\n" + DONE]

    assert flow(quay, "box").messages == 0
    assert delivered_once(installation, range(COUNT))
    assert checkpoint(quay) == COUNT


def test_uids_with_gaps_are_ordinary(installation: Installation, server: Quirky, quay: Quay) -> None:
    """What was deleted is missing inside a window, and nobody waits for it."""
    server.letters = {3: numbered(0), 4: numbered(1), 2500: numbered(2), 60_000: numbered(3)}

    assert flow(quay, "box").messages == 4
    assert delivered_once(installation, range(4))


@pytest.mark.parametrize(
    "found",
    [b"* SEARCH\r\n", b"", b'* ESEARCH (TAG "A3") UID\r\n'],
    ids=["empty", "nothing", "empty ESEARCH"],
)
def test_an_empty_search_in_a_full_folder_is_not_believed(
    installation: Installation, server: Quirky, quay: Quay, found: bytes
) -> None:
    """Servers were seen that find nothing in 4,028 messages: on their word all of them would be skipped."""
    server.always = {
        b"UID SEARCH": found + DONE,
        b"UID FETCH * (UID INTERNALDATE)": b'* 5 FETCH (UID 5 INTERNALDATE "01-Nov-2026 10:00:00 +0000")\r\n'
        + DONE,
    }
    quay = installation.quay(MAILBOX__BOX__SINCE="2026-01-01")

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, Unreachable)
    assert "nothing is skipped on its word" in trouble.sentence
    assert checkpoint(quay) == 0
    server.always[b"UID SEARCH"] = b'* ESEARCH (TAG "A3") UID ALL 2:5\r\n' + DONE
    assert flow(quay, "box").messages == 4


def test_a_server_that_rejects_return_is_never_sent_it(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """Nor is one that advertises ESEARCH and finds nothing with it: a plain UID SEARCH is all that is sent."""
    server.always[b"LOGIN"] = (
        b"<tag> OK [CAPABILITY IMAP4rev1 ESEARCH CONDSTORE QRESYNC LIST-STATUS ENABLE] in\r\n"
    )
    server.always[b"UID SEARCH"] = b"* SEARCH 3 4 5\r\n" + DONE

    assert flow(installation.quay(MAILBOX__BOX__SINCE="2026-01-01"), "box").messages == 3

    assert server.commands(b"UID SEARCH") == [b"UID SEARCH UID 1:5 SINCE 1-Jan-2026"]
    assert not [
        said for said in server.said if b"RETURN" in said or b"ENABLE" in said or b"CHANGEDSINCE" in said
    ]


def test_folders_with_odd_names_stop_no_other(installation: Installation, server: Quirky, quay: Quay) -> None:
    """Names as atoms, strings and literals, in no or a wrong encoding, with control characters, without a name."""
    server.always[b"LIST"] = (
        b'* LIST () "/" INBOX\r\n'
        b'* LIST () NIL {3}\r\nOdd\r\n'
        b'* LIST (\\Noselect) "/" Above\r\n'
        b'* LIST () "/" "&!!!-"\r\n'
        b'* LIST () "/" "\xff\xfe"\r\n'
        b'* LIST () "/" "bell\x07"\r\n'
        b'* LIST () "/" ""\r\n'
        b'* LIST\r\n'
        b'* LIST (\\X \\Y) "\\\\" "back\\\\slash"\r\n' + DONE
    )  # fmt: skip
    quay = installation.quay(MAILBOX__BOX__FOLDERS="*")

    result = flow(quay, "box")

    assert result.trouble is None
    asked = {said.partition(b" ")[2] for said in server.commands(b"EXAMINE")}
    assert asked == {b'"INBOX"', b'"Odd"', b'"&!!!-"', b'"back\\\\slash"'}


def test_a_read_only_folder_is_pulled(installation: Installation, server: Quirky, quay: Quay) -> None:
    """AFTER=keep asks for no more; and what AFTER wants and nobody may do is said, after the mail has come."""
    all_came(installation, quay)
    assert server.commands(b"SELECT") == []
    seen = installation.quay(MAILBOX__BOX__AFTER="seen")
    server.letters[6] = numbered(5)
    server.always[b"UID STORE"] = b"<tag> NO [READ-ONLY] Mailbox is read-only\r\n"
    flow(seen, "box")

    result = flow(seen, "box")

    assert delivered_once(installation, range(6))
    assert result.trouble is None
    assert "set AFTER=keep" in seen.standings.of("box").sentence


# -- makes of servers ------------------------------------------------------------------------------------------------


def test_icloud_gives_no_body_for_rfc822(installation: Installation, server: Quirky, quay: Quay) -> None:
    """So BODY[] is asked for, and with PEEK, which marks nothing as read."""
    all_came(installation, quay)

    brought = [said for said in server.commands(b"UID FETCH") if b"FLAGS" in said]
    assert brought
    assert all(b"BODY.PEEK[]" in said and not re.search(rb"RFC822[ )]", said) for said in brought)


def test_yahoo_s_temporary_failure_is_passing(server: Quirky, quay: Quay) -> None:
    """Though it arrives as a refused login: nobody is told to look at the password."""
    server.instead[b"LOGIN"] = [b"<tag> NO [TEMPFAIL] LOGIN temporary failure [CODE: WBL]\r\n"]

    assert type(flow(quay, "box").trouble) is Unreachable
    assert quay.standings.of("box").state == "unreachable"
    assert flow(quay, "box").messages == COUNT


def test_yahoo_s_server_error_for_one_message_keeps_back_no_other(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """It waits in the repair queue with the server's words."""
    refusal = b"<tag> NO [SERVERBUG] FETCH Server error while fetching messages\r\n"
    server.instead[FETCH] = [server.whole(1) + refusal]
    server.always[b"UID FETCH 3 (UID FLAGS"] = refusal

    assert flow(quay, "box").trouble is None

    assert numbers(installation) == ["0", "1", "3", "4"]
    assert "FETCH Server error while fetching messages" in quay.repairs.of("box")[0].reason


def test_dovecot_s_connection_limit_parks_the_mailbox_for_a_minute(server: Quirky, quay: Quay) -> None:
    """It is no failed login, though it is the answer to one."""
    quay.timetable.sync({pull_entry("box"): 60.0}, quay.clock())
    server.instead[b"LOGIN"] = [
        b"<tag> NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=16)\r\n"
    ]

    assert isinstance(flow(quay, "box").trouble, Throttled)

    due = quay.timetable.due(pull_entry("box"))
    assert due is not None
    assert 58 < due - time.time() < 76


def test_hmailserver_s_wrong_sizes_truncate_nothing(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """RFC822.SIZE is never compared with what came: the literal's own length counts."""
    server.listed = dict.fromkeys(range(1, 6), 17)

    all_came(installation, quay)
    assert sorted(installation.posted().values()) == sorted(server.letters.values())


def test_patience_with_chatter_is_counted_in_answer_times() -> None:
    """A server that indexes a large folder says so every few seconds, and is honest for some minutes."""
    now = [0.0]
    chatter = worker.sources.chatter.Chatter("mail.example.com", seconds=60, clock=lambda: now[0])
    for _ in range(290):
        now[0] += 1
        chatter.heard(20)
    chatter.useful()
    now[0] += 299
    chatter.heard(20)
    now[0] += 2
    with pytest.raises(Unreachable, match="did not come to an end within 300 s"):
        chatter.heard(20)
