"""The folder of a message is there whole or not at all, inside of PATH, once, whatever the mail says and whatever dies."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import orjson
import pydantic
import pytest

from pipelines.file_name import LONGEST
from pipelines.message import Message
from pipelines.output import Accepted, Retry
from pipelines.outputs import files
from pipelines.outputs.files import FilesOptions, FilesOutput
from pipelines.parse import parse
from pipelines.testing import sample_messages


@contextmanager
def writer(
    path: Path, *, clock: Callable[[], float] | None = None, **options: object
) -> Iterator[FilesOutput]:
    said = FilesOptions.model_validate({"path": path, **options})
    output = FilesOutput("copy", said, clock=clock) if clock else FilesOutput("copy", said)
    output.open()
    try:
        yield output
    finally:
        output.close()


def with_attachments(*named: tuple[str, bytes]) -> Message:
    parts = [
        f'Content-Type: application/pdf; name="{name}"\r\nContent-Transfer-Encoding: 8bit\r\n'
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n'.encode()
        + content
        for name, content in named
    ]
    head = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    raw = head + b"".join(b"--b\r\n" + part + b"\r\n" for part in [b"\r\nHi.", *parts]) + b"--b--\r\n"
    return parse(
        raw, id=sha256(raw).hexdigest()[:32], mailbox="m", received_at=datetime(2026, 1, 2, tzinfo=UTC)
    )


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a folder but those in `.tmp`, by its path."""
    found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return {name: octets for name, octets in found.items() if not name.startswith(".tmp/")}


def deliver(path: Path, *messages: Message, **options: object) -> dict[str, bytes]:
    with writer(path, **options) as output:
        assert output.deliver(messages) == [Accepted()] * len(messages)
    assert list((path / ".tmp").iterdir()) == []
    return tree(path)


def test_a_message_is_a_folder_with_its_bytes_its_json_and_its_attachments(tmp_path: Path) -> None:
    """Attachments are decoded; a list says which file is which part."""
    message = with_attachments(("a.pdf", b"one"), ("b.pdf", b"two"))

    found = deliver(tmp_path / "mail", message)

    place = f"m/2026/01/02/{message.id}/"
    assert found.keys() == {
        place + name
        for name in (
            "message.eml",
            "message.json",
            "attachments.json",
            "attachments/a.pdf",
            "attachments/b.pdf",
        )
    }
    assert found[place + "message.eml"] == message.raw
    assert found[place + "message.json"] == message.to_json()
    assert found[place + "attachments/b.pdf"] == b"two"
    listed = orjson.loads(found[place + "attachments.json"])
    assert [entry["partId"] for entry in listed] == ["2", "3"]
    assert listed[1] == {
        "file": "b.pdf", "partId": "3", "name": "b.pdf", "type": "application/pdf", "size": 3,
        "sha256": sha256(b"two").hexdigest(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("contents", "names"),
    [
        ("raw", {"message.eml"}),
        ("json", {"message.json"}),
        ("attachments", {"attachments.json", "attachments/a.pdf"}),
        ("json, raw", {"message.eml", "message.json"}),
    ],
)
def test_only_what_is_wanted_is_written(tmp_path: Path, contents: str, names: set[str]) -> None:
    """CONTENTS names it."""
    message = with_attachments(("a.pdf", b"one"))

    found = deliver(tmp_path / "mail", message, contents=contents, pattern="{id}")

    assert found.keys() == {f"{message.id}/{name}" for name in names}


@pytest.mark.parametrize("contents", ["", "raw, text", ","])
def test_contents_that_do_not_exist_are_a_wrong_option(tmp_path: Path, contents: str) -> None:
    """The sentence names those that do."""
    with pytest.raises(pydantic.ValidationError, match="one or more of raw, json and attachments"):
        FilesOptions.model_validate({"path": tmp_path, "contents": contents})


@pytest.mark.parametrize(
    "pattern",
    [
        "{mailbox}",
        "../{id}",
        "/{id}",
        "{id}/../x",
        "{subject}/{id}",
        "{id",
        "{received:../%Y}/{id}",
        "{received:/}/{id}",
    ],
)
def test_a_pattern_that_leads_elsewhere_or_knows_no_id_is_a_wrong_option(
    tmp_path: Path, pattern: str
) -> None:
    """Found when the configuration is read, and not when mail comes."""
    with pytest.raises(pydantic.ValidationError):
        FilesOptions.model_validate({"path": tmp_path, "pattern": pattern})


NASTY = [
    "../../../outside.pdf",
    "/etc/passwd",
    "..\\\\..\\\\outside.pdf",
    "C:\\\\windows\\\\outside.pdf",
    "..",
    ".",
    "",
    "/",
    "CON",
    ".bashrc",
    "-rf",
    "a\x00b",
    "x" * 400,
    "message.eml",
    "message.json",
    "../message.eml",
    "attachments.json",
    "same.pdf",
    "same.pdf",
    "SAME.PDF",
    "\u202efdp.exe",
]


def test_no_attachment_leads_out_of_its_folder_or_takes_the_place_of_another_file(tmp_path: Path) -> None:
    """Whatever a stranger called it: each has a file of its own, and the message is what it is."""
    message = with_attachments(*((name, str(number).encode()) for number, name in enumerate(NASTY)))

    found = deliver(tmp_path / "mail", message, pattern="{id}")

    place = f"{message.id}/"
    assert [path.name for path in tmp_path.iterdir()] == ["mail"]
    assert found.pop(place + "message.eml") == message.raw
    assert found.pop(place + "message.json") == message.to_json()
    listed = orjson.loads(found.pop(place + "attachments.json"))
    assert len(listed) == len(NASTY)
    assert {place + "attachments/" + entry["file"] for entry in listed} == found.keys()
    assert sorted(found.values()) == sorted(str(number).encode() for number in range(len(NASTY)))
    assert all(len(entry["file"].encode()) <= LONGEST for entry in listed)


@pytest.mark.parametrize("mailbox", ["..", "../..", "/etc", "a/b", ".tmp", ".", "", "x\0y", "ü" * 100])
def test_no_mailbox_leads_out_of_the_folder(tmp_path: Path, mailbox: str) -> None:
    """Nor into `.tmp`, whatever it is called."""
    message = replace(sample_messages(1)[0], mailbox=mailbox)

    found = deliver(tmp_path / "mail", message)

    assert [path.name for path in tmp_path.iterdir()] == ["mail"]
    assert len(found) == 2
    assert all(Path(name).parts[-2] == message.id and len(Path(name).parts) == 6 for name in found)


def test_a_message_without_a_date_has_a_place_too(tmp_path: Path) -> None:
    """And the same one at each repetition."""
    message = replace(sample_messages(1)[0], received_at=None)

    deliver(tmp_path / "mail", message)
    found = deliver(tmp_path / "mail", message)

    assert found.keys() == {
        f"contract/undated/{message.id}/{name}" for name in ("message.eml", "message.json")
    }


KILLED_AT_EVERY_LINE = """
    import os, shutil, signal, sys
    from pathlib import Path
    from pipelines import attachments
    from pipelines.output import Accepted
    from pipelines.outputs import appended_file, files
    from pipelines.parse import parse

    FILES = {module.__file__ for module in (appended_file, files, attachments)}
    BODY = "\\r\\n--b\\r\\nContent-Disposition: attachment; filename=a\\r\\n\\r\\none\\r\\n--b--\\r\\n"
    messages = [
        parse(f"Subject: {n}\\r\\nContent-Type: multipart/mixed; boundary=b\\r\\n{BODY}".encode(), id=str(n) * 32, mailbox="m")
        for n in range(2)
    ]

    def deliver(path):
        output = files.FilesOutput("copy", files.FilesOptions(path=path, pattern="{mailbox}/{id}"))
        output.open()
        receipts = output.deliver(messages)
        output.close()
        return receipts

    def tree(path):
        found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        return {name: octets for name, octets in found.items() if not name.startswith(".tmp/")}

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
        deliver(path)
        os._exit(0)

    folder = Path(sys.argv[1])
    deliver(folder / "whole")
    whole = tree(folder / "whole")
    assert len(whole) == 8
    counts = set()
    for steps in range(2000):
        path = folder / str(steps)
        child = os.fork()
        if not child:
            deliver_and_die(path, steps)
        _, status = os.waitpid(child, 0)
        seen = tree(path) if path.exists() else {}
        counts.add(len(seen))
        assert deliver(path) == [Accepted()] * 2, steps
        assert tree(path) == whole, steps
        shutil.rmtree(path)
        if os.WIFEXITED(status):
            break
    print(steps, sorted(counts))
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_line_of_its_code_shows_whole_messages_only_and_loses_none(
    tmp_path: Path,
) -> None:
    """kill -9 between any two lines: of two messages none, one or both are seen, each with its four files."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED_AT_EVERY_LINE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
    steps, _, counts = done.stdout.strip().partition(" ")
    assert int(steps) > 100
    assert counts == "[0, 4, 8]"


def test_everything_is_on_the_disk_before_the_folder_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file and each folder of the draft before the rename, the way down to it before the receipt."""
    events: list[str] = []
    sync, rename = os.fsync, Path.rename

    def watch_sync(file: int) -> None:
        events.append(Path(f"/proc/self/fd/{file}").readlink().name.partition(".")[0])
        sync(file)

    def watch_rename(source: Path, target: Path) -> Path:
        events.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", watch_sync)
    monkeypatch.setattr(Path, "rename", watch_rename)
    message = with_attachments(("a.pdf", b"one"))
    deliver(tmp_path / "mail", message)

    at = events.index("rename")
    assert sorted(events[:at]) == sorted(
        [message.id, "message", "message", "attachments", "attachments", "a"]
    )
    assert events[at + 1 :] == ["02", "01", "2026", "m", "mail", tmp_path.name]


def test_a_message_that_is_there_is_synced_and_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever filed it may have died before it was durable; what a person did to it since stays."""
    message = with_attachments(("a.pdf", b"one"))
    deliver(tmp_path / "mail", message, pattern="{id}")
    (tmp_path / "mail" / message.id / "attachments" / "a.pdf").unlink()
    synced: list[int] = []
    sync = os.fsync

    def watch(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", watch)
    found = deliver(tmp_path / "mail", message, pattern="{id}")

    assert (tmp_path / "mail").stat().st_ino in synced
    assert f"{message.id}/attachments/a.pdf" not in found


def test_a_message_that_another_process_files_meanwhile_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is second takes its draft away."""
    message = sample_messages(1)[0]
    sync_tree = files._sync_tree

    def late(folder: Path) -> None:
        monkeypatch.undo()
        with writer(tmp_path / "mail") as other:
            assert other.deliver([message]) == [Accepted()]
        sync_tree(folder)

    monkeypatch.setattr(files, "_sync_tree", late)
    found = deliver(tmp_path / "mail", message)

    assert len(found) == 2


def test_a_full_disk_is_a_retry_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the message that did not fit; the others are filed."""
    messages = sample_messages(3)
    write = files._write

    def full(path: Path, octets: bytes | memoryview) -> None:
        if octets == messages[1].to_json():
            raise OSError(28, "No space left on device")
        write(path, octets)

    monkeypatch.setattr(files, "_write", full)
    with writer(tmp_path / "mail") as output:
        receipts = output.deliver(messages)

    reason = f"{tmp_path}/mail cannot be written: No space left on device"
    assert receipts == [Accepted(), Retry(reason), Accepted()]
    assert len(tree(tmp_path / "mail")) == 4
    assert list((tmp_path / "mail" / ".tmp").iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_a_retry(tmp_path: Path) -> None:
    """Somebody made it by mistake; it is not overwritten."""
    message = sample_messages(1)[0]
    with writer(tmp_path / "mail", pattern="{id}") as output:
        (tmp_path / "mail" / message.id).write_text("mine")
        (receipt,) = output.deliver([message])

    assert receipt == Retry(f"{tmp_path}/mail cannot be written: Not a directory")
    assert (tmp_path / "mail" / message.id).read_text() == "mine"


def test_what_dead_writers_left_is_removed_after_a_day_and_a_half(tmp_path: Path) -> None:
    """Not earlier: it may be another process's that is at work."""
    left = tmp_path / "mail" / ".tmp" / "left"
    left.mkdir(parents=True)
    (left / "message.eml").write_text("half")
    changed = left.stat().st_ctime
    with writer(tmp_path / "mail", clock=lambda: changed + 36 * 3600 - 1):
        assert left.exists()
    with writer(tmp_path / "mail", clock=lambda: changed + 36 * 3600 + 1):
        assert not left.exists()


def test_folders_and_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """Mail is private, whatever the umask."""
    before = os.umask(0)
    try:
        deliver(tmp_path / "mail", with_attachments(("a.pdf", b"one")))
    finally:
        os.umask(before)

    for path in [tmp_path / "mail", *(tmp_path / "mail").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
