"""The configuration as a whole: what it becomes, and what is said of everything that is wrong with it."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import Field, field_validator, model_validator

from pipelines.output import OutputOptions
from pipelines.outputs.jsonl import JsonlOutput
from pipelines.registry import output_types
from worker.errors import ConfigurationError
from worker.every import Every
from worker.reference import SECTIONS
from worker.registration import Entra
from worker.settings import MAILBOX_FIELDS, General, Settings, load

CLIENT = "11111111-2222-3333-4444-555555555555"
CRM = {"OUTPUT__CRM__TYPE": "jsonl", "OUTPUT__CRM__PATH": "mail.jsonl"}


def box(name: str, **keys: str) -> dict[str, str]:
    """The variables of a mailbox with the fewest keys, and these; an empty value takes a key away."""
    plain = {
        "HOST": "mail.example",
        "ADDRESS": "a@b.example",
        "PASSWORD": secrets.token_hex(),
        "OUTPUTS": "crm",
    }
    return {f"MAILBOX__{name}__{key}": value for key, value in (plain | keys).items()}


def settings(cwd: Path, **environ: str) -> Settings:
    return load(CRM | environ, cwd=cwd)


def problems(cwd: Path, **environ: str) -> dict[str, str]:
    """Sentence by variable; nothing is said twice."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ, cwd=cwd)
    assert len(set(caught.value.problems)) == len(caught.value.problems)
    return {problem.variable: problem.sentence for problem in caught.value.problems}


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
    assert found.sweep_every == timedelta(seconds=10)


def test_general_settings_are_read(tmp_path: Path) -> None:
    """Sizes, durations, choices and paths arrive as natural types."""
    (tmp_path / "keys").write_text(Fernet.generate_key().decode())

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
        **box("A", PASSWORD=secret),
    )

    assert secret not in repr(found)
    assert found.mailboxes["a"].password is not None
    assert found.mailboxes["a"].password.get_secret_value() == secret


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
    for prefix, _, _, model in SECTIONS:
        environ |= {f"{prefix}{name.upper()}": f"{mark()} {mark()}" for name in model.model_fields}
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
        **box("A"),
        **box("B"),
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
    found = problems(tmp_path, **CRM, **box("SUPPORT"), **box("Support"))

    assert set(found) == box("Support").keys()


def test_an_unreadable_secret_file_is_a_problem(tmp_path: Path) -> None:
    """It names the variable with `_FILE`, and the password is not reported missing on top as if it were unset."""
    found = problems(tmp_path, **CRM, **box("A", PASSWORD="", PASSWORD_FILE="hunter2"))

    assert found == {
        "MAILBOX__A__PASSWORD_FILE": "the file it names cannot be read: no such file or directory"
    }


def test_a_missing_certificate_file_is_a_problem(tmp_path: Path) -> None:
    """CA_FILE is a path of its own; it has to lead somewhere."""
    assert problems(tmp_path, **CRM, **box("A", CA_FILE="ca.pem")) == {
        "MAILBOX__A__CA_FILE": "the file it names cannot be read: no such file or directory"
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
    ("keys", "variable", "sentence"),
    [
        ({"URL": "x"}, "OUTPUT__X__TYPE", "is required; the types are " + ", ".join(output_types())),
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
