"""A study of a region that prunes badly: the whole gallery in every trial, said first; a certificate refused before any."""

import pytest

from competition.configuration import load_configuration
from competition.errors import ConfigurationError
from features.extraction import extract
from tuning import candidates
from tuning import study as studies
from tuning.described import study_name
from tuning.landscape import Landscape
from tuning.report import report, report_values
from tuning.storage import open_storage
from tuning.tune import tune


def test_a_streamed_study_says_so_first_and_finds_the_same_figures(
    tiny_competition, tmp_path, monkeypatch, capsys
):
    configurations = {}
    for name in ("exact", "streamed"):
        configurations[name] = load_configuration(tiny_competition, work=tmp_path / name)
        extract(configurations[name])
    exact = tune(configurations["exact"], trials=8, folds=0)
    capsys.readouterr()
    monkeypatch.setattr(candidates, "candidate_limit", lambda n_rows: 7)
    with pytest.raises(ConfigurationError, match="prunes badly"):
        tune(configurations["streamed"], trials=8, certify_seconds=1)
    landscape = Landscape(configurations["streamed"])
    study = studies.open_study(open_storage(None, landscape.work), f"{study_name(landscape)}-seed0")
    assert not study.trials
    capsys.readouterr()
    streamed = tune(configurations["streamed"], trials=8)
    said = capsys.readouterr().err
    assert "prunes badly" in said and "no cross-validation" in said
    assert "a trial by full gallery, for the region prunes badly" in said
    assert streamed.combination.padded is None and streamed.misses is None
    assert streamed.recipe.scores == pytest.approx(exact.recipe.scores, abs=1e-12)
    assert "missed" not in report_values(streamed) and "candidates:" not in report(streamed)
    assert "missed" in report_values(exact) and "kept: " in report(exact)
