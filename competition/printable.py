"""Text as a terminal may show it: what would steer it is written as an escape."""

from __future__ import annotations

import re
from typing import TextIO


def printable(text: str) -> str:
    """Return `text` with all that is no letter, sign or blank as \\uXXXX (legal in JSON), but line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return re.sub("....", r"\\u\g<0>", character.encode("utf-16-be", "surrogatepass").hex())


class PrintableStream:
    """A text stream that shows only what is printable; a progress bar's return to the line's begin may pass."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; returns its length, as a stream does."""
        kept = "\r" if text.startswith("\r") else ""
        self._stream.write(kept + printable(text[len(kept) :]))
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
