"""What the pages about signing in say is what the program does: their settings load, their commands run, their tables hold."""

from __future__ import annotations

import base64
import importlib
import os
import re
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

import click
import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity, self_signed
from tests.bed.installation import Installation, numbered
from tests.bed.valkey import Valkey
from worker import alert, errors
from worker.cli import VERBS
from worker.demo.harbour import ALICE
from worker.demo.identity import refusals
from worker.errors import AccountTrouble, MailquayError, RegistrationRefused
from worker.pull import pull
from worker.reference import configuration
from worker.settings import Settings, load
from worker.tokens import Stored
from worker.tokens.aadsts import HELP
from worker.tokens.credential import ends_at
from worker.tokens.seal import KeyFile
from worker.tokens.verdict import judged, refusal

ROOT = Path(__file__).parent.parent
NAMES = ("sign-in", "microsoft365", "google", "other-providers")
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
EVERYTHING = {
    path: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
}
TENANT, ROBOT, SUPPORT = "contoso.onmicrosoft.com", "robot@contoso.com", "support@contoso.com"
# Words in capitals that stand in code spans and are nobody's settings of ours.
FOREIGN = {"XOAUTH2", "OAUTHBEARER", "AZURE_FEDERATED_TOKEN_FILE", "REDIRECT_URI"}


def section(page: str, title: str) -> str:
    """The text under the heading of the second level that begins like this."""
    found = re.search(rf"^## {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def fences(text: str) -> list[tuple[str, str]]:
    """Language and content of every block of code, in order, whether or not it stands within a list."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(content)) for _, language, content in found]


def settings_in(text: str) -> list[str]:
    """The blocks that show an .env file."""
    return [content for language, content in fences(text) if not language]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables, without heads."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [line.split(" | ") for line in lines if line.startswith("`")]


def spans(text: str) -> list[str]:
    """What stands in code spans."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def with_its_files(text: str, folder: Path) -> Settings:
    """Load an .env file as it stands; the files of secrets and certificates are made, as its reader makes them."""
    for key, value in re.findall(r"^(\w+_FILE)=(.+)$", text, re.MULTILINE):
        if not Path(value).is_absolute():
            (folder / value).parent.mkdir(exist_ok=True)
            secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
            (folder / value).write_text(self_signed()[0] if "CERTIFICATE" in key else secret)
    (folder / ".env").write_text(text, encoding="utf-8")
    return load({}, cwd=folder)


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_that_a_page_names_exists(name: str) -> None:
    """In blocks and in prose; a key of a mailbox or an output may be named without its prefix, a secret with _FILE behind it."""
    known = set(re.findall(r"^\| `(\w+)` \|", configuration(), re.MULTILINE))
    text = PAGES[name]
    named = {span.partition("=")[0] for span in spans(text) if re.fullmatch(r"[A-Z][A-Z0-9_]+(=.*)?", span)}
    named |= set(re.findall(r"^(\w+)=", "\n".join(settings_in(text)), re.MULTILINE))
    named = {word for word in named - FOREIGN if not word.startswith("AADSTS")}

    assert len(named) > 5
    for word in named:
        generic = re.sub(r"^(MAILBOX|OUTPUT)(__[A-Z]+|_DEFAULTS)__", r"\1__NAME__", word)
        generic = re.sub(r"^OUTPUT__NAME__TYPE$", "OUTPUT__NAME__PATH", generic)
        said = {generic, f"MAILBOX__NAME__{generic}", f"OUTPUT__NAME__{generic}"}
        assert known & (said | {one.removesuffix("_FILE") for one in said}), word


@pytest.mark.parametrize("path", [*PAGES, "README"])
def test_every_command_that_a_page_names_exists(path: str) -> None:
    """Verb, part of a verb, and options."""
    text = PAGES.get(path) or (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(
        r"\bmailquay ([a-z][^`\n|]*)", "\n".join([*spans(text), *(c for _, c in fences(text))])
    )

    assert commands
    for command in commands:
        verb, *words = command.split()
        assert verb in VERBS, command
        found: click.Command = importlib.import_module(f"worker.cli.{verb}").command
        if isinstance(found, click.Group) and words and not words[0].startswith("-"):
            assert words[0] in found.commands, command
            found = found.commands[words[0]]
        options = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, command


def _anchors(text: str) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_between_pages_leads_somewhere() -> None:
    """To a file that is there, and to a heading that it has; pictures too."""
    broken = []
    for path, text in EVERYTHING.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if urlsplit(link).scheme:
                continue
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            if not target.exists() or (anchor and anchor not in _anchors(target.read_text(encoding="utf-8"))):
                broken.append(f"{path.name}: {link}")

    assert broken == []


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=name) for name in NAMES for text in settings_in(PAGES[name])]
)
def test_every_block_of_settings_loads(text: str, tmp_path: Path) -> None:
    """As it stands, alone, in an .env file of its own."""
    said = with_its_files(text, tmp_path)

    for mailbox in said.mailboxes.values():
        if mailbox.auth != "password":
            assert said.account(mailbox)


def test_the_certificate_is_made_by_the_lines_that_the_page_gives(tmp_path: Path) -> None:
    """Copied as they stand; Mailquay reads the file and sees that it lasts two years."""
    part = section(PAGES["microsoft365"], "A certificate")
    (tmp_path / "secrets").mkdir()
    (lines,) = [content for language, content in fences(part) if language == "sh"]
    subprocess.run(["sh", "-e", "-c", lines], cwd=tmp_path, check=True, capture_output=True)
    (settings,) = settings_in(part)
    (tmp_path / ".env").write_text(settings)

    credential: Any = load({}, cwd=tmp_path).entra.credential

    assert (tmp_path / "secrets" / "mailquay.pem").stat().st_mode & 0o077 == 0
    days = (ends_at(credential) - (tmp_path / "secrets" / "mailquay.crt").stat().st_mtime) / 86400
    assert days == pytest.approx(730, abs=1)


# -- states ----------------------------------------------------------------------------------------------------------


def _kinds() -> set[type[MailquayError]]:
    found = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MailquayError)
    }
    return found - {MailquayError, AccountTrouble}


def _again(kind: type[MailquayError]) -> str:
    if kind.retried:
        return "by itself"
    if not issubclass(kind, AccountTrouble):
        return "every quarter of an hour"
    _, trouble = judged(kind("refused"), Stored(0), None, now=0.0)
    return {300.0: "every five minutes", 3600.0: "every hour"}[trouble.again_at]


def test_the_table_of_states_says_who_acts_and_when_it_is_tried_again() -> None:
    """Each state of worker.errors once, as the classes have it."""
    told = rows(section(PAGES["sign-in"], "Who must act"))

    assert {(state.strip("`"), who, again) for state, who, again, _ in told} == {
        (kind.state, kind.who, _again(kind)) for kind in _kinds()
    }
    assert len(told) == len({state for state, *_ in told})


def test_the_table_of_troubles_names_states_and_numbers_that_there_are() -> None:
    """A number that the local provider can say stands beside the state that it leads to."""
    reasons = {f"AADSTS{reason.number}": reason for reason in refusals.BY_NAME.values()}
    told = rows(section(PAGES["microsoft365"], "When something is wrong"))
    seen = 0

    for state, said, *_ in told:
        assert state.strip("`") in {kind.state for kind in _kinds()}
        for number in re.findall(r"AADSTS\d+", said):
            assert int(number.removeprefix("AADSTS")) in HELP, number
            if number in reasons:
                seen += 1
                answer = refusals.describe(reasons[number], now=0)
                assert refusal(ROBOT, answer, status=reasons[number].status).state == state.strip("`"), number
    assert seen > 8


def test_the_table_of_alerts_names_every_kind_and_the_states_that_alarm() -> None:
    """Of a mailbox those that wait for a person and are not its account's."""
    part = section(PAGES["sign-in"], "Alerts")
    told = {kind.strip("`"): when for kind, when, *_ in rows(part) if "." in kind}
    waiting = {kind.state for kind in _kinds() if not kind.retried and not issubclass(kind, AccountTrouble)}

    assert told.keys() == set(get_args(alert.Kind))
    assert set(re.findall("`([^`]+)`", told["mailbox.lost"])) == waiting


def test_the_alert_on_the_page_is_the_one_that_is_raised(installation: Installation) -> None:
    """Word for word, but for its moment, when nobody has signed in for two mailboxes that were polled."""
    part = section(PAGES["sign-in"], "Alerts")
    (text,) = [content for language, content in fences(part) if language == "json"]
    for name in ("orders", "support"):
        installation.mailbox(
            name, provider="microsoft365", address=f"{name}@contoso.com", account=ROBOT, outputs="lines"
        )
    quay = installation.quay(ENTRA__CLIENT_ID="none")
    for mailbox in quay.settings.mailboxes.values():
        pull(quay, mailbox, ring=lambda _: None)

    (raised,) = alert.alert(quay)

    assert replace(raised, since=0) == replace(alert.Alert.parse(text), since=0)
    fields = [name.strip("`") for name, *_ in rows(part) if "." not in name and name != "`json`"]
    assert fields == list(asdict(raised))


# -- the three ways at Microsoft ---------------------------------------------------------------------------------------


class Reader:
    """Somebody who follows the page: writes its .env, runs its commands, and answers as the owner of the account."""

    def __init__(self, folder: Path, environ: dict[str, str], identity: Identity) -> None:
        self._folder = folder
        self._environ = {**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": "true", **environ}
        self._identity = identity

    def run(self, command: str) -> str:
        """What a terminal shows of one command."""
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *command.split()[1:]],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Without a buffer, so that what was read line by line is not missing from what is read at once.
            bufsize=0,
        )
        assert process.stdout
        shown, typed = "", ""
        if " login " in command:
            for line in map(bytes.decode, process.stdout):
                shown += line
                if code := re.search(r"enter the code (\w+)", line):
                    self._identity.decide(code[1], ROBOT)
                elif line.startswith("https://"):
                    typed = self._identity.authorize(line.strip(), ROBOT)
                else:
                    continue
                break
        rest, _ = process.communicate(f"{typed}\n".encode() if "--paste" in command else None, timeout=60)
        # A terminal shows what was typed.
        return shown + rest.decode().replace("Address: ", f"Address: {typed}\n")


def _levelled(text: str) -> str:
    """What a command shows, without what differs from one run to the next."""
    text = re.sub(r"https?://\S+", "ADDRESS", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"enter the code \w+", "enter the code CODE", text)
    return re.sub(r"in [\d.]+ s", "in some s", text).strip()


@pytest.fixture
def contoso(fresh_identity: Identity, dovecot: Dovecot) -> Iterator[Identity]:
    """A provider that knows the people of the page, and a server with three messages in the shared mailbox."""
    provider = fresh_identity.provider
    provider.add_account(ROBOT, mailboxes=[SUPPORT])
    robot = provider.application(fresh_identity.robot_id)
    provider.applications[robot.client_id] = replace(robot, mailboxes={*robot.mailboxes, SUPPORT})
    dovecot.forget(SUPPORT)
    dovecot.save(SUPPORT, *(numbered(number) for number in range(3)))
    yield fresh_identity
    provider.accounts.discard(ROBOT)
    for mailbox in (ROBOT, SUPPORT):
        provider.full_access.pop(mailbox, None)


@pytest.mark.parametrize("way", ["1. ", "2. ", "3. "])
def test_the_way_leads_from_the_page_to_pulled_mail(
    way: str, contoso: Identity, dovecot: Dovecot, fresh_valkey: Valkey, tmp_path: Path
) -> None:
    """Settings and commands as they stand, only that the servers are here; each command shows what the page says."""
    part = section(PAGES["microsoft365"], way)
    (settings,) = settings_in(part)
    client_id = contoso.client_id if way == "1. " else contoso.robot_id
    (tmp_path / ".env").write_text(settings)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "entra").write_text(f"{contoso.robot_secret}\n")
    here = {
        "REDIS_URL": fresh_valkey.url,
        "ENTRA__AUTHORITY": contoso.authority,
        "ENTRA__CLIENT_ID": client_id,
        "ENTRA__CA_FILE": str(contoso.ca_file),
        "MAILBOX__SUPPORT__HOST": "localhost",
        "MAILBOX__SUPPORT__PORT": str(dovecot.imaps_port),
        "MAILBOX__SUPPORT__CA_FILE": str(dovecot.ca_file),
    }
    reader = Reader(tmp_path, here, contoso)
    blocks = fences(part)
    pairs = [
        (command.strip(), shown)
        for (language, command), (answer, shown) in pairwise(blocks)
        if (language, answer) == ("sh", "text")
    ]

    assert len(pairs) >= 3
    for command, shown in pairs:
        wanted, told = _levelled(shown), reader.run(command).replace(contoso.provider.tenant, TENANT)
        if wanted.endswith("\n…"):
            assert _levelled(told).startswith(wanted[:-1]), command
        else:
            assert _levelled(told) == wanted, command
    assert len((tmp_path / "data" / "mail.jsonl").read_text().splitlines()) == 3


# -- tokens, and programs ----------------------------------------------------------------------------------------------


@pytest.fixture
def alice(installation: Installation, dovecot: Dovecot, fresh_identity: Identity) -> Installation:
    """An installation whose one account is Alice."""
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("alice", dovecot, ALICE, auth="delegated")
    return installation


def test_keys_are_changed_by_the_lines_that_the_page_gives(
    alice: Installation, fresh_identity: Identity
) -> None:
    """Afterwards one key is left, it is a new one, and it opens the sign-in from before."""
    alice.sign_in(alice.quay(), fresh_identity, ALICE)
    keys = KeyFile(alice.folder / "data" / "token_keys", create=False)
    (before,) = keys()
    (lines,) = [
        c for language, c in fences(section(PAGES["sign-in"], "Where tokens are kept")) if language == "sh"
    ]
    program = f'mailquay() {{ {sys.executable} -m worker.cli "$@"; }}\n{lines}'
    subprocess.run(["sh", "-e", "-c", program], cwd=alice.folder, env=alice.full_environ(), check=True)

    (after,) = keys()
    assert before != after
    assert alice.quay().token_store.load(ALICE).grant is not None


def test_a_mended_app_registration_is_asked_at_once_by_check(
    installation: Installation, dovecot: Dovecot, contoso: Identity
) -> None:
    """Both pages say that whoever has mended something does not have to wait to see whether it helped."""
    installation.signs_in_at(contoso)
    installation.on_dovecot("support", dovecot, SUPPORT, auth="app")
    robot = {"ENTRA__CLIENT_ID": contoso.robot_id}
    wrong = installation.quay(**robot, ENTRA__CLIENT_SECRET="wrong")
    mailbox = wrong.settings.mailboxes["support"]
    assert isinstance(pull(wrong, mailbox, ring=lambda _: None).trouble, RegistrationRefused)

    robot["ENTRA__CLIENT_SECRET"] = contoso.robot_secret
    done = installation.run("check", "--connect", **robot)

    assert done.returncode == 0, done.stdout
    assert pull(installation.quay(**robot), mailbox, ring=lambda _: None).trouble is None


@pytest.fixture
def example(alice: Installation, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program of docs/sign-in.md as a module, in the installation's environment; only its address is here."""
    (text,) = [content for language, content in fences(PAGES["sign-in"]) if language == "python"]
    for key, value in alice.environ.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(alice.folder)
    module = ModuleType("example")
    exec(compile(text, "docs/sign-in.md", "exec"), vars(module))
    monkeypatch.setattr(module, "REDIRECT_URI", "http://localhost:8123/mail/signed-in")
    return module


def test_the_program_signs_an_account_in_over_two_requests(
    example: ModuleType, alice: Installation, fresh_identity: Identity
) -> None:
    """Between them there is only text, and the address comes back to where the program asked for."""
    address, kept = example.first_request(ALICE)
    location = fresh_identity.authorize(address, ALICE)
    assert location.startswith(example.REDIRECT_URI)

    example.second_request(kept, dict(parse_qsl(urlsplit(location).query)))

    assert alice.quay().token_store.load(ALICE).grant is not None


def test_the_program_signs_an_account_in_by_device_code(
    example: ModuleType, alice: Installation, fresh_identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows the code, and ends when somebody has approved."""

    def read(line: str) -> None:
        fresh_identity.decide(line.rpartition(" ")[2], ALICE)

    monkeypatch.setattr(example, "print", read, raising=False)

    example.by_device_code(ALICE)

    assert alice.quay().token_store.load(ALICE).grant is not None
