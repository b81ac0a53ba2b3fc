"""Checked values of a TOML file: each parser returns the value or says, in one line, what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from competition.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class Place:
    """Where a value is: the TOML file, the table as its header is written, the key."""

    file: Path
    table: str
    key: str = ""

    def wrong(self, found: object, expected: str) -> ConfigurationError:
        """The error for a value that is not what was `expected`."""
        return ConfigurationError(
            f"{self.file}: {self.table} {self.key} = {shown(found)}: expected {expected}"
        )


Parser = Callable[[object, Place], object]


def shown(value: Any) -> str:
    """`value` about as TOML writes it, on one line, cut after 60 characters."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, dict):
        text = "{ " + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + " }"
    elif isinstance(value, int) and value.bit_length() > 1000:
        text = f"a number of {value.bit_length()} bits"  # Python refuses to write some of them
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


LARGEST_WHOLE = 2**31 - 1
LARGEST_NUMBER = 1e9


def whole_number(minimum: int, maximum: int = LARGEST_WHOLE) -> Parser:
    """A whole number from `minimum` to `maximum` (true and false are none)."""

    def parse(value: Any, place: Place) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise place.wrong(value, f"a whole number of at least {minimum}")
        if value > maximum:
            raise place.wrong(value, f"a whole number of at most {maximum}")
        return value

    return parse


def real_number(
    minimum: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    most: float = LARGEST_NUMBER,
) -> Parser:
    """A finite number, minimum <= value <= most, above < value < below, whichever are given; returned as float."""
    limits = [f"of at least {minimum:g}"] if minimum is not None else []
    limits += [f"above {above:g}"] if above is not None else []
    limits += [f"below {below:g}"] if below is not None else []
    expected = " ".join(["a number", " and ".join(limits)]).strip()

    def parse(value: Any, place: Place) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or value in (math.inf, -math.inf)
            or value != value  # NaN
            or (minimum is not None and value < minimum)
            or (above is not None and value <= above)
            or (below is not None and value >= below)
        ):
            raise place.wrong(value, expected)
        if abs(value) > most:
            raise place.wrong(value, f"a number of at most {most:g}")
        return float(value)

    return parse


def text(value: Any, place: Place) -> str:
    """A text that is not blank and holds no control characters."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise place.wrong(value, "a text in quotes, not empty")
    return value


def label(value: Any, place: Place) -> str:
    """A text that can be part of a file name: no slashes, no leading dot."""
    if "/" in text(value, place) or "\\" in value or value.startswith("."):
        raise place.wrong(value, "a name without / or \\ and without a leading dot")
    return value


def switch(value: Any, place: Place) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise place.wrong(value, "true or false")
    return value


def choice(*names: str) -> Parser:
    """One of `names`."""

    def parse(value: Any, place: Place) -> str:
        if not isinstance(value, str):
            raise place.wrong(value, "one of " + ", ".join(f'"{name}"' for name in names))
        if value not in names:
            raise place.wrong(value, "another value; " + nearest(value, names))
        return value

    return parse


def path(value: Any, place: Place) -> Path:
    """A path, relative to the folder of the TOML file."""
    return place.file.parent / work_path(value, place)


def work_path(value: Any, place: Place) -> Path:
    """A path, relative to the current folder."""
    try:
        return Path(text(value, place)).expanduser()
    except RuntimeError:
        raise place.wrong(value, "a path; this machine knows no home folder of that user") from None


def path_or(*names: str) -> Parser:
    """One of the words `names`, or else a path as in `path`."""

    def parse(value: Any, place: Place) -> str | Path:
        if not isinstance(value, str):
            raise place.wrong(value, " or ".join(f'"{name}"' for name in names) + " or the path of a file")
        return value if value in names else path(value, place)

    return parse


def layer(value: Any, place: Place) -> int | str:
    """A feature index, 0 the shallowest, or a layer's name."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not whole and not (isinstance(value, str) and value):
        raise place.wrong(value, "a feature index from 0, the shallowest, or a layer's name in quotes")
    return value


def options(value: Any, place: Place) -> dict:
    """A table of anything."""
    if not isinstance(value, dict):
        raise place.wrong(value, "a table, like { key = value }")
    return value


def steps(value: Any, place: Place) -> tuple[dict, ...]:
    """A list of tables that each name a step; which steps there are, and their arguments, their reader knows."""
    tables = value if isinstance(value, list) else [None]
    for number, table in enumerate(tables, start=1):
        if not isinstance(table, dict) or not isinstance(table.get("step"), str):
            example = '{ step = "expand", neighbours = [0, 1, 2] }'
            raise place.wrong(value, f"a list of tables like {example}; number {number} names no step")
        for key in ("optional", "tune"):
            switch(table.get(key, False), Place(place.file, f"{place.table} {place.key} {number}", key))
    return tuple(tables)


def several(item: Parser, *, distinct: bool = True) -> Parser:
    """A list of at least one `item`; the same item twice is an error unless not `distinct`."""

    def parse(value: Any, place: Place) -> tuple:
        if not isinstance(value, list) or not value:
            raise place.wrong(value, "a list of at least one value, like [ … ]")
        items = tuple(item(each, place) for each in value)
        if distinct and len(set(items)) < len(items):
            raise place.wrong(value, "each value once")
        return items

    return parse


def read_table(
    values: Any, parsers: Mapping[str, Parser], place: Place, required: Iterable[str] = ()
) -> dict:
    """Parse one table.

    values: what tomllib gave; parsers: key -> parser; required: keys that must be there.
    Returns key -> parsed value of the keys that were there. An unknown key is an error that names the nearest
    known.
    """
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{place.file}: {place.table} is {shown(values)}: expected a table of " + ", ".join(parsers)
        )
    for key in values:
        if key not in parsers:
            raise ConfigurationError(
                f"{place.file}: {place.table} has the unknown key {key!r}; " + nearest(key, parsers)
            )
    for key in required:
        if key not in values:
            raise ConfigurationError(f"{place.file}: {place.table} lacks the key {key!r}: add {key} = …")
    return {key: parsers[key](value, Place(place.file, place.table, key)) for key, value in values.items()}
