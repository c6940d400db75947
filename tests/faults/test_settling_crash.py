"""A worker killed with -9 at every step of a life that settles: told again by the next one, nothing is lost by it.

The life with AFTER=delete, with two outputs and what they owe, is in `test_crash.py`; here are the other ways to settle.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.forks import Forks
from tests.bed.identity import Identity
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.valkey import Valkey
from tests.faults import hazard
from worker.demo.certificates import Certificates

MESSAGES = 2
STEPS = 100
"""More than such a life has."""
SIDE_BY_SIDE = 6


def harbour(certificates: Certificates, identity: Identity, *, extra: str = "") -> Iterator[Dovecot]:
    dovecot = Dovecot(
        certificates=certificates,
        introspection_url=f"{identity.lab_url}/introspect",
        passwords=[f"{kind}{n}@harbour.example" for n in range(STEPS) for kind in ("imap", "pop3", "move")],
        extra=extra,
    )
    dovecot.start()
    yield dovecot
    dovecot.remove()


@pytest.fixture(scope="module")
def with_move(certificates: Certificates, identity: Identity) -> Iterator[Dovecot]:
    """A Dovecot with a mailbox for each step."""
    yield from harbour(certificates, identity)


@pytest.fixture(scope="module")
def without_move(certificates: Certificates, identity: Identity) -> Iterator[Dovecot]:
    """The same without MOVE."""
    yield from harbour(certificates, identity, extra="imap_capability = IMAP4rev1 SASL-IR UIDPLUS LITERAL+")


def lives(
    folder: Path, valkey: Valkey, dovecot: Dovecot, forks: Forks, kind: str, **said: str
) -> Iterator[tuple[str, str, Installation]]:
    """Let a worker die at each step in turn, and another one go on: the step, the address and the installation."""

    def lived(fatal: int) -> tuple[str, str, Installation]:
        mailbox = f"{kind}{fatal}"
        address = f"{mailbox}@harbour.example"
        installation = Installation(folder / str(fatal), redis_url=valkey.url)
        installation.folder.mkdir()
        dovecot.save(address, *map(numbered, range(MESSAGES)))
        installation.on_dovecot(
            mailbox, dovecot, address, protocol="pop3" if kind == "pop3" else "imap", outputs="post", **said
        )
        code = forks.run(hazard.work, installation.environ, installation.folder, mailbox, fatal)
        assert code in {0, -signal.SIGKILL}
        assert forks.run(hazard.recover, installation.environ, installation.folder, mailbox) == 0
        steps = (installation.folder / "steps").read_text().splitlines()
        return steps[-1].partition(" ")[2] if code else "the end", address, installation

    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        for first in count(1, SIDE_BY_SIDE):
            assert first < STEPS
            some = list(threads.map(lived, range(first, first + SIDE_BY_SIDE)))
            yield from some
            if any(step == "the end" for step, _, _ in some):
                return


def numbers(raws: Sequence[bytes]) -> list[int]:
    return sorted(map(number_of, raws))


def in_folder(dovecot: Dovecot, address: str, folder: str) -> list[int]:
    """The numbers of the messages in a folder."""
    maildir = dovecot._maildir(address, folder)
    return numbers([path.read_bytes() for part in ("new", "cur") for path in (maildir / part).iterdir()])


def left_over(installation: Installation) -> list[str]:
    """What still lies in the spool."""
    spool = installation.folder / "data" / "spool"
    return [
        path.name
        for part in ("tmp", "ready", "failed", "released")
        for path in (spool / part).rglob("*")
        if path.is_file()
    ]


@pytest.mark.parametrize("kind", ["imap", "pop3"])
def test_a_death_anywhere_deletes_what_is_spooled_and_loses_nothing(
    tmp_path: Path, fresh_valkey: Valkey, with_move: Dovecot, forks: Forks, kind: str
) -> None:
    """AFTER_WHEN=spooled: noted before the checkpoint moves, and told again until it is confirmed."""
    reached: set[str] = set()
    wrong: list[str] = []

    for step, address, installation in lives(
        tmp_path, fresh_valkey, with_move, forks, kind, after="delete", after_when="spooled"
    ):
        reached.add(step)
        found = (
            numbers([*installation.posted().values()]),
            with_move.listing(address),
            left_over(installation),
        )
        if found != ([*range(MESSAGES)], {}, []):
            wrong.append(f"killed at {step}: {found}")

    assert wrong == []
    assert any(step.startswith("rename to 0") for step in reached), reached
    assert any(step.startswith("unlink in 0") for step in reached), reached
    settling = {"DELE 1", "QUIT"} if kind == "pop3" else {"UID STORE", "UID EXPUNGE"}
    for sign in settling:
        assert any(sign in step for step in reached), reached


@pytest.mark.parametrize("offered", ["with_move", "without_move"])
def test_a_death_anywhere_leaves_every_message_moved(
    tmp_path: Path, fresh_valkey: Valkey, forks: Forks, offered: str, request: pytest.FixtureRequest
) -> None:
    """With MOVE once. Without it a death right behind the copy makes a second copy, and no message is ever nowhere."""
    dovecot: Dovecot = request.getfixturevalue(offered)
    reached: set[str] = set()
    wrong: list[str] = []
    twice: list[str] = []

    for step, address, installation in lives(
        tmp_path, fresh_valkey, dovecot, forks, "move", after="move:Done"
    ):
        reached.add(step)
        moved = in_folder(dovecot, address, "Done")
        found = (
            numbers([*installation.posted().values()]),
            dovecot.listing(address),
            left_over(installation),
        )
        if found != ([*range(MESSAGES)], {}, []) or sorted(set(moved)) != [*range(MESSAGES)]:
            wrong.append(f"killed at {step}: {found}, moved {moved}")
        if len(moved) > MESSAGES:
            twice.append(step)

    assert wrong == []
    assert any(("UID MOVE" if offered == "with_move" else "UID COPY") in step for step in reached), reached
    assert any(step.startswith("unlink in 0") for step in reached), reached
    assert all("UID STORE" in step or "UID EXPUNGE" in step for step in twice)
    assert bool(twice) == (offered == "without_move")
