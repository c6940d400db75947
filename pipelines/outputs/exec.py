"""Runs a program for each message, which gets it on standard input and answers with its exit status.

The program is named by its arguments, without a shell, and nothing of the mail is ever among them: id, mailbox and the
like are environment variables. What it says is not read, so it may say as much as it likes; TIMEOUT ends it with all
that it started. Exit statuses are those of sysexits.h: 0 is accepted, 75 and whatever is unclear a retry, the others of
64 to 78 a refusal. A program that has ended well before its status was noted is run again for the same id.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from pipelines.charset import clean
from pipelines.message import Message
from pipelines.options import Duration, write_duration
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry

# Mailquay's own environment may hold secrets, and is not passed on.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# sysexits.h, as BSD and every mail system have it.
SYSEXITS = {
    64: "EX_USAGE", 65: "EX_DATAERR", 66: "EX_NOINPUT", 67: "EX_NOUSER", 68: "EX_NOHOST", 69: "EX_UNAVAILABLE",
    70: "EX_SOFTWARE", 71: "EX_OSERR", 72: "EX_OSFILE", 73: "EX_CANTCREAT", 74: "EX_IOERR", 75: "EX_TEMPFAIL",
    76: "EX_PROTOCOL", 77: "EX_NOPERM", 78: "EX_CONFIG",
}  # fmt: skip
EX_TEMPFAIL = 75
_PIECE_BYTES = 1 << 16
_LOOK_SECONDS = 0.05


class ExecOptions(OutputOptions):
    """Which program, and how it gets a message."""

    command: str = Field(
        description="Program and arguments, separated by blanks, quoted as in a shell; no shell reads them, and nothing "
        "in them is replaced.",
        examples=["/usr/local/bin/file-mail --quiet"],
    )
    input: Literal["raw", "json"] = Field(
        default="raw",
        description="What the program reads: the message as the mail server sent it, or its JSON.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=60),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long one run may take; then the program and all that it started are killed.",
    )
    parallel: int = Field(default=4, ge=1, le=64, description="How many programs of one process run at once.")

    @field_validator("command")
    @classmethod
    def _is_command(cls, command: str) -> str:
        read_command(command)
        return command


class ExecOutput(Output):
    """Runs COMMAND for each message."""

    type_name: ClassVar[str] = "exec"
    Options: ClassVar[type[OutputOptions]] = ExecOptions
    batch_size = 1

    options: ExecOptions

    def __init__(
        self, name: str, options: ExecOptions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember the options; `clock`, in seconds, tells when a program has had its time."""
        super().__init__(name, options)
        self.parallel = options.parallel
        self._arguments = read_command(options.command)
        # What reasons show: arguments may be as good as a password.
        self._program = PurePath(self._arguments[0]).name
        self._clock = clock

    def open(self) -> None:
        """See whether exit statuses can be read at all.

        Raises:
            OSError: whoever started this process made it ignore its children, so that all seem to have ended well.
        """
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            raise OSError(
                "this process was started with SIGCHLD ignored, and no exit status can be read then"
            )

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Run the program for each message, one after the other.

        Raises:
            OSError: the program cannot be started, whatever the message.
        """
        return [self._run(message) for message in messages]

    def _run(self, message: Message) -> Receipt:
        octets = message.raw if self.options.input == "raw" else message.to_json()
        deadline = self._clock() + self.options.timeout.total_seconds()
        with self._started(message) as process:
            try:
                self._feed(process, memoryview(octets), deadline)
                status = process.wait(max(0.0, deadline - self._clock()))
            except subprocess.TimeoutExpired:
                return Retry(
                    f"{self._program} did not end within {write_duration(self.options.timeout)} and was killed"
                )
            finally:
                if process.returncode is None:
                    # It has a group of its own, so this also ends what it started.
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        return judge(status, program=self._program)

    def _started(self, message: Message) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603  (the command is the configuration's; the mail is not in it)
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment(message, output=self.name),
                start_new_session=True,
            )
        except OSError as error:
            raise OSError(f"{self._program} cannot be started: {error.strerror or error}") from error

    def _feed(self, process: subprocess.Popen[bytes], rest: memoryview, deadline: float) -> None:
        """Hand the message over as fast as the program reads it, and no longer than it lives.

        Raises:
            subprocess.TimeoutExpired: it has not read everything in time.
        """
        assert process.stdin is not None
        with process.stdin as stdin:
            file = stdin.fileno()
            os.set_blocking(file, False)
            room = select.poll()
            room.register(file, select.POLLOUT)
            while rest:
                if self._clock() >= deadline:
                    raise subprocess.TimeoutExpired(self._program, self.options.timeout.total_seconds())
                if room.poll(_LOOK_SECONDS * 1000):
                    try:
                        rest = rest[os.write(file, rest[:_PIECE_BYTES]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        # It does not want to read any more; its status says what that means.
                        return
                elif process.poll() is not None:
                    # It has ended, and what it left behind holds the pipe without reading.
                    return


def environment(message: Message, *, output: str) -> dict[bytes, bytes]:
    """Return all that the program finds in its environment; no value was chosen by who wrote the message."""
    values = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "MAILQUAY_OUTPUT": output,
        "MAILQUAY_ID": message.id,
        "MAILQUAY_MAILBOX": message.mailbox,
        "MAILQUAY_FOLDER": message.source.folder or "",
        "MAILQUAY_DIGEST": f"sha256:{message.digest}",
        "MAILQUAY_SIZE": str(message.size),
        "MAILQUAY_RECEIVED_AT": _utc(message.received_at),
    }
    # A server may call a folder anything, and an environment cannot hold a NUL. It is UTF-8, whatever the locale.
    return {name.encode(): clean(value).encode() for name, value in values.items()}


def judge(status: int, *, program: str) -> Receipt:
    """Turn an exit status into a receipt; below zero it is the signal that killed the program."""
    if status == 0:
        return Accepted()
    if status < 0:
        return Retry(f"{program} was killed by signal {-status}")
    said = f"{program} ended with status {status}" + (f" ({SYSEXITS[status]})" if status in SYSEXITS else "")
    if status in SYSEXITS and status != EX_TEMPFAIL:
        return Refused(f"{said}: it does not want this message")
    return Retry(said)


def read_command(command: str) -> list[str]:
    """Part a command into its arguments, as a shell would, and do nothing else to it.

    Raises:
        PydanticCustomError: there is no program, a quotation does not end, or a NUL is in it.
    """
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = []
    if not arguments or not arguments[0] or "\0" in command:
        raise PydanticCustomError("command", "write a program and its arguments, with every quotation closed")
    return arguments


def _utc(moment: datetime | None) -> str:
    with suppress(OverflowError):
        return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""
