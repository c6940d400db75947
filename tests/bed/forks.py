"""Children that may die: forked from a server of its own, so that one costs milliseconds and inherits nothing.

A child of the test process itself would inherit its threads' locks, and a fresh interpreter takes half a second.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing import connection, forkserver
from typing import Any

_context = multiprocessing.get_context("forkserver")


class Forks:
    """Runs functions of importable modules in children of their own; any number of threads may do so at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def start(self, *modules: str) -> None:
        """Start the server that children are forked from; they find `modules` imported."""
        _context.set_forkserver_preload(list(modules))
        forkserver.ensure_running()
        self.run(int)

    def run(self, work: Callable[..., object], *arguments: Any, timeout: float = 30) -> int:
        """Run `work` in a child and return its exit code; a signal that killed it is negative.

        Raises:
            TimeoutError: it had not ended within `timeout` seconds; it is killed.
        """
        child = _context.Process(target=work, args=arguments)
        with self._lock:
            child.start()
        ended = connection.wait([child.sentinel], timeout)
        # Starting a process also asks how all others ended, and each can be asked once only.
        with self._lock:
            if not ended:
                child.kill()
            child.join()
            code = child.exitcode
            child.close()
        if not ended or code is None:
            msg = f"{work.__name__}{arguments} did not end within {timeout:g} s"
            raise TimeoutError(msg)
        return code

    def stop(self) -> None:
        """End the server."""
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
