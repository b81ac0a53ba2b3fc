"""The study's best point: of equals the most robust, and what branch and bound adds to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from competition.errors import ConfigurationError, Top7Error
from competition.metrics import WHOLE_LISTS
from competition.progress import Progress
from tuning import study as studies
from tuning.certificate import certify
from tuning.landscape import Landscape
from tuning.robust import largest_ball

Choice = Mapping[str, Any]
TIE = 1e-12
SAME = 1e-9  # figures of one trial further apart than this come from other descriptors or other code


def best_point(landscape: Landscape, study) -> tuple[dict[str, Any], np.ndarray, float]:
    """Return (choice, barycentric coordinates, public MAP) of the study's best; of equals the most robust."""
    finished = studies.completed(study)
    if not finished:
        raise Top7Error("the study holds no finished trial: give --trials 1 or more")
    best = max(trial.value for trial in finished)
    ties = [trial for trial in finished if trial.value >= best - TIE]
    balls = []
    for trial in ties[:20]:
        choice, coordinates = studies.point_of(trial.params, landscape.choice_lists)
        balls.append((choice, *_centred(landscape, choice, coordinates, best)))
    choice, coordinates, _ = max(balls, key=lambda ball: ball[2])
    return choice, coordinates, best


def _centred(
    landscape: Landscape, choice: Choice, coordinates: np.ndarray, value: float
) -> tuple[np.ndarray, float]:
    """Move to the centre of the best cell where that keeps the figure; returns (coordinates, radius)."""
    combination = landscape.combination(choice)
    if combination.scene is None:
        return coordinates, 0.0
    ball = largest_ball(
        combination.scene.of_queries(landscape.labelled.public), coordinates, combination.corners
    )
    if landscape.map_inside(choice, ball.centre, landscape.labelled.public) >= value - TIE:
        return ball.centre, ball.radius
    return coordinates, 0.0


def other_figures(landscape: Landscape, study) -> str | None:
    """Say so where the study's best trial scores otherwise now than when it ran: on other descriptors, or by other code."""
    finished = studies.completed(study)
    if not finished:
        return None
    best = max(finished, key=lambda trial: trial.value)
    value = landscape.map_inside(
        *studies.point_of(best.params, landscape.choice_lists), landscape.labelled.public
    )
    if abs(value - best.value) <= SAME:
        return None
    return (
        f"trial {best.number} of study {study.study_name} scored {best.value:.4f} when it ran and scores {value:.4f} now: its "
        "trials come from other descriptors or other code, and their figures do not compare with new ones: give --seed "
        "another number, which is a new study, or copy one machine's dumps to all"
    )


def certified(
    landscape: Landscape,
    choice: Choice,
    coordinates: np.ndarray,
    public: float,
    seconds: float,
    every_choice: bool,
    progress: bool,
):
    """Branch and bound over the recipe's region, or those of all choices; the better of study and certificate."""
    tried = [dict(choice)]
    if every_choice:
        tried += [other for other in landscape.all_choices() if other != dict(choice)]
    made = [landscape.combination(other) for other in tried]
    if any(combination.scene is None for combination in made):
        raise Top7Error(
            '--certify needs lossless candidates, and the region prunes badly here: use region = "similarity"'
        )
    scenes = [combination.scene.of_queries(landscape.labelled.public) for combination in made]
    with Progress(total=round(seconds), unit="s", desc="certify", shown=progress) as bar:
        begun = time.perf_counter()

        def watch(best: float, bound: float) -> None:
            bar.n = round(time.perf_counter() - begun, 1)
            bar.set_postfix_str(f"best {best:.4f} bound {bound:.4f}")

        certificate = certify(
            scenes,
            [combination.corners for combination in made],
            seconds,
            known=[(0, coordinates)],
            watch=watch,
        )
    if certificate.best > public + TIE:
        choice, public = tried[certificate.combination], certificate.best
        coordinates, _ = _centred(landscape, choice, certificate.coordinates, public)
    return certificate, choice, coordinates, public


def check_certifiable(landscape: Landscape) -> None:
    """Raise ConfigurationError, before any trial, where a choice of the study has no candidates, which a certificate needs."""
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
    if landscape.combination(landscape.space.default).scene is None:
        raise ConfigurationError(
            "--certify needs lossless candidates, and the region prunes badly here: leave --certify out, or "
            f"use another region than [tuning] region = {landscape.configuration.tuning.region!r}"
        )
