"""Checked values of a TOML file: each parser returns the value or says, in one line, what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from competition.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class Place:
    """Where a value is: the TOML file, the table as its header is written, the key."""

    file: Path
    table: str
    key: str = ""

    def inside(self) -> Place:
        """The place of a table that the key holds."""
        return Place(self.file, f"{self.table} {self.key}")

    def wrong(self, found: object, expected: str) -> ConfigurationError:
        """The error for a value that is not what was `expected`."""
        return ConfigurationError(
            f"{self.file}: {self.table} {self.key} = {shown(found)}: expected {expected}"
        )


Parser = Callable[[Any, Place], Any]


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
INF = math.inf


def checked(fits: Callable[[Any], Any], expected: str) -> Parser:
    """A value as it is, if it `fits`."""

    def parse(value: Any, place: Place) -> Any:
        if not fits(value):
            raise place.wrong(value, expected)
        return value

    return parse


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole_number(minimum: int, maximum: int = LARGEST_WHOLE) -> Parser:
    """A whole number from `minimum` to `maximum` (true and false are none)."""
    small = checked(lambda value: _whole(value) and value >= minimum, f"a whole number of at least {minimum}")
    large = checked(lambda value: value <= maximum, f"a whole number of at most {maximum}")
    return lambda value, place: large(small(value, place), place)


def real_number(
    minimum: float = -INF, *, above: float = -INF, below: float = INF, most: float = LARGEST_NUMBER
) -> Parser:
    """A finite number, minimum <= value <= most, above < value < below, whichever are given; returned as float."""
    limits = ((f"of at least {minimum:g}", minimum), (f"above {above:g}", above), (f"below {below:g}", below))
    words = " and ".join(text for text, limit in limits if math.isfinite(limit))

    def fits(value: Any) -> bool:
        number = _whole(value) or isinstance(value, float) and math.isfinite(value)
        return number and minimum <= value < below and value > above

    inside = checked(fits, f"a number {words}".strip())
    small = checked(lambda value: abs(value) <= most, f"a number of at most {most:g}")
    return lambda value, place: float(small(inside(value, place), place))


text = checked(
    lambda value: isinstance(value, str) and value.strip() and value.isprintable(),
    "a text in quotes, not empty",
)
switch = checked(lambda value: isinstance(value, bool), "true or false")
options = checked(lambda value: isinstance(value, dict), "a table, like { key = value }")
layer = checked(
    lambda value: _whole(value) and value >= 0 or isinstance(value, str) and value,
    "a feature index from 0, the shallowest, or a layer's name in quotes",
)


def label(value: Any, place: Place) -> str:
    """A text that can be part of a file name: no slashes, no leading dot."""
    if set("/\\") & set(text(value, place)) or value.startswith("."):
        raise place.wrong(value, "a name without / or \\ and without a leading dot")
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


def read_table(values: Any, kind: type, place: Place) -> dict[str, Any]:
    """Parse one table: each key of the dataclass `kind` by the parser in its type; returns those that were there.

    values: what tomllib gave. An unknown key is an error that names the nearest known, so is a missing one without a
    default.
    """
    parsers = {key: _parser(hint) for key, hint in get_type_hints(kind, include_extras=True).items()}
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{place.file}: {place.table} is {shown(values)}: expected a table of " + ", ".join(parsers)
        )
    for key in values:
        if key not in parsers:
            raise ConfigurationError(
                f"{place.file}: {place.table} has the unknown key {key!r}; " + nearest(key, parsers)
            )
    for field in fields(kind):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigurationError(
                f"{place.file}: {place.table} lacks the key {field.name!r}: add {field.name} = …"
            )
    return {key: parsers[key](value, Place(place.file, place.table, key)) for key, value in values.items()}


def _parser(hint: Any) -> Parser:
    """The parser in a field's type, of "this or None" that of this."""
    return next(parser for each in (hint, *get_args(hint)) for parser in getattr(each, "__metadata__", ()))
