"""What a study says that it will cost, against costs that are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from features.components import Component
from tuning import forecast
from tuning import study as studies
from tuning.space import Space
from tuning.step_choices import StepChoices

LISTS = {"net.pooling": ("spoc", "fcrow"), "whiten.dim": (128, 256, 512), "whiten.shrinkage": (0.1, 0.2)}
STEP = StepChoices("whiten", "whiten", {"dim": LISTS["whiten.dim"], "shrinkage": LISTS["whiten.shrinkage"]})
SPACE = Space(LISTS, lambda choice: tuple(Component(f"{n}", f"{n}") for n in range(2)), (STEP,))


@pytest.fixture
def landscape(monkeypatch):
    """Each combination of choices takes 2 s to make, with 512 dimensions 8 s; a draw of the sampler takes 0.1 s."""
    monkeypatch.setattr(forecast, "_draw_s", lambda plan: 0.1)
    combination = SimpleNamespace(
        corners=forecast.np.eye(2), average_precisions=lambda weights: None, padded=object()
    )
    return SimpleNamespace(
        space=SPACE,
        choice_lists=LISTS,
        kind=lambda choice: "own candidates (whiten)",
        combination=lambda choice: combination,
        making_s=lambda choice: 8.0 if choice["whiten.dim"] == 512 else 2.0,
    )


def test_every_value_of_a_step_is_timed_and_what_the_study_tries_by_name(landscape):
    timed = forecast.timed_trials(landscape, studies.TrialPlan(SPACE, 60, 0, "tpe"))
    assert [tuple(each.choice.values()) for each in timed] == [
        ("spoc", 128, 0.1),
        ("spoc", 256, 0.1),
        ("spoc", 512, 0.1),
        ("spoc", 128, 0.2),
        ("fcrow", 128, 0.1),
    ]
    assert [each.first_s for each in timed] == [2, 2, 8, 2, 2]
    (kind,) = forecast.kinds_of(landscape, timed)
    assert (kind.least_first_s, kind.most_first_s) == (2.0, 8.0)
    assert "after 2.00 s to 8.00 s once" in forecast.kinds_text([kind])


def test_the_cost_is_that_of_trials_draws_entries_and_new_combinations(landscape):
    plan = studies.TrialPlan(SPACE, 60, 0, "tpe")  # 20 places of named points, 40 draws
    timed = [
        forecast.TimedTrial(each.choice, each.kind, 0.5, each.first_s)
        for each in forecast.timed_trials(landscape, plan)
    ]
    found = forecast.cost(landscape, plan, timed, there=0, write_s=0.01, folds=10)
    entries = len(LISTS) + 2 * 2 + forecast.OWN_ENTRIES
    new = 2 * 2  # a twentieth of 40 draws; the median of what is timed but the first, which comes once
    assert found.trials_s == pytest.approx(60 * (0.5 + 0.01 * entries) + 40 * 0.1 + new)
    unseen = 3.5 * (12 - 5)  # no more combinations than there are
    assert found.folds_s == pytest.approx(10 * (60 * 0.5 + 40 * 0.1) + unseen)
    assert found.sentence() == "to come: about 45 s for 60 trials, 6 min for cross-validation"
    resumed = forecast.cost(landscape, plan, timed, there=50, write_s=0.01, folds=0)
    assert resumed.trials == 10 and resumed.folds_s < found.folds_s
    assert resumed.trials_s == pytest.approx(10 * (0.6 + 0.01 * entries) + 2 * 0.05 * 10)


def test_what_a_draw_takes_is_measured_on_made_up_trials():
    assert 0 < forecast._draw_s(studies.TrialPlan(SPACE, 30, 0, "tpe")) < 60
