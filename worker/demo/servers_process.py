"""The demo's servers as a child process: started, waited for, and gone when the block ends, whatever happened in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.demo.addresses import Addresses
from worker.errors import Unreachable

_STOP_SECONDS = 4.0


class ServersProcess:
    """Runs `python -m worker.demo.servers` in `folder` for the length of a `with` block.

    What it says goes to `log_file`, or where this process's own words go.
    """

    def __init__(
        self,
        folder: Path,
        *,
        log_file: Path | None,
        environ: Mapping[str, str],
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._log_file = log_file
        self._environ = environ
        self._arguments = arguments
        self._port_file = folder / "addresses.json"

    def __enter__(self) -> Self:
        """Start; `addresses` waits until the servers answer."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._port_file.unlink(missing_ok=True)
        with ExitStack() as stack:
            log = stack.enter_context(self._log_file.open("ab")) if self._log_file else None
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "worker.demo.servers",
                    "--dir", str(self._folder), "--port-file", str(self._port_file), *self._arguments,
                ],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C goes to the demo alone, which ends the servers last.
                start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """TERM, a few seconds, then KILL."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def addresses(self, *, give_up: Callable[[], bool]) -> Addresses | None:
        """Where everything answers, as soon as it does; None when `give_up` said so first.

        Raises:
            Unreachable: the servers ended.
        """
        while not self._port_file.exists():
            self.check()
            if give_up():
                return None
            time.sleep(0.02)
        return Addresses(**json.loads(self._port_file.read_text()))

    def check(self) -> None:
        """Make sure that the servers run.

        Raises:
            Unreachable: they ended.
        """
        if (code := self._process.poll()) is not None:
            where = self._log_file or "the log"
            raise Unreachable(f"the demo's servers ended with code {code}; {where} says why")
