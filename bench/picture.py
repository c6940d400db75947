"""Draws docs/images/demo.svg: the table of a real demo after some twenty seconds. Run `python -m bench.picture`."""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from worker.demo.board import Board, View, picture
from worker.demo.play import Play, Programme

TARGET = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"
SECONDS = 20.0


class Sitter(Board):
    """Keeps the last view of a demo that still ran."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(Console(file=io.StringIO()))
        self._stop = stop
        self.view: View | None = None

    def show(self, view: View) -> None:
        """Hold still until the end."""
        if not self._stop.is_set():
            self.view = view


def drawn(view: View) -> str:
    """The view as SVG that asks no other server for fonts."""
    console = Console(
        record=True, file=io.StringIO(), width=92, force_terminal=True, color_system="truecolor"
    )
    console.print(picture(view))
    svg = console.export_svg(title="mailquay demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def main() -> None:
    """Play, stop, draw."""
    stop = threading.Event()
    sitter = Sitter(stop)
    with tempfile.TemporaryDirectory() as here:
        # A demo in its usual place, so that the paths in the table are the usual ones.
        os.chdir(here)
        timer = threading.Timer(SECONDS, stop.set)
        timer.start()
        Play(Programme(Path("demo-data"), rate=3), sitter, stop).run()
        timer.cancel()
        if sitter.view is None:
            raise SystemExit("the demo showed nothing in its time")
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(drawn(sitter.view), encoding="utf-8")
        os.chdir(TARGET.parent)
    print(f"drew {TARGET}")


if __name__ == "__main__":
    main()
