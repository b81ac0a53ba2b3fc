"""Optuna's samplers by name, seeded so that a resumed study does not repeat its first points."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import optuna

from competition.errors import ConfigurationError, nearest


def _quietly(make: Callable[[], optuna.samplers.BaseSampler]) -> optuna.samplers.BaseSampler:
    """QMC calls itself experimental since version 3; versions are pinned here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make()


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "qmc": lambda seed: _quietly(
        lambda: optuna.samplers.QMCSampler(
            seed=seed, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False
        )
    ),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def make_sampler(name: str, seed: int, n_trials_before: int, worker: int = 0) -> optuna.samplers.BaseSampler:
    """Return sampler `name`, seeded by the study's seed, the trials it already holds and the worker's number.

    With the study's seed alone a resumed study would draw its first points again (FACTS.md). QMC keeps its place
    in the sequence inside the study, so there the seed must stay the same.
    """
    if name not in SAMPLERS:
        raise ConfigurationError(f"[tuning] sampler = {name!r} is unknown: {nearest(name, SAMPLERS)}")
    if name == "qmc":
        return SAMPLERS[name](seed)
    mixed = np.random.SeedSequence([seed, n_trials_before, worker]).generate_state(1)[0]
    return SAMPLERS[name](int(mixed))
