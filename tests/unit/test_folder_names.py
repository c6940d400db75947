"""Which folders FOLDERS means, and what servers list: names, patterns, separators, spellings, and lists without an end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.imap_text import from_mutf7, mutf7
from tests.bed.scripted import Answers, Scripted
from worker.demo.certificates import Certificates
from worker.errors import Unreachable
from worker.folders import choose, fitting
from worker.sources import Credentials, Endpoint, FolderName, NoSuchFolder
from worker.sources.imap import ImapSource
from worker.sources.listing import Listing

THERE = ["Archive", "INBOX", "Projects", "Projects/New", "Projects/Old", "Projects/Old/2019", "Sent"]
CAPABLE = b"[CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2]"
OPENED = b"* 2 EXISTS\r\n* OK [UIDVALIDITY 7] .\r\n* OK [UIDNEXT 3] .\r\n<tag> OK [READ-ONLY] done\r\n"


def chosen(said: str, there: list[str] | None = None) -> list[str]:
    return list(choose([word.strip() for word in said.split(",")], THERE if there is None else there))


# -- what FOLDERS means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("INBOX", ["INBOX"]),
        ("*", ["INBOX", "Archive", "Projects", "Projects/New", "Projects/Old", "Projects/Old/2019", "Sent"]),
        ("%", ["INBOX", "Archive", "Projects", "Sent"]),
        ("Projects/*", ["Projects/New", "Projects/Old", "Projects/Old/2019"]),
        ("Projects/%", ["Projects/New", "Projects/Old"]),
        ("*/Old*", ["Projects/Old", "Projects/Old/2019"]),
        ("INBOX,Projects/*,!Projects/Old", ["INBOX", "Projects/New", "Projects/Old/2019"]),
        ("Projects/*,!Projects/Old*", ["Projects/New"]),
        ("*,!%", ["Projects/New", "Projects/Old", "Projects/Old/2019"]),
        ("Sent,Projects/%,S*", ["Sent", "Projects/New", "Projects/Old"]),
        ("Nowhere/*", []),
        ("INBOX,Missing", ["INBOX", "Missing"]),
    ],
)
def test_names_patterns_and_exclusions_choose_what_a_person_means(said: str, wanted: list[str]) -> None:
    """In the order of FOLDERS, each folder once; a name that is not listed is kept, because a person named it."""
    assert chosen(said) == wanted


@pytest.mark.parametrize(
    ("said", "there", "wanted"),
    [
        ("inb*", ["INBOX", "inbound"], ["INBOX", "inbound"]),
        ("inbox/*", ["INBOX", "INBOX/Sub"], ["INBOX/Sub"]),
        ("projects/*", ["INBOX", "Projects/New"], ["Projects/New"]),
        ("projects/*", ["Projects/New", "projects/own"], ["projects/own"]),
        (
            "*,!projects/old",
            THERE,
            ["INBOX", "Archive", "Projects", "Projects/New", "Projects/Old/2019", "Sent"],
        ),
        ("junk email,*", ["INBOX", "Junk Email"], ["junk email", "INBOX"]),
    ],
)
def test_case_counts_only_where_it_decides(said: str, there: list[str], wanted: list[str]) -> None:
    """INBOX in any case; else without regard to case when nothing fits exactly. Two spellings are one folder."""
    assert chosen(said, there) == wanted


@given(
    pattern=st.text("ab/*%", max_size=8),
    name=st.text("ab/", min_size=1, max_size=10),
)
def test_wildcards_mean_what_a_regular_expression_says(pattern: str, name: str) -> None:
    """The oracle is `re`, which cannot be used itself: some patterns make it take for ever."""
    oracle = "".join({"*": ".*", "%": "[^/]*"}.get(sign, re.escape(sign)) for sign in pattern)

    assert list(fitting(pattern, [name])) == ([name] if re.fullmatch(oracle, name) else [])


def test_a_long_name_cannot_make_a_pattern_slow() -> None:
    """Where a regular expression would try every way to part the name."""
    assert list(fitting("*a" * 20 + "b", ["a" * 2_000])) == []


# -- how folders are spelled -----------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_modified_utf7_goes_both_ways(name: str) -> None:
    """RFC 3501 section 5.1.3."""
    assert mutf7(name).isascii()
    assert from_mutf7(mutf7(name)) == name


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
        ("Entw&APw-rfe &- mehr", "Entwürfe & mehr"),
        ("Q&A", "Q&A"),
        ("&2D3-", "&2D3-"),
        ("&!!!-", "&!!!-"),
    ],
)
def test_a_name_that_is_no_modified_utf7_is_taken_by_the_letter(spelled: str, name: str) -> None:
    """The RFC's own example, and what careless servers send: a lone `&`, half of a character, no base64 at all."""
    assert from_mutf7(spelled) == name


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        (rb'* LIST (\HasNoChildren) "/" INBOX', FolderName("INBOX", "INBOX")),
        (rb'* LIST () "." inbox.Sub', FolderName("INBOX/Sub", "inbox.Sub")),
        (rb'* list (\Marked)  "." "Projects.Old" ', FolderName("Projects/Old", "Projects.Old")),
        (rb'* LIST () "\\" "A\\B"', FolderName("A/B", r"A\B")),
        (rb'* LIST () NIL "flat.name"', FolderName("flat.name", "flat.name")),
        (rb'* LIST () "/" "He said \"no\""', FolderName('He said "no"', 'He said "no"')),
        (rb'* LIST () "/" "Entw&APw-rfe"', FolderName("Entwürfe", "Entwürfe")),
        ('* LIST () "/" "Entwürfe"'.encode(), FolderName("Entwürfe", "Entwürfe")),
        (rb'* LIST () "." "a/b.c"', FolderName("a/b.c", "a/b.c")),
        (rb'* LIST (\HasChildren) "/" "Top" ("CHILDINFO" ("SUBSCRIBED"))', FolderName("Top", "Top")),
        (rb'* LIST (\HasChildren \NoSelect) "/" "[Gmail]"', None),
        (rb'* LIST (\NonExistent) "/" "Ghost"', None),
        (b'* LIST () "/" "\xff\xfe"', None),
        (b'* LIST () "/" "line\rbreak"', None),
        (b'* LIST () "/" ""', None),
        (b"* LSUB () NIL INBOX", None),
        (b"* LIST nonsense", None),
    ],
)
def test_every_way_of_listing_a_folder_is_read(line: bytes, folder: FolderName | None) -> None:
    """Atoms, quoted strings, separators, extensions; what cannot be opened or sent back is left out."""
    listing = Listing("host")
    listing.note(line)

    assert list(listing.folders.values()) == ([folder] if folder else [])


# -- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def session(certificates: Certificates, answers: Answers) -> Iterator[tuple[ImapSource, Scripted]]:
    signed_in = {b"AUTHENTICATE": b"<tag> OK " + CAPABLE + b" welcome\r\n"}
    greeting = b"* OK " + CAPABLE + b" ready\r\n"
    with Scripted(certificates, greeting, {**signed_in, **answers}, tagged=True) as server:
        source = ImapSource(
            Endpoint("localhost", server.port, "implicit", str(server.ca_file)),
            Credentials("support@contoso.com", "t0ken"),
            message_max=1 << 20,
            answer_seconds=5,
            clock=lambda: 0,
        )
        try:
            yield source, server
        finally:
            source.close()


def test_a_name_in_a_literal_is_listed_and_opened_as_the_server_spells_it(certificates: Certificates) -> None:
    """With its quotes and its separator; whatever is said in between does not matter."""
    answers: Answers = {
        b"LIST": b'* 3 EXISTS\r\n* LIST () "." {7}\r\na."b\\c"\r\n* LIST () "." &AOk-.x\r\n<tag> OK\r\n',
        b"EXAMINE": OPENED,
    }
    with session(certificates, answers) as (source, server):
        assert [folder.name for folder in source.folders()] == ['a/"b\\c"', "é/x"]
        assert source.open('a/"b\\c"', writable=False).folder == 'a/"b\\c"'
        source.open("é/x", writable=False)
        assert server.commands(b"EXAMINE") == [rb'EXAMINE "a.\"b\\c\""', b'EXAMINE "&AOk-.x"']


def test_a_plain_name_costs_no_listing(certificates: Certificates) -> None:
    """It is opened at once."""
    with session(certificates, {b"EXAMINE": OPENED}) as (source, server):
        source.open("Projects/Old", writable=False)
        assert server.commands(b"LIST") == []


def test_a_name_that_is_not_there_is_looked_for_in_another_spelling(certificates: Certificates) -> None:
    """With the server's separator, or in another case; its name with us stays, and so do its messages' ids."""
    answers: Answers = {
        b"LIST": b'* LIST () "." Projects.Old\r\n<tag> OK\r\n',
        b'EXAMINE "Projects.Old"': OPENED,
        b"EXAMINE": b"<tag> NO [NONEXISTENT] no such mailbox\r\n",
    }
    for name in ("Projects/Old", "projects/OLD"):
        with session(certificates, answers) as (source, _):
            assert source.open(name, writable=False).folder == name
            with pytest.raises(NoSuchFolder, match=r"does not open the folder Elsewhere.*Check FOLDERS"):
                source.open("Elsewhere", writable=False)


@pytest.mark.parametrize(("day", "believed"), [(b" 4-Jan-2026", True), (b" 5-Jan-2026", False)])
def test_a_search_that_finds_nothing_is_not_believed_against_the_newest_message(
    certificates: Certificates, day: bytes, believed: bool
) -> None:
    """Some servers answer an empty SEARCH for full folders; with SINCE a day all their mail would be skipped."""
    answers: Answers = {
        b"EXAMINE": OPENED,
        b"UID SEARCH": b"* SEARCH\r\n<tag> OK\r\n",
        b"UID FETCH *": b'* 2 FETCH (INTERNALDATE "%s 12:00:00 +0000" UID 2)\r\n<tag> OK\r\n' % day,
    }
    with session(certificates, answers) as (source, _):
        opened = source.open("INBOX", writable=False)
        if believed:
            assert source.start(opened, date(2026, 1, 5)) == (2, frozenset())
        else:
            with pytest.raises(Unreachable, match="SINCE=all"):
                source.start(opened, date(2026, 1, 5))


def test_a_list_without_an_end_is_cut_off(certificates: Certificates) -> None:
    """A server that lists for ever would hold the worker and fill its memory (promise P8)."""
    many = b"".join(b'* LIST () "/" folder%d\r\n' % number for number in range(20_001))
    long = b"".join(b'* LIST () "/" "%s"\r\n' % (b"x" * 60_000) for _ in range(40))
    huge = b'* LIST () "/" {70000}\r\n' + b"x" * 70_000 + b"\r\n"
    endless = b'* LIST () "/" ' + b"{1}\r\nx " * 70_000
    for flood, said in ((many, "20000 folders"), (long, "octets"), (huge, "literal"), (endless, "literal")):
        with (
            session(certificates, {b"LIST": flood + b"<tag> OK\r\n"}) as (source, _),
            pytest.raises(Unreachable, match=said),
        ):
            source.folders()
