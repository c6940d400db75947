"""The command line on a small installation: what people type, what programs read, and how each verb ends."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
import structlog
from click.testing import CliRunner, Result

import worker.quay
from tests.bed.identity import Identity
from tests.bed.installation import Installation
from tests.bed.processes import free_port
from tests.bed.scripted import Scripted
from worker import health
from worker.cli import VERBS, main
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB, SUPPORT
from worker.errors import NeedsSignIn
from worker.quay import Quay
from worker.spool import Batch, Entry, Ticket
from worker.tokens import Grant

Mailquay = Callable[..., Result]
DAY = 86400.0


@pytest.fixture
def ours(installation: Installation) -> Installation:
    """An installation with two mailboxes that nobody has to reach."""
    installation.mailbox("box", address="box@example.com", host="localhost", password="x", outputs="lines")
    installation.mailbox(
        "shop", address="shop@example.com", host="localhost", password="x", outputs="lines,post"
    )
    return installation


@pytest.fixture
def mailquay(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailquay]:
    """Run a verb in this process, with the installation's environment, in its folder."""
    monkeypatch.chdir(installation.folder)
    monkeypatch.setattr(worker.quay, "_quays", {})
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002  (click's own word)
        return CliRunner().invoke(main, arguments, env=installation.environ, input=input)

    yield run
    for quay in worker.quay._quays.values():
        quay.close()
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def lines(result: Result) -> list[dict[str, object]]:
    # Not `splitlines`: a subject may hold line separators that are none in JSON.
    return [orjson.loads(line) for line in result.stdout.split("\n") if line]


def put(quay: Quay, name: str, mailbox: str = "box") -> Ticket:
    plan = Batch(name * 32, mailbox, "INBOX", 7)
    with quay.spool.new(plan) as writer:
        entry = writer.add(Entry("x", owed=("lines",)), (b"raw",))
        return writer.commit(replace(plan, entries=(entry,)))


def test_every_verb_is_there_and_says_what_it_does(mailquay: Mailquay) -> None:
    """Without any configuration; an unknown one is refused."""
    listed = mailquay("--help").stdout
    for verb, sentence in VERBS.items():
        assert f"  {verb} " in listed
        assert sentence.split()[0] in listed
        shown = mailquay(verb, "--help")
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert shown.stdout.startswith(f"Usage: main {verb}")
    assert mailquay("unload").exit_code == 2
    assert re.search(r"\d+\.\d+", mailquay("--version").stdout)


# -- parse -----------------------------------------------------------------------------------------------------------


def test_parse_prints_one_object_a_line_for_any_file(mailquay: Mailquay, tmp_path: Path) -> None:
    """Mail, garbage, nothing at all, and standard input; without any configuration, however wrong it may be."""
    (tmp_path / ".env").write_text("NONSENSE\n")
    files = {"mail": b"Subject: hello\r\n\r\nbody\r\n", "garbage": bytes(range(256)) * 9, "empty": b""}
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)

    result = mailquay("parse", *files, "-", input=b"Subject: from afar\n\n")

    assert (result.exit_code, result.stderr) == (0, "")
    assert [message["subject"] for message in lines(result)] == ["hello", None, None, "from afar"]


def test_parse_names_what_it_cannot_read_and_goes_on(mailquay: Mailquay, tmp_path: Path) -> None:
    """The rest is printed; the exit code says that something was missed."""
    (tmp_path / "mail").write_bytes(b"Subject: hello\r\n\r\n")

    result = mailquay("parse", "missing", str(tmp_path), "mail")

    assert result.exit_code == 1
    assert [message["subject"] for message in lines(result)] == ["hello"]
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["missing", str(tmp_path)]


# -- status ----------------------------------------------------------------------------------------------------------


def test_status_shows_how_every_mailbox_stands(ours: Installation, mailquay: Mailquay) -> None:
    """For programs with every number, for people with what they have to do."""
    quay = ours.quay()
    quay.standings.well("shop", 1_800_000_000)
    quay.standings.count("shop", "pulled", 7)
    quay.standings.ill("box", time.time(), NeedsSignIn("Run `mailquay login box@example.com`"))
    put(quay, "a", "shop")
    quay.spool.fail(put(quay, "b", "shop"), "refused")

    box, shop = orjson.loads(mailquay("status", "--json").stdout)["mailboxes"]
    table = mailquay("status").stdout

    assert (box["mailbox"], box["state"], box["failures"]) == ("box", "needs sign-in", 1)
    assert (shop["state"], shop["pulled"], shop["waiting"], shop["failed"]) == ("ok", 7, 1, 1)
    assert shop["pulled_at"] == 1_800_000_000
    for word in ("box", "shop", "needs", "sign-in", "login"):
        assert word in table


def test_status_shows_who_has_lost_access_and_who_will(
    ours: Installation, mailquay: Mailquay, tmp_path: Path
) -> None:
    """Persons, applications and what these prove themselves with; without any OAuth none of it is there."""
    assert "account" not in mailquay("status").stdout
    ours.environ |= {
        "ENTRA__CLIENT_ID": "client",
        "ENTRA__CLIENT_SECRET": "t0p-secret",
        "ENTRA__TENANT": "contoso",
    }
    ours.environ["ENTRA__CLIENT_SECRET_EXPIRES"] = (
        f"{datetime.fromtimestamp(time.time() + 10 * DAY, UTC):%Y-%m-%d}"
    )
    for name, account in (("desk", ALICE), ("yard", ALICE), ("crane", BOB)):
        ours.mailbox(
            name, address=f"{name}@contoso.com", account=account, provider="microsoft365", outputs="lines"
        )  # fmt: skip
    ours.mailbox("robot", address=SUPPORT, provider="microsoft365", auth="app", outputs="lines")
    quay, now = ours.quay(), time.time()
    quay.token_store.swap(
        ALICE, Grant("refresh-t0ken"), read=0, now=now - 80 * DAY, client_id="client", signed_in=True
    )  # fmt: skip

    shown = mailquay("status", "--json").stdout
    found = orjson.loads(shown)
    table = mailquay("status").stdout

    alice, robot, bob = (found["accounts"][at] for at in (0, 1, 2))
    assert {name: alice[name] for name in ("account", "state", "mailboxes", "troubled")} == {
        "account": ALICE, "state": "ending", "mailboxes": ["desk", "yard"], "troubled": False,
    }  # fmt: skip
    assert alice["signed_in_at"] == alice["renewed_at"] == pytest.approx(now - 80 * DAY)
    assert alice["ends_at"] == pytest.approx(now + 10 * DAY)
    assert (robot["account"], robot["state"], robot["ends_at"]) == ("app:client@contoso", "ok", None)
    assert (bob["account"], bob["state"], bob["signed_in_at"]) == (BOB, "never signed in", 0)
    (secret,) = found["credentials"]
    assert (secret["registration"], secret["client_id"], secret["kind"], secret["state"]) == (
        "entra", "client", "secret", "ending",
    )  # fmt: skip
    assert secret["mailboxes"] == ["crane", "desk", "robot", "yard"]
    for word in ("80 d", "10 d", "ending", "login", "client", "secret"):
        assert word in table
    assert "t0" not in shown + table


def test_verbs_that_need_a_mailbox_say_what_to_do_when_there_is_none(mailquay: Mailquay) -> None:
    """A fresh installation is no error."""
    for verb in ("status", "check"):
        result = mailquay(verb)
        assert result.exit_code == 0
        assert "No mailbox is configured yet" in result.stdout
    status = orjson.loads(mailquay("status", "--json").stdout)
    assert (status["mailboxes"], status["accounts"], status["credentials"]) == ([], [], [])


def test_a_redis_that_is_away_ends_in_one_line(ours: Installation, mailquay: Mailquay) -> None:
    """Which names the setting; no traceback."""
    ours.environ["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"

    result = mailquay("status")

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "REDIS_URL" in result.stderr


# -- check -----------------------------------------------------------------------------------------------------------


def test_check_counts_what_is_configured(ours: Installation, mailquay: Mailquay) -> None:
    """Nothing is contacted."""
    result = mailquay("check")

    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 mailboxes, 2 outputs, 0 stages" in result.stdout


def test_check_prints_every_problem_at_once(ours: Installation, mailquay: Mailquay) -> None:
    """Each names its variable, none shows its value; the exit code is another one than for trouble at run time."""
    ours.environ |= {
        "MAILBOX__BOX__PORT": "s3cret-70000",
        "MAILBOX__SHOP__OUTPUTS": "nowhere",
        "MAILBOX__BOX__EVRY": "1m",
    }

    result = mailquay("check")

    assert result.exit_code == 2
    problems = result.stderr.splitlines()
    assert len(problems) == 3
    for variable in ("MAILBOX__BOX__PORT", "MAILBOX__SHOP__OUTPUTS", "MAILBOX__BOX__EVRY"):
        assert any(problem.startswith(f"{variable}: ") for problem in problems), problems
    assert "s3cret" not in result.output


def test_check_prints_what_an_exchange_administrator_has_to_type(
    ours: Installation, mailquay: Mailquay
) -> None:
    """For every mailbox that an application opens, or an account beside its own; nobody else is asked for anything."""
    assert "Add-MailboxPermission" not in mailquay("check").stdout
    ours.environ |= {
        "ENTRA__CLIENT_ID": "client",
        "ENTRA__CLIENT_SECRET": "x",
        "ENTRA__TENANT": "contoso.com",
    }
    ours.mailbox("own", address=ALICE, provider="microsoft365", outputs="lines")
    ours.mailbox("desk", address="desk@contoso.com", account=ALICE, provider="microsoft365", outputs="lines")
    for name, address, protocol in (
        ("orders", "orders@contoso.com", "imap"),
        ("relay", "o'hara’s@contoso.com", "pop3"),
        ("again", "orders@contoso.com", "imap"),
    ):
        ours.mailbox(
            name, address=address, protocol=protocol, provider="microsoft365", auth="app", outputs="lines"
        )  # fmt: skip

    result = mailquay("check")

    assert result.exit_code == 0
    access, _, advice = result.stdout.partition("administrator gives")[2].partition(
        "It is also worth setting"
    )
    heading, *printed = access.splitlines()
    assert "ExchangeOnlineManagement" in heading
    assert [line.strip() for line in printed if line and "#" not in line] == [
        "Connect-ExchangeOnline -Organization contoso.com",
        f"Add-MailboxPermission -Identity desk@contoso.com -User {ALICE} -AccessRights FullAccess",
        "$ObjectId = '<object id of the ENTERPRISE application, not of the app registration>'",
        'New-ServicePrincipal -AppId client -ObjectId $ObjectId -DisplayName "Mailquay"',
        "Add-MailboxPermission -Identity orders@contoso.com -User $ObjectId -AccessRights FullAccess",
        "Set-CASMailbox -Identity orders@contoso.com -ImapEnabled $true",
        "Add-MailboxPermission -Identity 'o''hara’’s@contoso.com' -User $ObjectId -AccessRights FullAccess",
        "Set-CASMailbox -Identity 'o''hara’’s@contoso.com' -PopEnabled $true",
    ]
    (consent,) = [line for line in printed if "#" in line]
    assert "IMAP.AccessAsApp and POP.AccessAsApp" in consent
    assert "SMTP.SendAsApp" in consent
    habits = "-{0}UseProtocolDefaults $false -{0}ForceICalForCalendarRetrievalOption $true -{0}SuppressReadReceipt $true"
    assert [line.strip() for line in advice.splitlines() if "CASMailbox" in line] == [
        f"Set-CASMailbox -Identity {ALICE} {habits.format('Imap')}",
        f"Set-CASMailbox -Identity desk@contoso.com {habits.format('Imap')}",
        f"Set-CASMailbox -Identity 'o''hara’’s@contoso.com' {habits.format('Pop')}",
        f"Set-CASMailbox -Identity orders@contoso.com {habits.format('Imap')}",
    ]


def test_check_names_microsoft_s_other_clouds_to_exchange(ours: Installation, mailquay: Mailquay) -> None:
    """And no organization where none is named."""
    ours.environ |= {"ENTRA__CLIENT_ID": "client", "ENTRA__CLOUD": "gcc-high"}
    ours.mailbox("desk", address="desk@contoso.us", account=ALICE, provider="microsoft365", outputs="lines")

    assert "  Connect-ExchangeOnline -ExchangeEnvironmentName O365USGovGCCHigh\n" in mailquay("check").stdout


def test_check_connect_opens_every_mailbox_and_says_what_is_wrong(
    ours: Installation, mailquay: Mailquay, certificates: Certificates
) -> None:
    """One that works and one that does not; the second is not hidden by the first, nor the first by the second."""
    greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n"
    answers = {
        b"AUTHENTICATE": b"<tag> OK [CAPABILITY IMAP4rev1]\r\n",
        b"EXAMINE": b"* 12 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n<tag> OK\r\n",
        b"LOGOUT": b"",
    }
    with Scripted(certificates, greeting, answers, tagged=True) as server:
        ours.mailbox("shop", port=str(server.port), ca_file=str(server.ca_file))
        ours.mailbox("box", port=str(free_port()))
        result = mailquay("check", "--connect")

    assert result.exit_code == 1
    box, shop = result.stdout.splitlines()[1:]
    assert shop == "shop: ok, INBOX holds 12 messages"
    assert re.match(
        r"box: unreachable: cannot connect to localhost port \d+: Connection refused. Check HOST", box
    )


# -- failed ----------------------------------------------------------------------------------------------------------


def test_failed_batches_are_listed_retried_and_dropped(ours: Installation, mailquay: Mailquay) -> None:
    """Dropping is asked for twice; a batch that is not there is named."""
    quay = ours.quay()
    for name in "ab":
        quay.spool.fail(put(quay, name), f"refused {name}")

    assert [(line["batch"], line["mailbox"], line["messages"], line["reason"]) for line in lines(mailquay("failed", "list", "--json"))] == [
        ("a" * 32, "box", 1, "refused a"), ("b" * 32, "box", 1, "refused b"),
    ]  # fmt: skip
    assert "refused a" in mailquay("failed", "list").stdout

    assert mailquay("failed", "retry", "a" * 32).exit_code == 0
    assert [ticket.batch for ticket in quay.spool.tickets()] == ["a" * 32]
    assert mailquay("failed", "drop", "b" * 32, input="n\n").exit_code == 1
    assert len(quay.spool.failed()) == 1
    assert mailquay("failed", "drop", "b" * 32, input="y\n").exit_code == 0
    assert quay.spool.failed() == []

    missing = mailquay("failed", "retry", "c" * 32)
    assert missing.exit_code == 1
    assert "mailquay failed list" in missing.stderr


# -- the others ------------------------------------------------------------------------------------------------------


def test_pull_names_the_mailboxes_that_there_are(ours: Installation, mailquay: Mailquay) -> None:
    """After a typo."""
    result = mailquay("pull", "bxo")

    assert result.exit_code == 1
    assert result.stderr == "there is no mailbox bxo; configured are: box, shop\n"


def test_login_shows_where_to_go_and_ends_when_the_person_has_approved(
    ours: Installation, mailquay: Mailquay, fresh_identity: Identity
) -> None:
    """A real sign-in; an account that no mailbox uses is refused before anybody is asked."""
    ours.signs_in_at(fresh_identity)
    ours.mailbox("post", address=ALICE, auth="delegated", host="localhost", outputs="lines")
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "login", ALICE],
        cwd=ours.folder,
        env=ours.full_environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    shown = re.search(
        r"Open (\S+/devicelogin) in a browser, enter the code (\S+), and", process.stdout.readline()
    )
    assert shown
    fresh_identity.decide(shown[2], ALICE)
    said, _ = process.communicate(timeout=20)

    assert (process.returncode, said) == (0, f"{ALICE} is signed in.\n")
    assert ours.quay().token_store.accounts() == [ALICE]
    stranger = mailquay("login", "nobody@example.com")
    assert stranger.exit_code == 1
    assert "no configured mailbox signs in as nobody@example.com" in stranger.stderr


def test_health_answers_for_a_role_with_its_exit_code(ours: Installation, mailquay: Mailquay) -> None:
    """For container health checks."""
    ill = mailquay("health", "beat")
    health.sign_of_life(ours.quay(), "beat")
    well = mailquay("health", "beat")

    assert (ill.exit_code, "has not ticked" in ill.stdout) == (1, True)
    assert (well.exit_code, well.stdout) == (0, "beat is well\n")
    assert mailquay("health", "janitor").exit_code == 2
