"""A competition with a folder per class and Kaggle's CSV, from extraction to predict; what is wrong is said first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from submissions.__main__ import main


@pytest.fixture(scope="module")
def classes(tiny_competition, tmp_path_factory) -> Path:
    """The tiny competition sorted into a folder for each colour, with the same file names in all; its config.toml."""
    folder = tmp_path_factory.mktemp("classes")
    source = tiny_competition.parent
    for path in sorted((source / "gallery").rglob("*.jpg")):
        number = int(path.stem[1:])
        place = folder / "gallery" / f"colour {number % 8}" / f"{number // 8}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for number in range(8):
        for split, letter in (("val", "v"), ("test", "t")):
            place = folder / split / f"colour {number}" / "photo.jpg"
            place.parent.mkdir(parents=True)
            shutil.copy(source / split / f"{letter}{number}.jpg", place)
    text = tiny_competition.read_text()
    (folder / "config.toml").write_text(text.replace('labels = "val.csv"', 'labels = "folders"'))
    return folder / "config.toml"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_road_with_kaggles_csv(classes, capsys, tmp_path):
    folder = tmp_path / "kaggle"
    shutil.copytree(classes.parent, folder)
    for path in sorted(folder.glob("*/colour*")):
        path.rename(path.with_name(path.name.replace(" ", "-")))
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('test = "test"', 'test = "test"\nsubmission = "kaggle"'))
    common = ("--config", config, "--work", tmp_path / "work")
    assert run(capsys, "extract", *common)[0] == 0
    files = {split: tmp_path / f"{split}.csv" for split in ("validation", "test")}
    for split, file in files.items():
        code, _, err = run(capsys, "submit", *common, "--recipe", "pwa_qe", "--split", split, "--out", file)
        assert code == 0, err
        header, *lines = file.read_text().splitlines()
        assert header == "id,images" and [line.split(",")[0] for line in lines] == [
            f"colour-{number}/photo" for number in range(8)
        ]
        assert all(len(set(line.split(",")[1].split(" "))) == 7 for line in lines)
        assert run(capsys, "check", *common, file)[0] == 0
    code, out, err = run(capsys, "score", *common, files["validation"], "--json")
    assert code == 0 and json.loads(out)["queries"] == 8 and json.loads(out)["maps"]["min(m,k)"] > 0.5, err
    code, out, err = run(capsys, "leaderboard", *common, "--record", files["test"], 0.3)
    assert code == 0 and "other labels" not in out and "0.3000" in out, err
    predicted, blended = tmp_path / "predicted.csv", tmp_path / "blended.csv"
    assert run(capsys, "predict", *common, "--recipe", "pwa_qe", folder / "test", predicted)[0] == 0
    assert predicted.read_bytes() == files["test"].read_bytes()
    assert run(capsys, "blend", *common, predicted, files["test"], "--out", blended)[0] == 0
    assert blended.read_bytes() == predicted.read_bytes()
    bundle = ("--bundle", tmp_path / "bundle")
    assert run(capsys, "bundle", *common, "--recipe", "pwa_qe", "--out", bundle[1])[0] == 0
    answered = tmp_path / "answered.csv"
    assert run(capsys, "predict", *bundle, folder / "test", answered)[0] == 0
    assert answered.read_bytes() == files["test"].read_bytes()


@pytest.mark.parametrize(
    "old, new, code, words",
    [
        ('labels = "folders"', 'labels = "no.csv"', 1, "labels = {folder}/no.csv does not exist"),
        ('test = "test"', 'test = "tests"', 1, "test = {folder}/tests does not exist"),
        (
            'labels = "folders"',
            'labels = "wrong.csv"\nids = "path"',
            1,
            "wrong.csv: line 2: unknown gallery id 'no/such'",
        ),
        ('labels = "folders"\n', "", 1, 'write ids = "path" under [competition]'),
        ("trials = 12", 'steps = [{ step = "expand", neighbours = -1 }]', 2, "[tuning] steps"),
    ],
)
def test_what_is_wrong_is_said_before_the_extraction(classes, capsys, tmp_path, old, new, code, words):
    config = classes.with_name("wrong.toml")
    classes.with_name("wrong.csv").write_text("query,gallery\ncolour 1/photo,no/such\n")
    config.write_text(classes.read_text().replace(old, new))
    found, out, err = run(capsys, "extract", "--config", config, "--work", tmp_path / "work")
    assert (found, out) == (code, "") and words.format(folder=classes.parent) in err
    assert err.splitlines()[-1].startswith("top7: ") and not (tmp_path / "work" / "dumps").exists()
