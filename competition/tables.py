"""Tables as text: aligned, and where stdout is a terminal no wider than it."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from competition.printable import printable

GAP = 2  # blanks between columns
FOLDED = 18  # characters that a folded column keeps at least


def table(lines: Sequence[Sequence[str]], left: Sequence[int] = (), spare: Sequence[int] = ()) -> str:
    """Return lines of cells, the first one the heads, as aligned text.

    Columns in `left` are flush left, the others flush right. On a terminal that is too narrow heads break at blanks, then
    `spare` columns are left out, those without a figure first, which a last line says, then cells of `left` are folded.
    """
    cells = [[printable(cell) for cell in line] for line in lines]
    columns = list(range(len(cells[0])))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    left_out: list[int] = []
    if width is not None and _width(cells, columns) > width:
        cells[0] = [re.sub(r" |(?<=[-/])(?=\w)", "\n", head) for head in cells[0]]
        empty = [column for column in spare if {line[column] for line in cells[1:]} <= {"", "-"}]
        for column in dict.fromkeys([*empty, *spare]):
            if _width(cells, columns, left) > width:
                columns.remove(column)
                left_out.append(column)
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP // 2))
    for column in columns:
        flush = column in left
        made.add_column(justify="left" if flush else "right", no_wrap=not flush, overflow="fold")
    for line in cells:
        made.add_row(*(Text(line[column]) for column in columns))
    console = Console(file=io.StringIO(), width=width or _width(cells, columns), color_system=None)
    with console.capture() as captured:
        console.print(made)
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    if left_out:
        names = ", ".join(lines[0][column] for column in sorted(left_out))
        text += f"\n(left out in {width} columns: {names}; a wider terminal shows them, and --json)"
    return text


def _width(cells: Sequence[Sequence[str]], columns: Sequence[int], folded: Sequence[int] = ()) -> int:
    def widest(column: int) -> int:
        own = max(cell_len(part) for line in cells for part in (line[column].splitlines() or [""]))
        return min(own, FOLDED) if column in folded else own

    return sum(map(widest, columns)) + GAP * (len(columns) - 1)
