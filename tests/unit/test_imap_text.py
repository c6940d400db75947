"""IMAP's spelling of strings, folders, uids and dates."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.imap_text import instant, mutf7
from worker.errors import Misconfigured
from worker.sources.imap_text import day, quoted, uid_sets


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("INBOX", "INBOX"),
        ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
        ("Entwürfe", "Entw&APw-rfe"),
        ("R&D", "R&-D"),
        ("&", "&-"),
        ("💌", "&2D3cjA-"),
    ],
)
def test_folder_names_are_modified_utf_7(name: str, spelled: str) -> None:
    """RFC 3501 section 5.1.3 and its example."""
    assert mutf7(name) == spelled


def test_a_string_cannot_break_out_of_its_quotes() -> None:
    """A password may hold anything but a line end, and a folder's name is no way to send a command."""
    assert quoted('a"b\\c') == '"a\\"b\\\\c"'
    for bad in ("a\r\nA1 LOGOUT", "a\0"):
        with pytest.raises(Misconfigured):
            quoted(bad)


@given(st.sets(st.integers(1, 4_294_967_295), max_size=300) | st.sets(st.integers(1, 400), max_size=300))
def test_uid_sets_name_each_uid_once(uids: set[int]) -> None:
    """Whatever gaps there are; nothing to name makes no set."""
    named: list[int] = []
    for uid_set in uid_sets(uids):
        for part in uid_set.split(","):
            first, _, last = part.partition(":")
            named.extend(range(int(first), int(last or first) + 1))

    assert named == sorted(uids)


def test_many_uids_make_several_sets_that_servers_take() -> None:
    """A thousand settled messages with gaps are too many for one line (RFC 7162 section 4: 8192 octets)."""
    sets = list(uid_sets(range(1_000_000_000, 1_000_010_000, 2)))

    assert len(sets) > 1
    assert max(map(len, sets)) <= 7_000
    assert sum(uid_set.count(",") + 1 for uid_set in sets) == 5_000
    assert list(uid_sets(range(1, 1_000_000))) == ["1:999999"]


def test_dates_are_read_and_written_in_english() -> None:
    """Whatever the locale of this machine; a date that is none is no reason to fail."""
    zone = timezone(timedelta(hours=-3, minutes=-30))
    assert instant(" 1-Feb-2026 09:08:07 +0000") == datetime(2026, 2, 1, 9, 8, 7, tzinfo=UTC)
    assert instant("17-JUL-1996 02:44:25 -0330") == datetime(1996, 7, 17, 2, 44, 25, tzinfo=zone)
    assert day(date(2026, 10, 5)) == "5-Oct-2026"
    for bad in (
        "",
        "31-Feb-2026 00:00:00 +0000",
        "1-Foo-2026 00:00:00 +0000",
        "yesterday",
        "1-Feb-2026 09:08:07 +9999",
    ):
        assert instant(bad) is None
