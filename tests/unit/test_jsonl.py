"""The JSON lines file holds every accepted message once, whatever dies, fills up or is deleted in between."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from pipelines.output import Accepted, Retry
from pipelines.outputs import jsonl
from pipelines.outputs.jsonl import JsonlOptions, JsonlOutput
from pipelines.testing import sample_messages


@contextmanager
def writer(path: Path, *, now: Callable[[], float] = time.time, **options: object) -> Iterator[JsonlOutput]:
    output = JsonlOutput("archive", JsonlOptions.model_validate({"path": path, **options}), now=now)
    output.open()
    try:
        yield output
    finally:
        output.close()


def ids(path: Path) -> list[str]:
    """The ids in a file whose every line has to be whole JSON."""
    content = path.read_bytes()
    assert not content or content.endswith(b"\n")
    return [orjson.loads(line)["id"] for line in content.splitlines()]


def accepted(path: Path, count: int, *, start: int = 0) -> list[str]:
    """Deliver some messages, see them accepted, and return their ids."""
    messages = sample_messages(start + count)[start:]
    with writer(path) as output:
        assert output.deliver(messages) == [Accepted()] * count
    return [message.id for message in messages]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which is allowed to die."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


KILLED_AT_EVERY_LINE = """
    import os, signal, sys
    from pathlib import Path
    from pipelines.output import Accepted
    from pipelines.outputs import appended_file, id_index, jsonl, locks, rotation
    from pipelines.testing import sample_messages

    FILES = {module.__file__ for module in (appended_file, id_index, jsonl, locks, rotation)}
    folder, messages = Path(sys.argv[1]), sample_messages(3)
    messages[0].to_json(), messages[1].to_json(), messages[2].to_json()

    def deliver(path, some):
        options = jsonl.JsonlOptions.model_validate({"path": path, "rotate_size": sys.argv[2] or None})
        output = jsonl.JsonlOutput("archive", options)
        output.open()
        receipts = output.deliver(some)
        output.close()
        return receipts

    def deliver_and_die(path, steps):
        left = steps
        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename not in FILES:
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)
        deliver(path, messages[1:])
        os._exit(0)

    for steps in range(1000):
        path = folder / f"{steps}.jsonl"
        # Its index is opened and closed here, and the child opens it anew.
        deliver(path, messages[:1])
        child = os.fork()
        if not child:
            deliver_and_die(path, steps)
        _, status = os.waitpid(child, 0)
        assert deliver(path, messages) == [Accepted()] * 3, steps
        files = sorted(folder.glob(f"{steps}*.jsonl"))
        lines = b"".join(file.read_bytes() for file in files).splitlines()
        assert sorted(lines) == sorted(message.to_json() for message in messages), (steps, lines)
        assert bool(sys.argv[2]) == (len(files) > 1)
        for left in folder.iterdir():
            left.unlink()
        if os.WIFEXITED(status):
            print(steps)
            break
"""


@pytest.mark.parametrize("rotate_size", ["", "1B"])
def test_a_writer_killed_at_any_line_of_its_code_leaves_no_duplicate_and_no_gap(
    tmp_path: Path, rotate_size: str
) -> None:
    """kill -9 between any two lines, also of a rotation, then the same messages again: each is there once."""
    done = run(KILLED_AT_EVERY_LINE, tmp_path, rotate_size)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60  # So many deaths were tried before the writer came to its end.


@pytest.mark.parametrize("kept", [1, 5, 20, 45, 200, -1])
def test_a_writer_killed_in_the_middle_of_its_write_leaves_a_line_that_is_cut_off(
    tmp_path: Path, kept: int
) -> None:
    """A last line without its newline was never accepted; it goes, and its message comes again."""
    path = tmp_path / "mail.jsonl"
    first = accepted(path, 1)
    torn = sample_messages(2)[1].to_json()
    with path.open("ab") as file:
        file.write(torn[:kept])

    second = accepted(path, 1, start=1)

    assert ids(path) == first + second


def test_a_line_that_lost_its_bytes_with_the_power_does_not_count_as_delivered(tmp_path: Path) -> None:
    """Zeros in a line are no JSON: its message is written again, whole."""
    path = tmp_path / "mail.jsonl"
    message = sample_messages(1)[0]
    path.write_bytes(message.to_json()[:60] + bytes(40) + b"\n" + bytes(16))

    accepted(path, 1)

    damaged, whole = path.read_bytes().splitlines()
    assert b"\0" in damaged
    assert whole == message.to_json()


def test_lines_that_a_dead_writer_did_not_index_are_synced_before_they_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line found in the file may be in the page cache only; accepted means that it is on the disk."""
    path = tmp_path / "mail.jsonl"
    path.write_bytes(sample_messages(1)[0].to_json() + b"\n")
    synced: list[int] = []
    sync = os.fsync

    def watch(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", watch)

    accepted(path, 1)

    assert path.stat().st_ino in synced


def test_a_foreign_unfinished_line_is_not_destroyed(tmp_path: Path) -> None:
    """PATH may point at somebody else's file by mistake: what is not ours is never cut."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"my notes\nwithout an end")

    with writer(path) as output:
        (receipt,) = output.deliver(sample_messages(1))

    assert isinstance(receipt, Retry)
    assert "notes.txt" in receipt.reason
    assert "newline" in receipt.reason
    assert path.read_bytes() == b"my notes\nwithout an end"


def test_foreign_whole_lines_are_left_alone(tmp_path: Path) -> None:
    """Lines that somebody else wrote stay, and ours follow."""
    path = tmp_path / "mail.jsonl"
    path.write_bytes(b'{"hello": 1}\n\n')

    accepted(path, 1)

    assert path.read_bytes() == b'{"hello": 1}\n\n' + sample_messages(1)[0].to_json() + b"\n"


def test_a_deleted_index_is_built_again_from_the_lines(tmp_path: Path) -> None:
    """The file is the truth; the index may go at any time."""
    path = tmp_path / "mail.jsonl"
    first = accepted(path, 5)
    (tmp_path / "mail.jsonl.ids").unlink()

    accepted(path, 5)

    assert ids(path) == first


def test_an_index_deleted_under_a_running_writer_is_not_used_any_longer(tmp_path: Path) -> None:
    """It would not see what others write, who have begun a new one."""
    path = tmp_path / "mail.jsonl"
    with writer(path) as long_running:
        long_running.deliver(sample_messages(2))
        (tmp_path / "mail.jsonl.ids").unlink()
        accepted(path, 3)
        # The lines go too, so that only the new index can know them.
        path.unlink()
        assert long_running.deliver(sample_messages(3)) == [Accepted()] * 3

    assert ids(path) == []


@pytest.mark.parametrize("damage", [b"this is no database" * 300, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_damaged_index_is_built_again_from_the_lines(tmp_path: Path, damage: bytes) -> None:
    """Whatever is in the index, it is never believed over the file."""
    path = tmp_path / "mail.jsonl"
    first = accepted(path, 5)
    (tmp_path / "mail.jsonl.ids").write_bytes(damage)

    accepted(path, 6)

    assert ids(path)[:5] == first
    assert len(ids(path)) == 6


def test_an_index_damaged_under_a_running_writer_is_built_again(tmp_path: Path) -> None:
    """Damage is met at any statement, also in the middle of a delivery."""
    path = tmp_path / "mail.jsonl"
    index = tmp_path / "mail.jsonl.ids"
    with writer(path) as output:
        output.deliver(sample_messages(4))
        # Move what is in the log into the database, then spoil its tree of ids.
        with sqlite3.connect(index) as database:
            database.execute("pragma wal_checkpoint(truncate)")
        database.close()
        with index.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (index.stat().st_size - 4096))
        assert output.deliver(sample_messages(5)) == [Accepted()] * 5

    assert len(ids(path)) == len(set(ids(path))) == 5


def test_a_rotated_file_begins_anew_and_old_ids_stay_known(tmp_path: Path) -> None:
    """logrotate may move the file away at any time; a message in the old file is not written to the new one."""
    path = tmp_path / "mail.jsonl"
    with writer(path) as output:
        output.deliver(sample_messages(3))
        path.rename(tmp_path / "mail.jsonl.1")
        output.deliver(sample_messages(4))

    assert len(ids(tmp_path / "mail.jsonl.1")) == 3
    assert ids(path) == [sample_messages(4)[3].id]


def test_a_file_that_was_emptied_in_place_begins_anew_and_old_ids_stay_known(tmp_path: Path) -> None:
    """So does logrotate's copytruncate."""
    path = tmp_path / "mail.jsonl"
    accepted(path, 3)
    os.truncate(path, 0)

    accepted(path, 4)
    accepted(path, 5)

    assert ids(path) == [message.id for message in sample_messages(5)[3:]]


def test_a_file_that_was_replaced_by_a_longer_one_is_read_from_its_start(tmp_path: Path) -> None:
    """Restored from a backup, say: what is in it counts, wherever it stands."""
    path = tmp_path / "mail.jsonl"
    accepted(path, 1)
    backup = tmp_path / "backup.jsonl"
    restored = accepted(backup, 5, start=1)
    backup.rename(path)

    accepted(path, 6)

    assert ids(path) == restored


def test_the_name_of_a_new_file_is_synced_before_its_first_line_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes on the disk are of no use when the power takes the name of their file."""
    synced: list[int] = []
    sync = os.fsync

    def watch(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", watch)
    accepted(tmp_path / "mail.jsonl", 1)

    assert tmp_path.stat().st_ino in synced


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from pipelines.outputs.jsonl import JsonlOptions, JsonlOutput
    from pipelines.testing import sample_messages

    path, messages = Path(sys.argv[1]), sample_messages(4)
    output = JsonlOutput("archive", JsonlOptions(path=path))
    output.open()
    output.deliver(messages[:1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 500, resource.RLIM_INFINITY))
    for receipt in output.deliver(messages[:3]):
        print(receipt)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for receipt in output.deliver(messages):
        print(receipt)
    output.close()
"""


def test_a_full_disk_leaves_the_file_as_it_was_and_is_a_retry(tmp_path: Path) -> None:
    """What was partly written is taken back; what is there already stays accepted; later it works."""
    path = tmp_path / "mail.jsonl"
    # The index has to fit under the limit of file sizes, so it is not the index that fails here.
    path.write_bytes(b"a foreign line to begin with\n" * 20_000)
    done = run(FULL_DISK, path)

    assert done.returncode == 0, done.stderr
    first, second, third, *later = done.stdout.splitlines()
    assert first == "Accepted()"
    assert second == third
    assert second.startswith("Retry(")
    assert "mail.jsonl cannot be written: File too large" in second
    assert later == ["Accepted()"] * 4
    lines = path.read_bytes().splitlines()[20_000:]
    assert lines == [message.to_json() for message in sample_messages(4)]


def test_a_failed_sync_takes_the_lines_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync nobody knows what the disk holds, so the lines must not count as delivered."""
    path = tmp_path / "mail.jsonl"
    accepted(path, 1)
    sync = os.fsync

    def fail(file: int) -> None:
        if os.fstat(file).st_ino == path.stat().st_ino:
            raise OSError(5, "Input/output error")
        sync(file)

    monkeypatch.setattr(os, "fsync", fail)
    with writer(path) as output:
        receipts = output.deliver(sample_messages(2))

    assert receipts == [Accepted(), Retry(f"{path} cannot be written: Input/output error")]
    assert len(ids(path)) == 1


def test_a_folder_without_permission_is_a_retry_that_names_the_file(tmp_path: Path) -> None:
    """The reason says which file and what is wrong with it; a folder in its place is such a fault too."""
    path = tmp_path / "mail.jsonl"
    path.mkdir()

    with writer(path) as output:
        (receipt,) = output.deliver(sample_messages(1))

    assert receipt == Retry(f"{path} cannot be written: Is a directory")


def test_an_index_that_cannot_be_opened_is_a_retry_that_names_it(tmp_path: Path) -> None:
    """An unusable index is not discarded: it may be usable again in a moment."""
    (tmp_path / "mail.jsonl.ids").mkdir()

    with writer(tmp_path / "mail.jsonl") as output:
        (receipt,) = output.deliver(sample_messages(1))

    assert isinstance(receipt, Retry)
    assert "mail.jsonl.ids cannot be used" in receipt.reason


def test_a_lock_that_is_never_released_ends_in_a_retry(tmp_path: Path) -> None:
    """Every wait has a deadline; the time is the test's own."""
    path = tmp_path / "mail.jsonl"
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    output = JsonlOutput("archive", JsonlOptions(path=path), clock=lambda: now, sleep=sleep)
    output.open()
    with (tmp_path / "mail.jsonl.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (receipt,) = output.deliver(sample_messages(1))

    assert isinstance(receipt, Retry)
    assert "mail.jsonl.lock" in receipt.reason
    assert 30 <= now < 31
    assert output.deliver(sample_messages(1)) == [Accepted()]
    output.close()


def test_lines_are_found_across_the_pieces_in_which_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading in pieces of any size finds the same ids and ends, so memory need not grow with a line."""
    path = tmp_path / "mail.jsonl"
    known = accepted(path, 7)
    path.write_bytes(path.read_bytes() + b'{"id":"torn')
    with path.open("rb") as file:
        whole = list(jsonl.read_lines(file.fileno(), start=0))
        for size in (1, 2, 39, 40, 41, 1000):
            monkeypatch.setattr(jsonl, "_CHUNK_BYTES", size)
            assert list(jsonl.read_lines(file.fileno(), start=0)) == whole

    assert [id_.hex() for id_, _ in whole if id_] == known
    assert whole[-1][1] == path.read_bytes().rindex(b"\n") + 1


def test_the_index_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of any length costs nothing but its new lines, also in a new process."""
    path = tmp_path / "mail.jsonl"
    accepted(path, 10)
    starts: list[int] = []
    read = os.pread

    def watch(file: int, size: int, offset: int) -> bytes:
        starts.append(offset)
        return read(file, size, offset)

    monkeypatch.setattr(os, "pread", watch)
    length = path.stat().st_size

    accepted(path, 1)

    assert starts
    assert min(starts) == length


DAY = 86400.0
NOON = 20_000.5 * DAY  # 2024-10-04


def written_at(path: Path, seconds: float) -> None:
    """Make the last change of a file be at that time."""
    os.utime(path, (seconds, seconds))


def test_a_file_is_rotated_before_it_would_grow_too_large(tmp_path: Path) -> None:
    """No file is larger than ROTATE_SIZE, in the order of their names they hold every line in its order."""
    path = tmp_path / "mail.jsonl"
    messages = [message for message in sample_messages(60) if message.size < 1000]
    size = 3 * max(len(message.to_json()) + 1 for message in messages)
    with writer(path, rotate_size=f"{size}B") as output:
        for message in messages:
            assert output.deliver([message]) == [Accepted()]

    files = [*sorted(tmp_path.glob("mail-*.jsonl")), path]
    assert len(files) > 10
    assert all(0 < file.stat().st_size <= size for file in files)
    assert [id_ for file in files for id_ in ids(file)] == [message.id for message in messages]


def test_a_call_that_is_larger_than_a_file_may_be_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Its lines stay together; an empty file is never rotated."""
    path = tmp_path / "mail.jsonl"
    with writer(path, rotate_size="10B") as output:
        output.deliver(sample_messages(3))
        output.deliver(sample_messages(3))
        output.deliver(sample_messages(4))

    (rotated,) = tmp_path.glob("mail-*.jsonl")
    assert len(ids(rotated)) == 3
    assert len(ids(path)) == 1


def test_a_file_of_another_day_is_rotated_and_named_after_its_last_line(tmp_path: Path) -> None:
    """Midnight is that of UTC; a second before it, nothing happens."""
    path = tmp_path / "mail.jsonl"
    now = NOON
    with writer(path, now=lambda: now, rotate_daily="yes") as output:
        output.deliver(sample_messages(1))
        written_at(path, now)
        now = 20_001 * DAY - 1
        output.deliver(sample_messages(2))
        assert len(ids(path)) == 2
        written_at(path, now)
        now = 20_001 * DAY
        output.deliver(sample_messages(2))
        assert len(ids(path)) == 2, "what is there already is no reason to rotate"
        output.deliver(sample_messages(3))

    assert len(ids(path)) == 1
    assert len(ids(tmp_path / "mail-20241004T235959.000000Z.jsonl")) == 2


def test_rotated_files_keep_their_order_and_are_never_overwritten_when_the_clock_goes_back(
    tmp_path: Path,
) -> None:
    """A name that is taken, or that would sort before an older file, is not used."""
    path = tmp_path / "mail.jsonl"
    with writer(path, rotate_size="1B") as output:
        for number, at in enumerate([NOON, NOON, NOON - 5 * DAY, NOON + 1, 0.0]):
            output.deliver(sample_messages(number + 1))
            written_at(path, at)

    files = [*sorted(tmp_path.glob("mail-*.jsonl")), path]
    assert [id_ for file in files for id_ in ids(file)] == [message.id for message in sample_messages(5)]
    assert [file.name for file in files] == [
        "mail-20241004T120000.000000Z.jsonl",
        "mail-20241004T120000.000001Z.jsonl",
        "mail-20241004T120000.000002Z.jsonl",
        "mail-20241004T120001.000000Z.jsonl",
        "mail.jsonl",
    ]


def test_ids_of_rotated_files_stay_known_when_the_files_are_gone(tmp_path: Path) -> None:
    """They may be moved away or compressed at any time."""
    path = tmp_path / "mail.jsonl"
    with writer(path, rotate_size="1B") as output:
        output.deliver(sample_messages(3))
        output.deliver(sample_messages(4))
    for file in tmp_path.glob("mail-*.jsonl"):
        file.unlink()

    with writer(path, rotate_size="1B") as output:
        assert output.deliver(sample_messages(4)) == [Accepted()] * 4

    assert ids(path) == [sample_messages(4)[3].id]


def test_ids_of_rotated_files_are_on_the_disk_before_the_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure may take all that SQLite has in its log only; what is left knows the rotated lines."""
    path = tmp_path / "mail.jsonl"
    rename = os.rename
    left: list[int] = []

    def watch(source: Path, target: Path) -> None:
        after = tmp_path / "after"
        after.write_bytes(Path(f"{path}.ids").read_bytes())
        database = sqlite3.connect(after)
        left.extend(database.execute("select count(*) from ids").fetchone())
        database.close()
        rename(source, target)

    monkeypatch.setattr(os, "rename", watch)
    with writer(path, rotate_size="1B") as output:
        output.deliver(sample_messages(3))
        output.deliver(sample_messages(4))

    assert left == [3]


def test_a_deleted_index_is_built_again_from_rotated_files_too(tmp_path: Path) -> None:
    """As far as they are still beside the file under their names."""
    path = tmp_path / "mail.jsonl"
    with writer(path, rotate_size="1B") as output:
        for count in range(1, 6):
            output.deliver(sample_messages(count))
    (tmp_path / "mail.jsonl.ids").unlink()

    accepted(path, 6)

    assert len(ids(path)) == 2


def test_a_rotation_that_fails_is_a_retry_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file stays where it is, and the next call tries again."""
    path = tmp_path / "mail.jsonl"

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with writer(path, rotate_size="1B") as output:
        output.deliver(sample_messages(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            receipts = output.deliver(sample_messages(2))
        assert receipts == [Retry(f"{path} cannot be written: No space left on device")] * 2
        assert ids(path) == [sample_messages(1)[0].id]
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2

    assert len(list(tmp_path.glob("mail-*.jsonl"))) == 1


ONE_OF_SEVERAL = """
    import sys
    from pathlib import Path
    from pipelines.output import Accepted
    from pipelines.outputs.jsonl import JsonlOptions, JsonlOutput
    from pipelines.testing import sample_messages

    output = JsonlOutput("archive", JsonlOptions(path=Path(sys.argv[1]), rotate_size=4000))
    messages = [message for message in sample_messages(240) if message.size < 1000]
    first = int(sys.argv[2])
    output.open()
    for message in messages[first:] + messages[:first]:
        assert output.deliver([message]) == [Accepted()]
    output.close()
"""


def test_processes_that_rotate_at_once_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Four real processes deliver the same messages, each beginning elsewhere."""
    path = tmp_path / "mail.jsonl"
    command = [sys.executable, "-c", textwrap.dedent(ONE_OF_SEVERAL), str(path)]
    processes = [subprocess.Popen([*command, str(first)]) for first in (0, 50, 100, 150)]
    try:
        assert [process.wait(100) for process in processes] == [0, 0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()

    files = [*sorted(tmp_path.glob("mail-*.jsonl")), path]
    assert len(files) > 20
    assert all(file.stat().st_size <= 4000 for file in files)
    expected = [message.id for message in sample_messages(240) if message.size < 1000]
    assert sorted(id_ for file in files for id_ in ids(file)) == sorted(expected)
