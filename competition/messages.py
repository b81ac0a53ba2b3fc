"""Messages to people go through one logger, "top7"; the command line prints them on stderr, a notebook may silence it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("top7")


def duration(seconds: float) -> str:
    """Return seconds as "1 s" (at least), "45 s", "12 min" or "3.4 h"."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Stderr(logging.Handler):
    """One line a message on the stderr of the moment, above the progress bars of a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None and sys.stderr.isatty():
            tqdm.tqdm.write(record.getMessage(), file=sys.stderr)
        else:
            print(record.getMessage(), file=sys.stderr)


_STDERR = _Stderr()


@contextmanager
def on_stderr() -> Iterator[None]:
    """Print every message on stderr while this is open."""
    if _STDERR in log.handlers:
        yield
        return
    level, propagate = log.level, log.propagate
    log.addHandler(_STDERR)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(_STDERR)
        log.setLevel(level)
        log.propagate = propagate
