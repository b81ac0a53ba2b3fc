"""[competition] metric: the study, its certificate, the recipe's figures and score all speak of recall or precision."""

import re
from dataclasses import replace

import numpy as np
import pytest

from competition.configuration import load_configuration
from competition.datasets import load_dataset
from competition.errors import ConfigurationError
from competition.leaderboard import read_rows
from competition.metrics import trapezoid_precision
from features.descriptors import open_components
from features.extraction import extract
from submissions.arguments import parse
from submissions.commands import COMMANDS
from tests.archives import ARCHIVES
from tuning.report import report
from tuning.tune import tune


@pytest.mark.parametrize("metric", ["recall", "precision"])
def test_a_study_of_another_metric(tiny_competition, tmp_path, metric):
    path = tiny_competition.with_name(f"{metric}.toml")
    path.write_text(
        tiny_competition.read_text().replace(
            'test = "test"', f'test = "test"\nmetric = "{metric}"\ntop_k = 3'
        )
    )
    configuration = load_configuration(path, work=tmp_path)
    extract(configuration, device="cpu", progress=False)
    tuned = tune(configuration, trials=8, folds=0, certify_seconds=5)
    other = replace(configuration, competition=replace(configuration.competition, metric="map"))
    by_map = tune(other, trials=8, folds=0)
    assert by_map.new_trials == 8  # another metric is another study
    assert tuned.certificate.bound >= tuned.recipe.scores["public"] - 1e-12
    tuned = tune(configuration, trials=8, folds=0)  # "best" is by this metric again
    line = ["--config", str(path), "--work", str(tmp_path)]
    COMMANDS["submit"](parse(["submit", "--split", "validation", "--recipe", "best", *line]))
    file = next((tmp_path / "submissions").glob("best-validation.csv"))
    outcome = COMMANDS["score"](parse(["score", str(file), *line]))
    assert f"{metric}@3 " in outcome.text and 0 <= outcome.values["metric"] <= 1
    blended = COMMANDS["blend"](parse(["blend", str(file), str(file), *line])).values
    assert blended["expected"]["all"] == pytest.approx(outcome.values["metric"], abs=1e-12)
    assert outcome.values["metric"] != pytest.approx(outcome.values["maps"]["min(m,k)"], abs=1e-3)
    COMMANDS["submit"](parse(["submit", "--recipe", "best", *line]))
    listed = COMMANDS["leaderboard"](parse(["leaderboard", *line])).text
    assert f" {metric}@3 " in listed and "MAP" not in listed
    # the scored file, which its blend with itself equals, and the recipe's test submission
    rows = read_rows(tmp_path)
    assert [row.local for row in rows] == [pytest.approx(outcome.values["metric"], abs=1e-12)] * 2
    assert {round(row.public, 12) for row in rows} == {round(tuned.recipe.scores["public"], 12)}
    COMMANDS["report"](parse(["report", "--out", str(tmp_path / "report"), *line]))
    board = (tmp_path / "report" / "index.html").read_text()
    assert f'class="lead">{metric}@3' in board and f"{tuned.recipe.scores['all']:.4f}" in board


def test_a_data_set_in_its_own_format_is_extracted_tuned_and_scored(tmp_path):
    ARCHIVES["perfect500k-2020"](tmp_path / "set")
    (tmp_path / "c.toml").write_text("""
[competition]
name = "set"
format = "perfect500k-2020"
gallery = "set"
top_k = 3
metric = "recall"
[[backbone]]
model = "test_resnet"
weights = "random"
image_size = 48
layers = [1, 2]
[simulate]
images = 0
""")
    line = ["--config", str(tmp_path / "c.toml"), "--work", str(tmp_path / "work")]
    for command in (
        ["extract"],
        ["tune", "--trials", "8", "--folds", "0"],
        ["submit", "--split", "validation"],
    ):
        outcome = COMMANDS[command[0]](parse([*command, *line]))
    scored = COMMANDS["score"](parse(["score", outcome.values["file"], *line]))
    assert scored.values["queries"] == 3 and "recall@3 " in scored.text


def test_a_study_of_whole_list_map_ranks_everything_and_says_so(tmp_path, capsys):
    """Holidays: each query is junk of its own list. The figure is that of the official protocol on the dumps."""
    folder = ARCHIVES["holidays"](tmp_path / "set")
    (tmp_path / "c.toml").write_text(f"""
[competition]
name = "set"
format = "holidays"
gallery = "{folder}"
metric = "trapezoid"
top_k = 3
[[backbone]]
model = "test_resnet"
weights = "random"
image_size = 48
layers = [1, 2]
[simulate]
images = 0
[tuning]
private = 0.0
""")
    configuration = load_configuration(tmp_path / "c.toml", work=tmp_path / "work")
    extract(configuration, device="cpu", progress=False)
    with pytest.raises(ConfigurationError, match="a whole-list mAP ranks everything"):
        tune(configuration, trials=8, certify_seconds=1)
    capsys.readouterr()
    tuned = tune(configuration, trials=8, folds=2)
    assert "a trial by full gallery (mAP ranks everything)" in capsys.readouterr().err
    assert "mAP (whole lists, trapezoid)" in report(tuned)

    truth = load_dataset("holidays", folder).truths["all"]
    queries, gallery = (
        open_components(configuration, tuned.recipe.components, split, None)
        for split in ("validation", "gallery")
    )
    scores = sum(
        weight * np.asarray(q.descriptors, np.float64) @ np.asarray(g.descriptors, np.float64).T
        for weight, q, g in zip(tuned.recipe.weights, queries, gallery)
    )
    expected = [
        trapezoid_precision(np.argsort(-row, kind="stable"), truth.positives[query], truth.junk[query])
        for query, row in enumerate(scores)
    ]
    assert tuned.recipe.scores["all"] == pytest.approx(np.mean(expected), abs=1e-9)

    line = ["--config", str(tmp_path / "c.toml"), "--work", str(tmp_path / "work")]

    def call(command, *more):
        return COMMANDS[command](parse([command, *more, *line]))

    submitted = call("submit", "--split", "validation", "--recipe", "best")
    assert f"mAP {tuned.recipe.scores['validated']:.4f}" in submitted.text
    file = submitted.values["file"]
    for _ in range(2):
        (row,) = read_rows(tmp_path / "work")
        assert row.local == pytest.approx(tuned.recipe.scores["all"]) and row.maps.keys() >= {"trapezoid"}
        assert "mAP is of whole lists, which this file does not hold" in call("score", file).text
    assert re.search(r" mAP +public", call("leaderboard").text)
    blended = call("blend", file, file, "--out", str(tmp_path / "blend.csv"))
    assert "mAP is of whole lists" in blended.values["unknown"]
    assert "mAP (whole lists, trapezoid)" in call("compare", "best", "untuned").text
    call("report", "--out", str(tmp_path / "report"))
    board = (tmp_path / "report" / "index.html").read_text()
    assert f"{tuned.recipe.scores['all']:.4f}" in board and 'class="lead">mAP' in board
    assert '"metric":"MAP@3"' in (tmp_path / "report" / "data" / "validation.js").read_text()
