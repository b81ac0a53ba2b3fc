"""Optuna's samplers by name, one for each draw: what it draws depends on the seed, its number and the trials so far."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import optuna

from competition.errors import ConfigurationError, nearest


class _CmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's adds the trial's number to the seed; failed trials shift it, so here it is the draw's."""

    def __init__(self, seed: int, draw: int):
        super().__init__(seed=mixed_seed(seed, draw), warn_independent_sampling=False)
        self.draw = draw

    def sample_relative(self, study, trial, search_space):
        trial = copy.copy(trial)
        trial.number = self.draw
        return super().sample_relative(study, trial, search_space)


class _Qmc(optuna.samplers.QMCSampler):
    """Optuna's counts in the study, where workers read the same count; here each draw knows its own."""

    def __init__(self, seed: int, draw: int):
        with (
            warnings.catch_warnings()
        ):  # it calls itself experimental since version 3; versions are pinned here
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(seed=seed, scramble=True, warn_independent_sampling=False)
        self.draw = draw

    def _find_sample_id(self, study, search_space) -> int:
        return self.draw


SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed, draw: optuna.samplers.TPESampler(
        seed=mixed_seed(seed, draw), multivariate=True, constant_liar=True
    ),
    "cmaes": _CmaEs,
    "qmc": _Qmc,
    "random": lambda seed, draw: optuna.samplers.RandomSampler(seed=mixed_seed(seed, draw)),
}


def mixed_seed(seed: int, number: int) -> int:
    """Return one seed for a seed and a number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def make_sampler(name: str, seed: int, draw: int = 0) -> optuna.samplers.BaseSampler:
    """Return sampler `name` for the study's `draw`-th draw: no two draws share a seed, whoever makes them."""
    if name not in SAMPLERS:
        raise ConfigurationError(f"[tuning] sampler = {name!r} is unknown: {nearest(name, SAMPLERS)}")
    return SAMPLERS[name](seed, draw)
