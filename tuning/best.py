"""The study's best point: of equals the most robust, and what branch and bound adds to it.

MAP@k is piecewise constant over the region: it changes only where a relevant item and another one swap
places. The cell of a point is what keeps every such order that its average precisions rest on. It is a
polytope in barycentric coordinates, and the centre of the largest ball inside it, its Chebyshev centre, is
the most robust of equal points.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from scipy.optimize import linprog

from competition.errors import ConfigurationError, Top7Error
from competition.metrics import WHOLE_LISTS
from competition.progress import Progress
from tuning import study as studies
from tuning.certificate import Certificate, certify
from tuning.landscape import Landscape
from tuning.objective import PaddedCandidates, ranked_positions

TIE = 1e-12
SAME = 1e-9  # figures of one trial further apart than this come from other descriptors or other code
PRUNES_BADLY = "--certify needs lossless candidates, and the region prunes badly here: "


@dataclass(frozen=True)
class Point:
    """A point of a study: its discrete choices, barycentric coordinates (J,), and MAP@k on the public queries."""

    choice: Mapping[str, Any]
    coordinates: np.ndarray
    public: float


def best_point(landscape: Landscape, study: optuna.Study) -> Point:
    """Return the study's best point; of equals the most robust."""
    finished = studies.completed(study)
    if not finished:
        raise Top7Error("the study holds no finished trial: give --trials 1 or more")
    best = study.best_value
    ties = [trial for trial in finished if (trial.value or 0.0) >= best - TIE][:20]
    centred = (_centred(landscape, Point(*studies.point_of(trial.params), best)) for trial in ties)
    return max(centred, key=lambda found: found[1])[0]


def _centred(landscape: Landscape, point: Point) -> tuple[Point, float]:
    """Move to the centre of the point's cell where that keeps the figure; returns (point, radius)."""
    combination, public = landscape.combination(point.choice), landscape.labelled.public
    if combination.padded is None:
        return point, 0.0
    padded = combination.padded.of_queries(public)
    centre, radius = largest_ball(padded, point.coordinates, combination.corners)
    if landscape.map_inside(point.choice, centre, public) >= point.public - TIE:
        return Point(point.choice, centre, point.public), radius
    return point, 0.0


def other_figures(landscape: Landscape, study: optuna.Study) -> str | None:
    """Say so where the study's best trial scores otherwise now than when it ran."""
    if not studies.completed(study):
        return None
    best = study.best_trial
    value = landscape.map_inside(*studies.point_of(best.params), landscape.labelled.public)
    if abs(value - study.best_value) <= SAME:
        return None
    return (
        f"trial {best.number} of study {study.study_name} scored {best.value:.4f} when it ran and scores {value:.4f} now: its "
        "trials come from other descriptors or other code, and their figures do not compare with new ones: give --seed "
        "another number, which is a new study, or copy one machine's dumps to all"
    )


def check_certifiable(landscape: Landscape) -> None:
    """Raise ConfigurationError, before any trial, where a choice of the study has no candidates to certify by."""
    if landscape.metric == WHOLE_LISTS:
        raise ConfigurationError(
            "--certify bounds what is decided within top_k, and a whole-list mAP ranks everything: leave it out, or set "
            "another [competition] metric"
        )
    for choice in landscape.space.single_changes():
        _, after = landscape.steps(choice)
        if after:
            raise ConfigurationError(
                f"--certify needs candidates, and {after[0]['step']} depends on the weights of each "
                "trial, so that the whole gallery is ranked: certify a study without that step"
            )
    if landscape.combination(landscape.space.default).padded is None:
        raise ConfigurationError(
            f"{PRUNES_BADLY}leave --certify out, or use another region than [tuning] region = "
            f"{landscape.configuration.tuning.region!r}"
        )


def certified(
    landscape: Landscape, point: Point, seconds: float, every_choice: bool
) -> tuple[Certificate, Point]:
    """Search the point's region, or those of all choices, by branch and bound; returns the better point too."""
    tried = [dict(point.choice)]
    if every_choice:
        tried += [other for other in landscape.all_choices() if other != tried[0]]
    padded_lists, corners = [], []
    for made in map(landscape.combination, tried):
        if made.padded is None:
            raise Top7Error(f'{PRUNES_BADLY}use region = "similarity"')
        padded_lists.append(made.padded.of_queries(landscape.labelled.public))
        corners.append(made.corners)
    with Progress(total=round(seconds), unit="s", desc="certify") as bar:
        begun = time.perf_counter()

        def watch(best: float, bound: float) -> None:
            bar.n = round(time.perf_counter() - begun, 1)
            bar.set_postfix_str(f"best {best:.4f} bound {bound:.4f}")

        found = certify(padded_lists, corners, seconds, known=[(0, point.coordinates)], watch=watch)
    if found.best <= point.public + TIE:
        return found, point
    better = Point(tried[found.combination], found.coordinates, found.best)
    return found, _centred(landscape, better)[0]


def cell_differences(padded: PaddedCandidates, weights: np.ndarray) -> np.ndarray:
    """Return s(better) - s(worse) of every pair whose order the average precisions rest on: (P, L) float64.

    Inside the top k every relevant item keeps its order to every other kind of item of the top k, and the
    last of the top k stays above the best that is outside of the other kind (an order between two items of
    one kind changes nothing).
    """
    best, valid = ranked_positions(padded, weights)
    pairs = [np.zeros((0, len(padded.similarities)))]
    for query, (values, hit) in enumerate(zip(np.moveaxis(padded.similarities, 0, -1), padded.relevant)):
        top = best[query][valid[query]]
        outside = np.setdiff1d(np.flatnonzero(padded.rows[query] >= 0), top)
        for place, item in enumerate(top):
            others = np.concatenate([top[place + 1 :], outside])
            pairs.append(values[item] - values[others[hit[others] != hit[item]]])
    return np.concatenate(pairs)


def largest_ball(
    padded: PaddedCandidates, coordinates: np.ndarray, corners: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return centre (J,) and radius of the largest ball inside the cell of `coordinates` (J,).

    corners: (J, L) vertices of the region, within which it is; all in barycentric coordinates. The ball lies in the
    simplex's plane (coordinates sum to 1). Radius 0, at the point itself, where the cell is thinner than the solver
    sees (a vertex or a face that only ties hold).
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    n = len(coordinates)
    if n == 1:
        return coordinates, 0.0
    differences = cell_differences(padded, coordinates @ corners) @ corners.T
    differences = np.unique(differences[np.abs(differences).max(axis=1) > 0], axis=0)
    planes = np.concatenate([differences, np.eye(n)])  # orders to keep, and coordinates >= 0
    in_plane = planes - planes.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(in_plane, axis=1)
    below = np.column_stack([-planes, lengths]), np.zeros(len(planes))
    whole = np.append(np.ones(n), 0.0)[None], [1.0]
    bounds = [(0, 1)] * n + [(0, None)]
    result = linprog(np.append(np.zeros(n), -1.0), *below, *whole, bounds=bounds, method="highs")
    if result.status not in (0, 2):
        raise Top7Error(f"the centre of the best cell could not be found: {result.message}")
    if result.status == 2 or result.x[-1] <= 1e-9:  # only a tie holds the order: the point is its own cell
        return coordinates, 0.0
    centre = np.clip(result.x[:-1], 0.0, None)
    return centre / centre.sum(), float(result.x[-1])
