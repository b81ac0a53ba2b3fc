"""The queries of a study: labelled ones, simulated photos, or both; rows, correct images, groups, parts, weights.

What judges a trial is `[tuning] objective`: "labels", the labelled queries; "simulated", photos made of
gallery images (features/ranking/photos.py, the half that judges); "both", with n / (n + HALF_AT) of the mean on
the labelled ones, n the number of their public groups: as many as HALF_AT count half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from competition.configuration import Configuration
from competition.configured import labelled_validation
from competition.errors import ConfigurationError, Top7Error
from competition.labels import relevant_rows, rows_there
from competition.messages import log
from competition.metrics import WHOLE_LISTS
from competition.splits import groups_and_private, private_mask
from features.components import Component
from features.descriptors import open_components
from features.dumps import Dump
from features.dumps.derived import digest_of
from features.ranking.state import dump_identity
from features.ranking.steps import STEPS

# public groups of labelled queries; fewer are judged with photos; measured: BENCHMARKS.md, Few labels
HALF_AT = 25
JUDGING_PHOTOS = 1000  # at most
NOT_SIMULATED = tuple(name for name, kind in STEPS.items() if kind.shuns_photos)


@dataclass(frozen=True)
class Labelled:
    """The queries of a study, real ones before simulated photos.

    relevant: gallery rows (int64) per query; groups, private: (Q,); real: (Q,) bool, photos of users; weight:
    (Q,) float64, in the study's mean, 0 where a query does not judge; junk: gallery rows per real query that
    a whole-list mAP takes out, empty where no query has any.
    """

    query_ids: tuple[str, ...]
    relevant: tuple[np.ndarray, ...]
    groups: np.ndarray
    private: np.ndarray
    real: np.ndarray
    weight: np.ndarray
    junk: tuple[np.ndarray, ...] = ()

    @property
    def public(self) -> np.ndarray:
        """(Q,) bool: the queries the study sees."""
        return ~self.private & (self.weight > 0)

    @property
    def representative(self) -> np.ndarray:
        """(Q,) bool: of the public queries those most like new ones: real ones, photos where the study sees no others.

        Their similarities make S, and what to expect of new queries is their figure.
        """
        public = self.public
        return public & self.real if (public & self.real).any() else public

    @property
    def reported(self) -> np.ndarray:
        """(Q,) bool: the queries a validated figure is of: real ones where there are any."""
        return self.real if self.real.any() else ~self.real


def labelled_queries(configuration: Configuration, gallery_ids: Sequence[str]) -> Labelled:
    """Read the validation queries and labels of `configuration` and split them by its seed and private share."""
    ids, labels, junk = labelled_validation(configuration, gallery_ids)
    relevant = relevant_rows(labels, gallery_ids)
    groups, private = groups_and_private(relevant, configuration.tuning)
    count = len(groups)
    junk_rows = rows_there([junk[query] for query in labels], gallery_ids) if junk else ()
    return Labelled(ids, relevant, groups, private, np.ones(count, dtype=bool), np.ones(count), junk_rows)


def judged_by(
    configuration: Configuration, steps: Sequence[Mapping], gallery_ids: Sequence[str]
) -> tuple[Configuration, Labelled]:
    """Return the configuration with what judges a study over `steps` written in it, and the queries that do.

    Where the configuration leaves it open and fewer than HALF_AT groups of labelled queries are public, simulated
    photos judge beside them, which is said, unless a step or an external descriptor shuns photos or there are too few.
    """
    if configuration.tuning.objective is not None or not configuration.competition.labelled:
        return configuration, study_queries(configuration, gallery_ids)
    real = labelled_queries(configuration, gallery_ids)
    n_groups = len(np.unique(real.groups[real.public]))
    shunned = any(step["step"] in NOT_SIMULATED for step in steps) or configuration.externals
    whole = configuration.competition.metric == WHOLE_LISTS
    if shunned or whole or not configuration.simulate.images or n_groups >= HALF_AT:
        return configuration, real
    judges = f"{n_groups} groups of labelled queries judge the study"
    try:
        joined = _with_photos(real, _judging_photos(configuration, gallery_ids), "both")
    except Top7Error as error:
        log.info(f"top7: {judges}, and no simulated photos: {error}")
        return configuration, real
    log.info(
        f"top7: {judges}, and simulated photos beside them, as if these were {HALF_AT} groups more "
        '([tuning] objective = "labels": labels alone)'
    )
    return replace(configuration, tuning=replace(configuration.tuning, objective="both")), joined


def study_queries(configuration: Configuration, gallery_ids: Sequence[str]) -> Labelled:
    """Return the queries of a study by its objective; labelled ones are among them wherever there are any.

    ConfigurationError: the objective asks for labels or for simulated photos that the configuration has not;
    Top7Error: they are not extracted.
    """
    objective = configuration.objective
    if objective == "labels":
        return labelled_queries(configuration, gallery_ids)
    if configuration.externals:
        raise ConfigurationError(
            f"{configuration.path}: [tuning] objective = {objective!r}: [[external]] "
            f"{configuration.externals[0].name} does not describe simulated photos: leave it out, or give labels and "
            'objective = "labels"'
        )
    photos = _judging_photos(configuration, gallery_ids)
    if objective == "simulated" and not configuration.competition.labelled:
        return photos
    return _with_photos(labelled_queries(configuration, gallery_ids), photos, objective)


def _judging_photos(configuration: Configuration, gallery_ids: Sequence[str]) -> Labelled:
    from features.ranking.photos import open_judging

    found = open_judging(configuration, gallery_ids, JUDGING_PHOTOS)
    private = private_mask(found.groups, configuration.tuning.private, configuration.tuning.seed)
    real = np.zeros(len(found.ids), dtype=bool)
    return Labelled(found.ids, tuple(found.correct), found.groups, private, real, np.ones(len(real)))


def _with_photos(real: Labelled, photos: Labelled, objective: str) -> Labelled:
    """The photos below the real queries, in groups of their own, with the weights that the objective gives both."""
    n_groups = len(np.unique(real.groups[real.public]))
    share = n_groups / (n_groups + HALF_AT) if objective == "both" else 0.0
    weights = real.weight * share / real.public.sum(), photos.weight * (1 - share) / photos.public.sum()
    both = [real.groups, photos.groups + real.groups.max() + 1], [real.private, photos.private]
    groups, private, of_users, weight = map(np.concatenate, (*both, [real.real, photos.real], weights))
    junk = real.junk and real.junk + (np.zeros(0, dtype=np.int64),) * len(photos.query_ids)
    ids, relevant = real.query_ids + photos.query_ids, real.relevant + photos.relevant
    return Labelled(ids, relevant, groups, private, of_users, weight, junk)


def open_queries(
    configuration: Configuration, components: Sequence[Component], labelled: Labelled
) -> list[Dump]:
    """Open the dumps of a study's queries, one a component; where photos are among them, in memory."""
    count = int(labelled.real.sum())
    real, photos = labelled.query_ids[:count], labelled.query_ids[count:]
    parts = [open_components(configuration, components, "validation", real)] if real else []
    if not photos:
        return parts[0]
    from features.ranking.photos import judging_dumps

    parts.append(judging_dumps(configuration, components, photos))
    return [_stacked(dumps) for dumps in zip(*parts)]


def _stacked(parts: Sequence[Dump]) -> Dump:
    """The rows of several dumps one below the other, under a name that says which."""
    digest = digest_of([[dump_identity(part), list(part.ids)] for part in parts])
    return replace(
        parts[-1],
        path=parts[-1].path.with_name(f"queries-{digest}.npy"),
        ids=tuple(chain.from_iterable(part.ids for part in parts)),
        sidecar={},
        descriptors=np.concatenate([np.asarray(part.descriptors) for part in parts]),
        norms=np.concatenate([part.norms for part in parts]),
        unreadable=np.concatenate([part.unreadable for part in parts]),
    )
