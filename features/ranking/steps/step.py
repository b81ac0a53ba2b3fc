"""What all steps share: arguments that check themselves, and what is asked of a step beside its result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, get_args

import msgspec
from msgspec import Meta

from competition.errors import nearest
from features.ranking.state import State

LARGEST_WHOLE = 2**31 - 1
LISTED = 10_000  # neighbours or images a list may hold: each query's are in memory


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


Truth = Annotated[bool, Meta(description="true or false")]
Seed = Annotated[int, whole(0)]
Weights = Annotated[
    list[Annotated[float, number(0, 1e9)]], Meta(description="a list of numbers >= 0, not all 0")
]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a recipe: its fields are its arguments, and calling it returns the state after it.

    tunable: the values worth trying in a study; makes_lists: no step may follow; centres: rows sum to about zero
    afterwards, so that the sums S of eq. 3 order nothing; keeps_files: files that depend on what came before;
    whole_gallery: every gallery image is compared with all others; shuns_photos: simulated photos cannot judge it;
    needs_photos: it learns from photos.
    """

    tunable: ClassVar[Mapping[str, tuple]] = {}
    makes_lists: ClassVar[bool] = False
    centres: ClassVar[bool] = False
    keeps_files: ClassVar[bool] = False
    whole_gallery: ClassVar[bool] = False
    shuns_photos: ClassVar[bool] = False
    needs_photos: ClassVar[bool] = False

    def __call__(self, state: State) -> State:
        """Return the state after this step."""
        raise NotImplementedError

    @property
    def independent(self) -> bool:
        """Whether every component gets the same unit rows whatever the recipe's weights: made once for a study."""
        return False

    @property
    def joins(self) -> bool:
        """Whether it makes one component of all, whatever their weights."""
        return False

    @property
    def parts_photos(self) -> bool:
        """Whether it makes other vectors of photos than of gallery images, so that nothing can be learnt from both."""
        return False

    @property
    def own_weights(self) -> Sequence[Sequence[float]]:
        """The weights it has of its own, each list one number for each entry of the recipe's components."""
        return ()

    def fault(self) -> str | None:
        """Say what arguments that are fine one by one cannot be together; None: nothing is wrong."""
        return None

    def has(self, key: str) -> str:
        """Return the words for an argument whose value cannot be used."""
        (field,) = (field for field in msgspec.structs.fields(self) if field.name == key)
        return _has(key, getattr(self, key), field.type)


def argument_fault(kind: type[Step], arguments: Mapping[str, Any]) -> str | None:
    """Say which of a step's arguments is unknown, missing or has a value it cannot take; None: nothing is wrong."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in arguments.items():
        if key not in fields:
            return f"has no {key!r}: {nearest(key, fields)}"
        if not fits(value, fields[key].type):
            return _has(key, value, fields[key].type)
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


def _has(key: str, value: Any, kind: Any) -> str:
    meta = _meta(kind)
    if meta.extra:
        return (
            f"has the unknown {meta.extra['noun']} {value!r:.60}: {nearest(str(value), meta.extra['known'])}"
        )
    return f"has {key} = {value!r:.100}: expected {meta.description}"
