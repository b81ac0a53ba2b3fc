"""The papers' data sets from tiny archives in their original layout, and one clear line for what is wrong in them."""

import json
import os
import pickle
import re

import numpy as np
import pytest

from competition.configuration import DATA_SETS, load_configuration
from competition.configured import configured_images, validation_labels
from competition.datasets import FORMATS, detect, load_dataset
from competition.datasets.oxford_paris import query_files
from competition.datasets.revisited import read_pickle
from competition.errors import ConfigurationError, Top7Error
from competition.images import Region
from tests.archives import ARCHIVES, draw
from tests.conftest import ROOT


def ids(dataset, rows):
    return [dataset.gallery.ids[row] for row in sorted(rows)]


def test_a_configuration_knows_every_data_set():
    assert list(FORMATS) == DATA_SETS


@pytest.mark.parametrize("name", ARCHIVES)
def test_each_layout_is_recognised_and_whole(tmp_path, name):
    folder = ARCHIVES[name](tmp_path / "data")
    assert detect(folder) == name
    dataset = load_dataset(name, folder)
    assert list(dataset.gallery.ids) == sorted(dataset.gallery.ids)
    for truth in dataset.truths.values():
        assert len(truth.positives) == len(truth.junk) == len(dataset.queries)
        assert all(not good & bad for good, bad in zip(truth.positives, truth.junk))


def test_oxford(tmp_path):
    dataset = load_dataset("oxford5k", ARCHIVES["oxford5k"](tmp_path))
    assert len(dataset.gallery) == 12 and dataset.queries.ids == ("hall_1", "hall_2")
    assert dataset.queries.view(0) == Region((8.4, 8.0, 56.0, 60.0))
    truth = dataset.truths["all"]
    assert ids(dataset, truth.positives[0]) == ["hall_000000", "hall_000003", "hall_000006"]
    assert ids(dataset, truth.junk[1]) == ["hall_000002", "hall_000010"]


def test_revisited(tmp_path):
    dataset = load_dataset("roxford5k", ARCHIVES["roxford5k"](tmp_path))
    assert len(dataset.gallery) == 9 and dataset.queries.ids == ("hall_000009", "hall_000010")
    easy, medium, hard = (dataset.truths[level] for level in ("easy", "medium", "hard"))
    assert (easy.positives[0], easy.junk[0]) == ({0, 3}, {1, 6})
    assert (medium.positives[0], medium.junk[0]) == ({0, 3, 6}, {1})
    assert (hard.positives[0], hard.junk[0]) == ({6}, {0, 1, 3}) and not hard.positives[1]


def test_holidays(tmp_path):
    dataset = load_dataset("holidays", ARCHIVES["holidays"](tmp_path))
    assert dataset.queries.ids == ("100000", "100100", "100200") and len(dataset.gallery) == 8
    truth = dataset.truths["all"]
    assert ids(dataset, truth.positives[0]) == ["100001", "100002"] and ids(dataset, truth.junk[0]) == [
        "100000"
    ]
    assert dataset.gallery.view(1) == Region(turns=1) and dataset.queries.view(2) == Region(turns=3)


@pytest.mark.parametrize("year", [2018, 2020])
def test_perfect500k(tmp_path, year):
    dataset = load_dataset(f"perfect500k-{year}", ARCHIVES[f"perfect500k-{year}"](tmp_path))
    assert len(dataset.gallery) == 10 and [len(rows) for rows in dataset.truths["all"].positives] == [4, 1, 2]


def test_a_folder_per_class(tmp_path):
    folder = ARCHIVES["folders"](tmp_path)
    dataset = load_dataset("folders", folder)
    assert [query[0] for query in dataset.queries.ids] == ["a", "b"]
    assert [len(rows) for rows in dataset.truths["all"].positives] == [3, 2] and len(dataset.gallery) == 6
    assert not set(dataset.queries.ids) & set(dataset.gallery.ids)
    again = FORMATS["folders"](folder, "folders")
    assert again == dataset


def test_distractors_move_no_positive(tmp_path):
    folder = ARCHIVES["oxford5k"](tmp_path / "set")
    for number in range(3):
        draw(tmp_path / "flickr" / "oxc1_100k" / f"hall_{number:06d}.jpg", number)
    plain = load_dataset("oxford5k", folder)
    more = load_dataset("oxford5k", folder, tmp_path / "flickr")
    assert len(more.gallery) == 15 and list(more.gallery.ids) == sorted(more.gallery.ids)
    for query in range(2):
        for kind in ("positives", "junk"):
            assert ids(more, getattr(more.truths["all"], kind)[query]) == ids(
                plain, getattr(plain.truths["all"], kind)[query]
            )
    with pytest.raises(Top7Error, match="12 of the distractors are images of oxford5k itself"):
        load_dataset("oxford5k", folder, folder)


def test_the_official_ground_truth_files_say_what_the_json_says():
    folder = ROOT.parent / "shared" / "truth" / "oxford5k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: this test needs the official ground-truth files")
    gnd = json.loads((folder / "gnd_oxford5k.json").read_text())
    assert len(query_files(folder)) == len(gnd["queries"]) == 55
    from competition.datasets.oxford_paris import _query

    found = sorted(_query(path) for path in query_files(folder).values())
    assert found == sorted((each["name"], tuple(each["bbx"])) for each in gnd["queries"])


def test_a_configuration_may_name_a_data_set(tmp_path):
    folder = ARCHIVES["roxford5k"](tmp_path / "set")
    text = '[competition]\nname = "r"\nformat = "roxford5k"\ngallery = "set"\n[[external]]\nname = "e"\ngallery = "g.npy"\n'
    (tmp_path / "c.toml").write_text(text)
    configuration = load_configuration(tmp_path / "c.toml")
    images = configured_images(configuration)
    assert len(images["gallery"]) == 9 and images["validation"].view(0) == Region((4.0, 4.0, 60.0, 60.0))
    labels = validation_labels(configuration, images["validation"].ids, images["gallery"].ids)
    assert labels["hall_000009"] == ("hall_000000", "hall_000003", "hall_000006")
    for line, said in (('labels = "x.csv"', "labels"), ('validation = "v"', "validation")):
        (tmp_path / "c.toml").write_text(text.replace('gallery = "set"', f'gallery = "set"\n{line}'))
        with pytest.raises(ConfigurationError, match=f"no {said} beside format"):
            load_configuration(tmp_path / "c.toml")
    assert folder.is_dir()


def broken_oxford(folder, change):
    change(ARCHIVES["oxford5k"](folder))
    return "oxford5k"


@pytest.mark.parametrize(
    "name, change, said",
    [
        (
            "oxford5k",
            lambda f: [(f / "images" / f"hall_{n:06d}.jpg").unlink() for n in (0, 1, 2, 4, 6)],
            r"5 of the 9 images that the ground truth \(hall_1_query.txt and others\) names are not there, the first is "
            r"'hall_000000'.*a half-downloaded archive\?",
        ),
        (
            "oxford5k",
            lambda f: (f / "gt" / "hall_1_ok.txt").write_text("hall_999999\n"),
            r"1 of the 9 images that the ground truth \(hall_1_ok.txt.* 'hall_999999'.*unknown image",
        ),
        (
            "oxford5k",
            lambda f: (f / "gt" / "hall_2_junk.txt").unlink(),
            r"hall_2_junk.txt: missing: unpack the whole ground-truth archive",
        ),
        (
            "oxford5k",
            lambda f: (f / "gt" / "hall_1_query.txt").write_text("hall_000000 8 8 200 60"),
            r"query hall_1: the box \(8.0, 8.0, 200.0, 60.0\) is not inside .*hall_000000.jpg, 64 × 64 pixels",
        ),
        (
            "oxford5k",
            lambda f: (f / "gt" / "hall_1_query.txt").write_text("hall_000000 8 8 60"),
            r"hall_1_query.txt: 'hall_000000 8 8 60': expected one line, an image and the four numbers",
        ),
        (
            "roxford5k",
            lambda f: (f / "gnd_roxford5k.pkl").write_bytes(b"\x80\x02"),
            r"gnd_roxford5k.pkl: not a whole pickle",
        ),
        (
            "roxford5k",
            lambda f: (f / "gnd_roxford5k.pkl").write_bytes(
                pickle.dumps({"imlist": ["a"], "qimlist": [], "gnd": 3})
            ),
            r"not a revisited ground truth: expected imlist, qimlist and gnd",
        ),
        (
            "roxford5k",
            lambda f: (f / "jpg" / "hall_000010.jpg").unlink(),
            r"names are not there, .*'hall_000010'",
        ),
        ("holidays", lambda f: (f / "jpg" / "100100.jpg").unlink(), r"group 1001 has no query 100100"),
        (
            "holidays",
            lambda f: (f / "rotate.yaml").write_text("100001: [90"),
            r"rotate.yaml: not a rotation list",
        ),
        (
            "perfect500k-2018",
            lambda f: (f / "val_2018.csv").unlink(),
            r"no label file there: expected a .csv with rows such as v000001",
        ),
        (
            "perfect500k-2020",
            lambda f: (f / "val_2020.csv").write_text("v000001,n0000001,n9999999\n"),
            r"line 1: unknown gallery id 'n9999999'",
        ),
    ],
)
def test_bad_archives_are_one_clear_line(tmp_path, name, change, said):
    folder = ARCHIVES[name](tmp_path)
    change(folder)
    with pytest.raises(Top7Error) as caught:
        load_dataset(name, folder)
    assert re.search(said, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch pickled",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gnd.pkl"
    for value in (Bomb(), [np.array([Bomb()], dtype=object)]):
        for protocol in (0, 2, 4):
            path.write_bytes(pickle.dumps(value, protocol=protocol))
            with pytest.raises(
                Top7Error, match="refused .it asks for (posix|nt|os).system.: a ground-truth pickle"
            ):
                read_pickle(path)
    assert not (tmp_path / "pickled").exists()
    for protocol in (0, 2, 4):
        value = {"a": np.arange(3), "b": [np.float64(1.5), "x"], "c": np.array([1.5, 2])}
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        found = read_pickle(path)
        assert found["a"].tolist() == [0, 1, 2] and found["b"] == [1.5, "x"]
