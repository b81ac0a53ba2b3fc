"""Every experiment of the papers, end to end on tiny made-up archives with a tiny random network."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from competition.datasets import load_dataset
from competition.errors import ConfigurationError, Top7Error
from competition.metrics import trapezoid_precision
from submissions.__main__ import main
from submissions.experiments import figures
from submissions.experiments.evaluation_sets import evaluation_sets
from submissions.experiments.experiment import FOLDER, experiments
from submissions.experiments.reproducing import reproduce
from tests.archives import ARCHIVES, draw

NETWORK = {"model": "top7_vgg16_quarter", "weights": "random", "image_size": 0, "resize": "keep"}


def small(experiment):
    """The experiment on a network of 128 channels and a handful of images."""

    def row(each):
        parts = each.parts and replace(each.parts, count=1 + each.parts.count // 5)
        return replace(each, parts=parts, seeds=min(each.seeds, 2))

    rows, variants = (tuple(map(row, each)) for each in (experiment.rows, experiment.variants))
    return replace(experiment, network=NETWORK, rows=rows, variants=variants, fallback_dim=3)


SMALL = {name: small(experiment) for name, experiment in experiments().items()}
FEW = [SMALL["fcrow-figure4"], SMALL["pwa-table4"]]
PAPERS = {
    paper: [each for name, each in SMALL.items() if name.startswith(paper)] for paper in ("fcrow", "pwa")
}


def run(chosen, folder, work, **options):
    more = {"variants": False, "device": "cpu", "options": {}} | options
    return reproduce(chosen, evaluation_sets(folder, None, work), **more)


def test_every_experiment_of_pwa_on_oxford_and_paris(tmp_path):
    for name in ("oxford5k", "paris6k"):
        ARCHIVES[name](tmp_path / "data" / name)
    text, rows = run(PAPERS["pwa"], tmp_path / "data" / "oxford5k", tmp_path / "work", variants=True)
    assert {row["experiment"] for row in rows} == {each.name for each in PAPERS["pwa"]}
    check_none_is_missing(rows)
    table1 = [row for row in rows if row["experiment"] == "pwa-table1"]
    assert table1[4]["row"] == "N = 150" and table1[4]["published"] == 0.790
    assert table1[4]["difference"] == pytest.approx(table1[4]["ours"] - 0.790)
    assert "M = 3: 9 images" in table1[4]["note"] and "gallery itself" not in table1[4]["note"]
    assert "claim: 150 detectors are as good as 512: " in text and "holidays: not run" in text
    _, paris = run([SMALL["pwa-table2"]], tmp_path / "data", tmp_path / "work")
    assert [row["data"] for row in paris] == ["oxford5k"] * 6 + ["paris6k"] * 6
    assert paris[-1]["published"] == 0.858
    page = (tmp_path / "work" / "oxford5k" / "parts.html").read_text()
    assert page.count("<img") > 25 and "data:image" in page
    with open(tmp_path / "work" / "oxford5k" / "reproduce" / "pwa-table1.csv", encoding="utf-8") as stream:
        assert [row["row"] for row in csv.DictReader(stream)] == [row["row"] for row in table1]


def test_every_experiment_of_fcrow_on_perfect500k(tmp_path):
    folder = ARCHIVES["perfect500k-2018"](tmp_path / "data")
    text, rows = run(PAPERS["fcrow"], folder, tmp_path / "work", variants=True)
    assert {row["experiment"] for row in rows} == {each.name for each in PAPERS["fcrow"]}
    check_none_is_missing(rows)
    for figure, bars in (("figure3a", 20), ("figure3b", 8), ("figure4", 6)):
        picture = (tmp_path / "work" / "perfect500k-2018" / "reproduce" / f"fcrow-{figure}.svg").read_text()
        assert picture.count("<rect") == bars
    lines = {line.split("  ")[0]: line for line in reversed(text.splitlines())}  # the first of a name
    assert "0.279" in lines["cosine"] and "not at hand" in lines["KL divergence"]
    assert lines["equal weights"].split()[2] == "-"
    assert "outside the region" in lines["No. 6"] or "in the region" in lines["No. 6"]
    optimum = next(row for row in rows if row["row"] == "certified optimum, similarity")
    points = [
        row for row in rows if row["experiment"] == "fcrow-table3" and row["row"].startswith("100 random")
    ]
    assert optimum["ours"] >= max(row["ours"] for row in points if "similarity" in row["row"]) - 1e-12
    assert text.splitlines()[0].endswith("on perfect500k-2018 (MAP@7)")


def check_none_is_missing(rows):
    """Every row has a figure, but for those that say why not."""
    without = [row for row in rows if row["ours"] is None]
    kinds = ("published alone", "not possible", "parts.html")
    assert all(any(kind in row["note"] for kind in kinds) for row in without), without


def test_random_points_where_whole_lists_are_ranked(tmp_path, monkeypatch):
    """With all points on one vertex, the deepest layer alone, the mean is that of the row of conv5_3."""
    monkeypatch.setattr(figures, "random_coordinates", lambda count, vertices, _: np.eye(vertices)[[-1] * 3])
    folder = ARCHIVES["oxford5k"](tmp_path / "data")
    _, rows = run([SMALL["fcrow-table3"]], folder, tmp_path / "work")
    ours = {row["row"]: row["ours"] for row in rows}
    for region in ("similarity", "distance", "simplex"):
        assert ours[f"100 random points, {region}"] == pytest.approx(ours["No. 2: conv5_3"], abs=1e-12)
    assert ours["certified optimum, similarity"] is None
    assert "a whole-list mAP has no certificate" in rows[-1]["note"]


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k", "holidays", "perfect500k-2020", "folders"])
def test_every_layout(tmp_path, name):
    text, rows = run(FEW, ARCHIVES[name](tmp_path / "data"), tmp_path / "work")
    levels = {"easy", "medium", "hard"} if name.startswith("r") else {"all"}
    assert {row["level"] for row in rows} == levels
    assert all(row["ours"] is None or 0 <= row["ours"] <= 1 for row in rows)
    assert ("(mAP)" in text) == (name in ("roxford5k", "rparis6k", "holidays"))


def test_the_figure_is_the_protocol_applied_to_the_dumps(tmp_path):
    """Oxford by hand: the crop is described, junk is ignored, the query's own image counts and stays."""
    from features.dumps import open_dump

    folder = ARCHIVES["oxford5k"](tmp_path / "data")
    experiment = replace(SMALL["fcrow-figure4"], rows=SMALL["fcrow-figure4"].rows[:1], claims=())
    _, rows = run([experiment], folder, tmp_path / "work")
    sidecars = {
        split: next((tmp_path / "work").rglob(f"dumps/{split}/**/*spoc*.json"))
        for split in ("gallery", "validation")
    }
    dumps = {split: path.with_suffix(".npy") for split, path in sidecars.items()}
    gallery, queries = (open_dump(dumps[split]) for split in ("gallery", "validation"))
    assert gallery.unreadable.tolist() == [False] * 11 + [True]
    truth = load_dataset("oxford5k", folder).truths["all"]
    values = []
    for query, row in enumerate(np.asarray(queries.descriptors, dtype=np.float64)):
        scores = np.asarray(gallery.descriptors, dtype=np.float64) @ row
        order = [image for image in np.argsort(-scores, kind="stable") if not gallery.unreadable[image]]
        values.append(trapezoid_precision(order, truth.positives[query], truth.junk[query]))
    assert rows[0]["ours"] == pytest.approx(np.mean(values), abs=1e-9)
    # the first query is the crop of an image of the gallery, so not the same descriptor
    assert float(queries.descriptors[0] @ gallery.descriptors[0]) < 1 - 1e-6


def test_another_box_of_the_same_image_is_described_again(tmp_path):
    """The image's size and time stay: the box alone says that the dump is another."""
    folder = ARCHIVES["oxford5k"](tmp_path / "data")
    experiment = replace(SMALL["fcrow-figure4"], claims=())
    found = []
    for box in ("8 8 56 60", "20 30 60 62", "8 8 56 60"):
        (folder / "gt" / "hall_1_query.txt").write_text(f"oxc1_hall_000000 {box}")
        load_dataset.cache_clear()
        _, rows = run([experiment], folder, tmp_path / "work")
        found.append([row["ours"] for row in rows])
    assert found[0] == found[2] != found[1]


def test_distractors_join_the_gallery(tmp_path):
    folder = ARCHIVES["holidays"](tmp_path / "data")
    for number in range(4):
        draw(tmp_path / "flickr" / f"{number}.jpg", number)
    found = evaluation_sets(folder, None, tmp_path / "work", tmp_path / "flickr")
    assert len(found[0].dataset.gallery) == 12
    _, rows = reproduce(FEW[:1], found, variants=False, device="cpu", options={})
    assert rows[0]["ours"] is not None


def test_without_images_nothing_is_claimed(capsys):
    assert main(["reproduce", "pwa-table2"]) == 0
    said = capsys.readouterr().out
    assert "0.79    0.858  not run" in said and "not run: no images of oxford5k, paris6k here" in said
    assert main(["reproduce"]) == 0
    assert "fcrow-table5" in capsys.readouterr().out
    assert main(["reproduce", "pwa-tabel2"]) == 2
    assert "did you mean 'pwa-table2'?" in capsys.readouterr().err


def test_bad_input_is_one_line(tmp_path, capsys):
    folder = ARCHIVES["oxford5k"](tmp_path / "data")
    (folder / "gt" / "hall_1_query.txt").write_text("hall_000000 0 0 900 10")
    assert main(["reproduce", "pwa-table1", "--data", str(folder)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["reproduce", "pwa-table1", "--data", str(tmp_path / "none")]) == 1
    assert "no such folder: give --data the folder" in capsys.readouterr().err
    assert main(["reproduce", "pwa-table1", "--config", "c.toml", "--image-size", "64"]) == 2
    assert "go with --data" in capsys.readouterr().err


def test_recipes_are_checked(tmp_path):
    text = (FOLDER / "pwa.toml").read_text()
    for change, said in (
        (("count = 512", "cuont = 512"), "row 'N = 512': parts: unknown key 'cuont': did you mean 'count'"),
        (('worse = "N = 512"', 'worse = "N = 511"'), "a claim speaks of 'N = 511': did you mean"),
        (('title = "Table 1', 'titel = "Table 1'), "unknown key 'titel': did you mean 'title'"),
        (("[network]", "[network"), "not valid TOML"),
    ):
        (tmp_path / "pwa.toml").write_text(text.replace(*change, 1))
        with pytest.raises(ConfigurationError, match=said):
            experiments(tmp_path)


def test_table_5_asks_for_its_network(tmp_path):
    folder = ARCHIVES["folders"](tmp_path / "data")
    with pytest.raises(ConfigurationError, match="--weights FILE"):
        reproduce(
            [experiments()["pwa-table5"]],
            evaluation_sets(folder, None, tmp_path),
            variants=False,
            device="cpu",
            options={},
        )
    with pytest.raises(Top7Error):
        evaluation_sets(tmp_path / "nowhere", None, None)
