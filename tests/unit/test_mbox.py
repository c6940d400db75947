"""The mailbox file holds every accepted message once, as every mail program reads it, whoever writes to it meanwhile."""

from __future__ import annotations

import fcntl
import mailbox
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.message import Message
from pipelines.output import Accepted, Retry
from pipelines.outputs import locks, mbox
from pipelines.outputs.mbox import MboxOptions, MboxOutput
from pipelines.parse import parse
from pipelines.testing import sample_messages
from worker.reading.mbox import cut, unquoted

FOREIGN = b"From joe@example.com Fri Jan  2 03:04:05 2026\nSubject: theirs\n\nHi.\n\n"
# What a mailbox is made of: whoever can write these can write anything that is hard to read.
HARD = st.lists(
    st.sampled_from(
        [
            b"From ",
            b">From ",
            b">>From x\n",
            b"\n",
            b"\r\n",
            b"\n\n",
            b"From",
            b"\0",
            b"\r",
            b"x",
            b"Subject: y\n",
        ]
    ),
    max_size=12,
).map(b"".join)


@contextmanager
def writer(path: Path, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[MboxOutput]:
    output = MboxOutput("copy", MboxOptions(path=path), sleep=sleep)
    output.open()
    try:
        yield output
    finally:
        output.close()


def message(raw: bytes, *, received_at: datetime | None = None) -> Message:
    return parse(raw, id=sha256(raw).hexdigest()[:32], mailbox="m", received_at=received_at)


def accepted(path: Path, *messages: Message) -> None:
    with writer(path) as output:
        assert output.deliver(messages) == [Accepted()] * len(messages)


def read(path: Path) -> list[bytes]:
    """What Python's mailbox module finds, with the quoting of mboxrd undone."""
    box = mailbox.mbox(path, create=False)
    found = [re.sub(rb"^>(>*From )", rb"\1", box.get_bytes(key), flags=re.MULTILINE) for key in box.keys()]  # noqa: SIM118
    box.close()
    return found


def ended(raw: bytes | memoryview) -> bytes:
    """A message as an mbox can hold it: its last line has an end."""
    octets = bytes(raw)
    return octets if octets.endswith(b"\n") or not octets else octets + b"\n"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which is allowed to die."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@given(raws=st.lists(st.one_of(HARD, st.binary(max_size=200)), min_size=1, max_size=5, unique=True))
@example(raws=[b"From the beginning\n>From here\n>>From there\nfrom nowhere\n From afar\nFrom"])
@example(raws=[b"", b"\n", b"\r\n", b"\n\n\n", b"no end", b"a\r\n\r\nFrom x\r\n\r\n"])
def test_messages_come_back_byte_for_byte(
    raws: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By Python's mailbox, and by `mailquay parse`, whatever the message is made of; the index is not needed for it."""
    path = tmp_path_factory.mktemp("mbox") / "mail.mbox"
    messages = [message(raw) for raw in raws]
    accepted(path, *messages)
    Path(f"{path}.ids").unlink()
    accepted(path, *messages)

    octets = path.read_bytes()
    assert read(path) == [ended(raw) for raw in raws]
    assert [bytes(unquoted(octets[at : at + size])) for at, size in cut(octets)] == [
        ended(raw) for raw in raws
    ]


def test_the_pieces_in_which_a_message_is_quoted_and_read_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So memory need not grow with a message."""
    raw = b"From a\n" + b"x" * 50 + b"\n>From b\nFrom c\n\nFrom d"
    whole = b"".join(mbox.quoted(raw))
    messages = [message(raw), message(raw + b"\n\n"), message(FOREIGN)]
    accepted(tmp_path / "mail.mbox", *messages)
    changed = (tmp_path / "mail.mbox").read_bytes().replace(b"x" * 50, b"y" * 60)
    (tmp_path / "changed.mbox").write_bytes(changed)
    for file in (tmp_path / "mail.mbox", tmp_path / "changed.mbox"):
        with file.open("rb") as opened:
            found = list(mbox.read_messages(opened.fileno(), start=0))
            assert len(found) == 3
            for size in (1, 6, 7, 11, 64):
                monkeypatch.setattr(mbox, "_CHUNK_BYTES", size)
                assert b"".join(mbox.quoted(raw)) == whole
                if size > 5:
                    assert list(mbox.read_messages(opened.fileno(), start=0)) == found
            monkeypatch.undo()


# mutt's is_from(): From, perhaps an address, weekday, month, day, time, perhaps zones, year.
MUTT = re.compile(
    rb"From (?:\S+ )?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) +(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +"
    rb"\d{1,2} +\d{1,2}:\d\d(?::\d\d)?(?: [A-Za-z+-]\S*){0,2} +\d{4}\n"
)


def test_a_reader_with_the_rules_of_mutt_finds_the_same_messages(tmp_path: Path) -> None:
    """Its From lines need a date; it takes a line for one wherever it stands, and one empty line before it away."""
    path = tmp_path / "mail.mbox"
    messages = [*sample_messages(6), message(FOREIGN * 2)]
    accepted(path, *messages)

    found: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        if MUTT.fullmatch(line):
            found.append(b"")
        else:
            found[-1] += line
    bodies = [re.sub(rb"^>(>*From )", rb"\1", body[:-1], flags=re.MULTILINE) for body in found]
    assert bodies == [ended(one.raw) for one in messages]


@pytest.mark.parametrize(
    ("received_at", "date"),
    [
        (datetime(2026, 1, 1, 12, tzinfo=UTC), b"Thu Jan  1 12:00:00 2026"),
        (None, b"Sun Sep  9 01:46:40 2001"),
        (datetime.fromisoformat("9999-12-31T23:59:59-12:00"), b"Sun Sep  9 01:46:40 2001"),
    ],
)
def test_the_from_line_has_the_time_of_receipt(
    tmp_path: Path, received_at: datetime | None, date: bytes
) -> None:
    """In UTC and in C's form, whatever the locale; without one that is a date, the present."""
    output = MboxOutput("copy", MboxOptions(path=tmp_path / "mail.mbox"), now=lambda: 1e9)
    output.open()
    output.deliver([message(b"x\n", received_at=received_at)])
    output.close()

    assert (tmp_path / "mail.mbox").read_bytes().splitlines()[0].endswith(b"@mailquay.invalid " + date)


KILLED_AT_EVERY_LINE = """
    import os, signal, sys
    from pathlib import Path
    from pipelines.output import Accepted
    from pipelines.outputs import appended_file, id_index, locks, mbox
    from pipelines.testing import sample_messages

    FILES = {module.__file__ for module in (appended_file, id_index, locks, mbox)}
    folder, messages = Path(sys.argv[1]), sample_messages(3)

    def deliver(path, some):
        output = mbox.MboxOutput("copy", mbox.MboxOptions(path=path))
        output.open()
        receipts = output.deliver(some)
        output.close()
        return receipts

    deliver(folder / "whole", messages)
    whole = (folder / "whole").read_bytes()

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

    for steps in range(2000):
        path = folder / f"{steps}.mbox"
        deliver(path, messages[:1])
        child = os.fork()
        if not child:
            deliver_and_die(path, steps)
        _, status = os.waitpid(child, 0)
        assert deliver(path, messages) == [Accepted()] * 3, steps
        assert path.read_bytes() == whole, steps
        assert not Path(f"{path}.lock").exists()
        for left in folder.glob(f"{steps}.mbox*"):
            left.unlink()
        if os.WIFEXITED(status):
            print(steps)
            break
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_line_of_its_code_leaves_no_duplicate_and_no_gap(tmp_path: Path) -> None:
    """kill -9 between any two lines, then the same messages again: each is there once, and no lock is left."""
    done = run(KILLED_AT_EVERY_LINE, tmp_path)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100  # So many deaths were tried before the writer came to its end.


def test_a_writer_killed_after_any_byte_leaves_a_message_that_is_cut_off(tmp_path: Path) -> None:
    """Also in its From line, and right behind an empty line; without an index, alone and behind others."""
    path = tmp_path / "mail.mbox"
    torn = message(b"Subject: x\n\nFrom y\n\n\nz\n", received_at=datetime(2026, 1, 1, tzinfo=UTC))
    accepted(path, torn)
    record = path.read_bytes()
    path.write_bytes(FOREIGN)
    accepted(path, message(b"Subject: ours\n\n"))
    for before in (b"", path.read_bytes()):
        for kept in range(len(record) + 1):
            for file in tmp_path.iterdir():
                file.unlink()
            path.write_bytes(before + record[:kept])
            accepted(path, torn)
            left = path.read_bytes()
            # Behind an empty line it might be the work of a mail program; it stays, and the message comes whole.
            is_doubtful = 80 < kept < len(record) and record[:kept].endswith(b"\n\n")
            assert left == before + (record[:kept] if is_doubtful else b"") + record, kept


def test_what_a_power_failure_left_of_a_write_does_not_count_as_delivered(tmp_path: Path) -> None:
    """A file system may keep the length of a write and not its bytes: at the end, or in the middle."""
    path = tmp_path / "mail.mbox"
    # When a message came is in its From line; without it the clock of each delivery is.
    came = datetime(2026, 1, 1, tzinfo=UTC)
    first = message(b"Subject: first\n\n" + b"1" * 500 + b"\n", received_at=came)
    second = message(b"Subject: second\n\n2\n", received_at=came)
    accepted(path, first)
    one = path.read_bytes()
    accepted(path, second)
    both = path.read_bytes()
    for left in (both + bytes(70), one + bytes(len(both) - len(one)), bytes(100)):
        Path(f"{path}.ids").unlink()
        path.write_bytes(left)
        accepted(path, first, second)
        assert path.read_bytes() == both

    Path(f"{path}.ids").unlink()
    path.write_bytes(both[:150] + bytes(100) + both[250:])
    accepted(path, first, second)
    assert path.read_bytes() == both[:150] + bytes(100) + both[250:] + one


@pytest.mark.parametrize(
    ("theirs", "between"),
    [
        (FOREIGN, b""),
        (FOREIGN[:-1], b"\n"),
        (FOREIGN[:-2], b"\n\n"),
        (b"no mailbox at all", b"\n\n"),
        (b"\n", b"\n"),
    ],
)
def test_mail_of_others_is_left_alone(tmp_path: Path, theirs: bytes, between: bytes) -> None:
    """What is there stays, byte for byte; an empty line parts it from ours if it had none."""
    path = tmp_path / "mail.mbox"
    path.write_bytes(theirs)

    accepted(path, message(b"Subject: ours\n\n"))

    assert re.fullmatch(re.escape(theirs + between) + rb"From [^\n]+\nSubject: ours\n\n\n", path.read_bytes())


@pytest.mark.parametrize("has_index", [True, False])
def test_a_message_that_a_mail_program_marked_is_recognised(tmp_path: Path, has_index: bool) -> None:
    """Python's mailbox, like mutt, adds Status headers and puts a new file in the place of the old one."""
    path = tmp_path / "mail.mbox"
    messages = sample_messages(4)
    accepted(path, *messages)
    box = mailbox.mbox(path)
    for key, marked in list(box.items())[:3]:
        marked.set_flags("RO")
        box[key] = marked
    box.close()
    if not has_index:
        Path(f"{path}.ids").unlink()
    marked_octets = path.read_bytes()
    assert marked_octets.count(b"\nStatus: RO") == 3

    accepted(path, *messages)

    # The third holds a NUL, as a power failure leaves them; without the index it is written once more, to be safe.
    assert path.read_bytes().startswith(marked_octets)
    assert len(read(path)) == (4 if has_index else 5)


def test_a_message_that_a_person_deleted_is_not_filed_again(tmp_path: Path) -> None:
    """The ids stay known, also when the file was made shorter in its place, as mutt does."""
    path = tmp_path / "mail.mbox"
    messages = sample_messages(3)
    accepted(path, *messages)
    whole = path.read_bytes()
    path.write_bytes(whole[whole.index(b"\nFrom ") + 1 :])

    accepted(path, *messages)

    assert read(path) == [ended(one.raw) for one in messages[1:]]


def test_a_file_that_was_rewritten_in_its_place_and_grew_is_read_from_its_start(tmp_path: Path) -> None:
    """No message begins any longer where the last one ended."""
    path = tmp_path / "mail.mbox"
    short, long = message(b"Subject: short\n\n"), message(b"Subject: long\n\n" + b"x" * 500 + b"\n")
    accepted(path, short)
    ours = path.read_bytes()
    accepted(tmp_path / "other.mbox", long)
    with path.open("r+b") as file:
        file.write((tmp_path / "other.mbox").read_bytes() + FOREIGN + ours)
    before = path.read_bytes()

    accepted(path, short, long)

    assert path.read_bytes() == before


def test_a_message_that_was_whole_once_is_never_cut_off(tmp_path: Path) -> None:
    """A person shortened it with an editor, which keeps no empty lines at the end."""
    path = tmp_path / "mail.mbox"
    long, other = message(b"Subject: long\n\nsecret\nline\n"), message(b"Subject: other\n\n")
    accepted(path, long)
    edited = path.read_bytes().replace(b"secret\nline\n\n", b"line")
    (tmp_path / "edited").write_bytes(edited)
    (tmp_path / "edited").rename(path)

    accepted(path, long, other)

    assert path.read_bytes().startswith(edited + b"\n\nFrom ")
    assert len(read(path)) == 2


def test_while_it_writes_other_programs_find_both_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's mailbox in another process cannot lock with either method; afterwards it can."""
    path = tmp_path / "mail.mbox"
    script = """
        import fcntl, mailbox, os, sys
        held = []
        with open(sys.argv[1], "rb+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append("fcntl")
        if os.path.exists(sys.argv[1] + ".lock"):
            held.append("dot")
        box = mailbox.mbox(sys.argv[1])
        try:
            box.lock()
        except mailbox.ExternalClashError:
            held.append("mailbox")
        print(held)
    """
    seen: list[str] = []
    sync = os.fsync

    def watch(file: int) -> None:
        if not seen:
            seen.append(run(script, path).stdout.strip())
        sync(file)

    monkeypatch.setattr(os, "fsync", watch)
    accepted(path, *sample_messages(1))

    assert seen == ["['fcntl', 'dot', 'mailbox']"]
    assert run(script, path).stdout.strip() == "[]"


def test_a_lock_file_of_another_program_is_waited_for_and_never_broken(tmp_path: Path) -> None:
    """The reason names it; the time is the test's own."""
    path = tmp_path / "mail.mbox"
    dot = tmp_path / "mail.mbox.lock"
    dot.write_text("0")
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    output = MboxOutput("copy", MboxOptions(path=path), clock=lambda: now, sleep=sleep)
    output.open()
    (receipt,) = output.deliver(sample_messages(1))

    assert receipt == Retry(
        f"{path} cannot be written: another program holds mail.mbox.lock for 30 s; does it hang?"
    )
    assert 30 <= now < 31
    assert dot.read_text() == "0"
    dot.unlink()
    assert output.deliver(sample_messages(1)) == [Accepted()]
    output.close()


HOLDER = """
    import fcntl, sys
    file = open(sys.argv[1], "rb+")
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_that_another_program_locks_by_fcntl_is_waited_for_without_the_lock_file(
    tmp_path: Path,
) -> None:
    """Also when that program puts a new file in its place: the new one is written to."""
    path = tmp_path / "mail.mbox"
    path.write_bytes(FOREIGN)
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        waited = 0

        def sleep(seconds: float) -> None:
            nonlocal waited
            waited += 1
            if waited == 3:
                # As a mail program does after an expunge.
                (tmp_path / "new").write_bytes(FOREIGN * 2)
                (tmp_path / "new").rename(path)
                holder.communicate()

        with writer(path, sleep=sleep) as output:
            assert output.deliver(sample_messages(1)) == [Accepted()]

    assert waited >= 3
    assert len(read(path)) == 3


def test_a_file_that_is_replaced_in_the_moment_of_locking_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a file that has no name any longer keeps nobody away, and what is written to it is lost."""
    path = tmp_path / "mail.mbox"
    path.write_bytes(FOREIGN)
    lockf = locks.lockf

    def replace(file: int, how: int) -> None:
        monkeypatch.undo()
        (tmp_path / "new").write_bytes(FOREIGN * 2)
        (tmp_path / "new").rename(path)
        lockf(file, how)

    monkeypatch.setattr(locks, "lockf", replace)
    accepted(path, *sample_messages(1))

    assert len(read(path)) == 3


def test_a_lock_file_that_a_dead_writer_of_ours_left_is_taken_over_at_once(tmp_path: Path) -> None:
    """It is a link to our own lock, which nobody holds; nobody waits for minutes."""
    path = tmp_path / "mail.mbox"
    accepted(path, *sample_messages(1))
    os.link(f"{path}.mailquay", f"{path}.lock")

    def sleep(seconds: float) -> None:
        raise AssertionError("it waited")

    with writer(path, sleep=sleep) as output:
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2

    assert not Path(f"{path}.lock").exists()


ONE_OF_SEVERAL = """
    import sys
    from pathlib import Path
    from pipelines.output import Accepted
    from pipelines.outputs.mbox import MboxOptions, MboxOutput
    from pipelines.testing import sample_messages

    output = MboxOutput("copy", MboxOptions(path=Path(sys.argv[1])))
    messages = sample_messages(60)
    first = int(sys.argv[2])
    output.open()
    for message in messages[first:] + messages[:first]:
        assert output.deliver([message]) == [Accepted()]
    output.close()
"""
MAIL_PROGRAM = """
    import mailbox, sys, time
    for number in range(40):
        while True:
            box = mailbox.mbox(sys.argv[1])
            try:
                box.lock()
                break
            except mailbox.ExternalClashError:
                box.close()
                time.sleep(0.003)
        box.add(f"Subject: theirs {number}\\n\\n")
        box.flush()
        box.unlock()
        box.close()
"""


def test_processes_and_a_mail_program_write_at_once(tmp_path: Path) -> None:
    """Three real processes of ours and one that uses Python's mailbox: every message is there once, whole."""
    path = tmp_path / "mail.mbox"
    path.write_bytes(b"")
    commands = [
        [sys.executable, "-c", textwrap.dedent(ONE_OF_SEVERAL), str(path), str(at)] for at in (0, 20, 40)
    ]
    commands.append([sys.executable, "-c", textwrap.dedent(MAIL_PROGRAM), str(path)])
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(100) for process in processes] == [0, 0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()

    found = read(path)
    theirs = [one for one in found if one.startswith(b"Subject: theirs")]
    assert len(theirs) == len(set(theirs)) == 40
    assert sorted(set(found) - set(theirs)) == sorted({ended(one.raw) for one in sample_messages(60)})
    assert len(found) == 100


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from pipelines.outputs.mbox import MboxOptions, MboxOutput
    from pipelines.testing import sample_messages

    path, messages = Path(sys.argv[1]), sample_messages(4)
    output = MboxOutput("copy", MboxOptions(path=path))
    output.open()
    output.deliver(messages[:1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 200, resource.RLIM_INFINITY))
    for receipt in output.deliver(messages[:3]):
        print(receipt)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for receipt in output.deliver(messages):
        print(receipt)
    output.close()
"""


def test_a_full_disk_leaves_the_file_as_it_was_and_is_a_retry(tmp_path: Path) -> None:
    """What was partly written is taken back; what is there already stays accepted; later it works."""
    path = tmp_path / "mail.mbox"
    # The index has to fit under the limit of file sizes, so it is not the index that fails here.
    path.write_bytes(FOREIGN * 10_000)
    done = run(FULL_DISK, path)

    assert done.returncode == 0, done.stderr
    first, second, third, *later = done.stdout.splitlines()
    assert first == "Accepted()"
    assert second == third
    assert second.startswith("Retry(")
    assert "mail.mbox cannot be written: File too large" in second
    assert later == ["Accepted()"] * 4
    assert read(path)[10_000:] == [ended(one.raw) for one in sample_messages(4)]


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """Mail is private, and so are the ids."""
    before = os.umask(0)
    try:
        accepted(tmp_path / "mail.mbox", *sample_messages(1))
    finally:
        os.umask(before)

    assert (tmp_path / "mail.mbox").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "mail.mbox.mailquay").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_flock_does_not_give_ends_in_a_retry(tmp_path: Path) -> None:
    """Another Mailquay that hangs."""
    path = tmp_path / "mail.mbox"
    now = iter(range(1000))
    output = MboxOutput("copy", MboxOptions(path=path), clock=lambda: float(next(now)), sleep=lambda _: None)
    output.open()
    with Path(f"{path}.mailquay").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (receipt,) = output.deliver(sample_messages(1))

    assert isinstance(receipt, Retry)
    assert "another process holds mail.mbox.mailquay" in receipt.reason
    assert locks.LOCK_SECONDS == 30
