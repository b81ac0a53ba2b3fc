"""Values from files, checked against the types of what takes them: the bounds are in the type, the words beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from competition.errors import nearest
from competition.toml_values import LARGEST_WHOLE


def whole(low: int, high: int = LARGEST_WHOLE) -> Meta:
    """Return the bounds of a whole number, with the words for them."""
    words = f"of at least {low}" if high == LARGEST_WHOLE else f"from {low} to {high}"
    return Meta(ge=low, le=high, description=f"a whole number {words}")


def number(low: float, high: float) -> Meta:
    """Return the bounds of a number, with the words for them."""
    return Meta(ge=low, le=high, description=f"a number from {low} to {high}")


def one_of(noun: str, known: Collection[str]) -> Meta:
    """Return what a text must be: one of `known`, each of which is a `noun`."""
    return Meta(extra={"noun": noun, "known": known})


Flag = Annotated[bool, Meta(description="true or false")]
Seed = Annotated[int, whole(0)]
Weights = Annotated[
    list[Annotated[float, number(0, 1e9)]], Meta(description="a list of numbers >= 0, not all 0")
]


def argument_fault(kind: type[msgspec.Struct], arguments: Mapping[str, Any]) -> str | None:
    """Say which argument of a structure is unknown, missing or has a value it cannot take; None: nothing is wrong."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in arguments.items():
        if key not in fields:
            return f"has no {key!r}: {nearest(key, fields)}"
        if not fits(value, fields[key].type):
            return fault_of(key, value, fields[key].type)
    missing = [key for key, field in fields.items() if field.required and key not in arguments]
    return f"lacks {missing[0]!r}" if missing else None


def fits(value: Any, kind: Any) -> bool:
    """Say whether a value can be an argument of a type."""
    known = (_meta(kind).extra or {}).get("known")
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return known is None or value in known


def _meta(kind: Any) -> Meta:
    """What an argument of a type must be; of "this or null" what this must be."""
    for one in (kind, *get_args(kind)):
        for each in getattr(one, "__metadata__", ()):
            if isinstance(each, Meta):
                return each
    return Meta(description="another value")


def fault_of(key: str, value: Any, kind: Any) -> str:
    """Return the words for an argument whose value cannot be used."""
    meta = _meta(kind)
    if meta.extra:
        near = nearest(str(value), meta.extra["known"])
        return f"has for {key} the unknown {meta.extra['noun']} {value!r:.60}: {near}"
    return f"has {key} = {value!r:.100}: expected {meta.description}"
