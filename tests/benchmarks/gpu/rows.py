"""A line of the acceptance: what was looked at, the figure, its goal and whether it is met."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from competition.tables import table

MET, MISSED, SKIPPED, NOTED = "met", "missed", "skipped", "noted"


@dataclass(frozen=True)
class Task:
    """What a section is given. folder: an empty one of its own; until: `time.monotonic` at which its time is over."""

    device: str
    small: bool
    folder: Path
    until: float

    @property
    def on_card(self) -> bool:
        return self.device != "cpu"

    def left_s(self) -> float:
        """Seconds until the time is over."""
        return self.until - time.monotonic()


@dataclass(frozen=True)
class Row:
    """verdict: met, missed, skipped or, of a figure without a goal, noted; values: the figures as numbers."""

    what: str
    figure: str = ""
    goal: str = ""
    verdict: str = NOTED
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)


Section = Callable[[Task], Iterable[Row]]


def judged(what: str, figure: str, goal: str, met: bool, reason: str = "", **values: Any) -> Row:
    """A row with a goal that anything can be held to."""
    return Row(what, figure, goal, MET if met else MISSED, reason, values)


def rate(task: Task, what: str, figure: str, goal: str, met: bool, **values: Any) -> Row:
    """A row whose goal is one of speed: on a CPU the figure stands there, but nothing is held to it."""
    if task.on_card:
        return judged(what, figure, goal, met, **values)
    return Row(what, figure, goal, SKIPPED, "speed is judged on a card alone", values)


def skipped(what: str, reason: str, goal: str = "") -> Row:
    return Row(what, "", goal, SKIPPED, reason)


def as_table(found: Sequence[tuple[str, Row]]) -> str:
    """(section, row) pairs as text."""
    heads = ("section", "what", "figure", "goal", "", "reason")
    lines = [(name, row.what, row.figure, row.goal, row.verdict, row.reason) for name, row in found]
    return table([heads, *lines], left=range(len(heads)))
