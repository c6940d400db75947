"""Processes that parse: pieces of work go out, outcomes come back in their order, a bounded number at a time.

When a process is killed, by the system for want of memory or by a file that was cut short under it, the messages that
were out are tried once more, each by itself, and only the one that kills its process is lost. Whoever stops asking, or
is interrupted, leaves no process behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from worker.reading.place import Place, Trouble
from worker.reading.work import Outcome, Task, do

Piece = list[Place | Trouble]


def together(task: Task, pieces: Iterator[Piece], *, processes: int) -> Iterator[Outcome]:
    """Do all pieces with so many processes."""
    while True:
        sent: deque[tuple[Piece, Future[list[Outcome]]]] = deque()
        with _pool(processes) as pool:
            try:
                for piece in pieces:
                    shipped = _shipped(piece)
                    sent.append((shipped, _send(pool, task, shipped)))
                    if len(sent) > 2 * processes:
                        yield from sent[0][1].result()
                        sent.popleft()
                while sent:
                    yield from sent[0][1].result()
                    sent.popleft()
            except BrokenProcessPool:
                pass
        if not sent:
            return
        for piece, _ in sent:
            yield from _singly(task, piece)


def _singly(task: Task, piece: Piece) -> Iterator[Outcome]:
    """Do a piece that may hold a message which kills its process: of the others none is lost."""
    left = deque(piece)
    while left:
        with _pool(1) as pool:
            try:
                while left:
                    yield from pool.submit(do, task, [left[0]]).result()
                    left.popleft()
            except BrokenProcessPool:
                why = "the process that read it was killed; is there too little memory, or was the file cut short meanwhile?"
                yield Outcome(left.popleft().label, trouble=why)


def _send(pool: ProcessPoolExecutor, task: Task, piece: Piece) -> Future[list[Outcome]]:
    """Send a piece; to a pool that is broken already, it is as if it had broken later."""
    try:
        return pool.submit(do, task, piece)
    except BrokenProcessPool as broken:
        future: Future[list[Outcome]] = Future()
        future.set_exception(broken)
        return future


def _shipped(piece: Sequence[Place | Trouble]) -> Piece:
    return [place.shipped() if isinstance(place, Place) else place for place in piece]


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for the length of the block; left in any other way than by its end, they are ended at once."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, before the fork: else each process would import it.
    context.set_forkserver_preload([do.__module__])
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)
    # When its processes have died there is nobody to read what is on its way to them, and older Pythons wait for that for
    # ever (python/cpython#94777). What was sent and not answered is sent once more, or is not wanted any more.
    pool._call_queue.cancel_join_thread()  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """End with the process that sends the work, also when that is killed; Ctrl-C is that one's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
