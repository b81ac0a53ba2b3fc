"""Text as a terminal may show it: what would steer it is written as an escape."""

from __future__ import annotations

from typing import TextIO

_LAYOUT = frozenset("\n\t")


def printable(text: str) -> str:
    """Return `text` with all that is no letter, sign or blank as \\uXXXX (legal in JSON), but line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in _LAYOUT else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    number = ord(character)
    if number > 0xFFFF:
        return f"\\u{0xD7C0 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
    return f"\\u{number:04x}"


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
