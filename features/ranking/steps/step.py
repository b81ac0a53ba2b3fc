"""What all steps share: arguments that check themselves, and what is asked of a step beside its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from features.ranking.arguments import fault_of
from features.ranking.state import State

LISTED = 10_000  # neighbours or images a list may hold: each query's are in memory


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
        return fault_of(key, getattr(self, key), field.type)
