"""A plain bar chart as SVG: one bar a row, readable on light and dark pages, no fonts or scripts from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_ROW, _NAMES, _BARS, _LABELS = 26, 250, 400, 150


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, ours: str = "mailquay") -> str:
    """An SVG of `rows`: name, value and what to write behind the bar. Bars whose name begins with `ours` stand out."""
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    width, height = _NAMES + _BARS + _LABELS, _ROW * (len(rows) + 2)
    style = 'font-family="sans-serif" font-size="13" fill="#808080"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {style}>',
        f'<text x="{_NAMES}" y="{_ROW - 8}" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value, label) in enumerate(rows, start=1):
        top, length = _ROW * number, _BARS * value / most
        colour = "#2878b8" if name.startswith(ours) else "#b0b0b0"
        lines += [
            f'<text x="{_NAMES - 8}" y="{top + 17}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_NAMES}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" fill="{colour}"/>',
            f'<text x="{_NAMES + length + 8:.1f}" y="{top + 17}">{escape(label)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
