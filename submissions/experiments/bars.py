"""A figure of a paper as an SVG picture: a bar a row, with its interval, the published figure as a dot."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from submissions.experiments.tables import Record

ROW_PX, LEFT_PX, BARS_PX = 22, 220, 420


def bars(title: str, records: Sequence[Record]) -> str:
    """Return the picture of the rows that have a figure."""
    shown = [(record, record.ours) for record in records if record.ours is not None]
    most = max([record.high or ours for record, ours in shown] + [0.01])
    width, height = LEFT_PX + BARS_PX + 80, ROW_PX * len(shown) + 50
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<text x="8" y="20">{escape(title)}</text>',
    ]
    for number, (record, ours) in enumerate(shown):
        y, bar_px = 34 + ROW_PX * number, BARS_PX * ours / most
        lines.append(f'<text x="{LEFT_PX - 8}" y="{y + 13}" text-anchor="end">{escape(record.label)}</text>')
        size = f'width="{bar_px:.1f}" height="{ROW_PX - 6}"'
        lines.append(f'<rect x="{LEFT_PX}" y="{y}" {size} fill="#7a9cc6"/>')
        if record.low is not None and record.high is not None:
            low, high = (LEFT_PX + BARS_PX * value / most for value in (record.low, record.high))
            lines.append(f'<path d="M{low:.1f} {y + 8}H{high:.1f}" stroke="#223"/>')
        if record.published is not None:
            dot = LEFT_PX + BARS_PX * record.published / most
            lines.append(f'<circle cx="{dot:.1f}" cy="{y + 8}" r="4" fill="#c33"/>')
        lines.append(f'<text x="{LEFT_PX + BARS_PX + 8}" y="{y + 13}">{ours:.3f}</text>')
    return "\n".join([*lines, "</svg>", ""])
