"""Which application signs in for a mailbox, where, with what, and under which name its tokens are kept."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.bed.installation import Installation
from worker import state
from worker.errors import ConfigurationError, TokensUnreadable
from worker.settings import Settings, load
from worker.tokens import AccessToken, Certificate, Federated, Grant, Registration, Secret

ALICE = "alice@contoso.com"
OURS, OTHER = "11111111-2222-3333-4444-555555555555", "99999999-8888-7777-6666-555555555555"
CRM = {"OUTPUT__CRM__TYPE": "jsonl", "OUTPUT__CRM__PATH": "mail.jsonl"}
PRESETS = {
    "microsoft365": {"PROVIDER": "microsoft365"},
    "outlook": {"PROVIDER": "outlook"},
    "gmail": {"PROVIDER": "gmail"},
    "generic": {"PROVIDER": "generic", "HOST": "mail.example", "AUTH": "delegated"},
}


def box(name: str = "A", provider: str = "microsoft365", **keys: str) -> dict[str, str]:
    """The variables of a mailbox that signs in by OAuth, and these."""
    said = {"ADDRESS": ALICE, "OUTPUTS": "crm", **PRESETS[provider], **keys}
    return {f"MAILBOX__{name}__{key}": value for key, value in said.items()}


def settings(cwd: Path, **environ: str) -> Settings:
    return load(CRM | environ, cwd=cwd)


def registration(cwd: Path, **environ: str) -> Registration:
    """The one of mailbox `a`."""
    found = settings(cwd, **environ)
    return found.registration(found.mailboxes["a"])


def problems(cwd: Path, **environ: str) -> dict[str, str]:
    """Sentence by variable."""
    with pytest.raises(ConfigurationError) as caught:
        settings(cwd, **environ)
    return {problem.variable: problem.sentence for problem in caught.value.problems}


# -- Microsoft -----------------------------------------------------------------------------------------------------------

LOGIN = {
    "public": "https://login.microsoftonline.com",
    "gcc-high": "https://login.microsoftonline.us",
    "dod": "https://login.microsoftonline.us",
    "china": "https://login.partner.microsoftonline.cn",
}
MAIL = {
    "public": "outlook.office365.com",
    "gcc-high": "outlook.office365.us",
    "dod": "outlook-dod.office365.us",
    "china": "partner.outlook.cn",
}
RESOURCE = {
    # The one place where what a person and an application ask for differs.
    "public": ("https://outlook.office.com", "https://outlook.office365.com"),
    "gcc-high": ("https://outlook.office365.us",) * 2,
    "dod": ("https://outlook-dod.office365.us",) * 2,
    "china": ("https://partner.outlook.cn",) * 2,
}


@pytest.mark.parametrize("cloud", LOGIN)
def test_one_word_presets_everything_of_a_cloud(tmp_path: Path, cloud: str) -> None:
    """Address, server and scopes, as Microsoft's pages have them, for people and applications, IMAP and POP3."""
    found = settings(
        tmp_path,
        ENTRA__CLOUD=cloud.upper(),
        ENTRA__TENANT="contoso.onmicrosoft.com",
        ENTRA__CLIENT_ID=OURS,
        ENTRA__CLIENT_SECRET=secrets.token_hex(),
        **box("PI", PROTOCOL="imap"),
        **box("PP", PROTOCOL="pop3"),
        **box("AI", PROTOCOL="imap", AUTH="app"),
        **box("AP", PROTOCOL="pop3", AUTH="app"),
    )
    boxes = found.mailboxes
    person, application = RESOURCE[cloud]

    assert {name: found.scopes for name, found in boxes.items()} == {
        "pi": (f"{person}/IMAP.AccessAsUser.All",),
        "pp": (f"{person}/POP.AccessAsUser.All",),
        "ai": (f"{application}/.default",),
        "ap": (f"{application}/.default",),
    }
    assert {found.endpoint.host for found in boxes.values()} == {MAIL[cloud]}
    for mailbox in boxes.values():
        said = found.registration(mailbox)
        assert (said.name, said.client_id) == ("entra", OURS)
        assert said.authority == f"{LOGIN[cloud]}/contoso.onmicrosoft.com"
        assert said.username_claims == ("upn", "preferred_username")


@pytest.mark.parametrize(
    ("provider", "section", "keys", "tenant"),
    [
        ("microsoft365", {}, {}, "organizations"),
        ("microsoft365", {"TENANT": "contoso.com"}, {}, "contoso.com"),
        ("microsoft365", {"TENANT": "contoso.com"}, {"TENANT": "fabrikam.com"}, "fabrikam.com"),
        ("outlook", {}, {}, "consumers"),
        ("outlook", {"TENANT": "contoso.com"}, {}, "consumers"),
        ("outlook", {"TENANT": "contoso.com"}, {"TENANT": "common"}, "common"),
        ("generic", {"TENANT": "contoso.com"}, {}, "contoso.com"),
    ],
)
def test_the_nearest_tenant_counts(
    tmp_path: Path, provider: str, section: dict[str, str], keys: dict[str, str], tenant: str
) -> None:
    """The mailbox's own, then the one where all accounts of its provider live, then the section's."""
    said = {f"ENTRA__{key}": value for key, value in section.items()}

    found = registration(tmp_path, ENTRA__CLIENT_ID=OURS, **said, **box(provider=provider, **keys))

    assert found.authority == f"https://login.microsoftonline.com/{tenant}"


def test_an_authority_beats_cloud_and_tenants(tmp_path: Path) -> None:
    """For an identity provider of one's own that speaks Microsoft's dialect."""
    for provider in ("microsoft365", "outlook", "generic"):
        found = registration(
            tmp_path,
            ENTRA__CLIENT_ID=OURS,
            ENTRA__CLOUD="china",
            ENTRA__TENANT="contoso.com",
            ENTRA__AUTHORITY="https://login.example:8443/harbour/",
            **box(provider=provider, TENANT="fabrikam.com"),
        )
        assert found.authority == "https://login.example:8443/harbour"


# -- Google and others ---------------------------------------------------------------------------------------------------


def test_gmail_signs_in_at_google_with_a_secret(tmp_path: Path) -> None:
    """Google wants one of every application; its address is the name that it vouches for."""
    secret = secrets.token_hex()
    mailbox = box(provider="gmail")

    found = settings(tmp_path, GOOGLE__CLIENT_ID=OURS, GOOGLE__CLIENT_SECRET=secret, **mailbox)

    assert found.registration(found.mailboxes["a"]) == Registration(
        "google", OURS, "https://accounts.google.com", ("email",), Secret(secret)
    )
    assert found.mailboxes["a"].scopes == ("https://mail.google.com/", "email")
    sentence = problems(tmp_path, GOOGLE__CLIENT_ID=OURS, **mailbox)["MAILBOX__A__CLIENT_ID"]
    assert "Google needs one; set GOOGLE__CLIENT_SECRET_FILE" in sentence
    assert "nor GOOGLE__CLIENT_ID is set" in problems(tmp_path, **mailbox)["MAILBOX__A__CLIENT_ID"]


def test_any_other_provider_is_found_by_its_issuer(tmp_path: Path) -> None:
    """A public client will do; the claim that names a person is the operator's choice."""
    issuer = "https://id.example/realms/mail"
    section = {"OIDC__CLIENT_ID": OURS, "OIDC__ISSUER": issuer}

    found = registration(tmp_path, **section, **box(provider="generic"))
    other = registration(tmp_path, **section, OIDC__USERNAME_CLAIM="upn", **box(provider="generic"))

    assert found == Registration("oidc", OURS, issuer, ("email",))
    assert other.username_claims == ("upn",)


@pytest.mark.parametrize("written", ["", "/", "/.well-known/openid-configuration"])
def test_an_issuer_may_be_written_as_its_page_shows_it(tmp_path: Path, written: str) -> None:
    """With a slash behind it, or as the whole address of its discovery document."""
    issuer = "https://id.example/realms/mail"

    found = registration(
        tmp_path, OIDC__CLIENT_ID=OURS, OIDC__ISSUER=issuer + written, **box(provider="generic")
    )

    assert found.authority == issuer


def test_a_mailbox_may_have_an_issuer_of_its_own(tmp_path: Path) -> None:
    """It beats the section's, and there need be none."""
    own = box(provider="generic", ISSUER="https://own.example", REGISTRATION="oidc")

    for section in ({}, {"OIDC__ISSUER": "https://id.example"}):
        found = registration(tmp_path, OIDC__CLIENT_ID=OURS, **section, **own)
        assert found.authority == "https://own.example"


def test_without_an_issuer_nobody_can_be_asked(tmp_path: Path) -> None:
    """Said for the mailbox that needs it, and by the names of both variables."""
    found = problems(tmp_path, OIDC__CLIENT_ID=OURS, **box(provider="generic", REGISTRATION="oidc"))

    assert found == {"MAILBOX__A__CLIENT_ID": "no identity provider is named; set ISSUER or OIDC__ISSUER"}


@pytest.mark.parametrize(
    ("environ", "keys", "name"),
    [
        ({}, {}, "entra"),
        ({"OIDC__ISSUER": "https://id.example"}, {}, "oidc"),
        ({"OIDC__ISSUER": "https://id.example"}, {"REGISTRATION": "entra"}, "entra"),
        ({"OIDC__ISSUER": "https://id.example"}, {"REGISTRATION": "google"}, "google"),
        ({"OIDC__CLIENT_ID": OURS}, {}, "entra"),
    ],
)
def test_a_generic_mailbox_takes_the_provider_that_was_described(
    tmp_path: Path, environ: dict[str, str], keys: dict[str, str], name: str
) -> None:
    """An issuer is said for nobody else; what a mailbox says itself counts more."""
    mailbox = box(provider="generic", CLIENT_ID=OURS, CLIENT_SECRET=secrets.token_hex(), **keys)

    assert registration(tmp_path, **environ, **mailbox).name == name


@pytest.mark.parametrize("provider", ["microsoft365", "outlook", "gmail"])
def test_an_issuer_changes_nothing_for_a_provider_that_is_known(tmp_path: Path, provider: str) -> None:
    """Microsoft's and Google's accounts sign in where they live, unless the mailbox says that it does not."""
    mailbox = box(provider=provider, CLIENT_ID=OURS, CLIENT_SECRET=secrets.token_hex())
    section = {"OIDC__ISSUER": "https://id.example"}

    found = registration(tmp_path, **section, **mailbox)
    other = registration(tmp_path, **section, **mailbox, MAILBOX__A__REGISTRATION="oidc")

    assert found.name == ("google" if provider == "gmail" else "entra")
    assert (other.name, other.authority) == ("oidc", "https://id.example")


@pytest.mark.parametrize("section", ["ENTRA", "GOOGLE", "OIDC"])
def test_each_kind_may_trust_an_authority_of_its_own(tmp_path: Path, section: str) -> None:
    """A company's proxy, or a test's server; a path is one below the working directory."""
    (tmp_path / "ca.pem").write_text("x")
    environ = {f"{section}__CA_FILE": "ca.pem", "OIDC__ISSUER": "https://id.example"}
    keys = {"CLIENT_ID": OURS, "CLIENT_SECRET": secrets.token_hex(), "REGISTRATION": section.lower()}

    found = registration(tmp_path, **environ, **box(provider="generic", **keys))

    assert (found.name, found.ca_file) == (section.lower(), str(tmp_path / "ca.pem"))


# -- credentials ---------------------------------------------------------------------------------------------------------


def test_a_credential_is_a_secret_a_certificate_or_a_token_of_the_platform(tmp_path: Path) -> None:
    """Or nothing, for a public client; passwords and secrets do not show."""
    secret, password = secrets.token_hex(), secrets.token_hex()
    (tmp_path / "secret").write_text(f"{secret}\n")
    (tmp_path / "robot.pem").write_text("x")
    file = str(tmp_path / "robot.pem")

    for environ, expected in (
        ({}, None),
        ({"CLIENT_SECRET": secret}, Secret(secret)),
        ({"CLIENT_SECRET_FILE": "secret"}, Secret(secret)),
        ({"CERTIFICATE_FILE": "robot.pem"}, Certificate(file)),
        (
            {"CERTIFICATE_FILE": "robot.pem", "CERTIFICATE_PASSWORD": password},
            Certificate(file, password),
        ),
        # The platform may write it later.
        ({"FEDERATED_TOKEN_FILE": "run/token"}, Federated(str(tmp_path / "run" / "token"))),
    ):
        said = {f"ENTRA__{key}": value for key, value in environ.items()}
        found = registration(tmp_path, ENTRA__CLIENT_ID=OURS, **said, **box())
        assert found.credential == expected
        assert secret not in repr(found)
        assert password not in repr(found)


@pytest.mark.parametrize(
    "given",
    [
        ("CLIENT_SECRET", "CERTIFICATE_FILE"),
        ("CLIENT_SECRET", "FEDERATED_TOKEN_FILE"),
        ("CERTIFICATE_FILE", "FEDERATED_TOKEN_FILE"),
        ("CLIENT_SECRET", "CERTIFICATE_FILE", "FEDERATED_TOKEN_FILE"),
    ],
)
def test_two_credentials_at_once_are_refused(tmp_path: Path, given: tuple[str, ...]) -> None:
    """One would be used and the other one watched for its end."""
    (tmp_path / "robot.pem").write_text("x")
    found = problems(tmp_path, **{f"ENTRA__{key}": "robot.pem" for key in given})

    assert len(found) == 1
    assert "only one of" in next(iter(found.values()))


def test_an_application_of_a_mailboxs_own_does_not_get_the_sections_secret(tmp_path: Path) -> None:
    """It was given to another application, and would be shown to whoever runs this one's provider."""
    ours, theirs = secrets.token_hex(), secrets.token_hex()
    section = {"ENTRA__CLIENT_ID": OURS, "ENTRA__CLIENT_SECRET": ours}

    for keys, client, credential in (
        ({}, OURS, Secret(ours)),
        ({"CLIENT_ID": OURS}, OURS, Secret(ours)),
        ({"CLIENT_ID": OTHER}, OTHER, None),
        ({"CLIENT_ID": OTHER, "CLIENT_SECRET": theirs}, OTHER, Secret(theirs)),
        ({"CLIENT_SECRET": theirs}, OURS, Secret(theirs)),
    ):
        found = registration(tmp_path, **section, **box(**keys))
        assert (found.client_id, found.credential) == (client, credential), keys


def test_an_application_on_its_own_needs_a_credential(tmp_path: Path) -> None:
    """Nobody signs in for it, so it has to prove itself; any of the three will do."""
    (tmp_path / "robot.pem").write_text("x")
    app = {"ENTRA__CLIENT_ID": OURS, **box(AUTH="app")}

    for key in ("CLIENT_SECRET", "CERTIFICATE_FILE", "FEDERATED_TOKEN_FILE"):
        assert registration(tmp_path, **app, **{f"ENTRA__{key}": "robot.pem"}).credential is not None

    alone = problems(tmp_path, **app)
    other = problems(tmp_path, **app, ENTRA__CLIENT_SECRET="x", MAILBOX__A__CLIENT_ID=OTHER)
    for found in (alone, other):
        assert found.keys() == {"MAILBOX__A__CLIENT_ID"}
        assert "has no secret or certificate, and AUTH=app needs one" in found["MAILBOX__A__CLIENT_ID"]


def test_applications_at_two_issuers_with_one_path_are_two_accounts(tmp_path: Path) -> None:
    """A token of one must not go to the mail server of the other."""
    said = {
        "AUTH": "app",
        "SCOPES": "mail",
        "REGISTRATION": "oidc",
        "CLIENT_ID": OURS,
        "CLIENT_SECRET": secrets.token_hex(),
    }
    a, b = (
        box(name, provider="generic", ISSUER=f"https://{name.lower()}.example/realms/mail", **said)
        for name in "AB"
    )
    found = settings(tmp_path, **a, **b)
    assert found.account(found.mailboxes["a"]) != found.account(found.mailboxes["b"])


@pytest.mark.parametrize("section", ["ENTRA", "GOOGLE", "OIDC"])
def test_the_day_on_which_a_secret_ends_begins_at_midnight_utc(tmp_path: Path, section: str) -> None:
    """Of that day nobody can be sure any more. No provider tells it, so without it nothing is known."""
    environ = {f"{section}__CLIENT_ID": OURS, f"{section}__CLIENT_SECRET": secrets.token_hex()}
    mailbox = box(provider="generic", REGISTRATION=section.lower(), ISSUER="https://id.example")

    unknown = registration(tmp_path, **environ, **mailbox)
    found = registration(
        tmp_path, **environ, **mailbox, **{f"{section}__CLIENT_SECRET_EXPIRES": "2027-06-30"}
    )

    assert unknown.secret_ends_at is None
    assert found.secret_ends_at == datetime(2027, 6, 30, tzinfo=UTC).timestamp()


def test_each_secret_has_its_own_end(tmp_path: Path) -> None:
    """That of the section says nothing of a secret that a mailbox brings along, and the other way round."""
    section = {
        "ENTRA__CLIENT_ID": OURS,
        "ENTRA__CLIENT_SECRET": secrets.token_hex(),
        "ENTRA__CLIENT_SECRET_EXPIRES": "2027-06-30",
    }
    own = {"CLIENT_ID": OTHER, "CLIENT_SECRET": secrets.token_hex()}

    for keys, day in (
        ({}, 30),
        (own, None),
        ({"CLIENT_ID": OTHER}, None),
        (own | {"CLIENT_SECRET_EXPIRES": "2027-06-15"}, 15),
    ):
        expected = None if day is None else datetime(2027, 6, day, tzinfo=UTC).timestamp()
        assert registration(tmp_path, **section, **box(**keys)).secret_ends_at == expected, keys


# -- accounts ------------------------------------------------------------------------------------------------------------


def test_one_account_under_two_registrations_is_a_problem(tmp_path: Path) -> None:
    """They would take turns in throwing each other's sign-in away, without regard to case."""
    for keys in (
        {"CLIENT_ID": OTHER},
        {"TENANT": "fabrikam.com"},
        {"TENANT": "fabrikam.com", "CLIENT_ID": OTHER},
    ):
        found = problems(
            tmp_path, ENTRA__CLIENT_ID=OURS, **box("A"), **box("B", ADDRESS=ALICE.upper(), **keys)
        )
        assert found.keys() == {"MAILBOX__B__CLIENT_ID"}
        assert "than the mailbox a does; let both use one" in found["MAILBOX__B__CLIENT_ID"]


def test_one_application_that_is_proven_in_two_ways_is_a_problem(tmp_path: Path) -> None:
    """A wrong one would stop the mailboxes of the right one; the problem shows neither."""
    ours, theirs = secrets.token_hex(), secrets.token_hex()
    section = {"ENTRA__CLIENT_ID": OURS, "ENTRA__CLIENT_SECRET": ours}

    for auth in ("app", "delegated"):
        found = problems(tmp_path, **section, **box("A"), **box("B", AUTH=auth, CLIENT_SECRET=theirs))
        sentence = found.pop("MAILBOX__B__CLIENT_SECRET")
        assert found == {}
        assert "the mailbox a proves the same application with; let both use one" in sentence
        assert ours not in sentence
        assert theirs not in sentence


def test_two_accounts_or_an_application_beside_are_none(tmp_path: Path) -> None:
    """What is kept under another name cannot be overwritten; and a mailbox with a password has no tokens."""
    own = {"TENANT": "fabrikam.com", "CLIENT_ID": OTHER, "CLIENT_SECRET": secrets.token_hex()}

    found = settings(
        tmp_path,
        ENTRA__CLIENT_ID=OURS,
        **box("A"),
        **box("B", ADDRESS="bob@contoso.com", **own),
        **box("C", AUTH="app", **own),
        **box("D", provider="generic", AUTH="password", PASSWORD=secrets.token_hex()),
        **box("E", CLIENT_ID=OURS),
    )

    assert found.mailboxes.keys() == {"a", "b", "c", "d", "e"}


def test_mailboxes_are_grouped_by_who_signs_in(tmp_path: Path) -> None:
    """A shared mailbox belongs to the account that opens it; all that one application opens belong together."""
    found = settings(
        tmp_path,
        ENTRA__CLIENT_ID=OURS,
        ENTRA__TENANT="Contoso.com",
        ENTRA__CLIENT_SECRET=secrets.token_hex(),
        **box("OWN"),
        **box("SHARED", ADDRESS="support@contoso.com", ACCOUNT=ALICE.upper(), PROTOCOL="pop3"),
        **box("BOBS", ADDRESS="bob@contoso.com"),
        **box("APP1", AUTH="app"),
        **box("APP2", AUTH="app", ADDRESS="sales@contoso.com", PROTOCOL="pop3"),
        **box("FAR", AUTH="app", TENANT="fabrikam.com"),
        **box("PLAIN", provider="generic", AUTH="password", PASSWORD=secrets.token_hex()),
    )

    grouped = {account: [one.name for one in boxes] for account, boxes in found.accounts().items()}

    assert grouped == {
        ALICE: ["own", "shared"],
        "bob@contoso.com": ["bobs"],
        f"app:{OURS}@contoso.com": ["app1", "app2"],
        f"app:{OURS}@fabrikam.com": ["far"],
    }
    assert found.account(found.mailboxes["shared"]) == ALICE.upper()
    assert found.account(found.mailboxes["app2"]) == f"app:{OURS}@Contoso.com"


def test_an_application_at_an_issuer_without_a_path_is_kept_by_the_whole_address(tmp_path: Path) -> None:
    """There is no tenant to tell it by, and an empty name would be that of every such issuer."""
    said = {"AUTH": "app", "SCOPES": "mail", "CLIENT_ID": OURS, "CLIENT_SECRET": secrets.token_hex()}

    found = settings(tmp_path, OIDC__ISSUER="https://id.example", **box(provider="generic", **said))

    assert found.account(found.mailboxes["a"]) == f"app:{OURS}@https://id.example"


# -- tokens at rest ------------------------------------------------------------------------------------------------------


def grant_of(refresh: str, access: str) -> Grant:
    return Grant(refresh, {"mail": AccessToken(access, 2.0, 1.0)})


def kept(installation: Installation, grant: Grant, **environ: str) -> tuple[str, bytes]:
    """Store Alice's grant with a quay of these settings: all that Redis and the folder then hold of it."""
    quay = installation.quay(**environ)
    assert quay.token_store.swap(ALICE, grant, read=quay.token_store.glance(ALICE).version, now=1.0)
    assert quay.token_store.load(ALICE).grant == grant
    files = [path.read_bytes() for path in installation.folder.rglob("*") if path.is_file()]
    return str(quay.client.hgetall(state.token_key(ALICE))), b"".join(files)


def test_tokens_are_sealed_with_a_key_that_is_not_in_redis(installation: Installation) -> None:
    """Unless anybody says otherwise: neither Redis nor a file holds one that can be read."""
    for environ in ({}, {"DANGEROUSLY_STORE_TOKENS_IN_CLEAR": "no"}):
        refresh, access = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        in_redis, in_files = kept(installation, grant_of(refresh, access), **environ)
        for token in (refresh, access):
            assert token not in in_redis
            assert token.encode() not in in_files
        key = (installation.folder / "data" / "token_keys").read_text().strip()
        assert len(key) == 44
        assert key not in in_redis


def test_tokens_are_readable_in_redis_where_that_was_asked_for(installation: Installation) -> None:
    """With the long name; and whoever has not asked for it does not believe what he finds so."""
    # Not made by `secrets`: what that makes is looked for in every file, and here it is stored in clear on purpose.
    refresh, access = os.urandom(24).hex(), os.urandom(24).hex()

    in_redis, _ = kept(installation, grant_of(refresh, access), DANGEROUSLY_STORE_TOKENS_IN_CLEAR="yes")

    assert refresh in in_redis
    assert access in in_redis
    with pytest.raises(TokensUnreadable, match="DANGEROUSLY_STORE_TOKENS_IN_CLEAR is off"):
        installation.quay().token_store.load(ALICE)


def test_what_was_sealed_before_opens_where_tokens_are_stored_in_clear(installation: Installation) -> None:
    """Turning it on loses no sign-in, and needs no key once the grant was stored anew."""
    grant = Grant("a cache without a token")
    kept(installation, grant)

    quay = installation.quay(DANGEROUSLY_STORE_TOKENS_IN_CLEAR="yes")
    assert quay.token_store.load(ALICE).grant == grant
    assert quay.token_store.reseal(ALICE)
    (installation.folder / "data" / "token_keys").unlink()

    assert installation.quay(DANGEROUSLY_STORE_TOKENS_IN_CLEAR="yes").token_store.load(ALICE).grant == grant
