"""What a study says that it will cost, against costs that are known."""

from __future__ import annotations

from types import SimpleNamespace

from features.components import Component
from tuning import forecast
from tuning import study as studies
from tuning.space import Space
from tuning.step_choices import StepChoices

LISTS = {"net.pooling": ("spoc", "fcrow"), "whiten.dim": (128, 256, 512), "whiten.shrinkage": (0.1, 0.2)}
STEP = StepChoices("whiten", "whiten", {"dim": LISTS["whiten.dim"], "shrinkage": LISTS["whiten.shrinkage"]})
SPACE = Space(LISTS, lambda choice: tuple(Component(f"{n}", f"{n}") for n in range(2)), (STEP,))


def test_a_trial_of_every_kind_is_timed_once():
    """Combinations of 512 dimensions take 8 s to make and the whole gallery, others 2 s."""
    made = []

    def combination(choice):
        made.append(choice["whiten.dim"])
        first_s = 8.0 if choice["whiten.dim"] == 512 else 2.0
        return SimpleNamespace(
            corners=forecast.np.eye(2), average_precisions=lambda weights: None, padded=None, made_s=first_s
        )

    def kind(choice):
        return "full gallery (expand)" if choice["whiten.dim"] == 512 else "own candidates (whiten)"

    kinds = forecast.kinds_of(SimpleNamespace(space=SPACE, kind=kind, combination=combination))
    assert made == [128, 512]
    assert [(each.name, each.first_s) for each in kinds] == [
        ("full gallery, for the region prunes badly (own candidates (whiten))", 2.0),
        ("full gallery (expand)", 8.0),
    ]
    assert str(kinds[1]).endswith("after 8.00 s once for each combination of choices")


def test_the_cost_is_that_of_trials_draws_and_new_combinations(monkeypatch):
    monkeypatch.setattr(forecast, "_draw_s", lambda plan: 0.5)
    plan = studies.TrialPlan(SPACE, 60, 0, "tpe")  # 20 places of named points, 40 draws
    study = studies.open_study(forecast.optuna.storages.InMemoryStorage(), "s")
    kinds = [forecast.Kind("own candidates (whiten)", 4.0, 10.0)]
    # 5 choices are tried by name, and a twentieth of 40 draws is new
    assert 60 * 4.0 + 40 * 0.5 + 10.0 * (5 + 2) == 330
    # no more combinations than there are
    assert 10 * (60 * 4.0 + 40 * 0.5) + 10.0 * (12 - 5) == 2670
    said = forecast.cost(study, plan, kinds, folds=10)
    assert said == "to come: about 6 min for 60 trials, 44 min for cross-validation"
    studies.run_trials(study, plan, lambda choice, coordinates: 0.0)
    assert forecast.cost(study, plan, kinds, folds=10) is None


def test_what_a_draw_takes_is_measured_on_made_up_trials():
    assert 0 < forecast._draw_s(studies.TrialPlan(SPACE, 30, 0, "tpe")) < 60
