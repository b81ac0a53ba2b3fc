"""The progress line of a stage: total, rate and what is left, on one line of a terminal, whole lines elsewhere."""

from __future__ import annotations

import io
import sys
from typing import Any

from tqdm import tqdm

EVERY_S = 60  # between two lines where stderr is no terminal
LEAST_NAME = 8  # characters of a stage's name that stay where the line is narrow


class Progress(tqdm):
    """A tqdm bar that never cuts its figures. While one is open, those of the stages inside it do not show."""

    _open = 0

    def __init__(self, *arguments: Any, shown: bool = True, **settings: Any) -> None:
        stream: Any = settings.setdefault("file", sys.stderr)
        self.on_terminal = bool(stream.isatty())
        if not self.on_terminal:  # short stages say nothing there
            settings.setdefault("mininterval", EVERY_S)
            settings.setdefault("maxinterval", settings["mininterval"])  # tqdm's monitor waits as long
            settings.setdefault("delay", EVERY_S)
        self.counted = shown and not Progress._open
        Progress._open += self.counted
        settings |= {"dynamic_ncols": True, "disable": not self.counted}
        super().__init__(*arguments, **settings)

    def close(self) -> None:
        """End the stage; further calls do nothing."""
        if not self.disable and not self.on_terminal:
            if self.last_print_t >= self.start_t + self.delay:  # its beginning was shown: so is its end
                self.display(pos=0)
            self.sp = lambda line: None  # tqdm's own close says it once more
            self.fp = io.StringIO()  # no carriage returns and blank lines in a file
        super().close()
        if self.counted:
            self.counted = False
            Progress._open -= 1

    def refresh(self, *arguments: Any, **settings: Any) -> None:
        """Show the state as it is now; where stderr is no terminal not more often than any other line."""
        if self.disable:
            return
        now, last = self._time(), getattr(self, "last_print_t", None)  # tqdm's first line is before any
        if not self.on_terminal and last is not None:
            if now - last < max(self.mininterval, self.delay):
                return
            self.last_print_n, self.last_print_t = self.n, now  # what the next rate counts from
        super().refresh(*arguments, **settings)

    def status_printer(self, file: Any) -> Any:  # type: ignore[override]
        """Return what prints a state: over the last one on a terminal, else as a line of its own."""
        if self.on_terminal:
            return tqdm.status_printer(file)
        return lambda line: file.write(f"{line}\n") if line else None

    @staticmethod
    def format_meter(  # type: ignore[override]
        n: float, total: float | None, elapsed: float, ncols: int | None = None, prefix: str = "", **more: Any
    ) -> str:
        """Return the line: with a bar where there is room, else with less of the remark, then of the name."""
        remark = more.pop("postfix", None) or ""
        more |= {"n": n, "total": total, "elapsed": elapsed}
        line = tqdm.format_meter(**more, prefix=prefix, postfix=remark)
        if not ncols or len(line) <= ncols:
            return line
        more["bar_format"] = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        while len(line := tqdm.format_meter(**more, prefix=prefix, postfix=remark)) > ncols and remark:
            remark = remark.rpartition(", ")[0]
        keep = max(LEAST_NAME, len(prefix) - (len(line) - ncols))
        if len(line) > ncols and keep < len(prefix):
            front = keep // 2
            prefix = f"{prefix[:front]}…{prefix[len(prefix) - (keep - front - 1) :]}"
            line = tqdm.format_meter(**more, prefix=prefix, postfix=remark)
        return line
