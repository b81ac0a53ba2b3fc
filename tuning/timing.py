"""What a trial of each kind costs, measured before the study begins, and what the study will."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from features.ranking.neighbours import duration
from tuning.landscape import Landscape

DRAWN = 256  # choices drawn to see how often each kind comes


@dataclass(frozen=True)
class Kind:
    """seconds: of one trial; first_s: before the first trial of a combination of choices; share: of the study's
    choices, roughly; combinations: how many such there are among the choices drawn."""

    name: str
    seconds: float
    first_s: float
    share: float
    combinations: int


def measured_kinds(landscape: Landscape) -> list[Kind]:
    """Time one trial of each kind, at the centroid: the kinds of the first choices and of each other single choice."""
    default = landscape.space.default
    tried: dict[str, dict] = {}
    singles = (
        {**default, name: value} for name, values in landscape.choice_lists.items() for value in values[1:]
    )
    for choice in (default, *(singles if landscape.space.steps else ())):
        tried.setdefault(landscape.kind(choice), choice)
    generator = np.random.default_rng(0)
    drawn = [
        {name: values[generator.integers(len(values))] for name, values in landscape.choice_lists.items()}
        for _ in range(DRAWN)
    ]
    kinds = [landscape.kind(choice) for choice in drawn]
    found = []
    for name, choice in tried.items():
        begun = time.perf_counter()
        combination = landscape.combination(choice)
        first_s = time.perf_counter() - begun
        weights = combination.corners.mean(axis=0)
        begun = time.perf_counter()
        combination.average_precisions(weights)
        seconds = time.perf_counter() - begun
        made = {
            repr((landscape.space.components_of(c), landscape.steps(c)[0]))
            for c, kind in zip(drawn, kinds)
            if kind == name
        }
        streamed = combination.scene is None and name.startswith(("candidates", "own candidates"))
        shown = f"full gallery, for the region prunes badly ({name})" if streamed else name
        found.append(Kind(shown, seconds, first_s, kinds.count(name) / DRAWN, max(1, len(made))))
    return found


def expected_seconds(kinds: list[Kind], trials: int) -> float:
    """Return about how long `trials` take: kinds by their shares, each combination made once."""
    known = sum(kind.share for kind in kinds) or 1.0
    return sum(
        trials * kind.share / known * kind.seconds
        + min(kind.combinations, trials * kind.share) * kind.first_s
        for kind in kinds
    )


def kinds_text(kinds: list[Kind], trials: int) -> str:
    """Return a line a kind, and what `trials` will take."""
    lines = [
        f"a trial by {kind.name}: {_short(kind.seconds)}, after {_short(kind.first_s)} once for each combination of "
        f"choices"
        for kind in kinds
    ]
    return "\n".join([*lines, f"{trials} trials: about {duration(expected_seconds(kinds, trials))}"])


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"
