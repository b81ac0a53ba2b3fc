"""The one family of errors a user may see: each message is one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class Top7Error(Exception):
    """Root of every error meant for the user; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class ConfigurationError(Top7Error):
    """A usage or configuration error: nothing was started."""

    exit_code = 2


def file_bytes(path: Path | str, what: str) -> bytes:
    """Return a file's bytes; Top7Error where there is none, or it cannot be read. what: "label file"."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Top7Error(f"{path}: no such {what}") from None
    except OSError as error:
        raise Top7Error(f"{path}: the {what} cannot be read: {error.strerror}") from None


def nearest(name: object, known: Iterable[object]) -> str:
    """Return "did you mean 'x'? known: a, b, c" for an unknown `name`; no question if none is near."""
    names = [str(item) for item in known]
    lowered = {item.lower(): item for item in names}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.5)
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return (f"did you mean {lowered[close[0]]!r}? " if close else "") + f"known: {shown}"
