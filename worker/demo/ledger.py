"""What was brought to the mailboxes against what the outputs really hold: nothing lost, nothing twice, nothing altered.

It reads the outputs themselves, never a counter. Only what is new is read at each look, so that a demo may run for
days. An output that keeps a repetition apart by its id, as the webhook does, holds the message once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from worker.demo.carrier import Letter
from worker.demo.folder import Outputs

_SHOWN = 8
"""Numbers of letters in one sentence."""


class Ledger:
    """Letters that are expected, and what each output holds: for each message id the digest of its bytes."""

    def __init__(self, outputs: Outputs) -> None:
        self.places = {
            "jsonl": outputs.lines,
            "maildir": outputs.maildir,
            "webhook": outputs.receiver_log,
        }
        self._readers: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
            "jsonl": _Lines(outputs.lines, id_key="id").new,
            "maildir": _Maildir(outputs.maildir).new,
            "webhook": _Lines(outputs.receiver_log, id_key="webhook-id").new,
        }
        # Number and mailbox by digest. Letters themselves are not kept: a demo may run for days.
        self._expected: dict[str, tuple[int, str]] = {}
        self._held: dict[str, dict[str, str]] = {name: {} for name in self.places}
        self._again: dict[str, Counter[str]] = {name: Counter() for name in self.places}

    def expect(self, letters: Iterable[Letter]) -> None:
        """From now on these letters have to be in every output."""
        self._expected |= {letter.digest: (letter.number, letter.berth.name) for letter in letters}

    def look(self) -> dict[str, int]:
        """Read what is new; returns how many messages each output holds."""
        for name, new in self._readers.items():
            for id_, digest in new():
                if id_ in self._held[name]:
                    self._again[name][id_] += 1
                self._held[name][id_] = digest
        return {name: len(held) for name, held in self._held.items()}

    @property
    def complete(self) -> bool:
        """Whether every expected letter is in every output, as of the last look."""
        return all(self._expected.keys() <= set(held.values()) for held in self._held.values())

    def troubles(self) -> list[str]:
        """A sentence for everything that is missing, doubled or not what was sent, as of the last look."""
        return [trouble for name in self.places for trouble in self._troubles(name)]

    def _troubles(self, name: str) -> Iterator[str]:
        held = Counter(self._held[name].values())
        # The receiver is told to recognise a repetition by its id; in a file of lines it would be seen.
        if name == "jsonl":
            held.update({self._held[name][id_]: times for id_, times in self._again[name].items()})
        missing = [letter for digest, letter in self._expected.items() if digest not in held]
        doubled = [letter for digest, letter in self._expected.items() if held[digest] > 1]
        sent = Counter(mailbox for _, mailbox in self._expected.values())
        for what, letters in (("missing from", missing), ("more than once in", doubled)):
            for mailbox in sorted({mailbox for _, mailbox in letters}):
                numbers = [number for number, its in letters if its == mailbox]
                yield f"{mailbox}: {len(numbers)} of {sent[mailbox]} letters {what} {name}: {_listed(numbers)}"
        if strange := held.keys() - self._expected.keys():
            yield f"{len(strange)} messages in {name} are not what was sent"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(f"no. {number}" for number in numbers[:_SHOWN])
    return shown if len(numbers) <= _SHOWN else f"{shown} and {len(numbers) - _SHOWN} more"


class _Lines:
    """A growing file of JSON lines."""

    def __init__(self, path: Path, *, id_key: str) -> None:
        self._path = path
        self._id_key = id_key
        self._read = 0

    def new(self) -> Iterator[tuple[str, str]]:
        """Id and digest of each line that was finished since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                # The last line may still be on its way.
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                said = json.loads(line)
                yield said[self._id_key], str(said.get("digest", "")).removeprefix("sha256:")


class _Maildir:
    """A growing Maildir that nobody reads mail in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()

    def new(self) -> Iterator[tuple[str, str]]:
        """Name and digest of each file that appeared since the last call."""
        new = self._path / "new"
        if not new.exists():
            return
        for file in new.iterdir():
            if file.name not in self._seen:
                self._seen.add(file.name)
                yield file.name, hashlib.sha256(file.read_bytes()).hexdigest()
