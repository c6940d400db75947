"""One of a crowd of pulling processes: told the time, it pulls its mailbox, and says how that went.

`python -m tests.faults.crowd MAILBOX WINDOW`: WINDOW is a file that exists while the provider is being asked and until what
came is stored; whoever kills processes can look at it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from worker import log
from worker.pull import pull
from worker.quay import quay
from worker.tokens.keeper import Keeper


def main(mailbox: str, window: Path) -> None:
    """Pull once for each line on standard input, which holds the seconds by which the time has moved."""
    log.configure(level="error", form="json")
    here = quay()
    offset = 0.0
    here.clock = lambda: time.time() + offset
    asked = Keeper._asked

    def marked(keeper: Keeper, *arguments: Any, **options: Any) -> Any:
        window.touch()
        try:
            return asked(keeper, *arguments, **options)
        finally:
            window.unlink()

    Keeper._asked = marked  # type: ignore[method-assign]
    for line in sys.stdin:
        offset = float(line)
        trouble = pull(here, here.settings.mailboxes[mailbox], ring=lambda _: None).trouble
        print(json.dumps({"trouble": str(trouble) if trouble else None}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
