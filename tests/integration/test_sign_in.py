"""Every way to sign in, with the real MSAL, then a real Dovecot that takes the token by IMAP, POP3 and SMTP.

At the local Entra, which is stricter than the true one; other providers are in `test_sign_in_elsewhere.py`.
"""

from __future__ import annotations

import base64
import json
import smtplib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509 import load_pem_x509_certificate

from pipelines import sasl
from tests.bed.browser import answer_in
from tests.bed.clients import trusting
from tests.bed.dovecot import Dovecot
from tests.bed.errands import opens_every_mailbox
from tests.bed.identity import Identity
from tests.bed.installation import Installation
from worker.demo.harbour import ALICE, BOB, SUPPORT
from worker.demo.identity import Settings
from worker.errors import (
    MailquayError,
    Misconfigured,
    NeedsAdmin,
    NeedsSignIn,
    RegistrationRefused,
    SignInDoubtful,
)
from worker.login import logged_in
from worker.pull import pull
from worker.quay import Quay
from worker.sign_in import (
    Begun,
    begin_code,
    begin_device_code,
    by_device_code,
    finish_code,
    finish_device_code,
)
from worker.tokens import entra


@pytest.fixture(autouse=True)
def _forget_http() -> None:
    """Each test meets providers that this process has never asked."""
    entra._HTTP_CACHE.clear()


@pytest.fixture
def ours(installation: Installation, dovecot: Dovecot, fresh_identity: Identity) -> Installation:
    """Alice's own mailbox by IMAP and the shared one by POP3, both by her sign-in at the local Entra."""
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("alice", dovecot, ALICE, auth="delegated")
    installation.on_dovecot("support", dovecot, SUPPORT, protocol="pop3", auth="delegated", account=ALICE)
    return installation


def stored_accounts(quay: Quay) -> list[str]:
    return quay.token_store.accounts()


# -- the four flows ------------------------------------------------------------------------------------------------


def test_device_code_at_entra_opens_the_own_and_the_shared_mailbox(
    ours: Installation, fresh_identity: Identity
) -> None:
    """One sign-in of one account serves every mailbox that names it, whatever its address and protocol."""
    quay = ours.quay()
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))

    assert stored_accounts(quay) == [ALICE]
    assert opens_every_mailbox(quay)


def test_a_code_in_the_browser_at_entra(ours: Installation, fresh_identity: Identity) -> None:
    """Authorization code with PKCE, by a public client."""
    quay = ours.quay()
    begun = begin_code(quay, ALICE)
    assert dict(parse_qsl(urlsplit(begun.address).query))["code_challenge_method"] == "S256"

    finish_code(quay, begun, answer_in(fresh_identity.authorize(begun.address, ALICE)))

    assert opens_every_mailbox(quay)


# -- confidential clients at Entra -----------------------------------------------------------------------------------


def proven_by_secret(identity: Identity, folder: Path) -> dict[str, str]:
    (folder / "secret").write_text(f"{identity.robot_secret}\n")
    return {"CLIENT_SECRET_FILE": str(folder / "secret")}


def proven_by_pem(identity: Identity, folder: Path) -> dict[str, str]:
    (folder / "robot.pem").write_text(identity.robot_certificate)
    return {"CERTIFICATE_FILE": str(folder / "robot.pem")}


def proven_by_pfx(identity: Identity, folder: Path) -> dict[str, str]:
    pem = identity.robot_certificate.encode()
    key = load_pem_private_key(pem, None)
    password = identity.robot_secret
    (folder / "robot.pfx").write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"robot",
            key,  # type: ignore[arg-type]
            load_pem_x509_certificate(pem),
            None,
            BestAvailableEncryption(password.encode()),
        )
    )
    return {"CERTIFICATE_FILE": str(folder / "robot.pfx"), "CERTIFICATE_PASSWORD": password}


def proven_by_the_platform(identity: Identity, folder: Path) -> dict[str, str]:
    (folder / "workload.jwt").write_text(identity.federated_assertion())
    return {"FEDERATED_TOKEN_FILE": str(folder / "workload.jwt")}


PROOFS = [proven_by_secret, proven_by_pem, proven_by_pfx, proven_by_the_platform]
Proof = Callable[[Identity, Path], dict[str, str]]


@pytest.fixture(params=PROOFS, ids=lambda proof: proof.__name__)
def robot(request: pytest.FixtureRequest, ours: Installation, fresh_identity: Identity) -> Installation:
    """The same mailboxes, with the confidential client, proven in each way that there is."""
    proof: Proof = request.param
    said = {"CLIENT_ID": fresh_identity.robot_id, **proof(fresh_identity, ours.folder)}
    ours.environ |= {f"ENTRA__{key}": value for key, value in said.items()}
    return ours


def test_a_confidential_client_signs_people_in_and_keeps_them_so(
    robot: Installation, fresh_identity: Identity
) -> None:
    """A new password of the owner does not end its tokens, as it does those of a public client."""
    quay = robot.quay()
    with pytest.raises(Misconfigured, match="--browser"):
        begin_device_code(quay, ALICE)
    begun = begin_code(quay, ALICE)
    finish_code(quay, begun, answer_in(fresh_identity.authorize(begun.address, ALICE)))
    assert opens_every_mailbox(quay)

    mailbox = quay.settings.mailboxes["alice"]
    quay.keeper(mailbox).renew(ALICE, mailbox.scopes)
    assert opens_every_mailbox(quay)


def test_an_application_on_its_own_opens_mailboxes_over_every_protocol(
    robot: Installation, dovecot: Dovecot
) -> None:
    """AUTH=app: IMAP, POP3 and SMTP take the same token, which all mailboxes share."""
    robot.on_dovecot("imap", dovecot, SUPPORT, auth="app")
    robot.on_dovecot("pop3", dovecot, SUPPORT, protocol="pop3", auth="app")
    for name in ("alice", "support"):
        robot.environ[f"MAILBOX__{name.upper()}__ENABLED"] = "no"
    quay = robot.quay()
    boxes = quay.settings.mailboxes
    for name in ("imap", "pop3"):
        assert pull(quay, boxes[name], ring=lambda _: None).trouble is None

    assert [account for account in stored_accounts(quay) if account.startswith("app:")] == stored_accounts(
        quay
    )
    account = quay.settings.account(boxes["imap"])
    assert account == quay.settings.account(boxes["pop3"])
    token = quay.keeper(boxes["imap"]).access(account, boxes["imap"].scopes)
    assert submission_says(dovecot, SUPPORT, token.secret) == 235


def submission_says(dovecot: Dovecot, user: str, token: str) -> int:
    """How a real submission server answers a token, sent by the standard library."""
    message = sasl.payload("XOAUTH2", user, token, host="localhost", port=dovecot.submissions_port)
    with smtplib.SMTP_SSL(
        "localhost", dovecot.submissions_port, context=trusting(dovecot.ca_file), timeout=10
    ) as server:
        server.ehlo()
        code, _ = server.docmd("AUTH", "XOAUTH2")
        assert code == 334
        code, _ = server.docmd(base64.b64encode(message).decode())
        return code


# -- who signs in ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["device", "code"])
def sign_in_as(request: pytest.FixtureRequest, fresh_identity: Identity) -> Callable[[Quay, str], None]:
    """Begin a sign-in for Alice, and let somebody answer it."""

    def device(quay: Quay, who: str) -> None:
        by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, who))

    def code(quay: Quay, who: str) -> None:
        begun = begin_code(quay, ALICE)
        finish_code(quay, begun, answer_in(fresh_identity.authorize(begun.address, who)))

    return device if request.param == "device" else code


def test_the_wrong_person_is_refused_and_nothing_is_stored(
    ours: Installation, sign_in_as: Callable[[Quay, str], None]
) -> None:
    """Bob at Alice's prompt would have her mailbox pulled with his token, or his mail taken for hers."""
    quay = ours.quay()
    with pytest.raises(NeedsSignIn, match=f"{BOB} signed in, but this sign-in is for {ALICE}"):
        sign_in_as(quay, BOB)
    assert stored_accounts(quay) == []

    sign_in_as(quay, ALICE)
    before = quay.token_store.load(ALICE)
    with pytest.raises(NeedsSignIn, match=BOB):
        sign_in_as(quay, BOB)
    assert quay.token_store.load(ALICE) == before


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "another-application"}, "for another application"),
        ({"exp": 1}, "out of its time"),
        ({"preferred_username": "", "upn": ""}, "does not say who signed in"),
    ],
)
def test_an_id_token_that_vouches_for_nobody_is_refused(
    ours: Installation,
    fresh_identity: Identity,
    sign_in_as: Callable[[Quay, str], None],
    claims: dict[str, object],
    words: str,
) -> None:
    """MSAL does not look at any of this since 1.38."""
    fresh_identity.provider.settings = Settings(claims=claims)
    quay = ours.quay()

    with pytest.raises(MailquayError, match=words):
        sign_in_as(quay, ALICE)

    assert stored_accounts(quay) == []


def test_an_address_that_is_no_user_principal_name_opens_by_its_other_names(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """ADDRESS is what people write to, ACCOUNT who signs in, USERNAME what the server calls the mailbox."""
    alias = "helpdesk@harbour.example"
    ours.on_dovecot("help", dovecot, alias, auth="delegated", account=ALICE, username=SUPPORT)
    quay = ours.quay()
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))

    assert opens_every_mailbox(quay)
    unnamed = ours.quay(MAILBOX__HELP__USERNAME=alias)
    assert not opens_every_mailbox(unnamed)


def test_an_answer_to_another_sign_in_is_refused(ours: Installation, fresh_identity: Identity) -> None:
    """Somebody who makes the person open a prepared address would plant his own account (RFC 6749 section 10.12)."""
    quay = ours.quay()
    mine, other = begin_code(quay, ALICE), begin_code(quay, ALICE)
    location = fresh_identity.authorize(other.address, ALICE)

    with pytest.raises(NeedsSignIn, match="belongs to another sign-in"):
        finish_code(quay, mine, answer_in(location))

    assert stored_accounts(quay) == []


def test_a_declined_sign_in_stores_nothing(ours: Installation, fresh_identity: Identity) -> None:
    """In the browser and by code; and a code that nobody approves ends with whoever gives up."""
    quay = ours.quay()
    begun = begin_code(quay, ALICE)
    location = fresh_identity.authorize(begun.address, ALICE, "decline")
    with pytest.raises(NeedsSignIn, match="was declined"):
        finish_code(quay, begun, answer_in(location))

    pending = begin_device_code(quay, ALICE)
    fresh_identity.decide(pending.user_code, ALICE, decision="deny")
    with pytest.raises(NeedsSignIn, match="was declined"):
        finish_device_code(quay, pending)

    late = begin_device_code(quay, ALICE)
    with pytest.raises(NeedsSignIn, match="nobody approved"):
        finish_device_code(quay, late, give_up=lambda: True)
    assert stored_accounts(quay) == []


def test_a_sign_in_that_is_begun_in_one_process_can_be_finished_in_another(
    ours: Installation, fresh_identity: Identity
) -> None:
    """A web page begins it at one request and ends it at the next; what lies between is plain JSON, and a secret."""
    begun = begin_code(ours.quay(), ALICE, redirect_uri="http://localhost:8123/back")
    assert begun.flow["code_verifier"] not in repr(begun)
    kept = json.dumps(asdict(begun))
    location = fresh_identity.authorize(begun.address, ALICE)
    assert location.startswith("http://localhost:8123/back?")
    quay = ours.quay()

    finish_code(quay, Begun(**json.loads(kept)), answer_in(location))

    assert opens_every_mailbox(quay)


# -- what providers refuse ---------------------------------------------------------------------------------------------


def test_a_wrong_secret_is_the_operators(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """Not the owner's: no amount of signing in mends it. It is asked about once in an hour, not at every poll."""
    ours.on_dovecot(
        "box", dovecot, SUPPORT, auth="app", client_id=fresh_identity.robot_id, client_secret="wrong"
    )
    quay = ours.quay()
    for _ in range(5):
        trouble = pull(quay, quay.settings.mailboxes["box"], ring=lambda _: None).trouble
        assert isinstance(trouble, RegistrationRefused)
        assert "the client secret is wrong" in trouble.sentence
        assert trouble.who == "operator"

    assert fresh_identity.provider.counts()["client_credentials:invalid_client"] == 1


def test_a_policy_that_blocks_device_codes_is_the_administrators(
    ours: Installation, fresh_identity: Identity
) -> None:
    """Microsoft recommends to block them; the sentence names the way that is left."""
    fresh_identity.provider.settings = Settings(device_code_blocked=True)
    with pytest.raises(NeedsAdmin, match=r"AADSTS53003.*--browser"):
        by_device_code(ours.quay(), ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))


def test_a_mailbox_waits_for_its_owner_and_goes_on_within_one_poll_of_his_sign_in(
    ours: Installation, fresh_identity: Identity
) -> None:
    """Between, each poll looks into Redis and asks nobody; status holds the sentence that he needs."""
    quay = ours.quay(clock=fresh_identity.now)
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))
    box = quay.settings.mailboxes["alice"]
    fresh_identity.provider.revoke(ALICE)
    fresh_identity.offset = 3600
    assert isinstance(pull(quay, box, ring=lambda _: None).trouble, SignInDoubtful)
    fresh_identity.offset += 3600
    assert isinstance(pull(quay, box, ring=lambda _: None).trouble, NeedsSignIn)
    fresh_identity.provider.requests.clear()

    for _ in range(5):
        assert isinstance(pull(quay, box, ring=lambda _: None).trouble, NeedsSignIn)
    assert not fresh_identity.provider.requests
    standing = quay.standings.of("alice")
    assert (standing.state, f"mailquay login {ALICE}" in standing.sentence) == ("needs sign-in", True)

    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))
    assert pull(quay, box, ring=lambda _: None).trouble is None
    assert quay.standings.of("alice").state == "ok"


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def a_browser(ours: Installation, fresh_identity: Identity) -> str:
    """A program that does what a person does in a browser, as the variable BROWSER names it."""
    script = ours.folder / "browser.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.bed.browser import Browser\n"
        f"with Browser(Path({str(fresh_identity.ca_file)!r})) as browser:\n"
        "    page = browser.open(sys.argv[1])\n"
        f"    page = browser.submit(page, upn={ALICE!r}, decision='accept')\n"
        "    assert 'has arrived' in browser.submit(page).text\n"
    )
    return f"{sys.executable} {script} %s"


def test_login_in_the_browser(ours: Installation, a_browser: str) -> None:
    """It listens on loopback, opens the browser, and takes the form that the provider posts."""
    done = ours.run("login", ALICE, "--browser", BROWSER=a_browser)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{ALICE} is signed in.\n")
    assert opens_every_mailbox(ours.quay())


def test_login_by_pasting_the_address(ours: Installation, fresh_identity: Identity) -> None:
    """For a machine without a browser: the address goes out, and where it led comes back."""
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "login", ALICE, "--paste"],
        cwd=ours.folder,
        env=ours.full_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    shown = next(line for line in process.stdout if line.startswith("https://")).strip()
    location = fresh_identity.authorize(shown, ALICE)
    assert location.startswith("http://localhost?")
    said, _ = process.communicate(f"{location}\n", timeout=20)

    assert process.returncode == 0
    assert said.endswith(f"{ALICE} is signed in.\n")
    assert opens_every_mailbox(ours.quay())


# -- using the token ---------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_said_of_a_refused_token(
    ours: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """The server gives no reason. A token for POP3 that is tried at IMAP is decoded; it is never shown."""
    ours.on_dovecot(
        "wrong", dovecot, BOB, auth="delegated", scopes="https://outlook.office.com/POP.AccessAsUser.All"
    )
    quay = ours.quay()
    by_device_code(quay, BOB, show=lambda _, code: fresh_identity.decide(code, BOB))
    box = quay.settings.mailboxes["wrong"]
    token = quay.keeper(box).access(BOB, box.scopes).secret

    with (
        pytest.raises(
            MailquayError, match=r"The token does not fit: it lacks IMAP\.AccessAsUser\.All"
        ) as caught,
        logged_in(quay, box),
    ):
        pass

    assert "POP.AccessAsUser.All" in str(caught.value)
    assert token not in str(caught.value)
