"""Watches a whole test process: which secrets come to be in it, and everything that it and its children say.

The program itself is not changed: functions are wrapped from outside, and an audit hook (PEP 578) sees processes start and
files go. What a child says is read from the files that it writes to, or when a test has waited for its end.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import click.testing
import pytest
import requests
import structlog
from cryptography.fernet import Fernet

import worker.tokens.answer
from tests.bed import processes
from tests.bed.leaks import Leaks
from worker.demo.identity.signing import Signer
from worker.errors import MailquayError

# What is secret of that which clients and identity providers tell each other (RFC 6749, 7521, 7636, 8628).
ASKED = ("client_assertion", "client_secret", "code", "code_verifier", "device_code", "refresh_token")
ANSWERED = ("access_token", "device_code", "id_token", "refresh_token")
SILENCED = "msal"
"""It logs answers that it cannot read as they are. `worker.log` lets nothing of it through, to which a test holds it."""
LIBRARIES = ("msal.", "redis.", "secrets")
"""Whose dice are no secrets by themselves: ids, and the state and nonce in an address that a person is shown."""
BED = ("mq-dovecot-", "mq-oidc-", "mq-valkey-")
"""Folders of the bed's servers, which lie beside pytest's own and are removed with the server."""

_EVENTS = frozenset(
    {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.kill", "os.killpg"}
    | {"os.remove", "os.rename", "shutil.rmtree"}
)
_watching: list[Callable[[str, tuple[Any, ...]], None]] = []


class Lookout:
    """What the wrapped functions call; all that it sees ends in `leaks`."""

    def __init__(self, leaks: Leaks) -> None:
        self.leaks = leaks
        self._pid = os.getpid()
        # Asked now: the audit hook is called in the middle of other work and must not wait for a lock of it.
        self._beside = Path(tempfile.gettempdir())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What pytest captured during a test: standard output, standard error, and the log."""
        for title, said in report.sections:
            self.leaks.hear(f"pytest's {title}", said, test=report.nodeid)

    def between_tests(self, journals: Sequence[Path]) -> None:
        """Look at the processes that were seen during a test, and at what it wrote to Redis."""
        self._processes()
        for journal in journals:
            self.leaks.look_at(journal, new=True, test=current_test())

    # What is secret

    def diced(self, secret: str | bytes, *_: object) -> None:
        """A secret from the operating system's dice; who threw them says what it is for."""
        caller = sys._getframe(2)
        while caller.f_globals["__name__"] == __name__ and caller.f_back:
            # Another one watches too.
            caller = caller.f_back
        maker = caller.f_globals["__name__"]
        if not maker.startswith(LIBRARIES):
            self.leaks.secrets.add(f"a secret made by {maker}.{caller.f_code.co_qualname}", secret)

    def signed(self, token: str, *_: object) -> None:
        """A token of the local identity provider."""
        self.leaks.secrets.add("a token of the local identity provider", token)

    def token_key_made(self, key: bytes) -> None:
        """A key that seals tokens."""
        self.leaks.add_token_key(key)

    def asked(
        self, response: requests.Response, _: object, request: requests.PreparedRequest, **options: Any
    ) -> None:
        """A client of any identity provider has an answer. One that is read bit by bit is looked at by `answered`."""
        body = (
            request.body if isinstance(request.body, str) else (request.body or b"").decode(errors="replace")
        )
        for field, values in parse_qs(body).items():
            if field in ASKED:
                self.leaks.secrets.add(f"a {field} that was sent", values[0])
        if not options.get("stream"):
            with suppress(ValueError):
                self.answered(response.json())

    def answered(self, answer: object, *_: object) -> None:
        """What an identity provider has said."""
        for field in ANSWERED if isinstance(answer, dict) else ():
            if field in answer:
                self.leaks.secrets.add(f"a {field} that was received", str(answer[field]))

    # What is said

    def logged(self, _: object, __: logging.Logger, record: logging.LogRecord) -> None:
        """A record of the standard library's logging, with its traceback; also one that no handler shows."""
        if record.name.partition(".")[0] == SILENCED and record.levelno < logging.CRITICAL:
            return
        # A record with the wrong arguments has no message, and its handlers say so.
        with suppress(TypeError, ValueError, KeyError):
            place = f"the log, {record.name}: {str(record.msg)[:80]}"
            self._hear(place, record.getMessage(), *_trace(record.exc_info), record.stack_info or "")

    def event(self, _: object, logger: Any, __: str, event: object = None, *___: object, **more: Any) -> None:
        """An event that structlog was given, of whatever level, with all that is bound to it."""
        bound = {**structlog.contextvars.get_contextvars(), **structlog.get_context(logger), **more}
        self._hear(f"the log: {event}", str(event), repr(bound), *_trace(more.get("exc_info")))

    def raised(self, _: None, error: MailquayError, *__: object, **___: object) -> None:
        """An error, whether anybody shows it or not."""
        self._hear(f"an error, {type(error).__name__}", str(error))

    def ended(self, said: tuple[Any, Any], process: subprocess.Popen[Any], *_: object, **__: object) -> None:
        """What a process said that a test waited for. Only to a test's own script may it say what it likes."""
        words = _words(process.args)
        for name, text in zip(("output", "errors"), said, strict=True):
            if text and (name == "errors" or "-c" not in words):
                self._hear(f"standard {name} of {' '.join(words)[:80]}", text)

    def invoked(self, result: click.testing.Result, *_: object, **__: object) -> None:
        """What a verb said that was run in this process."""
        self._hear("what a verb said", result.output)

    def captured(self, said: tuple[Any, Any], *_: object) -> None:
        """What this process said to a test that asked."""
        self._hear("what the test process said", *said)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A process starts or gets a signal, or a file is about to go."""
        if os.getpid() != self._pid:
            return
        match event, arguments:
            case ("subprocess.Popen", (_, words, *_)) | ("os.exec" | "os.posix_spawn", (_, words, *_)):
                self._started(_words(words))
            case "os.system", (command, *_):
                self._started([os.fsdecode(command)])
            case (("os.kill" | "os.killpg"), (_, number)) if number:
                # A test ends what it started before it ends itself.
                processes.descendants()
                self._processes()
            case "os.remove", (path, directory) if directory == -1 and self._ours(path):
                self.leaks.look_at(Path(os.fsdecode(path)), test=current_test())
            case "os.rename", (_, path, _, directory) if directory == -1 and self._ours(path):
                self.leaks.look_at(Path(os.fsdecode(path)), test=current_test())
            case "shutil.rmtree", (path, *_) if self._ours(path):
                self.leaks.look_into(Path(os.fsdecode(path)))

    def _started(self, words: Sequence[str]) -> None:
        self._hear(f"the arguments of {words[0]}", "\n".join(words))

    def _processes(self) -> None:
        # Another thread may take the last one.
        with suppress(KeyError):
            while True:
                self._hear("the command line of a process", processes.commands_seen.pop())

    def _hear(self, place: str, *said: str | bytes) -> None:
        for text in said:
            self.leaks.hear(place, text, test=current_test())

    def _ours(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        where = Path(os.fsdecode(path))
        beside = where.parent == self._beside and where.name.startswith(BED)
        return beside or where.is_relative_to(self.leaks.root)


@contextmanager
def watching(leaks: Leaks) -> Iterator[Lookout]:
    """Watch this process for the length of the block."""
    lookout = Lookout(leaks)
    _listen()
    _watching.append(lookout.audit)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, look in (
            (secrets, "token_bytes", lookout.diced),
            (secrets, "token_hex", lookout.diced),
            (secrets, "token_urlsafe", lookout.diced),
            (Signer, "sign", lookout.signed),
            (requests.Session, "send", lookout.asked),
            (worker.tokens.answer, "_object", lookout.answered),
            (logging.Logger, "callHandlers", lookout.logged),
            (structlog.BoundLoggerBase, "_proxy_to_logger", lookout.event),
            (MailquayError, "__init__", lookout.raised),
            (subprocess.Popen, "communicate", lookout.ended),
            (click.testing.CliRunner, "invoke", lookout.invoked),
            (pytest.CaptureFixture, "readouterr", lookout.captured),
        ):
            patch.setattr(owner, name, _with(getattr(owner, name), look))
        patch.setattr(
            Fernet, "generate_key", staticmethod(_with(Fernet.generate_key, lookout.token_key_made))
        )
        try:
            yield lookout
        finally:
            _watching.remove(lookout.audit)


def current_test() -> str:
    """The id of the test that runs; empty between tests."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]


def _with(wrapped: Callable[..., Any], look: Callable[..., None]) -> Callable[..., Any]:
    """The same function; `look` gets its result and its arguments."""

    @functools.wraps(wrapped)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        result = wrapped(*arguments, **options)
        look(result, *arguments, **options)
        return result

    return wrapper


@functools.cache
def _listen() -> None:
    # An audit hook stays for good; this one calls whoever watches now.
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        for watch in _watching:
            watch(event, arguments)


def _words(command: Any) -> list[str]:
    """The arguments of a process as text."""
    return [os.fsdecode(word) for word in ([command] if isinstance(command, str | bytes) else command)]


def _trace(told: Any) -> list[str]:
    """The traceback that a logger was told to show, with every cause."""
    error = sys.exc_info()[1] if told is True else told[1] if isinstance(told, tuple) else told
    return traceback.format_exception(error) if isinstance(error, BaseException) else []
