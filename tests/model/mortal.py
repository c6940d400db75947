"""A process that dies: after so many durable steps it can take none any more, whatever its `finally` blocks try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from worker.quay import Quay
from worker.spool import Batch, BatchWriter, OpenBatch, Ticket
from worker.spool.bucket import Bucket
from worker.spool.file import FileSpool
from worker.spool.object import ObjectSpool


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

    def postpone(self, ticket: Ticket, due: int) -> Ticket | None:
        """A step."""
        found: Ticket | None = self.life.step(lambda: FileSpool.postpone(self, ticket, due))
        return found

    def again(self, ticket: Ticket, opened: OpenBatch, batch: Batch, *, due: int) -> Ticket | None:
        """A step; when the batch is written anew, the commit and the removal are two."""
        found: Ticket | None = self.life.step(lambda: FileSpool.again(self, ticket, opened, batch, due=due))
        return found

    def park(self, ticket: Ticket, output: str, now: float) -> None:
        """A step."""
        self.life.step(lambda: FileSpool.park(self, ticket, output, now))

    def unpark(self, ticket: Ticket, output: str) -> Ticket | None:
        """A step."""
        found: Ticket | None = self.life.step(lambda: FileSpool.unpark(self, ticket, output))
        return found

    def finish(self, ticket: Ticket, now: float) -> None:
        """A step."""
        self.life.step(lambda: FileSpool.finish(self, ticket, now))

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


class StepwiseBucket(Bucket):
    """A bucket each of whose requests is a step, of a life or of something else that a test decides on."""

    step: Callable[[Callable[[], Any]], Any] = staticmethod(lambda act: act())

    def _tried(self, act: Callable[[], Any]) -> Any:
        return self.step(lambda: super(StepwiseBucket, self)._tried(act))


def stepwise(client: Any) -> StepwiseBucket:
    """Such a bucket over a store in memory, whose conditions need not be tried out."""
    bucket = StepwiseBucket(client, server="the store", timeout="5s", sleep=lambda _: None)
    bucket._keeps_conditions = True
    return bucket


def mortal(quay: Quay, life: Life) -> Quay:
    """A quay whose every change of the world is a step of `life`: in Redis and in the spool."""
    if isinstance(quay.spool, ObjectSpool):
        bucket = quay.spool._bucket
        assert isinstance(bucket, StepwiseBucket)
        bucket.step = life.step  # type: ignore[method-assign]
    else:
        keep = quay.settings.keep.total_seconds()
        spool = MortalSpool(quay.settings.data_dir / "spool", keep=keep, clock=quay.clock)
        spool.life = life
        quay.spool = spool
    execute = quay.client.execute_command
    quay.client.execute_command = lambda *words, **options: life.step(lambda: execute(*words, **options))  # type: ignore[method-assign]
    return quay
