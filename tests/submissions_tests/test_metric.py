"""[competition] metric: the study, its certificate, the recipe's figures and score all speak of recall or precision."""

from dataclasses import replace

import pytest

from competition.configuration import load_configuration
from features.extraction import extract
from submissions.arguments import parse
from submissions.commands import COMMANDS
from tests.archives import ARCHIVES
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
    tuned = tune(configuration, trials=8, folds=0, certify_seconds=5, progress=False)
    other = replace(configuration, competition=replace(configuration.competition, metric="map"))
    by_map = tune(other, trials=8, folds=0, progress=False)
    assert by_map.new_trials == 8  # another metric is another study
    assert tuned.certificate.bound >= tuned.recipe.scores["public"] - 1e-12
    line = ["--config", str(path), "--work", str(tmp_path)]
    COMMANDS["submit"](parse(["submit", "--split", "validation", "--recipe", "best", *line]))
    file = next((tmp_path / "submissions").glob("best-validation.csv"))
    outcome = COMMANDS["score"](parse(["score", str(file), *line]))
    assert f"{metric}@3 " in outcome.text and 0 <= outcome.values["metric"] <= 1


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
