"""The scan that follows every run of the tests (promise P7) sees each kind of secret in each place, and nothing else.

Secrets are planted before a scan of the test's own. They come from `os.urandom`, which the scan of the whole run does not
watch, so that it does not report them.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import click
import pytest
import redis
import structlog
from click.testing import CliRunner
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.bed import lookout
from tests.bed.clients import sasl
from tests.bed.identity import SCOPES, Identity
from tests.bed.leaks import SECRET_FILES, Leaks
from tests.bed.lookout import Lookout, watching
from tests.bed.valkey import Valkey
from worker.demo.certificates import write_certificates
from worker.demo.harbour import ALICE
from worker.errors import NeedsSignIn


@pytest.fixture
def leaks() -> Iterator[Leaks]:
    """A scan of files that the scan of the whole run does not see."""
    with TemporaryDirectory() as folder:
        yield Leaks(Path(folder))


@pytest.fixture
def watched(leaks: Leaks) -> Iterator[Lookout]:
    """The same scan, while everything that this process says is heard."""
    with watching(leaks) as lookout:
        yield lookout


@pytest.fixture
def secret(leaks: Leaks) -> str:
    """What must not be anywhere."""
    secret = base64.urlsafe_b64encode(os.urandom(24)).decode()
    leaks.secrets.add("a secret", secret)
    return secret


def kinds(leaks: Leaks, data: str | bytes) -> set[str]:
    found = leaks.secrets.find(data.encode() if isinstance(data, str) else data)
    return {secret.kind for secret in found}


def places(leaks: Leaks) -> list[str]:
    return [leak.place for leak in leaks.found()]


# -- what is found ---------------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda raw: raw,
    "cut off": lambda raw: raw[:16],
    "quoted for a URL": lambda raw: quote(raw, safe="").encode(),
    "in hex": lambda raw: raw.hex().encode(),
    "in base64": base64.b64encode,
    "in base64 behind one octet": lambda raw: base64.b64encode(b"\0" + raw + b"\0"),
    "in base64 behind two octets": lambda raw: base64.b64encode(b"\0\0" + raw + b"\0\0"),
    "in base64 for URLs": lambda raw: base64.urlsafe_b64encode(b"AB" + raw),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_secret_is_found_in_every_form_wherever_it_stands(
    leaks: Leaks, form: Callable[[bytes], bytes]
) -> None:
    """Data are looked at in steps, and no step may miss it."""
    raw = os.urandom(9) + b"+/ =" + os.urandom(12)
    leaks.secrets.add("a secret", raw)

    for before in range(17):
        for after in range(9):
            assert kinds(leaks, b"x" * before + form(raw) + b"x" * after) == {"a secret"}


def test_a_password_of_sixteen_characters_is_found_in_a_sasl_line(leaks: Leaks) -> None:
    """SASL PLAIN, as IMAP and POP3 clients send it."""
    password = base64.urlsafe_b64encode(os.urandom(12)).decode()
    leaks.secrets.add("a password", password)

    for user in ("a@example.com", "ab@example.com", "abc@example.com"):
        line = base64.b64encode(f"\0{user}\0{password}".encode())
        assert kinds(leaks, b"AUTHENTICATE PLAIN " + line) == {"a password"}


def test_tokens_keys_and_sasl_lines_are_known_by_their_shape(leaks: Leaks) -> None:
    """A process that nobody looks into may have its own."""
    head, body, signature = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in
                             (b'{"alg":"RS256"}', b'{"aud":"https://outlook.office.com"}', os.urandom(64)))  # fmt: skip
    token = f"{head}.{body}.{signature}"

    assert kinds(leaks, f"Bearer {token}") == {"a token (by its shape)"}
    assert kinds(leaks, f"Bearer {token[:60]}") == {"a token (by its shape)"}
    assert kinds(leaks, "-----BEGIN EC PRIVATE KEY-----\n") == {"a private key (by its shape)"}
    for user in ("a@example.com", "ab@example.com", "abc@example.com"):
        line = base64.b64encode(sasl(user, token))
        assert kinds(leaks, line) == {"a SASL line with a token (by its shape)"}
    assert kinds(leaks, head + "." + "x" * 40) == set()


def test_a_known_token_is_found_by_its_signature(leaks: Leaks) -> None:
    """What tokens begin with, they have in common, and it is no secret."""
    token = ".".join(
        base64.urlsafe_b64encode(part).decode() for part in (b'{"a":1}', b'{"b":2}', os.urandom(64))
    )
    leaks.secrets.add("a token", token)

    assert kinds(leaks, base64.b64encode(token.encode())) == {"a token"}
    assert kinds(leaks, token.rpartition(".")[0]) == set()


PRIVATE_KEYS = {
    "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RSA": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


@pytest.mark.parametrize("written", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("make", PRIVATE_KEYS.values(), ids=list(PRIVATE_KEYS))
def test_a_private_key_is_found_without_its_first_line_and_a_public_one_is_not(
    leaks: Leaks, make: Callable[[], Any], written: PrivateFormat
) -> None:
    """Both hold the same public numbers."""
    key = make()
    pem = key.private_bytes(Encoding.PEM, written, NoEncryption())
    leaks.secrets.add_private_key("a private key", pem)
    body = b"".join(pem.splitlines(keepends=True)[1:-1])

    assert kinds(leaks, body) == {"a private key"}
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert kinds(leaks, public) == set()


def test_filling_and_words_that_are_too_short_are_no_secrets(leaks: Leaks) -> None:
    """They would be found everywhere."""
    leaks.secrets.add("filling", "x" * 43)
    leaks.secrets.add("a word", "swordfish")

    assert kinds(leaks, "x" * 100 + "swordfish") == set()


# -- where it is found -----------------------------------------------------------------------------------------------


def test_a_secret_in_a_file_is_found(leaks: Leaks, secret: str) -> None:
    """At the end, also across the pieces that a large file is read in; the report says which file and not what."""
    (leaks.root / "spool").mkdir()
    (leaks.root / "spool/batch.zip").write_bytes(b"x" * ((1 << 22) - 10) + secret.encode() + b"x" * 100)
    (leaks.root / "spool/innocent.zip").write_bytes(b"x" * 5_000_000)
    leaks.look_into(leaks.root)

    assert [str(leak) for leak in leaks.found()] == ["a secret in spool/batch.zip"]


def test_a_secret_in_the_name_of_a_file_is_found(leaks: Leaks, secret: str) -> None:
    """Where a report names a place, the place's name may be the leak."""
    (leaks.root / f"{secret}.zip").write_bytes(f"token {secret}".encode())
    leaks.look_into(leaks.root)

    assert [str(leak) for leak in leaks.found()] == [
        "a secret in the name of a file in .",
        "a secret in a place whose very name holds it",
    ]


@pytest.mark.parametrize("how", ["unlinked", "replaced", "swept"])
def test_a_secret_in_a_file_that_goes_is_found(leaks: Leaks, watched: Lookout, secret: str, how: str) -> None:
    """A batch that was delivered is not there any more at the end."""
    path = leaks.root / "spool/batch.zip"
    path.parent.mkdir()
    path.write_text(secret)
    if how == "unlinked":
        path.unlink()
    elif how == "replaced":
        other = leaks.root / "other"
        other.touch()
        other.replace(path)
    else:
        shutil.rmtree(path.parent)

    assert places(leaks) == ["spool/batch.zip"]


REDIS: dict[str, Callable[[redis.Redis, str], Any]] = {
    "a string": lambda client, secret: client.set("key", secret),
    "a hash": lambda client, secret: client.hset("key", mapping={"field": "plain", "other": f"x{secret}"}),
    "a field's name": lambda client, secret: client.hset("key", secret, "plain"),
    "a list": lambda client, secret: client.rpush("key", "plain", secret),
    "a set": lambda client, secret: client.sadd("key", secret),
    "a sorted set": lambda client, secret: client.zadd("key", {secret: 1.0}),
    "a stream": lambda client, secret: client.xadd("key", {"field": secret}),
    "what a script wrote": lambda client, secret: client.eval("redis.call('SET', 'key', ARGV[1])", 0, secret),
    "what expires": lambda client, secret: client.set("key", secret, px=1),
    "what was deleted": lambda client, secret: (client.set("key", secret), client.delete("key")),
    "what was flushed": lambda client, secret: (client.set("key", secret), client.flushall()),
}


@pytest.mark.parametrize("write", REDIS.values(), ids=list(REDIS))
def test_a_secret_in_redis_is_found_with_its_key(
    leaks: Leaks, secret: str, fresh_valkey: Valkey, write: Callable[[redis.Redis, str], Any]
) -> None:
    """Every type, and also what is gone when the test ends."""
    with fresh_valkey.client() as client:
        client.set("innocent", "x" * 40)
        write(client, secret)
        client.set("behind", "x" * 40)
        client.waitaof(1, 0, 2000)
    for journal in fresh_valkey.journals:
        leaks.look_at(journal, new=True)

    assert [place.rpartition(" ")[2] for place in places(leaks)] == ["key"]


def test_what_was_written_before_is_not_looked_at_twice(
    leaks: Leaks, secret: str, fresh_valkey: Valkey
) -> None:
    """So that a leak is told of the test that made it."""
    for test in ("one", "two"):
        with fresh_valkey.client() as client:
            client.set(f"key of {test}", secret)
            client.waitaof(1, 0, 2000)
        for journal in fresh_valkey.journals:
            leaks.look_at(journal, new=True, test=test)

    assert [str(leak) for leak in leaks.found()] == [
        f"a secret in Redis: SET key of {test}, seen in {test}" for test in ("one", "two")
    ]


def test_a_secret_in_a_log_is_found(leaks: Leaks, watched: Lookout, secret: str) -> None:
    """In the arguments of a record, in a traceback, in an event, and in what is bound to a logger."""
    logging.getLogger("one").warning("said %s", secret)
    try:
        int(secret)
    except ValueError:
        logging.getLogger("two").exception("it broke")
        structlog.get_logger().error("three", exc_info=True)
    structlog.get_logger().debug("four", token=secret)
    structlog.get_logger(token=secret).info("five")
    with structlog.contextvars.bound_contextvars(token=secret):
        structlog.get_logger().info("six")
    structlog.get_logger().info("seven", innocent="x" * 40)
    logging.getLogger("eight").warning("innocent %s", "x" * 40)

    assert places(leaks) == [
        "the log, one: said %s", "the log, two: it broke",
        "the log: three", "the log: four", "the log: five", "the log: six",
    ]  # fmt: skip


def test_a_secret_in_an_error_is_found(leaks: Leaks, watched: Lookout, secret: str) -> None:
    """Even if nobody ever shows it."""
    NeedsSignIn("run `mailquay login`", mailbox="box")
    NeedsSignIn(f"the provider refused {secret}", mailbox="box")

    assert places(leaks) == ["an error, NeedsSignIn"]


def test_a_secret_that_a_process_says_is_found(leaks: Leaks, watched: Lookout, secret: str) -> None:
    """On both of its outputs, and the arguments that it was given."""
    script = leaks.root / "says.py"
    script.write_text("import os, sys\nprint(os.environ['SAID'], file=getattr(sys, sys.argv[1]))\n")
    for stream in ("stdout", "stderr"):
        command = [sys.executable, str(script), stream]
        subprocess.run(command, env={**os.environ, "SAID": secret}, capture_output=True, check=True)
    subprocess.run(["/bin/true", f"--password={secret}"], check=True)

    said, complained, told = places(leaks)
    assert said.startswith("standard output of ")
    assert complained.startswith("standard errors of ")
    assert told == "the arguments of /bin/true"


def test_a_test_may_hear_a_secret_from_its_own_script(leaks: Leaks, watched: Lookout, secret: str) -> None:
    """Some compare the tokens of several processes."""
    command = [sys.executable, "-c", "import os; print(os.environ['SAID'])"]
    subprocess.run(command, env={**os.environ, "SAID": secret}, capture_output=True, check=True)

    assert places(leaks) == []


def test_a_secret_on_the_command_line_of_a_grandchild_is_found(
    leaks: Leaks, watched: Lookout, secret: str
) -> None:
    """It is looked for when a process is ended, and at the end of a test."""
    code = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'input()', os.environ['SAID']])\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "SAID": secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert places(leaks) == []
        process.terminate()
    watched.between_tests(())

    assert places(leaks) == ["the command line of a process"]


def test_a_secret_that_this_process_says_is_found(
    leaks: Leaks, watched: Lookout, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a test that asks, from a verb that is run in this process, and to pytest."""

    @click.command()
    def verb() -> None:
        click.echo(secret)

    print(secret)
    capsys.readouterr()
    CliRunner().invoke(verb)
    report = pytest.TestReport("here", ("", 0, ""), {}, "passed", None, "call", [("Captured stdout", secret)])
    watched.pytest_runtest_logreport(report)

    assert places(leaks) == ["what the test process said", "what a verb said", "pytest's Captured stdout"]


# -- what is a secret ------------------------------------------------------------------------------------------------


def test_what_the_dice_of_the_standard_library_gave_is_secret(leaks: Leaks, watched: Lookout) -> None:
    """Passwords of the bed, codes and refresh tokens of the local provider, and what tests make themselves."""
    made = [lookout.secrets.token_hex(), lookout.secrets.token_urlsafe(), lookout.secrets.token_bytes(24)]

    assert all(kinds(leaks, secret) for secret in made)


def test_what_a_client_and_a_provider_tell_each_other_is_secret(
    leaks: Leaks, watched: Lookout, fresh_identity: Identity
) -> None:
    """All but the code that a person is shown."""
    with fresh_identity.session() as session:
        app = fresh_identity.public_app(session)
        flow = app.initiate_device_flow(scopes=list(SCOPES))
        fresh_identity.decide(flow["user_code"], ALICE)
        tokens = app.acquire_token_by_device_flow(flow)
        fresh_identity.robot_app(session).acquire_token_for_client(["https://outlook.office365.com/.default"])

    for secret in (
        flow["device_code"],
        tokens["access_token"].rpartition(".")[2],
        tokens["refresh_token"],
        fresh_identity.robot_secret,
        fresh_identity.token(ALICE).rpartition(".")[2],
    ):
        assert kinds(leaks, base64.b64encode(secret.encode()))
    assert kinds(leaks, flow["user_code"] * 4) == set()


def test_what_is_sealed_in_redis_is_secret_and_may_be_there(leaks: Leaks, fresh_valkey: Valkey) -> None:
    """So tokens count as well that passed between two other processes; the key lies in a file."""
    key, token = base64.urlsafe_b64encode(os.urandom(32)), base64.urlsafe_b64encode(os.urandom(24)).decode()
    cache = json.dumps({"RefreshToken": {"entry": {"secret": token, "client_id": "x" * 36}}})
    blob = Fernet(key).encrypt(json.dumps(["alice", json.dumps({"cache": cache})]).encode())
    (leaks.root / "token_keys").write_bytes(key + b"\n")
    (leaks.root / "worker.log").write_text(f"refreshed with {token}\n")
    with fresh_valkey.client() as client:
        client.hset("token", "blob", blob)
        client.waitaof(1, 0, 2000)
    leaks.look_into(fresh_valkey.folder)
    leaks.look_into(leaks.root)

    assert [str(leak) for leak in leaks.found()] == ["a sealed token in worker.log"]


# -- what is allowed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meant", SECRET_FILES, ids=lambda meant: meant.name)
def test_files_that_are_meant_to_hold_secrets_may(leaks: Leaks, secret: str, meant: Any) -> None:
    """Their neighbours may not."""
    path = leaks.root / meant.name.replace("*", "one")
    path.parent.mkdir(exist_ok=True)
    path.write_text(secret)
    (leaks.root / "neighbour").write_text(secret)
    leaks.look_into(leaks.root)

    assert places(leaks) == ["neighbour"]


@pytest.mark.parametrize("name", [meant.name for meant in SECRET_FILES if meant.kind])
def test_what_they_hold_is_secret_everywhere_else(leaks: Leaks, name: str) -> None:
    """They may have been made by a process that nobody looks into."""
    secret = base64.urlsafe_b64encode(os.urandom(32)).decode()
    (leaks.root / name.replace("*", "one")).write_text(f"{secret}\n")
    (leaks.root / "aside").write_text(f"made {secret}")
    leaks.look_into(leaks.root)

    assert places(leaks) == ["aside"]


def test_the_key_of_a_certificate_is_secret_and_the_certificate_is_not(leaks: Leaks) -> None:
    """As the bed writes them."""
    certificates = write_certificates(leaks.root)
    body = certificates.key_file.read_text().splitlines()[1:-1]
    (leaks.root / "settings.json").write_text("\n".join(body))
    leaks.look_into(leaks.root)

    assert [str(leak) for leak in leaks.found()] == ["a private key in settings.json"]


def test_tokens_may_be_in_redis_in_clear_where_that_was_asked_for(
    leaks: Leaks, secret: str, fresh_valkey: Valkey
) -> None:
    """DANGEROUSLY_STORE_TOKENS_IN_CLEAR marks what it stores."""
    with fresh_valkey.client() as client:
        client.hset("token:{alice}", mapping={"blob": f"clear:{secret}", "version": "1"})
        client.hset("token:{bob}", mapping={"version": "1", "blob": secret})
        client.waitaof(1, 0, 2000)
    for journal in fresh_valkey.journals:
        leaks.look_at(journal, new=True)

    assert places(leaks) == ["Redis: HSET token:{bob}"]


# -- the run ---------------------------------------------------------------------------------------------------------


def test_a_run_whose_tests_leak_fails_and_says_where(tmp_path: Path) -> None:
    """Each test passes; the run does not."""
    culprit = tmp_path / "test_culprit.py"
    culprit.write_text(
        "import logging, secrets\n"
        "def test_leaks(tmp_path):\n"
        "    secret = secrets.token_hex()\n"
        "    logging.getLogger('quay').warning('signing in with %s', secret)\n"
        "    (tmp_path / 'plan.json').write_text(secret)\n"
        "def test_does_not():\n"
        "    pass\n"
    )
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(culprit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "2 passed, 1 error" in done.stdout
    report = done.stdout.partition("secrets leaked:\n")[2].splitlines()
    kind = "a secret made by test_culprit.test_leaks"
    assert report[0] == f"{kind} in test_leaks0/plan.json"
    assert report[1].startswith(f"{kind} in the log, quay: signing in with %s, seen in ")
    assert report[1].endswith("test_culprit.py::test_leaks")
