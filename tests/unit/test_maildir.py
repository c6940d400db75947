"""The Maildir holds every accepted message once, byte for byte, whatever a mail program or a crash does to it."""

from __future__ import annotations

import mailbox
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.output import Accepted, Retry
from pipelines.outputs.maildir import MaildirOptions, MaildirOutput
from pipelines.testing import sample_messages


@contextmanager
def writer(path: Path) -> Iterator[MaildirOutput]:
    output = MaildirOutput("copy", MaildirOptions(path=path))
    output.open()
    try:
        yield output
    finally:
        output.close()


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_the_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    """Mail is private: folders 0700, files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        with writer(tmp_path / "Maildir") as output:
            output.deliver(sample_messages(1))
    finally:
        os.umask(before)

    folders = [tmp_path / "Maildir", *(tmp_path / "Maildir" / name for name in ("tmp", "new", "cur"))]
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700] * 4
    (file,) = (tmp_path / "Maildir" / "new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_other_programs_read_what_was_filed(tmp_path: Path) -> None:
    """Python's own Maildir reader finds the messages; nothing is left in tmp."""
    messages = sample_messages(6)
    with writer(tmp_path / "Maildir") as output:
        output.deliver(messages)

    box = mailbox.Maildir(tmp_path / "Maildir", factory=None, create=False)
    assert {box.get_bytes(key) for key in box.keys()} >= {bytes(messages[0].raw)}  # noqa: SIM118
    assert len(box) == 6
    assert names(tmp_path / "Maildir" / "tmp") == []


@pytest.mark.parametrize("suffix", ["", ":2,", ":2,FS", ",U=7:2,S", ";2,RS"])
def test_a_message_that_a_mail_program_moved_to_cur_is_not_filed_again(tmp_path: Path, suffix: str) -> None:
    """A user who reads a message moves and renames its file; it still is the same message."""
    path = tmp_path / "Maildir"
    with writer(path) as output:
        output.deliver(sample_messages(2))
        for file in (path / "new").iterdir():
            file.rename(path / "cur" / (file.name + suffix))
        assert output.deliver(sample_messages(3)) == [Accepted()] * 3

    assert names(path / "new") == [f"{sample_messages(3)[2].id}.mailquay"]
    assert len(names(path / "cur")) == 2


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    """A Maildir may be shared with a mail server; what it filed is not ours."""
    path = tmp_path / "Maildir"
    with writer(path):
        (path / "cur" / "1700000000.M1P1.host:2,S").write_bytes(b"theirs")
        (path / "tmp" / "1700000000.M2P2.host").write_bytes(b"theirs, at work")
    output = MaildirOutput("copy", MaildirOptions(path=path), clock=lambda: time.time() + 40 * 3600)
    output.open()
    output.deliver(sample_messages(1))

    assert names(path / "cur") == ["1700000000.M1P1.host:2,S"]
    assert names(path / "tmp") == ["1700000000.M2P2.host"]


def test_the_file_bears_the_time_of_receipt(tmp_path: Path) -> None:
    """Mail programs show the time of the file as the date on which a message was received."""
    moment = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)
    message = replace(sample_messages(1)[0], received_at=moment)
    with writer(tmp_path / "Maildir") as output:
        output.deliver([message])

    (file,) = (tmp_path / "Maildir" / "new").iterdir()
    assert file.stat().st_mtime == moment.timestamp()


def test_a_date_that_the_file_system_refuses_does_not_stop_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers claim any date, and not every file system can hold it; the message is filed all the same."""
    messages = [
        replace(message, received_at=datetime(year, 1, 1, tzinfo=UTC))
        for message, year in zip(sample_messages(2), (1, 9999), strict=True)
    ]
    with writer(tmp_path / "Maildir") as output:
        assert output.deliver(messages[:1]) == [Accepted()]

        def refuse(path: Path, times: tuple[float, float]) -> None:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(os, "utime", refuse)
        assert output.deliver(messages) == [Accepted()] * 2


def test_what_a_dead_writer_left_in_tmp_is_removed_after_36_hours(tmp_path: Path) -> None:
    """Not earlier, because another process may be writing it; the file's own dates do not matter."""
    path = tmp_path / "Maildir"
    with writer(path):
        draft = path / "tmp" / f"{sample_messages(1)[0].id}.mailquay.abc"
        draft.write_bytes(b"half a message")
        os.utime(draft, (0, 0))
    written = draft.stat().st_ctime

    MaildirOutput("copy", MaildirOptions(path=path), clock=lambda: written + 35 * 3600).open()
    assert draft.exists()
    MaildirOutput("copy", MaildirOptions(path=path), clock=lambda: written + 37 * 3600).open()
    assert not draft.exists()


KILLED_AT_EVERY_LINE = """
    import os, shutil, signal, sys
    from pathlib import Path
    from pipelines.output import Accepted
    from pipelines.outputs import maildir
    from pipelines.testing import sample_messages

    folder, messages = Path(sys.argv[1]), sample_messages(3)

    def deliver(path):
        output = maildir.MaildirOutput("copy", maildir.MaildirOptions(path=path))
        output.open()
        return output.deliver(messages)

    def deliver_and_die(path, steps):
        left = steps
        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename != maildir.__file__:
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)
        deliver(path)
        os._exit(0)

    for steps in range(1000):
        path = folder / str(steps)
        child = os.fork()
        if not child:
            deliver_and_die(path, steps)
        _, status = os.waitpid(child, 0)
        if steps % 2 and (path / "new").exists():
            for file in (path / "new").iterdir():
                file.rename(path / "cur" / (file.name + ":2,S"))
        assert deliver(path) == [Accepted()] * 3, steps
        files = [*(path / "new").iterdir(), *(path / "cur").iterdir()]
        assert sorted(file.name[:32] for file in files) == sorted(message.id for message in messages), steps
        assert sorted(file.read_bytes() for file in files) == sorted(message.raw for message in messages), steps
        shutil.rmtree(path)
        if os.WIFEXITED(status):
            print(steps)
            break
"""


def test_a_writer_killed_at_any_line_of_its_code_leaves_no_duplicate_and_no_gap(tmp_path: Path) -> None:
    """kill -9 between any two lines, a user reads some, then the same messages again: each is there once."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED_AT_EVERY_LINE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60  # So many deaths were tried before the writer came to its end.


def test_a_full_disk_stops_only_the_messages_that_do_not_fit(tmp_path: Path) -> None:
    """Each message has its own receipt, and a draft that failed does not keep the room it took."""
    script = """
        import resource, sys
        from pathlib import Path
        from pipelines.outputs.maildir import MaildirOptions, MaildirOutput
        from pipelines.testing import sample_messages

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        output = MaildirOutput("copy", MaildirOptions(path=Path(sys.argv[1])))
        output.open()
        for receipt in output.deliver(sample_messages(5)):
            print(receipt)
    """
    path = tmp_path / "Maildir"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stderr
    *small, large, last = done.stdout.splitlines()
    assert [*small, last] == ["Accepted()"] * 4
    assert f"{path} cannot be written: File too large" in large
    assert names(path / "tmp") == []


def test_a_failed_sync_is_a_retry_and_files_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose bytes may not be on the disk gets no name."""
    path = tmp_path / "Maildir"
    with writer(path) as output:
        sync = os.fsync
        calls: list[int] = []

        def fail_first(file: int) -> None:
            calls.append(file)
            if len(calls) == 1:
                raise OSError(5, "Input/output error")
            sync(file)

        monkeypatch.setattr(os, "fsync", fail_first)
        receipts = output.deliver(sample_messages(2))

    assert receipts == [Retry(f"{path} cannot be written: Input/output error"), Accepted()]
    assert names(path / "new") == [f"{sample_messages(2)[1].id}.mailquay"]
    assert names(path / "tmp") == []


def test_the_name_is_synced_also_when_the_message_was_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever filed it may have died before the folder was on the disk; accepted means that it is."""
    path = tmp_path / "Maildir"
    with writer(path) as output:
        output.deliver(sample_messages(1))
        synced: list[int] = []
        sync = os.fsync

        def watch(file: int) -> None:
            synced.append(os.fstat(file).st_ino)
            sync(file)

        monkeypatch.setattr(os, "fsync", watch)
        output.deliver(sample_messages(1))

    assert synced == [(path / "new").stat().st_ino]
