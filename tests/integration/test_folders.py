"""Folders that come, go, hide and are spelled otherwise, on a real Dovecot, through real pulls."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.bed.clients import imap_login
from tests.bed.dovecot import Dovecot
from tests.bed.errands import flow, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.valkey import Valkey
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, MAILBOXES
from worker.sources import NoSuchFolder


@pytest.fixture(scope="module")
def dotted(certificates: Certificates, identity: Identity) -> Iterator[Dovecot]:
    """A Dovecot whose levels are parted by dots."""
    dovecot = Dovecot(
        certificates=certificates,
        introspection_url=f"{identity.lab_url}/introspect",
        passwords=MAILBOXES,
        extra="namespace inbox {\n  separator = .\n}",
    )
    dovecot.start()
    yield dovecot
    dovecot.remove()


def came(installation: Installation) -> dict[int, str]:
    """Number of each message that arrived -> the folder that it lay in."""
    found: dict[int, str] = {}
    for line in installation.lines():
        found[int(line["subject"].rpartition(" ")[2])] = line["source"]["folder"]
    return found


def remove_folder(dovecot: Dovecot, user: str, folder: str) -> None:
    subprocess.run(
        [*dovecot._doveadm(), "mailbox", "delete", "-u", user, "-s", folder], check=True, capture_output=True
    )


@pytest.mark.parametrize("server", ["dovecot", "dotted"])
def test_patterns_and_exclusions_choose_folders_whatever_the_separator(
    installation: Installation, server: str, request: pytest.FixtureRequest
) -> None:
    """`Projects/*,!Projects/Old` on a server that says `/` and on one that says `.`; levels alone are not opened."""
    dovecot: Dovecot = request.getfixturevalue(server)
    dovecot.forget(ALICE)
    for number, folder in enumerate(["INBOX", "Projects/New", "Projects/Old", "Projects/New/Deep", "Sent"]):
        dovecot.save(ALICE, numbered(number), folder=folder)
    installation.on_dovecot("box", dovecot, ALICE, folders="inbox,projects/*,!Projects/Old")

    result = flow(installation.quay(), "box")

    assert (result.trouble, result.missing) == (None, None)
    assert came(installation) == {0: "INBOX", 1: "Projects/New", 3: "Projects/New/Deep"}


def test_a_plain_name_is_found_with_the_other_separator_and_in_another_case(
    installation: Installation, dotted: Dovecot
) -> None:
    """A person writes `/` between levels and need not know what the server does."""
    dotted.forget(ALICE)
    dotted.save(ALICE, numbered(1), folder="Projects/New")
    installation.on_dovecot("box", dotted, ALICE, folders="projects/new")

    assert flow(installation.quay(), "box").trouble is None
    assert came(installation) == {1: "projects/new"}


def test_a_name_beyond_ascii_fits_a_pattern(
    installation: Installation, dovecot: Dovecot, identity: Identity
) -> None:
    """It is listed in modified UTF-7, and opened as it was listed."""
    dovecot.forget(ALICE)
    client = imap_login(dovecot.imaps_port, dovecot.ca_file, ALICE, identity.token(ALICE))
    client.create('"&U,BTFw-/Entw&APw-rfe &- mehr"')
    client.append('"&U,BTFw-/Entw&APw-rfe &- mehr"', "", "", numbered(1))
    client.logout()
    installation.on_dovecot("box", dovecot, ALICE, folders="台北/*")

    flow(installation.quay(), "box")

    assert came(installation) == {1: "台北/Entwürfe & mehr"}


def test_a_missing_folder_stops_no_other_and_is_said_once(
    installation: Installation, dovecot: Dovecot
) -> None:
    """The mailbox is neither parked nor failing; its standing names the folder until it is there (promise P5)."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    installation.on_dovecot("box", dovecot, ALICE, folders="Projects,INBOX,Elsewhere")
    quay = installation.quay()

    with capture_logs() as events:
        flow(quay, "box")
        dovecot.save(ALICE, numbered(2))
        flow(quay, "box")

    standing = quay.standings.of("box")
    assert came(installation) == {1: "INBOX", 2: "INBOX"}
    assert (standing.state, standing.failures) == ("folder missing", 0)
    assert "Projects" in standing.sentence
    assert "Elsewhere" in standing.sentence
    assert [event["event"] for event in events].count("folder.missing") == 1

    dovecot.save(ALICE, numbered(3), folder="Projects")
    dovecot.save(ALICE, numbered(4), folder="Elsewhere")
    flow(quay, "box")

    assert came(installation).keys() == {1, 2, 3, 4}
    assert quay.standings.of("box").state == "ok"


def test_a_mailbox_of_missing_folders_alone_is_in_trouble(
    installation: Installation, dovecot: Dovecot
) -> None:
    """There is nothing else to go on with; a pattern that fits nothing is said as well."""
    dovecot.forget(ALICE)
    for folders in ("Nowhere", "Nowhere/*"):
        installation.on_dovecot("box", dovecot, ALICE, folders=folders)
        result = pulled(installation.quay(), "box")
        assert isinstance(result.trouble, NoSuchFolder)
        assert "FOLDERS" in result.trouble.sentence


def test_once_says_which_folder_is_missing(installation: Installation, dovecot: Dovecot) -> None:
    """And exits 1, so that a script notices; the mail of the others has come."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    installation.on_dovecot("box", dovecot, ALICE, folders="INBOX,Elsewhere")

    done = installation.run("pull", "box")

    assert done.returncode == 1
    assert "1 pulled" in done.stdout
    assert "Elsewhere" in done.stderr


@pytest.mark.parametrize("since", ["now", "all"])
def test_a_folder_that_appears_is_pulled_from_its_first_message(
    installation: Installation, dovecot: Dovecot, since: str
) -> None:
    """What was there before the first look is a matter of SINCE; what appears later is new mail, whatever SINCE says."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    dovecot.save(ALICE, numbered(2), folder="Projects/Old")
    installation.on_dovecot("box", dovecot, ALICE, folders="INBOX,Projects/*", since=since)
    quay = installation.quay()
    flow(quay, "box")
    before = {1: "INBOX", 2: "Projects/Old"} if since == "all" else {}
    assert came(installation) == before

    dovecot.save(ALICE, numbered(3), numbered(4), folder="Projects/New")
    flow(quay, "box")

    assert came(installation) == {**before, 3: "Projects/New", 4: "Projects/New"}


def test_a_pattern_that_is_added_later_begins_where_since_says(
    installation: Installation, dovecot: Dovecot
) -> None:
    """Its folders are old, though the mailbox is: SINCE=now must not bring years of mail."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    dovecot.save(ALICE, numbered(2), folder="Projects/Old")
    installation.on_dovecot("box", dovecot, ALICE, since="now")
    flow(installation.quay(), "box")
    installation.on_dovecot("box", dovecot, ALICE, folders="INBOX,Projects/*", since="now")
    quay = installation.quay()
    flow(quay, "box")
    assert came(installation) == {}

    dovecot.save(ALICE, numbered(3), folder="Projects/Old")
    dovecot.save(ALICE, numbered(4), folder="Projects/New")
    flow(quay, "box")

    assert came(installation) == {3: "Projects/Old", 4: "Projects/New"}


def test_what_appears_after_a_flush_is_not_skipped(
    installation: Installation, dovecot: Dovecot, fresh_valkey: Valkey
) -> None:
    """The copy beside the spool knows which patterns were looked up, so a flushed Redis makes no folder look old."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    dovecot.save(ALICE, numbered(2), folder="Projects/Old")
    installation.on_dovecot("box", dovecot, ALICE, folders="*", since="now")
    quay = installation.quay()
    flow(quay, "box")

    fresh_valkey.flush()
    dovecot.save(ALICE, numbered(3), folder="Projects/Old")
    dovecot.save(ALICE, numbered(4), folder="Projects/New")
    flow(quay, "box")

    assert came(installation) == {3: "Projects/Old", 4: "Projects/New"}


def test_a_folder_that_vanishes_is_said_once_and_goes_on_when_it_is_back(
    installation: Installation, dovecot: Dovecot
) -> None:
    """The others are pulled meanwhile, and nobody has to act: it was a person who removed it."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    dovecot.save(ALICE, numbered(2), folder="Projects/Old")
    installation.on_dovecot("box", dovecot, ALICE, folders="*")
    quay = installation.quay()
    flow(quay, "box")

    remove_folder(dovecot, ALICE, "Projects/Old")
    with capture_logs() as events:
        for number in (3, 4):
            dovecot.save(ALICE, numbered(number))
            flow(quay, "box")
    vanished = [event for event in events if event["event"] == "folder.vanished"]
    assert [event["folder"] for event in vanished] == ["Projects/Old"]
    assert quay.standings.of("box").state == "ok"

    dovecot.save(ALICE, numbered(5), folder="Projects/Old")
    flow(quay, "box")

    assert came(installation).keys() == {1, 2, 3, 4, 5}


def test_what_is_moved_away_after_its_hand_over_does_not_come_in_again(
    installation: Installation, dotted: Dovecot
) -> None:
    """Though AFTER names the folder with the server's separator, where the configuration cannot see that they meet."""
    dotted.forget(ALICE)
    dotted.save(ALICE, numbered(1))
    dotted.save(ALICE, numbered(0), folder="Done/Mail")
    installation.on_dovecot("box", dotted, ALICE, folders="INBOX,Done/*", after="move:Done.Mail")
    quay = installation.quay()

    for _ in range(3):
        flow(quay, "box")

    assert came(installation) == {1: "INBOX"}
    assert len(dotted.listing(ALICE, "Done.Mail")) == 2
    assert [number_of(raw) for raw in installation.posted().values()] == [1]
