"""Draws docs/images/delivering.svg: the way of a message from the spool. Run `python -m bench.picture_delivering`."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

TARGET = Path(__file__).parents[1] / "docs" / "images" / "delivering.svg"
WIDTH, HEIGHT = 1040, 470
STYLE = (
    "text{font-family:Helvetica,Arial,sans-serif;fill:#12303f}"
    ".t{font-size:15px;font-weight:600;text-anchor:middle}"
    ".s{font-size:12px;text-anchor:middle;fill:#41606f}"
    ".l{font-size:12px;fill:#41606f}"
    ".a{stroke:#33566b;stroke-width:1.6;fill:none;marker-end:url(#m)}"
)
LABEL = (
    "The way of a message from the spool: delivered to each output apart, tried again later, parked while an output is "
    "away, kept when it is done, in failed when a person must look"
)
BLUE, YELLOW, RED, WHITE = (
    ("#e3f1f7", "#33566b"), ("#fdf2d8", "#9a7a1e"), ("#f8e1de", "#a34a3f"), ("#ffffff", "#33566b"),
)  # fmt: skip
# Left, top, width, height, colours, title, lines below it.
BOXES = (
    (20, 160, 150, 110, YELLOW, "ready", ("batches that are due", "or will be")),
    (250, 160, 170, 110, BLUE, "deliver", ("parse · stages", "WHEN · FALLBACK", "ORDERED")),
    (500, 160, 150, 110, WHITE, "each output", ("asked by itself,", "all side by side")),
    (830, 40, 190, 80, YELLOW, "kept", ("for KEEP,", "then gone")),
    (830, 350, 190, 90, RED, "failed", ("reason and history;", "a person looks")),
    (250, 350, 170, 90, YELLOW, "parked", ("the output is away;", "one probe at a time")),
)
# A path, and where its words begin.
ARROWS = (
    ("M170 215 H248", "", 0, 0),
    ("M420 215 H498", "", 0, 0),
    ("M650 190 H740 V80 H828", "accepted", 750, 74),
    ("M650 240 H740 V395 H828", "refused, or RETRY_FOR is over", 750, 330),
    ("M575 160 V110 H95 V158", "retry: a due time in the batch, ever later", 200, 102),
    ("M575 270 V395 H422", "five batches in a row: the circuit opens", 432, 416),
    ("M250 395 H95 V272", "a probe, or it is back", 102, 388),
    ("M830 60 H60 V158", "mailquay replay", 420, 52),
    ("M925 440 V456 H50 V272", "mailquay failed retry", 560, 450),
)


def drawn() -> str:
    """The picture as SVG that asks no other server for anything."""
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" aria-label="{escape(LABEL)}">'
        ),
        f"<style>{STYLE}</style>",
        (
            '<defs><marker id="m" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
            '<path d="M0 0 L9 4 L0 8 z" fill="#33566b"/></marker></defs>'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#f5f9fb"/>',
    ]
    for path, words, x, y in ARROWS:
        lines.append(f'<path d="{path}" class="a"/>')
        if words:
            lines.append(f'<text x="{x}" y="{y}" class="l">{escape(words)}</text>')
    for left, top, width, height, (fill, stroke), title, below in BOXES:
        middle = left + width / 2
        first = top + height / 2 - 8 * len(below) + 2
        lines.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{stroke}" '
            'stroke-width="1.6"/>'
        )
        lines.append(f'<text x="{middle:g}" y="{first:g}" class="t">{escape(title)}</text>')
        lines += [
            f'<text x="{middle:g}" y="{first + 20 + 16 * number:g}" class="s">{escape(line)}</text>'
            for number, line in enumerate(below)
        ]
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    TARGET.write_text(drawn(), encoding="utf-8")
    print(f"drew {TARGET}")
