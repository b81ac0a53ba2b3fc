"""What a pass hands out and gets back: windows to do, and windows done, here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from features.extraction.batching import Window
from features.extraction.dump_group import DumpGroup


@dataclass
class Task:
    """A window to do: its rows that must be computed, and the groups that take its results."""

    number: int
    rows: range
    needed: list[int]
    groups: list[DumpGroup]


@dataclass
class Result:
    """A task done; settings: those it was computed with; waited_s: how long of taken_s the network had no
    images.
    """

    task: Task
    window: Window
    settings: dict = field(default_factory=dict)
    waited_s: float = 0.0
    taken_s: float = 0.0


Producer = Callable[[Iterator[Task]], Iterator[Result]]
