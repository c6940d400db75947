"""Puts messages into a Maildir as a delivery agent does: written beside, then renamed into place."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_numbers = itertools.count(1)


def write_messages(
    maildir: Path, messages: Iterable[bytes], *, flags: str, own: Callable[[Path], None]
) -> None:
    """Write messages into `new`, or into `cur` when they carry flags.

    Dovecot gives out UIDs in the order of the names, so the names count upwards. `own` gives a file to its owner.
    """
    for message in messages:
        # The microseconds are a counter, so that two messages of one moment keep their order.
        number = next(_numbers)
        name = f"{int(time.time())}.M{number:09d}P{os.getpid()}.bed"
        temporary = maildir / "tmp" / name
        temporary.write_bytes(message)
        own(temporary)
        temporary.rename(maildir / "cur" / f"{name}:2,{flags}" if flags else maildir / "new" / name)
