"""`mailquay parse`: what it finds, draws and takes out of mail, on all cores, whatever strangers called their files."""

from __future__ import annotations

import contextlib
import email
import errno
import io
import mailbox
import os
import pty
import re
import resource
import signal
import stat
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from pipelines import attachments as extracting
from pipelines.attachments import Folder
from pipelines.file_name import LONGEST, key, numbered, safe_name
from pipelines.message import Part
from pipelines.parse import parse
from pipelines.schema import schema
from tests.bed.processes import descendants
from worker.cli import main
from worker.reading.crew import cores
from worker.reading.find import find
from worker.reading.mbox import cut, unquoted
from worker.reading.outline import coloured, outline
from worker.reading.place import Place, Trouble
from worker.reading.shown import shown
from worker.spool import Batch, Entry
from worker.spool.file import FileSpool

CORPUS = Path(__file__).parents[1] / "corpus"
DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | {
    f"{name}{digit}" for name in ("COM", "LPT") for digit in "0123456789¹²³"
}
LIMIT = 60.0

# Names that someone would think of, and whatever else there is.
NASTY = st.text(
    st.sampled_from('./\\:*?"<>| ~-aAßéİ\u0301\0\n\x1b\x85\u202e\u200b\u2028\ufeff\ud800\U000e0041😀¹$')
    | st.characters(),
    max_size=300,
)
NAMES = st.one_of(
    NASTY,
    st.builds(
        lambda device, blank, rest: device + blank + rest, st.sampled_from(sorted(DEVICES)), st.sampled_from(["", " ", "."]), NASTY
    ),
)  # fmt: skip


def mailquay(*arguments: str | Path, input: bytes | None = None) -> Result:  # noqa: A002  (click's own word)
    return CliRunner().invoke(main, ["parse", *map(str, arguments)], input=input)


def lines(result: Result) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in result.stdout.split("\n") if line]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "worker.cli", "parse", *map(str, arguments)]


def letter(subject: str, *, body: str = "Hello.") -> bytes:
    return f"From: a@example.com\nSubject: {subject}\n\n{body}\n".encode()


def with_attachments(*named: tuple[str, bytes]) -> bytes:
    parts = b"".join(
        b"--b\nContent-Type: application/pdf\nContent-Disposition: attachment; filename*=utf-8''"
        + "".join(f"%{octet:02X}" for octet in name.encode()).encode()
        + b"\n\n"
        + content
        + b"\n"
        for name, content in named
    )
    return b"Subject: files\nContent-Type: multipart/mixed; boundary=b\n\n" + parts + b"--b--\n"


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of stages from elsewhere, which can be imported here and in other processes."""
    (tmp_path / "elsewhere.py").write_text(
        "import os\n"
        "from pydantic import Field\n"
        "from pipelines.stage import Stage, StageOptions\n"
        "class Told(StageOptions):\n"
        "    word: str = Field(default='x', description='A word.')\n"
        "class Tell(Stage):\n"
        "    type_name = 'tell'\n"
        "    Options = Told\n"
        "    def apply(self, message):\n"
        "        return message.with_findings(self.name, self.options.word)\n"
        "class Drop(Stage):\n"
        "    type_name = 'drop'\n"
        "    def apply(self, message):\n"
        "        return None if 'drop' in message.subject else message\n"
        "class Fail(Stage):\n"
        "    type_name = 'fail'\n"
        "    def apply(self, message):\n"
        "        if 'fail' in message.subject:\n"
        "            raise ValueError(message.subject)\n"
        "        return message\n"
        "class Die(Stage):\n"
        "    type_name = 'die'\n"
        "    def apply(self, message):\n"
        "        if message.subject == 'die':\n"
        "            os.abort()\n"
        "        return message\n"
        "class Hang(Stage):\n"
        "    type_name = 'hang'\n"
        "    def apply(self, message):\n"
        "        import time\n"
        "        open(os.path.join(os.environ['BUSY'], str(os.getpid())), 'w').close()\n"
        "        time.sleep(600)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "elsewhere"


# -- names -----------------------------------------------------------------------------------------------------------


def assert_safe(name: str) -> None:
    """Legal on Linux, macOS and Windows, harmless in a shell's list and on a screen."""
    assert name
    assert name not in {".", ".."}
    assert not set(name) & set('/\\:*?"<>|')
    assert name[0] not in ".-~ "
    assert name[-1] not in ". "
    assert len(name.encode()) <= LONGEST
    assert unicodedata.normalize("NFC", name) == name
    assert name.partition(".")[0].rstrip(" ").upper() not in DEVICES
    assert {unicodedata.category(character) for character in name} & {
        "Cc",
        "Cf",
        "Cs",
        "Cn",
        "Zl",
        "Zp",
    } == set()


@example("CON", "text/plain", 2)
@example("com¹ .txt", "text/plain", 2)
@example("." * 300, "a/b", 2)
@example("x" * 200 + "." + "y" * 200, "a/b", 10**9)
@example("é" * 200 + ".pdf", "a/b", 2)
@given(NAMES, st.sampled_from(["text/plain", "application/pdf", "a/b", "message/x"]), st.integers(2, 10**9))
def test_any_name_becomes_one_that_every_system_takes(name: str, type_: str, number: int) -> None:
    """Also with a number in it; and a safe name is left as it is."""
    safe = safe_name(name, type=type_)

    assert_safe(safe)
    assert_safe(numbered(safe, number))
    assert safe_name(safe, type=type_) == safe
    assert key(numbered(safe, number)) != key(safe)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("invoice.pdf", "invoice.pdf"),
        ("Größe 2026.pdf", "Größe 2026.pdf"),
        ("Gro\u0308ße.pdf", "Größe.pdf"),
        # A path is cut to its last name; a slash inside a name is no path.
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\Users\\ann\\plan.doc", "plan.doc"),
        ("\\\\server\\share\\plan.doc", "plan.doc"),
        ("Invoice 3/2026.pdf", "Invoice 3_2026.pdf"),
        ("..", "part-2.pdf"),
        ("", "part-2.pdf"),
        (None, "part-2.pdf"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("CON", "_CON"),
        ("nul.tar.gz", "_nul.tar.gz"),
        ("Com1 .txt", "_Com1 .txt"),
        ("COM¹", "_COM¹"),
        ("console.txt", "console.txt"),
        # What looks like cod.exe.pdf on a screen is none.
        ("fdp.\u202eexe.doc", "fdp.exe.doc"),
        ("a\x1b[2Jb\r\n.txt", "a[2Jb .txt"),
        ("a.txt. . ", "a.txt"),
        ("a<b>:c?.txt", "a_b__c_.txt"),
        ("x" * 300 + ".pdf", "x" * (LONGEST - 4) + ".pdf"),
        ("日" * 100 + ".pdf", "日" * ((LONGEST - 4) // 3) + ".pdf"),
    ],
)
def test_names_that_strangers_give(name: str | None, safe: str) -> None:
    """Each kind once, with what comes of it."""
    assert safe_name(name, type="application/pdf", part_id="2") == safe


def test_what_is_shown_of_strangers_words_moves_no_cursor() -> None:
    """Escapes stand for what cannot be seen, and nothing is endless."""
    assert shown("a\x1b[2J\u202eb\ud800 ü") == "a\\x1b[2J\\u202eb\\ud800 ü"
    assert len(shown("x" * 10_000)) == 200


# -- extract ---------------------------------------------------------------------------------------------------------


def test_attachments_are_written_under_safe_names_and_named(tmp_path: Path) -> None:
    """Each with its bytes, for the owner alone; the same name again gets a number, also in another spelling."""
    named = [
        ("a.pdf", b"1"),
        ("../A.PDF", b"2"),
        ("a.pdf", b"3"),
        ("NUL", b"4"),
        ("Gro\u0308ße", b"5"),
        ("größe", b"6"),
    ]
    (tmp_path / "mail.eml").write_bytes(with_attachments(*named))
    target = tmp_path / "out" / "here"

    result = mailquay("--extract", target, tmp_path / "mail.eml")

    found = {path.name: path.read_bytes() for path in target.iterdir()}
    assert found == {
        "a.pdf": b"1",
        "A (2).PDF": b"2",
        "a (3).pdf": b"3",
        "_NUL": b"4",
        "Größe": b"5",
        "größe (2)": b"6",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o600}
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1] == f"{target}/A (2).PDF  1 byte  application/pdf"
    assert len(result.stdout.splitlines()) == 6


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    """Not a file, and not what a symbolic link leads to, be it there or not."""
    target = tmp_path / "out"
    target.mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    (target / "a.pdf").write_bytes(b"mine")
    (target / "b.pdf").symlink_to(tmp_path / "precious")
    (target / "c.pdf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "mail.eml").write_bytes(with_attachments(("a.pdf", b"1"), ("b.pdf", b"2"), ("c.pdf", b"3")))

    for _ in range(2):
        assert mailquay("--extract", target, tmp_path / "mail.eml").exit_code == 0

    assert (target / "a.pdf").read_bytes() == b"mine"
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()
    files = {path.name: path.read_bytes() for path in target.iterdir() if not path.is_symlink()}
    once = [("a", b"1"), ("b", b"2"), ("c", b"3")]
    assert files == {
        "a.pdf": b"mine",
        **{f"{name} (2).pdf": content for name, content in once},
        **{f"{name} (3).pdf": content for name, content in once},
    }


def test_a_name_that_is_there_in_another_spelling_is_taken(tmp_path: Path) -> None:
    """The folder may be copied to a Mac or to Windows, where both would be one file."""
    (tmp_path / "PLAN.pdf").write_bytes(b"mine")
    (tmp_path / "Gro\u0308ße").write_bytes(b"mine")

    with Folder(tmp_path) as folder:
        assert folder.write(Part(name="plan.pdf", type="application/pdf")).file == "plan (2).pdf"
        assert folder.write(Part(name="GRÖSSE", type="application/pdf")).file == "GRÖSSE (2)"


def test_whoever_swaps_folders_or_makes_links_meanwhile_leads_nothing_outside(tmp_path: Path) -> None:
    """The open folder counts, and a name that was free a moment ago is looked at again by making it."""
    target, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    part = Part(name="a.pdf", type="application/pdf", content=memoryview(b"secret"))

    with Folder(target) as folder:
        # Made after the folder was read.
        (target / "a.pdf").symlink_to(outside / "caught")
        assert folder.write(part).file == "a (2).pdf"
        target.rename(tmp_path / "moved")
        target.symlink_to(outside)
        assert folder.write(part).file == "a (3).pdf"

    assert list(outside.iterdir()) == []
    assert (tmp_path / "moved" / "a (3).pdf").read_bytes() == b"secret"


def test_what_cannot_be_written_whole_is_taken_away_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle of one attachment; the next one fits."""
    copy = extracting._copy

    def full(chunks: Iterator[bytes], write: Callable[[bytes], object]) -> tuple[int, str]:
        found = b"".join(chunks)
        if found == b"large":
            write(found[:2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(iter([found]), write)

    monkeypatch.setattr(extracting, "_copy", full)
    (tmp_path / "mail.eml").write_bytes(with_attachments(("a.pdf", b"large"), ("b.pdf", b"small")))

    result = mailquay("--extract", tmp_path / "out", tmp_path / "mail.eml")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.pdf"]
    assert result.exit_code == 1
    assert result.stderr == f"{tmp_path}/mail.eml: part 1 cannot be written: {os.strerror(errno.ENOSPC)}\n"


def test_a_folder_that_cannot_be_made_is_a_wrong_command(tmp_path: Path) -> None:
    """Nothing is read then."""
    (tmp_path / "file").write_bytes(b"")

    result = mailquay("--extract", tmp_path / "file", CORPUS)

    assert (result.exit_code, result.stdout) == (2, "")


def test_extracted_files_are_listed_as_json_for_programs(tmp_path: Path) -> None:
    """With the name that the sender gave, and the hash of what was written; pictures in the text are taken out as well."""
    raw = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nLook:\n--b\nContent-Type: image/png\n\nPNG\n--b--\n"
    (tmp_path / "mail.eml").write_bytes(raw)

    (found,) = lines(mailquay("--json", "--extract", tmp_path / "out", tmp_path / "mail.eml"))

    assert found == {
        "file": f"{tmp_path}/out/part-2.png",
        "message": parse(raw).id,
        "partId": "2",
        "name": None,
        "type": "image/png",
        "size": 3,
        "sha256": parse(raw).attachments[0].sha256()
        if parse(raw).attachments
        else parse(raw).text_body[1].sha256(),
    }


# -- where messages lie ----------------------------------------------------------------------------------------------


def test_a_maildir_is_read_with_its_flags_and_its_folders(tmp_path: Path) -> None:
    """One that Python's `mailbox` wrote: new and cur, flags behind the name, a folder of Maildir++ below."""
    maildir = mailbox.Maildir(tmp_path / "mail")
    for subject, flags in (("new", ""), ("seen", "S"), ("answered", "FRS")):
        message = mailbox.MaildirMessage(email.message_from_bytes(letter(subject)))
        message.set_subdir("cur" if flags else "new")
        message.set_flags(flags)
        maildir.add(message)
    maildir.add_folder("Sent").add(letter("sent"))
    (tmp_path / "mail/tmp/unfinished").write_bytes(letter("unfinished"))

    found = {message["subject"]: message for message in lines(mailquay(tmp_path / "mail"))}

    assert found.keys() == {"new", "seen", "answered", "sent"}
    assert found["answered"]["keywords"] == {"$flagged": True, "$answered": True, "$seen": True}
    assert found["new"]["keywords"] == {}
    assert found["seen"]["source"]["folder"] == str(tmp_path / "mail")
    assert ":2," not in found["seen"]["source"]["uidl"]
    assert found["sent"]["source"]["folder"] == str(tmp_path / "mail/.Sent")
    assert len(lines(mailquay(tmp_path / "mail/new"))) == 1


def test_a_plain_folder_holds_mail_and_other_things(tmp_path: Path) -> None:
    """Files that look like mail count, in their order, folders below too; a circle of links ends nothing."""
    for name in ("b.eml", "a.EML", "10", "9", "notes.txt", ".hidden.eml", "below/c.eml", ".git/d.eml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(letter(name))
    (tmp_path / "Inbox").write_bytes(b"From - Mon Jan  1 10:00:00 2024\n" + letter("in an mbox"))
    (tmp_path / "below/circle").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.eml")

    result = mailquay(tmp_path)

    assert [message["subject"] for message in lines(result)] == [
        "in an mbox",
        "a.EML",
        "b.eml",
        "9",
        "10",
        "below/c.eml",
    ]
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_folder_without_mail_is_named(tmp_path: Path) -> None:
    """Whoever mistyped it gets to know."""
    result = mailquay(tmp_path)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{tmp_path}: holds no message")


BODIES = st.lists(
    st.sampled_from(["", "Hello.", "From here on", ">From here", ">>From there", "From Monday to Sunday 2024", "\t", "--b"]),
    max_size=6,
)  # fmt: skip


@given(st.lists(BODIES, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_an_mbox_comes_out_as_it_went_in(bodies: list[list[str]], end: str, last_blank: bool) -> None:
    """Written as mboxrd says: any line of `>`s and `From ` gets one more."""
    messages = [
        f"Subject: {number}{end}{end}" + "".join(line + end for line in body)
        for number, body in enumerate(bodies)
    ]
    quoted = [re.sub(r"^(>*From )", r">\1", message, flags=re.MULTILINE) for message in messages]
    octets = "".join(
        f"From a@example.com Fri Jul  8 12:08:34 2011{end}{message}{end}" for message in quoted
    ).encode()
    if not last_blank:
        octets = octets.removesuffix(end.encode())

    found = [bytes(unquoted(octets[start : start + size])) for start, size in cut(octets)]

    assert found[:-1] == [message.encode() for message in messages[:-1]]
    # Of the last one it is not known whether its own last line is blank or the one that parts messages.
    assert found[-1].removesuffix(end.encode()) in {
        messages[-1].encode().removesuffix(end.encode()),
        messages[-1].encode().removesuffix(end.encode() * 2),
    }


def test_an_mbox_is_cut_where_pythons_mailbox_cuts_it(tmp_path: Path) -> None:
    """The whole corpus in one mbox that somebody else wrote, but for `From : a@b`, which he takes for his own line."""
    box = mailbox.mbox(tmp_path / "box")
    for path in sorted(CORPUS.glob("*.eml")):
        if not (raw := path.read_bytes()).startswith(b"From "):
            box.add(raw)
    box.flush()
    octets = (tmp_path / "box").read_bytes()
    expected = [box.get_bytes(number) for number in range(len(box))]
    box.close()

    found = [octets[start : start + size] for start, size in cut(octets)]

    assert len(found) > 50
    assert found == expected


@pytest.mark.parametrize(
    ("octets", "subjects"),
    [
        # Thunderbird, with the word alone.
        (b"From \nSubject: a\n\nx\n\nFrom \nSubject: b\n\ny\n", ["a", "b"]),
        (b"From - Mon Jan  1 10:00:00 2024\r\nSubject: a\r\n\r\nx\r\n\r\nFrom - \r\nSubject: b\r\n\r\n", ["a", "b"]),
        # Google's export, with a zone, and a date of RFC 5322.
        (b"From 17@xxx Mon Jan 01 10:00:00 +0000 2024\nSubject: a\n\n", ["a"]),
        (b"From a@b Mon, 1 Jan 2024 10:00:00 +0000\nSubject: a\n\n", ["a"]),
        # Without a blank line in between.
        (b"From a Mon Jan  1 10:00:00 2024\nSubject: a\n\nx\nFrom b Mon Jan  1 10:00:00 2024\nSubject: b\n", ["a", "b"]),
        # An unquoted line of words is none that parts messages.
        (b"From a Mon Jan  1 10:00:00 2024\nSubject: a\n\n\nFrom here it is quiet.\n\nFrom \nnow on\n", ["a"]),
        # Messages without a byte.
        (b"From a Mon Jan  1 10:00:00 2024\nFrom b Mon Jan  1 10:00:00 2024\n\nFrom c Mon Jan  1 10:00:00 2024", [None] * 3),
    ],
)  # fmt: skip
def test_mboxes_of_all_kinds(tmp_path: Path, octets: bytes, subjects: list[str | None]) -> None:
    """From a file and from standard input alike; each message says its number."""
    (tmp_path / "box").write_bytes(octets)

    for result in (mailquay(tmp_path / "box"), mailquay("-", input=octets)):
        assert [message["subject"] for message in lines(result)] == subjects
        assert [message["source"]["uidl"] for message in lines(result)] == [
            str(n + 1) for n in range(len(subjects))
        ]
        assert result.exit_code == 0


def test_a_file_that_ends_in_eml_is_one_message_whatever_it_begins_with(tmp_path: Path) -> None:
    """Its bytes are then what the digest says."""
    raw = b"From a@example.com Mon Jan  1 10:00:00 2024\n" + letter("one")
    (tmp_path / "a.eml").write_bytes(raw)

    (found,) = lines(mailquay(tmp_path / "a.eml"))

    assert found["digest"] == f"sha256:{parse(raw).digest}"
    assert found["source"] == {"folder": None, "uidvalidity": None, "uid": None, "uidl": None, "flags": []}


def test_a_batch_of_the_spool_is_read_with_its_ids(tmp_path: Path) -> None:
    """For whoever is on call: the file as it lies there, a damaged one named, and nothing changed."""
    spool = FileSpool(tmp_path / "spool", clock=time.time)
    raws = {"1" * 32: letter("first"), "2" * 32: letter("second") * 100_000}
    plan = Batch("a" * 32, "support", "INBOX", 7)
    with spool.new(plan) as writer:
        entries = [
            writer.add(Entry(id_, uid=uid, flags=("\\Seen",), received="2026-01-01T12:00:00+00:00"), (raw,))
            for uid, (id_, raw) in enumerate(raws.items(), 1)
        ]
        ticket = writer.commit(replace(plan, entries=tuple(entries)))
    batch = tmp_path / "spool/ready" / str(ticket)
    before = batch.read_bytes()

    result = mailquay(batch)

    assert [(m["id"], m["subject"], m["size"]) for m in lines(result)] == [
        (id_, subject, len(raw))
        for (id_, raw), subject in zip(raws.items(), ("first", "second"), strict=True)
    ]
    assert lines(result)[0]["mailbox"] == "support"
    assert lines(result)[0]["source"] == {
        "folder": "INBOX",
        "uidvalidity": 7,
        "uid": 1,
        "uidl": None,
        "flags": ["\\Seen"],
    }
    assert lines(result)[0]["receivedAt"] == "2026-01-01T12:00:00Z"
    assert batch.read_bytes() == before
    assert lines(mailquay(tmp_path / "spool/ready")) == lines(result)

    batch.write_bytes(before.replace(b"Subject: first", b"Subject: fired"))
    changed = mailquay(batch)
    assert (changed.exit_code, len(lines(changed))) == (1, 2)
    assert f"{batch}!0001.eml: its bytes are not those that were written" in changed.stderr
    batch.write_bytes(before[:-100])
    cut_short = mailquay(batch)
    assert (cut_short.exit_code, cut_short.stdout) == (1, "")
    assert cut_short.stderr.startswith(f"{batch}: the batch is damaged")


def test_a_pipe_with_a_name_is_read_like_standard_input(tmp_path: Path) -> None:
    """As a shell's `<(command)` is; and both may stand among files."""
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"printf 'Subject: piped\\n\\n' > '{tmp_path}/pipe'"])
    (tmp_path / "a.eml").write_bytes(letter("file"))

    result = mailquay(tmp_path / "a.eml", tmp_path / "pipe", "-", input=letter("standard"))

    assert writer.wait(LIMIT) == 0
    assert [message["subject"] for message in lines(result)] == ["file", "piped", "standard"]


def test_names_that_are_no_text_are_found_and_shown(tmp_path: Path) -> None:
    """A file name is bytes; the JSON stays UTF-8."""
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(name)).mkdir()
    Path(os.fsdecode(name + b"/\xe9\x1b.eml")).write_bytes(letter("found"))

    result = subprocess.run(
        [*command(), name, name + b"/missing"], capture_output=True, check=False, timeout=LIMIT
    )

    assert orjson.loads(result.stdout)["subject"] == "found"
    assert result.stderr.startswith(os.fsencode(tmp_path) + b"/caf\\udce9/missing: cannot be read")


# -- many at once ----------------------------------------------------------------------------------------------------


@pytest.fixture
def thousand(tmp_path: Path) -> Path:
    """A folder of 1,000 messages, no two alike."""
    folder = tmp_path / "thousand"
    folder.mkdir()
    raws = [path.read_bytes() for path in sorted(CORPUS.glob("*.eml"))]
    for number in range(1000):
        (folder / str(number)).write_bytes(b"X-Number: %d\r\n" % number + raws[number % len(raws)])
    return folder


@pytest.mark.parametrize("form", [[], ["--tree"]])
def test_a_thousand_messages_in_parallel_are_those_of_one_after_the_other(
    thousand: Path, form: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lines in the same order, with a file that is missing in the middle of them."""
    monkeypatch.setattr("worker.cli.parse.cores", lambda: 1)
    names = [thousand, thousand / "missing", thousand]
    alone = mailquay(*form, *names)

    together = subprocess.run(
        command(*form, *names),
        capture_output=True,
        check=False,
        timeout=LIMIT,
        env={**os.environ, "PYTHONUTF8": "1"},
    )

    assert (together.returncode, alone.exit_code) == (1, 1)
    assert together.stdout == alone.stdout_bytes
    assert (
        together.stderr.decode()
        == alone.stderr
        == f"{thousand}/missing: cannot be read: {os.strerror(errno.ENOENT)}\n"
    )
    assert together.stdout.count(b"\n") >= 2000


def test_a_message_that_kills_its_process_costs_no_other(thousand: Path, stages: str) -> None:
    """It is named, all others are there, in their order."""
    (thousand / "500").write_bytes(letter("die"))
    names = [str(thousand)]

    done = subprocess.run(
        command("--stage", f"{stages}:Die", *names), capture_output=True, check=False, timeout=LIMIT
    )

    expected = [parse((thousand / str(number)).read_bytes()).id for number in range(1000) if number != 500]
    assert [orjson.loads(line)["id"] for line in done.stdout.splitlines()] == expected
    assert done.returncode == 1
    told = [line for line in done.stderr.decode().splitlines() if line.startswith(str(thousand))]
    assert [line.partition(":")[0] for line in told] == [f"{thousand}/500"]


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_ends_all_of_it(thousand: Path, stages: str, tmp_path: Path, number: int) -> None:
    """Ctrl-C, and also a kill that nobody can catch, while every process is busy for long."""
    before = descendants().keys()
    busy = tmp_path / "busy"
    busy.mkdir()
    with subprocess.Popen(
        command("--stage", f"{stages}:Hang", thousand),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "BUSY": str(busy)},
        start_new_session=True,
    ) as running:
        try:
            wait_for(lambda: len(list(busy.iterdir())) == cores() or running.poll() is not None)
            # A terminal's Ctrl-C goes to all of the group.
            if number == signal.SIGINT:
                os.killpg(running.pid, number)
            else:
                running.send_signal(number)
            _, said = running.communicate(timeout=LIMIT)
        finally:
            running.kill()

    wait_for(lambda: not descendants().keys() - before)
    assert b"Traceback" not in said
    assert running.returncode in {1, -number}


def test_whoever_stops_reading_ends_it_without_a_word(thousand: Path) -> None:
    """As `head` does."""
    with subprocess.Popen(
        command(thousand, thousand), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout
        assert orjson.loads(running.stdout.readline())
        running.stdout.close()
        try:
            running.wait(LIMIT)
        finally:
            running.kill()
        assert running.stderr
        said = running.stderr.read()

    assert said == b""


def limited() -> None:
    """At most this much memory that is not a file's."""
    resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20))


@pytest.mark.slow
def test_a_large_mbox_and_a_huge_message_need_no_memory(tmp_path: Path) -> None:
    """Half a gigabyte in each; a process may have a little more than half of that."""
    huge = (
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b\nContent-Type: a/b\n\n"
        + b"x" * 76
        + b"\n"
    )
    attached = (b"y" * 76 + b"\n") * 14_000
    with (tmp_path / "box").open("wb") as box, (tmp_path / "huge.eml").open("wb") as one:
        one.write(huge)
        for number in range(500):
            one.write(attached)
            box.write(
                b"From a Mon Jan  1 10:00:00 2024\nSubject: %d\n" % number + huge + attached + b"--b--\n\n"
            )

    done = subprocess.run(
        command(tmp_path / "box", tmp_path / "huge.eml"),
        stdout=subprocess.PIPE,
        check=False,
        timeout=LIMIT,
        preexec_fn=limited,
    )

    for path in (tmp_path / "box", tmp_path / "huge.eml"):
        path.unlink()
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [message["subject"] for message in found] == [*map(str, range(500)), None]
    assert found[-1]["attachments"][0]["size"] > 500 << 20


def on_a_terminal(*arguments: str | Path, stdout: int | None) -> bytes:
    """Run with standard error, and where `stdout` is None standard output too, on a terminal: what it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments),
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    ) as running:
        os.close(theirs)
        shown_there = b""
        # A terminal whose other side is closed ends with an error on Linux.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 1 << 16):
                shown_there += chunk
        os.close(ours)
        assert running.wait(LIMIT) == 0
    return shown_there


def test_a_terminal_shows_how_far_it_is_while_the_output_goes_elsewhere(
    thousand: Path, tmp_path: Path
) -> None:
    """A bar on standard error, and nothing of it in the file; no bar between lines that are on the screen themselves."""
    with (tmp_path / "out").open("wb") as out:
        shown_there = on_a_terminal(thousand, stdout=out.fileno())

    assert len([orjson.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]) == 1000
    assert re.search(rb"\d+ messages", shown_there)

    both = on_a_terminal("--tree", thousand / "1", stdout=None)
    assert b"messages" not in both
    assert b"\x1b[" in both


# -- stages ----------------------------------------------------------------------------------------------------------


def test_stages_run_with_their_options(tmp_path: Path, stages: str) -> None:
    """Several, by their types, in the order in which they are named; findings lie under the type."""
    (tmp_path / "a.eml").write_bytes(letter("hello"))

    result = mailquay(
        "--stage", "automatic", "--stage", f"{stages}:Tell:word=a:b=c", tmp_path / "a.eml"
    )  # fmt: skip

    assert result.exit_code == 0
    assert lines(result)[0]["findings"]["tell"] == "a:b=c"
    assert list(lines(result)[0]["findings"]) == ["automatic", "tell"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("automatik", "did you mean automatic"),
        ("automatic:speed=9", "SPEED: is no option"),
        ("nowhere:Stage", "cannot be found"),
        ("a b", "write TYPE or TYPE:OPTION=VALUE"),
    ],
)
def test_a_wrong_stage_is_said_before_anything_is_read(tmp_path: Path, said: str, sentence: str) -> None:
    """With the exit code of a wrong command."""
    result = mailquay("--stage", said, tmp_path / "missing")

    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in " ".join(result.stderr.split())
    assert "missing" not in result.stderr


def test_what_a_stage_drops_is_counted_and_what_it_fails_on_is_named(tmp_path: Path, stages: str) -> None:
    """Dropping is on purpose; failing is not. No subject is told either way."""
    for name in ("drop", "fail", "keep"):
        (tmp_path / f"{name}.eml").write_bytes(letter(f"{name} secret"))
    files = [tmp_path / f"{name}.eml" for name in ("drop", "fail", "keep")]

    result = mailquay("--stage", f"{stages}:Drop", "--stage", f"{stages}:Fail", *files)

    assert [message["subject"] for message in lines(result)] == ["keep secret"]
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"{tmp_path}/fail.eml: the stage fail failed with ValueError",
        "Stages dropped 1 message.",
    ]


# -- tree ------------------------------------------------------------------------------------------------------------

DRAWN = """\
photo  {size}
├── multipart/mixed
│   ├── 1  multipart/alternative
│   │   ├── 1.1  text/plain  utf-8  6 bytes  textBody
│   │   └── 1.2  text/html  us-ascii  13 bytes  htmlBody
│   └── 2  image/png  "pic\\u202egnp.png"  3 bytes  attachment  attachments
│       └── !  base64-damaged  what is base64 in it was decoded
└── !  date-unreadable  Date
"""
MIXED = (
    "Subject: photo\nDate: never\nContent-Type: multipart/mixed; boundary=m\n\n--m\n"
    "Content-Type: multipart/alternative; boundary=a\n\n--a\nContent-Type: text/plain; charset=utf-8\n\nHällo\n--a\n"
    "Content-Type: text/html\n\n<p>Hello.</p>\n--a--\n--m\nContent-Type: image/png\n"
    "Content-Disposition: attachment; filename*=utf-8''pic%E2%80%AEgnp.png\nContent-Transfer-Encoding: base64\n\n"
    "UE5H!\n--m--\n"
).encode()


def test_a_message_is_drawn_with_its_parts_and_defects(tmp_path: Path) -> None:
    """Plain text where there is no terminal; ASCII where nothing else is understood."""
    (tmp_path / "a.eml").write_bytes(MIXED)
    expected = f"{tmp_path}/a.eml\n" + DRAWN.format(size=f"{len(MIXED)} bytes")

    assert mailquay("--tree", tmp_path / "a.eml").stdout == expected

    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    plain = subprocess.run(
        command("--tree", tmp_path / "a.eml"), capture_output=True, env=environment, check=True, timeout=LIMIT
    ).stdout
    drawn = expected.replace("├── ", "|-- ").replace("└── ", "`-- ").replace("│   ", "|   ")
    assert plain.decode("ascii") == drawn


def test_on_a_terminal_the_drawing_is_coloured_and_says_the_same() -> None:
    """A stranger's markup is no markup."""
    raw = MIXED.replace(b"photo", b"[red]photo[/red]")
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system="truecolor")

    console.print(coloured(outline(parse(raw))))

    assert isinstance(console.file, io.StringIO)
    said = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())
    expected = DRAWN.format(size=f"{len(raw)} bytes").replace("photo  ", "[red]photo[/red]  ")
    assert [line.rstrip() for line in said.splitlines()] == expected.splitlines()
    assert "\x1b[" in console.file.getvalue()


@given(st.binary(max_size=300))
def test_anything_can_be_drawn(rest: bytes) -> None:
    """Nothing on the screen but what can be seen."""
    for raw in (rest, b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: " + rest):
        stack = [outline(parse(raw))]
        while stack:
            line = stack.pop()
            stack += line.below
            assert line.plain().isprintable()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.eml")), ids=lambda path: path.stem)
def test_every_part_and_every_defect_of_the_corpus_is_drawn_once(path: Path) -> None:
    """Whatever a defect's sentence begins with."""
    message = parse(path.read_bytes())
    stack, drawn = [outline(message)], []
    while stack:
        line = stack.pop()
        stack += line.below
        drawn.append(line)

    assert sum(line.words[0][0] == "!" for line in drawn) == len(message.defects)
    assert len(drawn) == 1 + len(list(message.structure.walk())) + len(message.defects)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_schema_is_printed_without_any_file() -> None:
    """The one that is in the package."""
    result = mailquay("--schema")

    assert (result.exit_code, orjson.loads(result.stdout)) == (0, schema())


@pytest.mark.parametrize("arguments", [[], ["--tree", "--json", "a"], ["--tree", "--extract", "b", "a"]])
def test_a_command_that_means_nothing_is_refused(arguments: list[str]) -> None:
    """With what is wrong."""
    assert mailquay(*arguments).exit_code == 2


def test_files_are_not_looked_at_before_their_turn(tmp_path: Path) -> None:
    """A list of names without an end would do as well."""

    def names() -> Iterator[str]:
        yield str(tmp_path / "missing")
        raise AssertionError

    found = next(find(names(), stdin=io.BytesIO()))

    assert isinstance(found, Trouble)
    assert not isinstance(found, Place)
