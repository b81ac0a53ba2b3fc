"""What a command finds out once, such as which half a million files are in a folder."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Result = TypeVar("Result")

_FOUND: ContextVar[dict[Hashable, Any] | None] = ContextVar("found", default=None)


@contextmanager
def one_command() -> Iterator[None]:
    """Keep what `once` returns while this is open: all parts of a command see the same."""
    token = _FOUND.set({})
    try:
        yield
    finally:
        _FOUND.reset(token)


def once(function: Callable[..., Result], *arguments: Hashable, **named: Hashable) -> Result:
    """Call a function, or within `one_command` return what it gave for equal arguments."""
    found = _FOUND.get()
    if found is None:
        return function(*arguments, **named)
    key = (function, *arguments, *named.items())
    if key not in found:
        found[key] = function(*arguments, **named)
    return found[key]
