"""What a study may claim: figures on queries that did not choose, and how small a gain the queries can show."""

from __future__ import annotations

import numpy as np

from competition.messages import log
from tuning import study as studies
from tuning.certificate import Certificate
from tuning.combination import Combination
from tuning.labelled import Labelled
from tuning.landscape import Landscape
from tuning.region import random_coordinates
from tuning.validation import CrossValidated, smallest_gain, standard_error

FOLDS_LIMIT = (
    2e13  # multiplications of query and gallery entries, some ten minutes, that cross-validation may take
)


def showable_gain(landscape: Landscape, untuned: np.ndarray) -> str:
    """Say how large a gain the public queries can show, between recipes as unlike as the untuned one and one vertex."""
    public, combination = landscape.labelled.public, landscape.combination(landscape.space.default)
    groups = landscape.labelled.groups[public]
    last = np.eye(len(combination.corners))[-1]
    other = combination.average_precisions(combination.weights(last))
    gain = smallest_gain((other - untuned)[public], groups, landscape.labelled.weight[public])
    n_groups = len(np.unique(groups))
    counted = (
        f"{len(groups)} public queries{_photos(landscape.labelled)} in {n_groups} group{'s' * (n_groups > 1)}"
    )
    if gain is None:
        return f"{counted}: no gain can be told from chance and no interval given: label queries of other products"
    if gain == 0:
        return f"{counted}: the recipes at hand answer them alike, so what gain they can show is not known"
    return f"{counted} show a gain of {gain:.4f} or more (four times in five); a smaller one drowns in noise"


def _photos(labelled: Labelled) -> str:
    """How many of the public queries are simulated photos, and what they weigh."""
    photos = ~labelled.real & labelled.public
    if not photos.any():
        return ""
    share = labelled.weight[photos].sum() / labelled.weight[labelled.public].sum()
    return f" ({int(photos.sum())} simulated photos, {share:.0%} of the mean)"


def trial_precisions(landscape: Landscape, study) -> np.ndarray:
    """AP@k of every query under every finished trial, (trials, Q): as noted, or again from the candidates."""
    rows = []
    for trial in sorted(studies.completed(study), key=lambda trial: str(sorted(trial.params.items()))):
        if len(noted := trial.user_attrs.get(studies.PRECISIONS, ())) == len(landscape.labelled.query_ids):
            rows.append(np.array(noted))
            continue
        choice, coordinates = studies.point_of(trial.params, landscape.choice_lists)
        combination = landscape.combination(choice)
        rows.append(combination.average_precisions(combination.weights(coordinates)))
    return np.array(rows)


def unseen_scores(
    unseen: np.ndarray,
    tuned: np.ndarray,
    labelled: Labelled,
    corrected: float | None,
    cross_validated: CrossValidated | None,
) -> dict[str, float]:
    """The figures on queries that did not choose. validated: on all labelled queries (without labels: all photos), as
    `unseen` on the public ones and as the recipe does on the others, so that it compares with an untuned recipe's."""
    values = tuned.copy()
    values[labelled.public] = unseen
    found = {"bias-corrected": corrected, "validated": float(values[labelled.reported].mean())}
    if cross_validated is not None:
        found["cross-validated"] = cross_validated.mean
    return {name: value for name, value in found.items() if value is not None}


def validated_by(
    labelled: Labelled, cross_validated: CrossValidated | None, certificate: Certificate | None
) -> str:
    if labelled.real.any() and not (labelled.public & labelled.real).any():
        return "labels, none of which chose it"
    how = "bootstrap bias correction" if cross_validated is None else "cross-validation"
    return how if certificate is None else f"{how} of the study without the certificate"


def affordable_folds(landscape: Landscape, combination: Combination, trials: int) -> int:
    """5, or 0 (said aloud) where trials rank the whole gallery and folds would repeat the study too often."""
    full = [kind for kind in map(landscape.kind, landscape.space.single_changes()) if kind.startswith("full")]
    if combination.scene is not None and not full:
        return 5
    width = sum(dump.descriptors.shape[1] for dump in landscape.dumps(landscape.space.default)[1])
    work = 5.0 * trials * len(landscape.labelled.query_ids) * len(landscape.gallery_ids) * width
    if full and 2 * work <= FOLDS_LIMIT:
        return 5
    log.info(
        "no cross-validation: each trial ranks the whole gallery here, and folds would repeat the study: --folds 5 does it"
    )
    return 0


def importances(study) -> dict[str, float]:
    """How much of the figure's variance each parameter explains (fANOVA); empty where all trials agree."""
    import optuna

    finished = studies.completed(study)
    if len(finished) < 10 or len({trial.value for trial in finished}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    counts = {len(studies.coordinate_names(trial.params)) for trial in finished}
    if len(counts) > 1:  # a coordinate is then another component's by choice
        found = {name: value for name, value in found.items() if name not in studies.coordinate_names(found)}
    return {name: float(value) for name, value in found.items()}


def near_best_share(
    combination: Combination, values: np.ndarray, labelled: Labelled, n_points: int = 500
) -> float:
    """Return the share of the region, sampled uniformly, within one standard error (over groups) of the best's public MAP."""
    public = labelled.public
    weight = labelled.weight[public]
    error = standard_error(values[public], labelled.groups[public], weight) or 0.0
    n_points = n_points if combination.scene is not None else 10  # each streams the gallery there
    points = random_coordinates(n_points, len(combination.corners), np.random.default_rng(0))
    found = [combination.average_precisions(combination.weights(point)) for point in points]

    def figure(of: np.ndarray) -> float:
        return float(np.average(of[public], weights=weight))

    return float(np.mean([figure(of) >= figure(values) - error for of in found]))
