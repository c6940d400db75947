"""The configuration as a whole: what it becomes, and what is said of everything that is wrong with it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery.schedules import crontab
from pydantic import Field, field_validator, model_validator

from pipelines.output import OutputOptions
from pipelines.outputs.jsonl import JsonlOutput
from worker.errors import ConfigurationError, Misconfigured
from worker.every import Every
from worker.mailbox import After, Since
from worker.settings import MAILBOX_FIELDS, Entra, General, Mailbox, Settings, load
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
    """Sentence by variable; the sentences hold none of the longer values."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ, cwd=cwd)
    return {problem.variable: problem.sentence for problem in caught.value.problems}


def wrong(cwd: Path, **keys: str) -> dict[str, str]:
    """What is wrong with a plain mailbox that also says these keys; an empty value takes a key away."""
    keys = {f"MAILBOX__A__{key}": value for key, value in (plain() | keys).items()}
    found = problems(cwd, **CRM, **keys)
    return {variable.removeprefix("MAILBOX__A__"): sentence for variable, sentence in found.items()}


# What it becomes


def test_nothing_configured_is_valid(tmp_path: Path) -> None:
    """The program comes up without a mailbox and says what to do next."""
    found = load({}, cwd=tmp_path)

    assert (found.mailboxes, found.outputs, found.stages) == ({}, {}, {})
    assert found.redis_url is None
    assert found.data_dir == tmp_path / "data"
    assert found.token_keys_file is None
    assert found.entra == Entra()
    assert (found.batch_messages, found.batch_size, found.message_max) == (64, 16 * 2**20, 256 * 2**20)
    assert found.sweep_every == timedelta(seconds=30)


def test_general_settings_are_read(tmp_path: Path) -> None:
    """Sizes, durations, choices and paths arrive as natural types."""
    (tmp_path / "keys").write_text("x")

    found = load(
        {
            "REDIS_URL": "rediss://:secret@cache.example:6380/2",
            "DATA_DIR": "/srv/mail",
            "TOKEN_KEYS_FILE": "keys",
            "BATCH_SIZE": "25MB",
            "SWEEP_EVERY": "2m",
            "LOG_FORMAT": "JSON",
        },
        cwd=tmp_path,
    )

    assert found.redis_url == "rediss://:secret@cache.example:6380/2"
    assert found.data_dir == Path("/srv/mail")
    assert found.token_keys_file == tmp_path / "keys"
    assert found.batch_size == 25_000_000
    assert found.sweep_every == timedelta(minutes=2)
    assert found.log_format == "json"


def test_secrets_do_not_show_in_the_repr(tmp_path: Path) -> None:
    """A traceback with local variables, or a careless print, gives nothing away."""
    secret = secrets.token_hex()

    found = settings(
        tmp_path,
        REDIS_URL=f"redis://:{secret}@127.0.0.1/0",
        BROKER_URL=f"amqp://user:{secret}@127.0.0.1/",
        **{f"MAILBOX__A__{key}": value for key, value in (plain() | {"PASSWORD": secret}).items()},
    )

    assert secret not in repr(found)
    assert found.mailboxes["a"].password is not None
    assert found.mailboxes["a"].password.get_secret_value() == secret


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
    assert found.registration(box).ca_file == tmp_path / "ca.pem"
    assert box.endpoint.ca_file == str(tmp_path / "ca.pem")
    assert box.scopes == ("https://outlook.office.com/IMAP.AccessAsUser.All",)
    assert other.scopes == ("mail.read", "mail.more")


def test_a_mailbox_with_a_password_has_no_registration(tmp_path: Path) -> None:
    """Asking for one is the program's mistake, and it is told which mailbox it was."""
    found = settings(tmp_path, **{f"MAILBOX__A__{key}": value for key, value in plain().items()})

    with pytest.raises(Misconfigured, match=r"^a: no app registration"):
        found.registration(found.mailboxes["a"])


def test_mailbox_defaults_fill_what_a_mailbox_does_not_say(tmp_path: Path) -> None:
    """A mailbox beats the defaults, also when it says it in a file."""
    (tmp_path / "secret").write_text("own\n")
    both = {"HOST": "mail.example", "OUTPUTS": "crm"}

    found = settings(
        tmp_path,
        MAILBOX_DEFAULTS__EVERY="5m",
        MAILBOX_DEFAULTS__PASSWORD="shared",
        MAILBOX__A__ADDRESS="a@b.example",
        MAILBOX__A__EVERY="90s",
        MAILBOX__A__PASSWORD_FILE="secret",
        MAILBOX__B__ADDRESS="b@b.example",
        **{f"MAILBOX_DEFAULTS__{key}": value for key, value in both.items()},
    ).mailboxes

    assert (found["a"].every, found["b"].every) == (Every(seconds=90), Every(seconds=300))
    assert [box.password.get_secret_value() for box in found.values() if box.password] == ["own", "shared"]


def test_outputs_and_stages_get_the_options_of_their_own_class(tmp_path: Path) -> None:
    """The type decides which keys there are; `package.module:Class` names a class that is not registered."""
    found = settings(
        tmp_path,
        OUTPUT__HOOK__TYPE="webhook",
        OUTPUT__HOOK__URL="https://crm.example/hooks",
        OUTPUT__OWN__TYPE="pipelines.outputs.jsonl:JsonlOutput",
        OUTPUT__OWN__PATH="x.jsonl",
        STAGE__AUTO__TYPE="automatic",
    )

    assert [(out.name, out.type) for out in found.outputs.values()] == [
        ("crm", "jsonl"),
        ("hook", "webhook"),
        ("own", "pipelines.outputs.jsonl:JsonlOutput"),
    ]
    assert isinstance(found.outputs["own"].options, JsonlOutput.Options)
    assert found.stages["auto"].type == "automatic"


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    """What was checked stays what it was."""
    found = load({}, cwd=tmp_path)

    with pytest.raises(ValueError, match="frozen"):
        found.batch_messages = 1


# What is wrong


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Every station adds its own: files, general settings, registration, outputs, stages, mailboxes."""
    (tmp_path / ".env").write_text("REDIS_URI=x\n")

    found = problems(
        tmp_path,
        LOG_LEVEL="loud",
        BATCH_MESSAGES="many",
        ENTRA__AUTHORITY="nowhere",
        OUTPUT__CRM__TYPE="webhok",
        OUTPUT__JSON__TYPE="jsonl",
        STAGE__S__KIND="automatic",
        MAILBOX__A__PROVIDER="gmial",
        MAILBOX__A__PORT="0",
        MAILBOX__A__OUTPUTS="crm,crn",
        MAILBOX__B__HSOT="mail.example",
        MAILBOX__B__EVERY="often",
        MAILBOX__B__OUTPUTS="json",
    )

    assert set(found) == {
        "REDIS_URI",
        "LOG_LEVEL",
        "BATCH_MESSAGES",
        "ENTRA__AUTHORITY",
        "OUTPUT__CRM__TYPE",
        "OUTPUT__JSON__PATH",
        "STAGE__S__TYPE",
        "MAILBOX__A__PROVIDER",
        "MAILBOX__A__PORT",
        "MAILBOX__A__ADDRESS",
        "MAILBOX__A__OUTPUTS",
        "MAILBOX__B__HSOT",
        "MAILBOX__B__EVERY",
        "MAILBOX__B__ADDRESS",
        "MAILBOX__B__HOST",
        "MAILBOX__B__PASSWORD",
    }


def test_no_problem_shows_a_value(tmp_path: Path) -> None:
    """Every key of every section is wrong, each with a secret in it; the text holds none of them."""
    marks: list[str] = []

    def mark() -> str:
        marks.append(f"mark{secrets.token_hex(8)}")
        return marks[-1]

    general = General.model_fields.keys() - {"env_file", "mailbox_dir"}
    environ = {name.upper(): mark() for name in general}
    environ |= {f"ENTRA__{name.upper()}": f"{mark()} {mark()}" for name in Entra.model_fields}
    for prefix in ("MAILBOX__A__", "MAILBOX__B__", "MAILBOX_DEFAULTS__"):
        environ |= {f"{prefix}{name.upper()}": mark() for name in MAILBOX_FIELDS}
    environ |= {f"MAILBOX__C__{name.upper()}_FILE": mark() for name in MAILBOX_FIELDS}
    environ |= {
        "MAILBOX__D__NONSENSE": mark(),
        "MAILBOX__E__FOLDERS": f"{mark()}\n{mark()}",
        "MAILBOX_DIR": mark(),
    }
    environ |= {
        "OUTPUT__A__TYPE": mark(),
        "OUTPUT__B__TYPE": f"json:{mark()}",
        "OUTPUT__C__TYPE": f"{mark()}:X",
    }
    environ |= {f"OUTPUT__D__{key}": mark() for key in ("URL", "SECRET", "TIMEOUT", "NONSENSE")}
    environ |= {
        "OUTPUT__D__TYPE": "webhook",
        "STAGE__A__TYPE": mark(),
        "STAGE__B__TYPE": "automatic",
        "STAGE__B__X": mark(),
    }
    (tmp_path / ".env").write_text(f"REDIS_URI={mark()}\nMAILBOX__A__HOST='{mark()}\n")

    with pytest.raises(ConfigurationError) as caught:
        load(environ, cwd=tmp_path)

    text = f"{caught.value}\n{caught.value!r}\n{caught.value.problems!r}"
    assert len(caught.value.problems) > 40
    assert [found for found in marks if found in text] == []
    assert caught.value.__context__ is None


class QuotingOptions(OutputOptions):
    """Options whose author repeats what he was given."""

    token: str = Field(default="", description="Quoted, one by one.")
    other: str = Field(default="", description="Quoted with the whole.")

    @field_validator("token")
    @classmethod
    def check_token(cls, token: str) -> str:
        raise ValueError(f"{token} is not a token")

    @model_validator(mode="after")
    def check_all(self) -> QuotingOptions:
        raise ValueError(f"{self.other} does not fit")


class QuotingOutput(JsonlOutput):
    """An output from elsewhere, named by module and class."""

    Options = QuotingOptions


@pytest.mark.parametrize("key", ["TOKEN", "OTHER"])
def test_an_output_from_elsewhere_cannot_show_a_value_either(tmp_path: Path, key: str) -> None:
    """Its own words are used only when they do not quote what they were given."""
    found = problems(tmp_path, OUTPUT__X__TYPE=f"{__name__}:QuotingOutput", **{f"OUTPUT__X__{key}": "s3cret"})

    assert found == {"OUTPUT__X__TYPE" if key == "OTHER" else "OUTPUT__X__TOKEN": "is not valid"}


def test_a_value_that_a_default_gives_is_a_problem_of_the_default(tmp_path: Path) -> None:
    """The variable to touch is MAILBOX_DEFAULTS__EVERY, and it is named once for all mailboxes."""
    found = problems(
        tmp_path,
        **CRM,
        MAILBOX_DEFAULTS__EVERY="often",
        **{f"MAILBOX__A__{key}": value for key, value in plain().items()},
        **{f"MAILBOX__B__{key}": value for key, value in plain().items()},
    )

    assert list(found) == ["MAILBOX_DEFAULTS__EVERY"]


def test_a_problem_names_the_file_that_holds_the_variable(tmp_path: Path) -> None:
    """Fifty mailbox files are searched by nobody."""
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/support.env").write_text(
        "HOST=mail.example\nADDRESS=a@b.example\nPASSWORD=x\nOUTPUTS=crm\nPORT=x\n"
    )

    found = problems(tmp_path, **CRM, MAILBOX_DIR="boxes")

    assert found == {"MAILBOX__SUPPORT__PORT": "must be a whole number (in boxes/support.env)"}


def test_two_mailboxes_with_one_name_are_a_problem(tmp_path: Path) -> None:
    """Also when both are complete."""
    found = problems(
        tmp_path,
        **CRM,
        **{f"MAILBOX__SUPPORT__{key}": value for key, value in plain().items()},
        **{f"MAILBOX__Support__{key}": value for key, value in plain().items()},
    )

    assert set(found) == {f"MAILBOX__Support__{key}" for key in plain()}


def test_an_unreadable_secret_file_is_a_problem(tmp_path: Path) -> None:
    """It names the variable with `_FILE`, and the password is not reported missing on top as if it were unset."""
    found = wrong(tmp_path, PASSWORD="", PASSWORD_FILE="hunter2")

    assert found["PASSWORD_FILE"] == "the file it names cannot be read: no such file or directory"


def test_a_missing_certificate_file_is_a_problem(tmp_path: Path) -> None:
    """CA_FILE is a path of its own; it has to lead somewhere."""
    assert wrong(tmp_path, CA_FILE="ca.pem") == {
        "CA_FILE": "the file it names cannot be read: no such file or directory"
    }


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("sentinel://a:1;sentinel://b:2", "one Redis server"),
        ("redis+sentinel://a:26379/mymaster", "one Redis server"),
        ("redis+cluster://a:6379", "one Redis server"),
        ("redis://a:6379,b:6379/0", "one Redis server"),
        ("redis://:pass/word@a:6379/0", "%XX"),
        ("http://a", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("redis", "must begin with redis://"),
    ],
)
def test_a_redis_that_is_not_supported_is_refused(tmp_path: Path, url: str, remedy: str) -> None:
    """Sentinel, clusters and what is no address of Redis at all."""
    assert remedy in problems(tmp_path, REDIS_URL=url)["REDIS_URL"]


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://:p%2Fw@h:1/0", "unix:///run/redis.sock", "redis+socket:///x"]
)
def test_a_redis_that_is_supported_is_accepted(tmp_path: Path, url: str) -> None:
    """By TCP, by TLS and by socket, in both spellings."""
    assert load({"REDIS_URL": url}, cwd=tmp_path).redis_url == url


@pytest.mark.parametrize("url", ["amqp://u:p@h//", "redis://h/1"])
def test_the_broker_may_be_another_one(tmp_path: Path, url: str) -> None:
    """Celery's own transports pass; what is no URL does not."""
    assert load({"BROKER_URL": url}, cwd=tmp_path).broker_url == url
    assert "must be a URL" in problems(tmp_path, BROKER_URL="rabbit")["BROKER_URL"]
    assert "one Redis server" in problems(tmp_path, BROKER_URL="sentinel://h")["BROKER_URL"]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("BATCH_MESSAGES", "1001", "must be less than or equal to 1000"),
        ("BATCH_MESSAGES", "0", "must be greater than or equal to 1"),
        ("BATCH_SIZE", "big", "write a number and a unit"),
        ("SWEEP_EVERY", "10ms", "must be greater than or equal to 1 second"),
        ("LOG_LEVEL", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
        ("ENTRA__AUTHORITY", "http://login.example/t", "must be a whole address"),
        ("ENTRA__AUTHORITY", "https://login.example/", "must be a whole address"),
        ("ENTRA__TENANT", "con toso", "must be a domain"),
        ("ENTRA__CLIENTID", "x", "did you mean ENTRA__CLIENT_ID?"),
    ],
)
def test_a_wrong_general_setting_is_a_problem(tmp_path: Path, key: str, value: str, sentence: str) -> None:
    """The sentence says what would be right."""
    assert sentence in problems(tmp_path, **{key: value})[key]


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
        ({"AUTH": "delegated", "PASSWORD": ""}, "CLIENT_ID", "nor is ENTRA__CLIENT_ID"),
        ({"AUTH": "app"}, "AUTH", "not available yet with this provider; set password or delegated"),
        ({"AUTH": "oauth"}, "AUTH", "must be 'delegated', 'app' or 'password'"),
        ({"PROVIDER": "gmail"}, "AUTH", "not available yet with this provider; set password"),
        (
            {"PROVIDER": "microsoft365", "AUTH": "app"},
            "AUTH",
            "not available yet with this provider; set delegated",
        ),
        ({"PROVIDER": "microsoft365", "AUTH": "password"}, "AUTH", "does not let a mailbox sign in this way"),
        ({"PROVIDER": "outlook", "AUTH": "password"}, "AUTH", "does not let a mailbox sign in this way"),
        ({"PROTOCOL": "pop3", "FOLDERS": "INBOX,Sent"}, "FOLDERS", "POP3 knows only INBOX"),
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


@pytest.mark.parametrize(
    ("keys", "variable", "sentence"),
    [
        ({"URL": "x"}, "OUTPUT__X__TYPE", "is required; the types are jsonl, maildir, webhook"),
        ({"TYPE": "jsonl"}, "OUTPUT__X__PATH", "is required"),
        ({"TYPE": "jsonl", "PATH": "x", "PAHT": "x"}, "OUTPUT__X__PAHT", "did you mean OUTPUT__X__PATH?"),
        ({"TYPE": "json"}, "OUTPUT__X__TYPE", "did you mean jsonl"),
        ({"TYPE": "no.such.module:Class"}, "OUTPUT__X__TYPE", "cannot be found"),
        ({"TYPE": "webhook", "URL": "ftp://x"}, "OUTPUT__X__URL", ""),
    ],
)
def test_a_wrong_output_is_a_problem(
    tmp_path: Path, keys: dict[str, str], variable: str, sentence: str
) -> None:
    """The keys of an output are those of its type."""
    found = problems(tmp_path, **{f"OUTPUT__X__{key}": value for key, value in keys.items()})

    assert set(found) == {variable}
    assert sentence in found[variable]


# EVERY, SINCE and AFTER


@pytest.mark.parametrize(
    "line", ["* * * * *", "*/15 6-20 * * mon-fri", "0 22-2 1,15 jan,jul 0", "5-50/9 */2 29 feb *"]
)
def test_a_cron_line_means_to_celery_what_it_means_here(tmp_path: Path, line: str) -> None:
    """The schedule is Celery's: what passes here is understood there."""
    every = mailbox(tmp_path, EVERY=f" {line.upper()} ").every

    assert every == Every(cron=line)
    minute, hour, day, month, weekday = line.split()
    crontab(minute=minute, hour=hour, day_of_month=day, month_of_year=month, day_of_week=weekday)


@pytest.mark.parametrize(
    "line",
    [
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 7",
        "a * * * *",
    ]
    + [
        "*/0 * * * *",
        "*/ * * * *",
        "1- * * * *",
        "-1 * * * *",
        "5/10 * * * *",
        ", * * * *",
        "* * 31 feb,apr *",
    ]
    + ["* * * mon *", "١ * * * *", "every 5 minutes"],
)
def test_a_line_that_is_no_cron_line_is_a_problem(tmp_path: Path, line: str) -> None:
    """A schedule that never comes, or that Celery would refuse, does not pass."""
    assert set(wrong(tmp_path, EVERY=line)) == {"EVERY"}


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
