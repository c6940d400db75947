"""Lines on standard output are whole, one behind the other, whoever writes and however slow or dead the reader is."""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import orjson
import pytest

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Retry
from pipelines.outputs.stdout import LineStream, StdoutOptions, StdoutOutput
from pipelines.parse import parse
from pipelines.testing import sample_messages


def large(count: int = 1) -> list[Message]:
    """Messages whose lines are longer than a pipe holds."""
    return [
        parse(b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000, id=f"{number:032x}", mailbox="m")
        for number in range(count)
    ]


def output(file: int, timeout: str = "30s") -> StdoutOutput:
    return StdoutOutput("pipe", StdoutOptions.model_validate({"timeout": timeout}), stream=LineStream(file))


@contextmanager
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """A pipe whose ends are closed in the end, unless the test did."""
    reader, writer = os.pipe()
    with FileIO(reader, "rb") as one, FileIO(writer, "wb") as other:
        yield one, other


def run(script: str, *arguments: object, stdout: FileIO | int) -> subprocess.Popen[bytes]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE)


ONE_OF_SEVERAL = """
    import sys, threading
    from pipelines.output import Accepted
    from pipelines.outputs.stdout import StdoutOptions, StdoutOutput
    from pipelines.testing import sample_messages

    def deliver(name):
        output = StdoutOutput(name, StdoutOptions())
        output.open()
        for message in sample_messages(30, mailbox=name):
            assert output.deliver([message]) == [Accepted()]
        output.close()

    threads = [threading.Thread(target=deliver, args=(f"{sys.argv[1]} {number}",)) for number in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_processes_and_threads_that_share_a_pipe_never_interleave(tmp_path: Path) -> None:
    """Three real processes with two threads each, lines of a few hundred bytes to 300 kB, one slow reader."""
    with pipe() as (reader, writer):
        processes = [run(ONE_OF_SEVERAL, number, stdout=writer) for number in range(3)]
        writer.close()
        lines = reader.readall().splitlines()
        for process in processes:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said

    names = [f"{process} {thread}" for process in range(3) for thread in range(2)]
    expected = [message.to_json() for name in names for message in sample_messages(30, mailbox=name)]
    assert sorted(lines) == sorted(expected)


def test_a_reader_that_has_gone_is_a_retry() -> None:
    """Also for the messages behind it; nothing is raised, and no signal ends the process."""
    with pipe() as (reader, writer):
        reader.close()
        receipts = output(writer.fileno()).deliver(sample_messages(2))

    assert receipts == [Retry("standard output cannot be written: Broken pipe")] * 2


def test_what_was_written_before_the_reader_went_is_accepted() -> None:
    """A receipt for each message."""
    with pipe() as (reader, writer):
        small, late = sample_messages(1)[0], large()[0]

        def leave() -> None:
            reader.read(1000)
            reader.close()

        thread = threading.Thread(target=leave)
        thread.start()
        receipts = output(writer.fileno()).deliver([small, late, small])
        thread.join()

    gone = Retry("standard output cannot be written: Broken pipe")
    assert receipts == [Accepted(), gone, gone]


def test_a_reader_that_takes_nothing_is_a_retry_and_the_line_is_finished_first() -> None:
    """The half of it that is in the pipe never becomes the beginning of another line."""
    first, second = large(2)
    with pipe() as (reader, writer):
        slow = output(writer.fileno(), timeout="50ms")
        (receipt,) = slow.deliver([first])
        assert receipt == Retry("standard output cannot be written: its reader has taken nothing for 0.05 s")
        # Others are kept away until then.
        other = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(TRY_LOCK), str(writer.fileno())],
            pass_fds=[writer.fileno()],
            check=False,
        )
        assert other.returncode == 1

        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(reader.readall()))
        thread.start()
        receipts: list[Receipt] = []
        while receipts != [Accepted()]:
            receipts = list(slow.deliver([second]))
        writer.close()
        thread.join()

    lines = found[0].splitlines()
    assert lines[0] == first.to_json()
    assert lines[-1] == second.to_json()
    assert set(lines) == {first.to_json(), second.to_json()}


TRY_LOCK = """
    import fcntl, sys
    try:
        fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(1)
"""


def test_a_line_of_which_nothing_was_written_is_not_written_later() -> None:
    """It comes again by itself; the output is free for others meanwhile."""
    with pipe() as (reader, writer):
        size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
        writer.write(b"\n" * size)
        full = output(writer.fileno(), timeout="50ms")
        assert isinstance(full.deliver(sample_messages(1))[0], Retry)
        reader.read(size)

        assert full.deliver(sample_messages(2)[1:]) == [Accepted()]
        writer.close()
        assert reader.readall() == sample_messages(2)[1].to_json() + b"\n"


def test_another_process_that_does_not_let_go_is_a_retry() -> None:
    """Every wait has a deadline."""
    script = """
        import fcntl, sys
        fcntl.lockf(1, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.read()
    """
    with pipe() as (reader, writer):
        command = [sys.executable, "-c", textwrap.dedent(script)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writer) as holder:
            assert reader.readline() == b"held\n"
            (receipt,) = output(writer.fileno(), timeout="50ms").deliver(sample_messages(1))
            holder.communicate()
        assert isinstance(receipt, Retry)
        assert "another process writes to it" in receipt.reason
        assert output(writer.fileno()).deliver(sample_messages(1)) == [Accepted()]


def test_dev_null_takes_no_mail() -> None:
    """A daemon whose output somebody pointed there would throw mail away, and nobody would know."""
    with Path(os.devnull).open("wb") as nothing:
        (receipt,) = output(nothing.fileno()).deliver(sample_messages(1))

    assert receipt == Retry(
        "standard output cannot be written: it is /dev/null, where mail would be thrown away"
    )


def test_a_closed_output_is_a_retry() -> None:
    """A daemon may have none."""
    with pipe() as (_, writer):
        number = writer.fileno()
        writer.close()
        (receipt,) = output(number).deliver(sample_messages(1))

    assert receipt == Retry("standard output cannot be written: Bad file descriptor")


def over_a_socket() -> tuple[int, int]:
    one, two = socket.socketpair()
    return one.detach(), two.detach()


def over_a_terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    return ours, theirs


@pytest.mark.parametrize("make", [os.pipe, over_a_socket, over_a_terminal])
@pytest.mark.parametrize("blocking", [True, False])
def test_pipes_sockets_and_terminals_are_written_to_in_full(
    make: Callable[[], tuple[int, int]], blocking: bool
) -> None:
    """Also when another program, which shares it, has set it to non-blocking; a journal's stdout is a socket."""
    reader, writer = make()
    os.set_blocking(writer, blocking)
    messages = large(2)
    wanted = b"".join(message.to_json() + b"\n" for message in messages)
    found = b""

    def read() -> None:
        nonlocal found
        while len(found.replace(b"\r\n", b"\n")) < len(wanted):
            found += os.read(reader, 5000)

    thread = threading.Thread(target=read)
    thread.start()
    receipts = output(writer).deliver(messages)
    thread.join()
    os.close(reader)
    os.close(writer)

    assert receipts == [Accepted()] * 2
    assert found.replace(b"\r\n", b"\n") == wanted


IN_A_WORKER = """
    import sys
    from celery import Celery
    from pipelines.outputs.stdout import StdoutOptions, StdoutOutput
    from pipelines.testing import sample_messages

    app = Celery("worker", broker="filesystem://")
    app.conf.broker_transport_options = {
        "data_folder_in": sys.argv[1], "data_folder_out": sys.argv[1], "control_folder": sys.argv[1] + "/control",
    }
    app.conf.worker_prefetch_multiplier = 1

    @app.task
    def deliver(number):
        output = StdoutOutput("pipe", StdoutOptions())
        output.open()
        print("a task's print goes to the log")
        output.deliver([sample_messages(12)[number]])
        output.close()

    if sys.argv[2] == "send":
        for number in range(12):
            deliver.delay(number)
    else:
        app.worker_main(["--quiet", "worker", "-c", "2", "-P", "prefork", "--without-gossip", "--without-mingle"])
"""


@pytest.mark.slow
def test_the_children_of_a_celery_worker_write_to_the_output_of_its_command(tmp_path: Path) -> None:
    """They have the worker's own standard output, whatever Celery puts in the place of `sys.stdout`."""
    (tmp_path / "control").mkdir()
    with pipe() as (reader, writer):
        sender = run(IN_A_WORKER, tmp_path, "send", stdout=subprocess.DEVNULL)
        _, said = sender.communicate(timeout=60)
        assert sender.returncode == 0, said
        command = [sys.executable, "-c", textwrap.dedent(IN_A_WORKER), str(tmp_path), "work"]
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen(command, stdout=writer, stderr=log)
        writer.close()
        found, give_up = b"", time.monotonic() + 60
        try:
            while found.count(b"\n") < 12 and time.monotonic() < give_up:
                found += reader.read(1 << 16)
        finally:
            worker.terminate()
            worker.wait(30)

    lines = found.splitlines()
    assert sorted(lines) == sorted(message.to_json() for message in sample_messages(12))
    assert all(orjson.loads(line)["id"] for line in lines)
    assert b"a task's print" in (tmp_path / "log").read_bytes()
