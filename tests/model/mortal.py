"""A process that dies: after so many durable steps it can take none any more, whatever its `finally` blocks try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from worker.quay import Quay
from worker.spool import Batch, BatchWriter, Ticket
from worker.spool.file import FileSpool


class Died(BaseException):
    """Nothing of the program catches it, as nothing catches SIGKILL."""


class Life:
    """How many durable steps are left; None for as many as anybody likes. Each may be done or not when death comes."""

    def __init__(self, steps: int | None, *, last_one_done: bool) -> None:
        self._left = steps
        self._last_one_done = last_one_done

    def step(self, act: Callable[[], Any]) -> Any:
        """Take one step, or die before it, or right behind it."""
        if self._left is None:
            return act()
        if self._left <= 0:
            raise Died
        self._left -= 1
        if self._left == 0:
            if self._last_one_done:
                act()
            raise Died
        return act()


class MortalSpool(FileSpool):
    """A spool whose changes are steps of a life."""

    life: Life

    def new(self, plan: Batch) -> Any:
        """A writer whose commits are steps."""
        return _MortalWriter(super().new(plan), self.life)

    def begin(self, ticket: Ticket) -> Ticket | None:
        """A step."""
        found: Ticket | None = self.life.step(lambda: FileSpool.begin(self, ticket))
        return found

    def postpone(self, ticket: Ticket, due: int) -> None:
        """A step."""
        self.life.step(lambda: FileSpool.postpone(self, ticket, due))

    def remove(self, ticket: Ticket) -> None:
        """A step."""
        self.life.step(lambda: FileSpool.remove(self, ticket))

    def fail(self, ticket: Ticket, reason: str) -> None:
        """A step."""
        self.life.step(lambda: FileSpool.fail(self, ticket, reason))

    def remember(self, mailbox: str, note: Any) -> None:
        """A step."""
        self.life.step(lambda: FileSpool.remember(self, mailbox, note))

    def note_message(self, mailbox: str, id: str, note: Any) -> None:  # noqa: A002
        """A step."""
        self.life.step(lambda: FileSpool.note_message(self, mailbox, id, note))

    def forget_message(self, mailbox: str, id: str) -> None:  # noqa: A002
        """A step."""
        self.life.step(lambda: FileSpool.forget_message(self, mailbox, id))


class _MortalWriter:
    def __init__(self, writer: BatchWriter, life: Life) -> None:
        self._writer = writer
        self._life = life
        self.add = writer.add

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self._writer.__exit__(*what)

    def commit(self, batch: Batch, *, due: int = 0) -> Any:
        return self._life.step(lambda: self._writer.commit(batch, due=due))

    def commit_failed(self, batch: Batch, reason: str) -> Any:
        return self._life.step(lambda: self._writer.commit_failed(batch, reason))


def mortal(quay: Quay, life: Life) -> Quay:
    """A quay whose every change of the world is a step of `life`: in Redis and in the spool."""
    spool = MortalSpool(quay.settings.data_dir / "spool", clock=quay.clock)
    spool.life = life
    quay.spool = spool
    execute = quay.client.execute_command
    quay.client.execute_command = lambda *words, **options: life.step(lambda: execute(*words, **options))  # type: ignore[method-assign]
    return quay
