"""The whole configuration as checked, unchangeable values, or every problem with it at once.

`load` is the only way in. A problem names the variable that a person has to touch and never shows a value, because a
secret may have landed in the wrong place. Nothing here connects to anything: whether a server answers and a password is
right is for `mailquay check --connect` to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from pipelines.options import ByteSize, Duration, Flag, Names, Options
from pipelines.output import Output, OutputOptions
from pipelines.registry import PluginError, load_output, load_stage, output_types, stage_types
from pipelines.stage import Stage, StageOptions
from worker import env
from worker.env import Entry, Section
from worker.errors import ConfigurationError, Problem, TokensUnreadable
from worker.mailbox import LocalFile, LocalPath, Mailbox, Text, lower
from worker.registration import Entra, Google, Oidc, registration_for, registration_problems
from worker.signer import OutputSigner, Signer, output_signers
from worker.spool_settings import SpoolSettings
from worker.terms import OutputTerms
from worker.tokens import Registration

__all__ = [
    "Entra",
    "General",
    "Mailbox",
    "OutputSettings",
    "Registration",
    "Settings",
    "StageSettings",
    "load",
]

M = TypeVar("M", bound=Options)
T = TypeVar("T")

MAILBOX_FIELDS = Mailbox.model_fields.keys() - {"name"}


def _redis_url(url: str) -> str:
    scheme, separator, _ = url.lower().partition("://")
    try:
        address = urlsplit(url)
        several = any(mark in address.netloc.rpartition("@")[2] for mark in ",;")
        _ = several or address.port
    except ValueError:
        raise ValueError("is not a URL; write special characters of its password as %XX") from None
    if several or "sentinel" in scheme or "cluster" in scheme:
        raise ValueError("names a Sentinel or a cluster, which is not supported; name one Redis server")
    if not separator or scheme not in {"redis", "rediss", "unix", "redis+socket"}:
        raise ValueError("must begin with redis://, rediss://, unix:// or redis+socket://")
    return url


def _token_keys(path: Path) -> Path:
    from worker.tokens.seal import KeyFile, Seal

    try:
        Seal(KeyFile(path, create=False)).seal("", "")
    except TokensUnreadable:
        raise ValueError(
            "the file must hold Fernet keys, one a line, newest first; make one with `mailquay tokens new-key --print`"
        ) from None
    return path


def _broker_url(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        raise ValueError("must be a URL, such as redis://127.0.0.1:6379/1")
    return _redis_url(url) if "redis" in scheme.lower() or "sentinel" in scheme.lower() else url


class General(SpoolSettings):
    """The variables without a prefix; those of the spool are its own."""

    redis_url: Annotated[Text, AfterValidator(_redis_url)] | None = Field(
        default=None,
        repr=False,
        description="Redis that holds leases, checkpoints and tokens. Unset: an embedded Valkey in DATA_DIR.",
        examples=["redis://127.0.0.1:6379/0"],
    )
    broker_url: Annotated[Text, AfterValidator(_broker_url)] | None = Field(
        default=None,
        repr=False,
        description="Broker that carries Celery's messages. Unset: REDIS_URL.",
        examples=["redis://127.0.0.1:6379/1"],
    )
    data_dir: LocalPath = Field(
        default=Path("data"),
        validate_default=True,
        description="Folder of the embedded Valkey and, unless SPOOL_URL says otherwise, of the spool.",
        examples=["/data"],
    )
    token_keys_file: Annotated[LocalFile, AfterValidator(_token_keys)] | None = Field(
        default=None,
        description="File of the keys that seal tokens, newest first. Unset: DATA_DIR/token_keys, made on first use.",
        examples=["/run/secrets/token_keys"],
    )
    dangerously_store_tokens_in_clear: Flag = Field(
        default=False,
        description="Store tokens where whoever reads Redis, or a backup of it, can use them.",
    )
    keep_alive_after: Duration = Field(
        default=timedelta(days=7),
        ge=timedelta(hours=1),
        le=timedelta(days=60),
        description="An account whose token was not renewed for so long is renewed, pulled or not.",
        examples=["3d"],
    )
    batch_messages: int = Field(
        default=64, ge=1, le=1000, description="Most messages in one batch.", examples=[200]
    )
    batch_size: ByteSize = Field(
        default=16 * 2**20,
        ge=1,
        description="Most bytes in one batch; a larger message is a batch of its own.",
        examples=["64MiB"],
    )
    message_max: ByteSize = Field(
        default=256 * 2**20, ge=1, description="Largest message that is pulled.", examples=["150MB"]
    )
    pull_concurrency: int = Field(
        default=4, ge=1, le=1000, description="Mailboxes that one worker pulls at a time.", examples=[16]
    )
    deliver_concurrency: int = Field(
        default=2, ge=1, le=1000, description="Batches that one worker delivers at a time.", examples=[4]
    )
    host_connections: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Mailboxes of one mail server that are pulled at a time, by all workers together.",
        examples=[10],
    )
    host_logins: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="Logins a second to one mail server, by all workers and watchers together.",
        examples=[50],
    )
    lease_ttl: Duration = Field(
        default=timedelta(seconds=60),
        ge=timedelta(seconds=2),
        description="How long the mailbox or batch of a process that died stays out of reach for others.",
        examples=["30s"],
    )
    pull_limit: Duration = Field(
        default=timedelta(minutes=10),
        ge=timedelta(seconds=10),
        description="Longest time one pull may take; a large mailbox is pulled in several.",
        examples=["30m"],
    )
    sweep_every: Duration = Field(
        default=timedelta(seconds=10),
        ge=timedelta(seconds=1),
        description="How often batches that are due and forgotten are looked for.",
        examples=["1m"],
    )
    stalled_after: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=1),
        description="A worker that finishes nothing while work waits for so long is reported as unhealthy.",
        examples=["10m"],
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = Field(
        default="info", description="Least important event that is logged.", examples=["debug"]
    )
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(lower)] = Field(
        default="auto", description="`auto` is console on a terminal and json elsewhere.", examples=["json"]
    )
    mailbox_dir: LocalPath | None = Field(
        default=None,
        description="Folder with one env file a mailbox: HOST in `support.env` is MAILBOX__SUPPORT__HOST.",
        examples=["/etc/mailquay/mailboxes"],
    )
    env_file: Names = Field(
        default=(".env",),
        description="Files to read variables from; a later one beats an earlier one. Process environment only.",
        examples=["/etc/mailquay/env,/etc/mailquay/secrets.env"],
    )


def _as_webhook(**said: object) -> None:
    """Check with the words of the webhook output, which does the posting."""
    try:
        load_output("webhook").Options.model_validate(said)
    except ValidationError as invalid:
        raise ValueError(invalid.errors(include_url=False, include_input=False)[0]["msg"]) from None


def _alert_url(url: str) -> str:
    _as_webhook(url=url)
    return url


def _alert_secret(secret: SecretStr) -> SecretStr:
    _as_webhook(url="https://localhost", secret=secret)
    return secret


class Alert(Options):
    """Where people are told that a mailbox has lost its access, or will; always a log event, and a webhook as well."""

    url: Annotated[Text, AfterValidator(_alert_url)] | None = Field(
        default=None,
        description="Address that each alert is posted to when it is raised and when it is cleared.",
        examples=["https://chat.example/hooks/mail"],
    )
    secret: Annotated[SecretStr, AfterValidator(_alert_secret)] | None = Field(
        default=None,
        description="Secret of the Standard Webhooks signature; better in a file named by SECRET_FILE.",
    )
    days: int = Field(
        default=14, ge=1, le=60, description="How many days ahead an end is announced.", examples=[30]
    )


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """One configured output: its class is found by `type`, and `options` and `terms` are checked."""

    name: str
    type: str
    options: OutputOptions
    terms: OutputTerms


@dataclass(frozen=True, slots=True)
class StageSettings:
    """One configured stage: its class is found by `type`, and `options` are checked."""

    name: str
    type: str
    options: StageOptions


class Settings(General):
    """Everything that Mailquay was told. Without any mailbox it is valid too: the program says what to do next."""

    entra: Entra = Entra()
    google: Google = Google()
    oidc: Oidc = Oidc()
    alert: Alert = Alert()
    mailboxes: Mapping[str, Mailbox] = Field(default_factory=dict)
    outputs: Mapping[str, OutputSettings] = Field(default_factory=dict)
    stages: Mapping[str, StageSettings] = Field(default_factory=dict)

    @cached_property
    def output_signers(self) -> tuple[OutputSigner, ...]:
        """The outputs that sign in with OAuth 2.0."""
        options = {name: said.options for name, said in self.outputs.items()}
        found = output_signers(
            options, self.mailboxes.values(), cloud=self.entra.cloud, oidc=self.oidc.issuer is not None
        )
        return tuple(found)

    @property
    def signers(self) -> Iterable[Signer]:
        """The mailboxes, and the outputs that sign in with OAuth 2.0."""
        yield from self.mailboxes.values()
        yield from self.output_signers

    def registration(self, mailbox: Signer) -> Registration:
        """Say which application signs in for `mailbox`, where, and with what.

        Raises:
            Misconfigured: none does, which `load` lets pass only for AUTH=password.
        """
        return registration_for(mailbox, entra=self.entra, google=self.google, oidc=self.oidc)

    def account(self, mailbox: Signer) -> str:
        """The name under which the tokens of `mailbox` are kept: a person's, or the application's own."""
        if mailbox.auth != "app":
            return mailbox.account
        said = self.registration(mailbox)
        # A tenant's name says enough; elsewhere two issuers may differ in the host alone.
        where = said.authority.rpartition("/")[2] if said.name == "entra" else said.authority
        return f"app:{said.client_id}@{where}"

    def accounts(self) -> dict[str, list[Signer]]:
        """Everybody who signs in with OAuth, without regard to case, with the mailboxes and then the outputs."""
        found: dict[str, list[Signer]] = {}
        for mailbox in self.signers:
            if mailbox.auth != "password":
                found.setdefault(self.account(mailbox).casefold(), []).append(mailbox)
        return found


def load(environ: Mapping[str, str], *, cwd: Path) -> Settings:
    """Read and check the whole configuration; relative paths start at `cwd`.

    Raises:
        ConfigurationError: with every problem there is, each once, in `problems`.
    """
    environment = env.read(environ, cwd=cwd, names={name.upper() for name in General.model_fields})
    checks = _Checks(environment, cwd=cwd)
    general = checks.section_model("", General)
    entra = checks.section_model("ENTRA__", Entra)
    google = checks.section_model("GOOGLE__", Google)
    oidc = checks.section_model("OIDC__", Oidc)
    alert = checks.section_model("ALERT__", Alert)
    checks.context |= {"cloud": entra.cloud if entra else "public", "oidc": bool(oidc and oidc.issuer)}
    outputs = checks.plugins(
        "OUTPUT", OutputSettings, load=load_output, types=output_types(), terms=OutputTerms
    )
    stages = checks.plugins("STAGE", StageSettings, load=load_stage, types=stage_types())
    mailboxes = checks.mailboxes(checks.said(checks.section("MAILBOX_DEFAULTS__"), MAILBOX_FIELDS))
    if entra and google and oidc:
        signing = {name: said.options for name, said in outputs.items()}
        there = output_signers(signing, mailboxes.values(), cloud=entra.cloud, oidc=oidc.issuer is not None)
        signers: list[Signer] = [*mailboxes.values(), *there]
        checks.problems += registration_problems(signers, entra=entra, google=google, oidc=oidc)
    if checks.problems or general is None or entra is None or google is None or oidc is None or alert is None:
        raise ConfigurationError(tuple(dict.fromkeys(checks.problems)))
    return Settings(
        **dict(general),
        entra=entra,
        google=google,
        oidc=oidc,
        alert=alert,
        mailboxes=mailboxes,
        outputs=outputs,
        stages=stages,
    )


class _Checks:
    """Checks section after section against its model, and remembers every problem."""

    def __init__(self, environment: env.Environment, *, cwd: Path) -> None:
        self.values = environment.values
        self.problems = list(environment.problems)
        self.cwd = cwd
        # What validators have to know beside the section that they check.
        self.context: dict[str, Any] = {"cwd": cwd}

    def section(self, prefix: str) -> Section:
        """The entries behind one prefix; those without any are behind the empty one."""
        entries = {
            key.removeprefix(prefix): entry
            for key, entry in self.values.items()
            if (key.startswith(prefix) if prefix else not key.startswith(env.PREFIXES))
        }
        return Section(prefix, entries)

    def named(self, kind: str) -> dict[str, Section]:
        sections, problems = env.named(self.values, kind)
        self.problems += problems
        return sections

    def said(self, section: Section, fields: Collection[str]) -> dict[str, Entry]:
        said, problems = env.resolve(section, fields, cwd=self.cwd)
        self.problems += problems
        return said

    def section_model(self, prefix: str, model: type[M]) -> M | None:
        """Build the model of the section behind `prefix`."""
        return self.model(model, self.said(self.section(prefix), model.model_fields), prefix=prefix)

    def model(self, model: type[M], said: Mapping[str, Entry], *, prefix: str, **given: object) -> M | None:
        """Build a model from what was said and given, or remember everything that speaks against it."""
        values = {field: entry.value for field, entry in said.items()}
        try:
            return model.model_validate(values | given, context=self.context)
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False, include_input=False, include_context=False)
        for error in errors:
            field = str(error["loc"][0]) if error["loc"] else "type"
            entry = said.get(field, Entry(f"{prefix}{field.upper()}", ""))
            # A default that follows from other values is not looked for when one of those is wrong, and a field
            # whose file could not be read is not missing.
            unread = field not in said and any(
                it.variable == f"{entry.variable}_FILE" for it in self.problems
            )
            if unread or error["type"] == "default_factory_not_called":
                continue
            sentence = _sentence(error, model=model)
            # An output or stage from elsewhere may quote what it was given.
            if not model.__module__.startswith(("worker.", "pipelines.")) and _quotes(
                sentence, values.values()
            ):
                sentence = "is not valid"
            self.problems.append(entry.problem(sentence))
        return None

    def plugins(
        self,
        kind: str,
        make: Callable[..., T],
        *,
        load: Callable[[str], type[Output | Stage]],
        types: Collection[str],
        **beside: type[Options],
    ) -> dict[str, T]:
        """The outputs or the stages, each with the options that its own class declares, and models that go `beside` them."""
        found: dict[str, T] = {}
        sections = self.named(kind)
        self.context[f"{kind.lower()}s"] = sections.keys()
        for name, section in sections.items():
            early = {key: entry for key, entry in section.entries.items() if key in {"TYPE", "TYPE_FILE"}}
            chosen = self.said(Section(section.prefix, early), ["type"]).get("type")
            if chosen is None:
                sentence = f"is required; the types are {', '.join(types)}, or package.module:Class"
                self.problems.append(Problem(f"{section.prefix}TYPE", sentence))
                continue
            try:
                model = load(chosen.value).Options
            except PluginError as error:
                self.problems.append(chosen.problem(str(error)))
                continue
            models = {"options": model, **beside}
            fields = [field for one in models.values() for field in one.model_fields]
            said = self.said(section, ["type", *fields])
            made = {
                kind: self.model(
                    one,
                    {field: entry for field, entry in said.items() if field in one.model_fields},
                    prefix=section.prefix,
                )
                for kind, one in models.items()
            }
            if None not in made.values():
                found[name] = make(name, chosen.value, **made)
        return found

    def mailboxes(self, shared: Mapping[str, Entry]) -> dict[str, Mailbox]:
        """The mailboxes, each with what all of them share where it says nothing itself."""
        found: dict[str, Mailbox] = {}
        for name, section in self.named("MAILBOX").items():
            said = {**shared, **self.said(section, MAILBOX_FIELDS)}
            mailbox = self.model(Mailbox, said, prefix=section.prefix, name=name)
            if mailbox is not None:
                found[name] = mailbox
        return found


def _sentence(error: ErrorDetails, *, model: type[Options]) -> str:
    """What is wrong with one field, in words."""
    match error["type"]:
        case "missing":
            return f"is required: {model.model_fields[str(error['loc'][0])].description}"
        case "int_parsing":
            return "must be a whole number"
        case "too_short":
            return "must name at least one"
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _quotes(sentence: str, values: Iterable[str]) -> bool:
    # Very short values are words of any sentence, and no secrets.
    return any(len(value) > 3 and value in sentence for value in values)
