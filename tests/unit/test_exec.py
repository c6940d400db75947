"""The program gets a message and no more than it is meant to, its status decides, and nothing that it does holds mail up."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pydantic
import pytest

from pipelines.message import Message, Source
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.exec import PATH, SYSEXITS, ExecOptions, ExecOutput, judge
from pipelines.parse import parse
from pipelines.testing import sample_messages


def output(*command: object, **options: object) -> ExecOutput:
    said = {"command": shlex.join(map(str, command)), **options}
    return ExecOutput("robot", ExecOptions.model_validate(said))


def run(*command: object, message: Message | None = None, **options: object) -> Receipt:
    made = output(*command, **options)
    made.open()
    (receipt,) = made.deliver([message or sample_messages(1)[0]])
    made.close()
    return receipt


def python(script: str, *arguments: object) -> list[object]:
    return [sys.executable, "-c", textwrap.dedent(script), *arguments]


def large() -> Message:
    """More than any pipe holds."""
    return parse(b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 200_000, id="5" * 32, mailbox="m")


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("input_", ["raw", "json"])
def test_the_program_reads_the_message_to_its_end(tmp_path: Path, input_: str) -> None:
    """Byte for byte, also one of several megabytes, and then the input ends."""
    message = large()

    assert run("/bin/sh", "-c", 'cat > "$0"', tmp_path / "in", message=message, input=input_) == Accepted()

    assert (tmp_path / "in").read_bytes() == (message.raw if input_ == "raw" else message.to_json())


def test_the_environment_holds_what_is_documented_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a server calls its folder; secrets of Mailquay's own environment stay with it."""
    monkeypatch.setenv("OUTPUT__CRM__PASSWORD", "x")
    message = replace(
        sample_messages(1)[0],
        source=Source(folder="a\0b\nc=d \ud800ü 中"),
        received_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
    )
    script = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"

    assert run(*python(script, tmp_path / "env"), message=message) == Accepted()

    found = orjson.loads((tmp_path / "env").read_bytes())
    assert found.pop("MAILQUAY_FOLDER").startswith("a")
    assert {name: value for name, value in found.items() if name != "LC_CTYPE"} == {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "MAILQUAY_OUTPUT": "robot",
        "MAILQUAY_ID": message.id,
        "MAILQUAY_MAILBOX": "contract",
        "MAILQUAY_DIGEST": f"sha256:{message.digest}",
        "MAILQUAY_SIZE": str(message.size),
        "MAILQUAY_RECEIVED_AT": "2026-01-01T12:00:00Z",
    }


def test_there_is_no_shell_and_nothing_is_replaced_in_arguments(tmp_path: Path) -> None:
    """They are parted as a shell would, once, and that is all."""
    script = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
    words = "'a b' \"c d\" $HOME ${MAILQUAY_ID} {id} `id` ; | > x * \\$y"
    command = f"{shlex.join(map(str, python(script, tmp_path / 'argv')))} {words}"

    receipts = ExecOutput("robot", ExecOptions(command=command)).deliver(sample_messages(1))

    assert receipts == [Accepted()]
    assert orjson.loads((tmp_path / "argv").read_bytes()) == [
        "a b", "c d", "$HOME", "${MAILQUAY_ID}", "{id}", "`id`", ";", "|", ">", "x", "*", "$y",
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["", "  ", "''", "cat 'open", "cat \\", "cat \0"])
def test_a_command_that_is_none_is_a_wrong_option(command: str) -> None:
    """Found when the configuration is read."""
    with pytest.raises(pydantic.ValidationError, match="write a program and its arguments"):
        ExecOptions(command=command)


@pytest.mark.parametrize("status", [0, 1, 2, 63, 64, 65, 69, 73, 74, 75, 76, 77, 78, 79, 126, 127, 255])
def test_the_exit_status_decides_as_in_sysexits(status: int) -> None:
    """By a real program; 75 is the one of them that means later."""
    receipt = run("/bin/sh", "-c", f"exit {status}")

    kind = Accepted if status == 0 else Refused if 64 <= status <= 78 and status != 75 else Retry
    assert isinstance(receipt, kind)
    if not isinstance(receipt, Accepted):
        assert receipt.reason.startswith(f"sh ended with status {status}")
        assert SYSEXITS.get(status, "") in receipt.reason
    assert receipt == judge(status, program="sh")


def test_a_program_that_a_signal_killed_is_a_retry() -> None:
    """It crashed, or somebody ended it; either is no word about the message."""
    assert run("/bin/sh", "-c", "kill -SEGV $$") == Retry("sh was killed by signal 11")


def test_a_program_that_does_not_exist_is_a_fault_of_all_messages() -> None:
    """The sentence shows its name, and no argument."""
    with pytest.raises(OSError, match=r"^none-such cannot be started: No such file or directory$"):
        run("/usr/bin/none-such", "password")
    with pytest.raises(OSError, match=r"^etc cannot be started: Permission denied$"):
        run("/etc")


def test_what_the_program_says_is_in_no_reason_and_fills_no_memory() -> None:
    """It floods both outputs with the message that it got, before it reads to the end."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    script = """
        import os, sys
        head = os.read(0, 100)
        for _ in range(3000):
            os.write(1, head * 1000)
            os.write(2, head * 1000)
        sys.exit(65)
    """
    receipt = run(*python(script), message=large())

    assert isinstance(receipt, Refused)
    assert "Subject" not in receipt.reason
    assert "0123" not in receipt.reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("status", [0, 75])
def test_a_program_that_does_not_read_decides_all_the_same(status: int) -> None:
    """It may know by the id; a pipe that is full holds nobody up."""
    receipt = run("/bin/sh", "-c", f"exit {status}", message=large())

    assert receipt == judge(status, program="sh")


def test_a_program_that_left_another_with_its_input_holds_nobody_up(tmp_path: Path) -> None:
    """The other neither reads nor ends; the status counts when the program has ended, and the other is left alone."""
    message = large()
    begun = time.monotonic()

    # A shell gives its background jobs /dev/null as their input, and leaves them other descriptors.
    script = 'exec 3<&0; sleep 600 & echo $! > "$0"'
    receipt = run("/bin/sh", "-c", script, tmp_path / "pid", message=message, timeout="1h")

    pid = int((tmp_path / "pid").read_text())
    assert receipt == Accepted()
    assert time.monotonic() - begun < 20
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("reads", [True, False])
def test_a_program_that_takes_too_long_is_killed_with_all_that_it_started(
    tmp_path: Path, reads: bool
) -> None:
    """Whether it hangs before or after it has read; TERM would not do."""
    script = (
        f'trap "" TERM; sleep 600 & echo $! $$ > "$0"; {"cat > /dev/null;" if reads else ""} wait; sleep 600'
    )

    receipt = run("/bin/sh", "-c", script, tmp_path / "pids", message=large(), timeout="1s")

    assert receipt == Retry("sh did not end within 1s and was killed")
    until(lambda: not any(is_alive(int(pid)) for pid in (tmp_path / "pids").read_text().split()))


def test_a_program_that_drips_has_one_deadline_for_all(tmp_path: Path) -> None:
    """It reads a little again and again: patience does not begin anew each time."""
    script = """
        import os, time
        while os.read(0, 10):
            time.sleep(0.05)
    """
    begun = time.monotonic()

    assert run(*python(script), message=large(), timeout="1s") == Retry(
        f"{Path(sys.executable).name} did not end within 1s and was killed"
    )
    assert time.monotonic() - begun < 15


def test_where_no_exit_status_can_be_read_nothing_is_accepted() -> None:
    """With SIGCHLD ignored, as some supervisors leave it, every program would seem to have ended well."""
    script = """
        from pipelines.outputs.exec import ExecOptions, ExecOutput
        output = ExecOutput("robot", ExecOptions(command="/bin/false"))
        try:
            output.open()
        except OSError as error:
            print(error)
    """
    wrapper = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", wrapper, *map(str, python(script))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert (
        done.stdout == "this process was started with SIGCHLD ignored, and no exit status can be read then\n"
    )


def test_as_many_run_at_once_as_parallel_says() -> None:
    """One message a call, several calls; the number is the person's."""
    made = output("cat", parallel=7)

    assert (made.batch_size, made.parallel) == (1, 7)
