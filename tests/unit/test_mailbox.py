"""One mailbox as it is configured: what unsaid keys become, and what is said of wrong ones."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

import pytest

from worker.errors import ConfigurationError, Misconfigured
from worker.every import Every
from worker.mailbox import After, Mailbox, Since
from worker.settings import Settings, load
from worker.sources import Endpoint

CLIENT = "11111111-2222-3333-4444-555555555555"
CRM = {"OUTPUT__CRM__TYPE": "jsonl", "OUTPUT__CRM__PATH": "mail.jsonl"}


def mailbox(cwd: Path, **keys: str) -> Mailbox:
    """The one mailbox that these keys make, beside one output."""
    return settings(
        cwd, **{f"MAILBOX__A__{key}": value for key, value in (plain() | keys).items()}
    ).mailboxes["a"]


def plain() -> dict[str, str]:
    """The fewest keys of a mailbox."""
    return {
        "HOST": "mail.example",
        "ADDRESS": "a@b.example",
        "PASSWORD": secrets.token_hex(),
        "OUTPUTS": "crm",
    }


def settings(cwd: Path, **environ: str) -> Settings:
    return load(CRM | environ, cwd=cwd)


def problems(cwd: Path, **environ: str) -> dict[str, str]:
    """Sentence by variable; nothing is said twice."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ, cwd=cwd)
    assert len(set(caught.value.problems)) == len(caught.value.problems)
    return {problem.variable: problem.sentence for problem in caught.value.problems}


def wrong(cwd: Path, **keys: str) -> dict[str, str]:
    """What is wrong with a plain mailbox that also says these keys; an empty value takes a key away."""
    keys = {f"MAILBOX__A__{key}": value for key, value in (plain() | keys).items()}
    found = problems(cwd, **CRM, **keys)
    return {variable.removeprefix("MAILBOX__A__"): sentence for variable, sentence in found.items()}


def test_a_mailbox_of_ones_own_server(tmp_path: Path) -> None:
    """What is left unsaid follows from the address, the protocol and the kind of TLS."""
    found = mailbox(tmp_path)

    assert (found.provider, found.protocol, found.auth) == ("generic", "imap", "password")
    assert (found.account, found.username) == ("a@b.example", "a@b.example")
    assert found.endpoint == Endpoint("mail.example", 993, "implicit", None)
    assert found.every == Every(seconds=60)
    assert (found.since, found.after, found.folders) == (Since("now"), After("keep"), ("INBOX",))
    assert found.outputs == ("crm",)
    assert found.enabled


@pytest.mark.parametrize(
    ("protocol", "tls", "port"),
    [
        ("imap", "implicit", 993),
        ("imap", "starttls", 143),
        ("pop3", "implicit", 995),
        ("POP3", "STARTTLS", 110),
    ],
)
def test_the_port_follows_from_protocol_and_tls(tmp_path: Path, protocol: str, tls: str, port: int) -> None:
    """RFC 8314 for implicit TLS, the old ports for STARTTLS; PORT beats both."""
    assert mailbox(tmp_path, PROTOCOL=protocol, TLS=tls).endpoint.port == port
    assert mailbox(tmp_path, PROTOCOL=protocol, TLS=tls, PORT="12345").endpoint.port == 12345


@pytest.mark.parametrize(("protocol", "word"), [("imap", "IMAP"), ("pop3", "POP")])
def test_a_shared_microsoft_mailbox(tmp_path: Path, protocol: str, word: str) -> None:
    """The preset fills server and scopes; the account signs in, the address is what is read."""
    found = load(
        CRM
        | {
            "ENTRA__TENANT": "contoso.onmicrosoft.com",
            "ENTRA__CLIENT_ID": CLIENT,
            "MAILBOX__S__PROVIDER": "Microsoft365",
            "MAILBOX__S__PROTOCOL": protocol,
            "MAILBOX__S__ADDRESS": "support@contoso.com",
            "MAILBOX__S__ACCOUNT": "robot@contoso.com",
            "MAILBOX__S__OUTPUTS": "CRM",
        },
        cwd=tmp_path,
    )
    box = found.mailboxes["s"]

    assert (box.auth, box.account, box.address) == ("delegated", "robot@contoso.com", "support@contoso.com")
    assert box.endpoint.host == "outlook.office365.com"
    assert box.scopes == (f"https://outlook.office.com/{word}.AccessAsUser.All",)
    assert found.registration(box).client_id == CLIENT
    assert found.registration(box).authority == "https://login.microsoftonline.com/contoso.onmicrosoft.com"


def test_a_mailbox_names_its_own_registration(tmp_path: Path) -> None:
    """TENANT and CLIENT_ID of a mailbox beat ENTRA__."""
    keys = {"PASSWORD": "", "PROVIDER": "microsoft365", "TENANT": "fabrikam.example", "CLIENT_ID": CLIENT}
    found = settings(
        tmp_path,
        ENTRA__CLIENT_ID="other",
        ENTRA__TENANT="other.example",
        **{f"MAILBOX__A__{key}": value for key, value in (plain() | keys).items()},
    )

    assert found.registration(found.mailboxes["a"]).client_id == CLIENT
    assert (
        found.registration(found.mailboxes["a"]).authority
        == "https://login.microsoftonline.com/fabrikam.example"
    )


def test_personal_accounts_sign_in_to_the_tenant_of_consumers(tmp_path: Path) -> None:
    """Outlook.com accounts live in one tenant, whatever ENTRA__TENANT says."""
    found = settings(
        tmp_path,
        ENTRA__CLIENT_ID=CLIENT,
        ENTRA__TENANT="contoso.example",
        MAILBOX__A__PROVIDER="outlook",
        MAILBOX__A__ADDRESS="a@outlook.com",
        MAILBOX__A__OUTPUTS="crm",
    )

    assert found.registration(found.mailboxes["a"]).authority == "https://login.microsoftonline.com/consumers"


def test_delegated_sign_in_works_on_ones_own_server(tmp_path: Path) -> None:
    """PROVIDER=generic with a provider of one's own asks for Microsoft's scopes, or for those of SCOPES."""
    (tmp_path / "ca.pem").write_text("x")
    common = {
        "ENTRA__CLIENT_ID": "demo",
        "ENTRA__AUTHORITY": "https://localhost:8443/harbour.example/",
        "ENTRA__CA_FILE": "ca.pem",
        "MAILBOX__A__HOST": "localhost",
        "MAILBOX__A__AUTH": "delegated",
        "MAILBOX__A__CA_FILE": "ca.pem",
        "MAILBOX__A__ADDRESS": "alice@harbour.example",
        "MAILBOX__A__OUTPUTS": "crm",
    }
    found = settings(tmp_path, **common)
    box = found.mailboxes["a"]
    other = settings(tmp_path, **common, MAILBOX__A__SCOPES="mail.read,mail.more").mailboxes["a"]

    assert found.registration(box).authority == "https://localhost:8443/harbour.example"
    assert found.registration(box).ca_file == str(tmp_path / "ca.pem")
    assert box.endpoint.ca_file == str(tmp_path / "ca.pem")
    assert box.scopes == ("https://outlook.office.com/IMAP.AccessAsUser.All",)
    assert other.scopes == ("mail.read", "mail.more")


def test_a_mailbox_with_a_password_has_no_registration(tmp_path: Path) -> None:
    """Asking for one is the program's mistake, and it is told which mailbox it was."""
    found = settings(tmp_path, **{f"MAILBOX__A__{key}": value for key, value in plain().items()})

    with pytest.raises(Misconfigured, match=r"^a: no app registration"):
        found.registration(found.mailboxes["a"])


@pytest.mark.parametrize(
    ("keys", "wrong_key", "sentence"),
    [
        ({"ADDRESS": ""}, "ADDRESS", "is required: Mail address of the mailbox."),
        ({"ADDRESS": "support"}, "ADDRESS", "must be a mail address"),
        ({"ADDRESS": "a@b\x01auth"}, "ADDRESS", "control characters"),
        ({"OUTPUTS": ""}, "OUTPUTS", "is required"),
        ({"OUTPUTS": ","}, "OUTPUTS", "must name at least one"),
        ({"OUTPUTS": "crm,crmm"}, "OUTPUTS", "name 2 of 2 is not configured; did you mean crm?"),
        ({"OUTPUTS": "archive"}, "OUTPUTS", "declare it with OUTPUT__NAME__TYPE"),
        ({"STAGES": "automatic"}, "STAGES", "declare it with STAGE__NAME__TYPE"),
        ({"PROVIDER": "hotmail"}, "PROVIDER", "must be 'microsoft365', 'outlook', 'gmail' or 'generic'"),
        ({"PROTOCOL": "smtp"}, "PROTOCOL", "must be 'imap' or 'pop3'"),
        ({"TLS": "none"}, "TLS", "must be 'implicit' or 'starttls'"),
        ({"HOST": ""}, "HOST", "PROVIDER=generic has no server of its own"),
        ({"HOST": "mail.example:993"}, "HOST", "its port goes into PORT"),
        ({"HOST": "imaps://mail.example"}, "HOST", "must be the name of a server alone"),
        ({"PORT": "imap"}, "PORT", "must be a whole number"),
        ({"PORT": "65536"}, "PORT", "must be less than or equal to 65535"),
        ({"PASSWORD": ""}, "PASSWORD", "AUTH=password needs it"),
        ({"AUTH": "delegated"}, "PASSWORD", "is not used with AUTH=delegated"),
        ({"AUTH": "delegated", "PASSWORD": ""}, "CLIENT_ID", "nor ENTRA__CLIENT_ID is set"),
        ({"AUTH": "app"}, "PASSWORD", "is not used with AUTH=app"),
        (
            {"AUTH": "app", "PASSWORD": "", "CLIENT_ID": CLIENT},
            "CLIENT_ID",
            "AUTH=app needs one; set ENTRA__CLIENT_SECRET",
        ),
        (
            {"AUTH": "delegated", "PASSWORD": "", "REGISTRATION": "oidc", "CLIENT_ID": CLIENT},
            "CLIENT_ID",
            "set ISSUER",
        ),
        ({"REGISTRATION": "okta"}, "REGISTRATION", "must be 'entra', 'google' or 'oidc'"),
        ({"ISSUER": "http://id.example"}, "ISSUER", "must be an https address"),
        ({"AUTH": "oauth"}, "AUTH", "must be 'delegated', 'app' or 'password'"),
        ({"PROVIDER": "gmail", "PASSWORD": "", "CLIENT_ID": CLIENT}, "CLIENT_ID", "Google needs one"),
        ({"PROVIDER": "gmail", "AUTH": "app"}, "AUTH", "does not let a mailbox sign in this way"),
        ({"PROVIDER": "microsoft365", "AUTH": "password"}, "AUTH", "does not let a mailbox sign in this way"),
        ({"PROVIDER": "outlook", "AUTH": "password"}, "AUTH", "does not let a mailbox sign in this way"),
        ({"PROTOCOL": "pop3", "FOLDERS": "INBOX,Sent"}, "FOLDERS", "POP3 knows only INBOX"),
        ({"PROTOCOL": "pop3", "PUSH": "yes"}, "PUSH", "POP3 cannot announce new mail"),
        ({"PROTOCOL": "pop3", "KEEP_CONNECTION": "yes"}, "KEEP_CONNECTION", "sees no mail that comes after"),
        ({"PROTOCOL": "pop3", "AFTER": "seen"}, "AFTER", "POP3 can only keep or delete"),
        ({"PROTOCOL": "pop3", "AFTER": "move:Done"}, "AFTER", "POP3 can only keep or delete"),
        ({"FOLDERS": "INBOX,Done", "AFTER": "move:done"}, "AFTER", "into a folder that is pulled"),
        ({"AFTER": "move:"}, "AFTER", "move:FOLDER with the name of a folder"),
        ({"AFTER": "keep:x"}, "AFTER", "must be keep, seen, delete"),
        ({"SINCE": "yesterday"}, "SINCE", "must be now, all"),
        ({"SINCE": "2026-02-30"}, "SINCE", "must be now, all"),
        ({"EVERY": "500ms"}, "EVERY", "must be at least 1s"),
        ({"EVERY": "5"}, "EVERY", "write a number and a unit"),
        ({"ENABLED": "maybe"}, "ENABLED", "write yes or no"),
        ({"FOLDERS": "INBOX,a\r\nA1 DELETE b"}, "FOLDERS", "control characters"),
        ({"HOSTNAME": "x"}, "HOSTNAME", "did you mean MAILBOX__A__HOST?"),
        ({"NAME": "x"}, "NAME", "unknown"),
    ],
)
def test_a_wrong_mailbox_is_a_problem(
    tmp_path: Path, keys: dict[str, str], wrong_key: str, sentence: str
) -> None:
    """Each names its own variable and what would be right, and nothing else is complained about."""
    found = wrong(tmp_path, **keys)

    assert sentence in found.pop(wrong_key)
    # A provider that takes no password complains about the one of the plain mailbox, too.
    assert set(found) <= ({"PASSWORD", "CLIENT_ID"} if keys.keys() & {"AUTH", "PROVIDER"} else set())


def test_since_says_where_mail_begins(tmp_path: Path) -> None:
    """`now` is now, `all` has no beginning, days count back, a date begins at midnight UTC."""
    now = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    starts = {
        text: mailbox(tmp_path, SINCE=text).since.start(now) for text in ("now", "ALL", "30d", "2026-01-31")
    }

    assert starts == {
        "now": now,
        "ALL": None,
        "30d": datetime(2026, 1, 30, 12, 30, tzinfo=UTC),
        "2026-01-31": datetime(2026, 1, 31, tzinfo=UTC),
    }
    assert mailbox(tmp_path, SINCE="30d").since == Since("days", days=30)


def test_after_says_what_happens_on_the_server(tmp_path: Path) -> None:
    """A folder keeps its case and its blanks inside."""
    assert mailbox(tmp_path, AFTER="Seen").after == After("seen")
    assert mailbox(tmp_path, AFTER="move: Done Mail ").after == After("move", folder="Done Mail")
    assert mailbox(tmp_path, PROTOCOL="pop3", AFTER="delete").after == After("delete")
