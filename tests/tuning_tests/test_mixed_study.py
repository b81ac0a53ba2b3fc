"""A study that goes on after its descriptors or its code changed says so, and a changed search is another study."""

import numpy as np

from competition.configuration import load_configuration
from features.extraction import extract
from tuning.described import study_name
from tuning.landscape import Landscape
from tuning.report import report, report_values
from tuning.tune import tune


def test_descriptors_that_changed_under_a_study_are_said(tiny_competition, tmp_path, capsys):
    configuration = load_configuration(tiny_competition, work=tmp_path)
    extract(configuration)
    first = tune(configuration, trials=9, folds=0)
    same = tune(configuration, trials=9, folds=0)
    assert first.mixed is None and same.mixed is None and "WARNING: trial" not in capsys.readouterr().err
    for path in (tmp_path / "dumps" / "gallery").glob("*.npy"):
        if not path.name.endswith(("norms.npy", "images.npy")):
            rows = np.load(path, mmap_mode="r+")
            rows[:] = np.roll(np.array(rows), 1, axis=0)
            rows.flush()
    other = tune(configuration, trials=9, folds=0)
    assert other.new_trials == 0 and "scores" in other.mixed and "--seed" in other.mixed
    assert "WARNING: trial" in report(other) and report_values(other)["mixed"] == other.mixed
    assert "WARNING: trial" in capsys.readouterr().err


def test_a_changed_search_is_another_study(tiny_competition, tmp_path, monkeypatch):
    configuration = load_configuration(tiny_competition, work=tmp_path)
    extract(configuration)
    names = []
    for version in (1, 2):
        monkeypatch.setattr("tuning.described.SEARCH", version)
        names.append(study_name(Landscape(configuration)))
    assert names[0] != names[1]
