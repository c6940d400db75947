"""Outputs sign in with the same app registration, sign-ins and store as mailboxes: to a real SMTP server, and to a real Dovecot.

Tokens come from the local Entra by the real MSAL, and both servers ask it whether they open what they should.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.account import CannotSignIn, SignsIn
from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.imap_folder import ImapFolder
from tests.bed.installation import Installation, numbered
from tests.bed.postbox import Postbox, attached
from worker.alert import alert
from worker.deliver import deliver
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB, SUPPORT
from worker.errors import ConfigurationError
from worker.keep_alive import keep_alive
from worker.pull import pull
from worker.quay import Quay
from worker.sign_in import usual_way
from worker.tokens import entra

SEND = "https://outlook.office.com/SMTP.Send"


@pytest.fixture(autouse=True)
def _forget_http() -> None:
    """Each test meets a provider that this process has never asked."""
    entra._HTTP_CACHE.clear()


@pytest.fixture
def postbox(certificates: Certificates, identity: Identity) -> Iterator[Postbox]:
    """A submission server that takes mail from those whose tokens the local Entra vouches for."""
    introspection = f"{identity.lab_url}/introspect"
    with Postbox(
        certificates, tls="starttls", introspection_url=introspection, auth_required=True
    ) as postbox:
        yield postbox


@pytest.fixture
def ours(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity, postbox: Postbox
) -> Iterator[Installation]:
    """Alice's mailbox, whose mail is forwarded as Alice."""
    dovecot.forget(ALICE)
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("alice", dovecot, ALICE, auth="delegated", outputs="copy")
    forwarding(installation, postbox, account=ALICE, **{"from": ALICE})
    yield installation
    dovecot.forget(ALICE)


def forwarding(installation: Installation, postbox: Postbox, **said: str) -> None:
    """An output `copy` to the SMTP server."""
    usual = {
        "type": "smtp",
        "host": "localhost",
        "port": str(postbox.port),
        "tls": "starttls",
        "ca_file": str(postbox.ca_file),
        "to": "archive@example.com",
    }
    for key in [key for key in installation.environ if key.startswith("OUTPUT__COPY__")]:
        del installation.environ[key]
    installation.environ |= {f"OUTPUT__COPY__{key.upper()}": value for key, value in (usual | said).items()}


def pulled_and_delivered(quay: Quay, mailbox: str = "alice") -> list[str]:
    """What kept the mailbox's mail from being delivered; nothing when nothing did."""
    result = pull(quay, quay.settings.mailboxes[mailbox], ring=lambda _: None)
    assert result.trouble is None
    found = [deliver(quay, ticket) for ticket in quay.spool.tickets()]
    return [delivered.trouble for delivered in found if delivered and delivered.trouble]


def tries(quay: Quay, output: str = "copy") -> None:
    made = quay.output(output)
    assert isinstance(made, SignsIn)
    made.try_sign_in()


def test_one_sign_in_serves_the_mailbox_and_the_output_that_sends_its_mail(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity, postbox: Postbox
) -> None:
    """`mailquay login` asks for the permission to send as well, and each server gets a token that it takes."""
    dovecot.save(ALICE, *map(numbered, range(3)))
    quay = ours.quay()
    ours.sign_in(quay, fresh_identity, ALICE)

    assert pulled_and_delivered(quay) == []

    assert sorted(attached(posted.content) for posted in postbox.taken) == [
        numbered(number).replace(b"\n", b"\r\n").replace(b"\r\r", b"\r") for number in range(3)
    ]
    assert {(posted.user, posted.sender) for posted in postbox.taken} == {(ALICE, ALICE)}
    assert postbox.sessions == 2  # EHLO before and after STARTTLS, once for all three.
    assert quay.token_store.accounts() == [ALICE]


def test_mail_waits_until_somebody_has_signed_in(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity, postbox: Postbox
) -> None:
    """The reason that people see says who must act; afterwards nothing is lost."""
    ours.on_dovecot("alice", dovecot, ALICE, outputs="copy", auth="password")
    dovecot.save(ALICE, numbered(1))
    quay = ours.quay()

    (trouble,) = pulled_and_delivered(quay)
    assert f"mailquay login {ALICE}" in trouble
    with pytest.raises(CannotSignIn, match="nobody has signed in"):
        tries(quay)

    ours.sign_in(quay, fresh_identity, ALICE)
    tries(quay)
    assert postbox.taken == []


def test_a_sign_in_from_before_the_output_is_said_to_lack_a_permission(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """One more sign-in asks for what is missing; the mailbox is pulled all the while."""
    output = {key: ours.environ.pop(key) for key in list(ours.environ) if key.startswith("OUTPUT__COPY__")}
    ours.environ["MAILBOX__ALICE__OUTPUTS"] = "lines"
    before = ours.quay()
    ours.sign_in(before, fresh_identity, ALICE)
    granted = before.token_store.load(ALICE)
    assert granted.grant
    assert SEND not in " ".join(granted.grant.tokens)

    ours.environ |= output
    quay = ours.quay()
    with pytest.raises(CannotSignIn, match=f"mailquay login {ALICE}"):
        tries(quay)
    ours.sign_in(quay, fresh_identity, ALICE)
    tries(quay)


def test_a_token_that_the_server_refuses_is_replaced(
    ours: Installation, fresh_identity: Identity, postbox: Postbox
) -> None:
    """It may have been revoked; the next one is fresh, and stored for everybody."""
    quay = ours.quay()
    ours.sign_in(quay, fresh_identity, ALICE)
    tries(quay)
    first = postbox.tokens[-1]
    # Its time is over for the provider, and not for the store's clock.
    fresh_identity.offset = 4000.0
    refreshes = fresh_identity.refreshes()
    later = ours.quay(clock=lambda: fresh_identity.now() - 2000.0)

    tries(later)

    assert postbox.tokens[-2] == first
    assert postbox.tokens[-1] != first
    assert fresh_identity.refreshes() == refreshes + 1


def test_an_application_sends_on_its_own(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity, postbox: Postbox
) -> None:
    """AUTH=app: nobody signs in, and the mailbox named in FROM is the one that the server is told."""
    ours.environ |= {
        "ENTRA__CLIENT_ID": fresh_identity.robot_id,
        "ENTRA__CLIENT_SECRET": fresh_identity.robot_secret,
        "MAILBOX__ALICE__AUTH": "password",
        "MAILBOX__ALICE__PASSWORD": dovecot.passwords[ALICE],
    }
    forwarding(ours, postbox, auth="app", **{"from": SUPPORT})
    dovecot.save(ALICE, numbered(1))
    quay = ours.quay()

    assert pulled_and_delivered(quay) == []
    assert [posted.user for posted in postbox.taken] == [SUPPORT]
    assert [account.partition("@")[0] for account in quay.settings.accounts()] == [
        f"app:{fresh_identity.robot_id}"
    ]


def test_mail_is_added_to_a_shared_mailbox_with_the_tokens_of_an_account(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """Alice has full access to support@, and her sign-in opens it by IMAP."""
    with ImapFolder(dovecot, SUPPORT) as folder:
        said = folder.options | {"type": "imap", "account": ALICE}
        del said["password"]
        ours.environ |= {f"OUTPUT__FILED__{key.upper()}": str(value) for key, value in said.items()}
        ours.environ["MAILBOX__ALICE__OUTPUTS"] = "filed"
        dovecot.save(ALICE, numbered(1), flags="S")
        quay = ours.quay()
        ours.sign_in(quay, fresh_identity, ALICE)

        assert pulled_and_delivered(quay) == []
        assert len(folder.messages()) == 1


def test_a_real_submission_server_takes_the_sign_in(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """Dovecot's, by XOAUTH2 over STARTTLS and over TLS from the first byte. It relays nothing, and says so at MAIL FROM."""
    quay = ours.quay()
    ours.sign_in(quay, fresh_identity, ALICE)
    for tls, port in (("starttls", dovecot.submission_port), ("implicit", dovecot.submissions_port)):
        quay = ours.quay(OUTPUT__COPY__TLS=tls, OUTPUT__COPY__PORT=str(port))
        tries(quay)


def test_an_account_that_only_an_output_uses_is_an_account_like_others(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity, postbox: Postbox
) -> None:
    """It is signed in, listed, kept alive, alerted and checked."""
    forwarding(ours, postbox, account=BOB, **{"from": BOB})
    ours.on_dovecot("alice", dovecot, ALICE, outputs="copy", auth="password")
    quay = ours.quay()

    raised = alert(quay)
    assert [(one.id, one.mailboxes) for one in raised] == [(f"account.lost:{BOB}", ("output copy",))]
    assert usual_way(quay, BOB) == "device"
    ours.sign_in(quay, fresh_identity, BOB)
    assert [one.state for one in alert(quay)] == ["cleared"]
    listed = ours.run("tokens", "list", "--json")
    assert '"mailboxes":["output copy"]' in listed.stdout
    fresh_identity.offset = 8 * 86400.0
    assert keep_alive(ours.quay(clock=fresh_identity.now)) == [BOB]
    fresh_identity.offset = 0.0
    checked = ours.run("check", "--connect")
    assert "output copy: ok, signed in" in checked.stdout, checked.stdout + checked.stderr
    assert checked.returncode == 0


def test_check_says_why_an_output_cannot_sign_in(ours: Installation, dovecot: Dovecot) -> None:
    """Before any mail has come; and the exit code tells programs."""
    ours.on_dovecot("alice", dovecot, ALICE, outputs="copy", auth="password")
    checked = ours.run("check", "--connect")

    assert checked.returncode == 1
    assert f"output copy: nobody has signed in as {ALICE} yet. Run `mailquay login {ALICE}`" in checked.stdout


def test_check_prints_what_an_exchange_administrator_has_to_type_for_sending(
    ours: Installation, postbox: Postbox
) -> None:
    """SMTP AUTH is off for most mailboxes, and sending as somebody else is a right of its own."""
    forwarding(ours, postbox, provider="microsoft365", account=ALICE, **{"from": SUPPORT})
    printed = ours.run("check").stdout

    assert f"Add-RecipientPermission -Identity {SUPPORT} -Trustee {ALICE} -AccessRights SendAs" in printed
    assert f"Set-CASMailbox -Identity {ALICE} -SmtpClientAuthenticationDisabled $false" in printed

    robot = {"ENTRA__CLIENT_ID": "app", "ENTRA__CLIENT_SECRET": "x" * 8, "MAILBOX__ALICE__CLIENT_ID": "app"}
    forwarding(ours, postbox, provider="microsoft365", auth="app", username=ALICE, **{"from": SUPPORT})
    printed = ours.run("check", **robot).stdout
    assert "permissions SMTP.SendAsApp of Office 365 Exchange Online." in printed
    assert f"Add-MailboxPermission -Identity {ALICE} -User $ObjectId -AccessRights FullAccess" in printed
    assert f"Add-RecipientPermission -Identity {SUPPORT} -Trustee $ObjectId -AccessRights SendAs" in printed


def test_an_output_that_no_application_signs_in_for_is_a_problem_of_the_configuration(
    ours: Installation,
) -> None:
    """Named by the variable that a person has to touch."""
    for key in list(ours.environ):
        if key.startswith(("ENTRA__", "MAILBOX__")):
            del ours.environ[key]

    with pytest.raises(ConfigurationError, match="OUTPUT__COPY__AUTH: no app registration"):
        ours.quay()


def test_an_output_uses_the_app_registration_of_its_accounts_mailbox(ours: Installation) -> None:
    """An account belongs to one application: what a mailbox says of it counts for outputs too."""
    ours.environ |= {"MAILBOX__ALICE__CLIENT_ID": "another", "MAILBOX__ALICE__TENANT": "elsewhere.example"}
    settings = ours.quay().settings
    (signer,) = settings.output_signers

    assert settings.registration(signer) == settings.registration(settings.mailboxes["alice"])
    assert settings.registration(signer).client_id == "another"
    assert signer.scopes == (SEND,)
