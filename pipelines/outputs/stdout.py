"""Writes one line of JSON a message to standard output, for pipes and containers.

Accepted means that the line was written, and not that it is durable: what reads it may still lose it. Lines of all
processes and threads that share the output stand one behind the other and never in each other. A reader that is slow is
waited for, one that has gone is a retry. A process that is killed in the middle of a line leaves it unfinished.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import ClassVar

from pydantic import Field

from pipelines.message import Message
from pipelines.options import Duration
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Retry
from pipelines.outputs.locks import Patience, try_lockf


class StdoutOptions(OutputOptions):
    """How patient it is."""

    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long to wait for a reader that takes nothing, and for other processes that write.",
    )


class LineStream:
    """A descriptor that lines are written to, by several threads and processes; what is left of a line comes first.

    The number of the descriptor is used and not `sys.stdout`, in whose place a Celery worker puts its log. It may be a
    pipe, a socket, a terminal or a file; the lock of fcntl(2) works on each of them and goes with its process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # The lock of fcntl(2) does not part threads.
        self._threads = threading.Lock()
        self._rest = memoryview(b"")

    def check(self) -> None:
        """See whether there is an output at all.

        Raises:
            OSError: it is closed, or it is /dev/null, where mail would be thrown away.
        """
        status = os.fstat(self._descriptor)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev:  # noqa: PTH116
            raise OSError(errno.ENODEV, "it is /dev/null, where mail would be thrown away")

    def write(self, line: bytes, patience: Patience) -> None:
        """Write a whole line, behind what is left of the last one.

        A line that was begun is finished by the next call. The lock is kept until then, so that nothing comes between.

        Raises:
            BrokenPipeError: nobody reads any longer.
            TimeoutError: the reader takes nothing, or another process does not let go.
            OSError: there is no standard output, or it cannot be locked.
        """
        with self._alone(patience):
            self._flush(patience.seconds)
            self._rest = memoryview(line)
            try:
                self._flush(patience.seconds)
            finally:
                if len(self._rest) == len(line):
                    # Nothing of it was written, so nothing has to be finished.
                    self._rest = memoryview(b"")

    @contextmanager
    def _alone(self, patience: Patience) -> Iterator[None]:
        if not self._threads.acquire(timeout=patience.seconds):
            raise TimeoutError(f"another thread writes to it for {patience.seconds:g} s; does it hang?")
        try:
            patience.wait(lambda: try_lockf(self._descriptor), hindrance="another process writes to it")
            try:
                yield
            finally:
                if not self._rest:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _flush(self, seconds: float) -> None:
        """Write what is left, in pieces that a pipe takes at once when it says that there is room."""
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while self._rest:
            if not ready.poll(seconds * 1000):
                raise TimeoutError(f"its reader has taken nothing for {seconds:g} s")
            # Another program may have set it to non-blocking, for everybody who shares it.
            with suppress(BlockingIOError):
                self._rest = self._rest[os.write(self._descriptor, self._rest[: select.PIPE_BUF]) :]


_STDOUT = LineStream(1)


class StdoutOutput(Output):
    """Writes messages to the standard output of the process that delivers."""

    type_name: ClassVar[str] = "stdout"
    Options: ClassVar[type[OutputOptions]] = StdoutOptions

    options: StdoutOptions

    def __init__(self, name: str, options: StdoutOptions, *, stream: LineStream = _STDOUT) -> None:
        """Remember the options, and the stream that stands for standard output."""
        super().__init__(name, options)
        self._stream = stream
        self._patience = Patience(options.timeout.total_seconds())

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Write the messages, up to the first that cannot be written."""
        written = 0
        try:
            self._stream.check()
            for message in messages:
                self._stream.write(message.to_json() + b"\n", self._patience)
                written += 1
        except OSError as error:
            late = Retry(f"standard output cannot be written: {error.strerror or error}")
            return [Accepted()] * written + [late] * (len(messages) - written)
        return [Accepted()] * written
