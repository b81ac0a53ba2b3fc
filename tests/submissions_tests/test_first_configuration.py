"""`init`: what a folder holds is told by its names and contents, and the configuration written extracts as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from competition.configuration import load_configuration
from competition.errors import Top7Error
from submissions import first_configuration
from submissions.__main__ import main
from submissions.first_configuration import contents_of


def draw(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60 + number), (number * 9 % 256, 80, 120)).save(path)


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with usual names, labels with a pair a row, and two files that are no labels."""
    folder = tmp_path / "my data"
    draw(
        folder,
        *(f"Database/{number}.jpg" for number in range(9)),
        "query/q1.png",
        "query/q2.jpg",
        "test/t.jpg",
    )
    (folder / "truth.csv").write_text("query,image\nq1,1\nq1,2\nq2,3\n")
    (folder / "prices.csv").write_text("1,2.50\n2,3.50\n")
    return folder


def test_usual_names_and_labels_by_content(data):
    (data / "Database" / "7.jpg").write_bytes(b"<html>")
    shutil.copy(data / "query" / "q1.png", data / "Database" / "8.jpg")
    (data / "Database" / "notes.txt").touch()
    found = contents_of(data)
    assert found.folders == {
        "gallery": data / "Database",
        "validation": data / "query",
        "test": data / "test",
    }
    assert (found.labels, found.correct, found.ids) == (data / "truth.csv", [2, 1], "name")
    assert "of those looked at: JPEG 7, PNG 1; " in found.seen[0] and "longer side 80 to 80" in found.seen[2]
    odd = " ".join(found.odd)
    assert all(
        word in odd for word in ("notes.txt", "7.jpg", "1 of 9 images looked at are of another format")
    )
    assert found.unsure == []
    shutil.copy(data / "truth.csv", data / "truth2.csv")
    assert contents_of(data).unsure == ["labels: truth.csv is taken; truth2.csv fits, too, and is left out"]


def test_a_folder_a_class(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path, *(f"{split}/{name}/{number}.jpg" for name in ("apple", "pear") for number in range(3)))
    found = contents_of(tmp_path)
    assert (found.labels, found.ids, found.correct) == ("folders", "path", [3] * 6)
    assert found.images["gallery"].ids[0] == "apple/0"


def test_what_cannot_be_told_is_said(tmp_path):
    draw(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    found = contents_of(tmp_path)
    assert found.folders == {"gallery": tmp_path} and found.ids == "path"
    assert [line.split(":")[0] for line in found.unsure] == ["gallery", "queries", "validation"]
    assert "a 1, b 2: where one holds queries" in found.unsure[1]
    draw(tmp_path, "val/q.jpg")
    found = contents_of(tmp_path)
    assert found.folders["gallery"] == tmp_path / "b" and "b is taken" in found.unsure[0]
    assert found.unsure[-1].startswith("labels: no *.csv")
    draw(tmp_path, "gallery/1.jpg", "train/2.jpg")
    assert "train could be it, too" in contents_of(tmp_path).unsure[0]
    draw(tmp_path / "whole", "images/gallery/1.jpg", "images/val/2.jpg")
    assert contents_of(tmp_path / "whole").folders["validation"] == tmp_path / "whole" / "images" / "val"
    with pytest.raises(Top7Error, match="expected a folder of images"):
        contents_of(tmp_path / "absent")


def test_without_a_hub_it_says_how_and_never_overwrites(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(first_configuration, "_hub_reachable", lambda: False)
    (data / "Database" / "two\nlines.txt").touch()  # its name is in a comment of the configuration
    out = tmp_path / "c.toml"
    assert main(["init", str(data), "--out", str(out), "--model", "test_resnet", "--json"]) == 0
    printed = capsys.readouterr()
    assert "--model NAME --weights FILE" in printed.err and "2 labelled queries" in printed.err
    assert json.loads(printed.out)["configuration"] == str(out)
    text = out.read_text()
    assert all(line.removeprefix("top7: please check: ") in text for line in printed.err.splitlines())
    competition = load_configuration(out).competition
    assert competition.gallery == data / "Database" and competition.labels == data / "truth.csv"
    assert 'gallery = "my data/Database"' in text
    for arguments, code, words in (
        (("--out", out), 2, "is there already"),
        (("--out", tmp_path / "d.toml", "--weights", out), 2, "give --model NAME"),
        (("--out", tmp_path / "d.toml", "--model", "resnet5O"), 2, "unknown timm model"),
        (
            ("--out", tmp_path / "d.toml", "--model", "test_resnet", "--weights", tmp_path / "no"),
            2,
            "no such file",
        ),
    ):
        assert main(["init", str(data), *map(str, arguments)]) == code
        assert words in capsys.readouterr().err
    assert out.read_text() == text and not (tmp_path / "d.toml").exists()


def test_extract_runs_what_init_writes(tiny_competition, tmp_path, capsys):
    import timm
    from safetensors.torch import save_file

    weights, out = tmp_path / "weights.safetensors", tmp_path / "my tiny.toml"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    arguments = ["--model", "test_resnet", "--weights", weights, "--out", out]
    assert main(["init", str(tiny_competition.parent), *map(str, arguments)]) == 0
    printed = capsys.readouterr().out
    assert "all 8 queries matched; correct images a query: 2 to 2" in printed
    assert f"extract --config '{out}'" in printed  # which a shell takes as it is
    out.write_text(out.read_text().replace("images = 2000", "images = 2").replace("= 288", "= 64"))
    common = ["--config", str(out), "--work", str(tmp_path / "work")]
    assert main(["extract", *common]) == 0
    assert main(["submit", *common, "--recipe", "top7"]) == 0
    assert (tmp_path / "work" / "submissions" / "top7-test.csv").exists()


def test_a_transformer_is_asked_for_its_own_embedding(data, tmp_path, monkeypatch):
    """In whole patches: DINOv2's have 14 pixels, and 288 is no multiple of that."""
    monkeypatch.setattr(first_configuration, "_hub_reachable", lambda: True)
    out = tmp_path / "c.toml"
    assert main(["init", str(data), "--out", str(out), "--model", "eva02_tiny_patch14_224"]) == 0
    (backbone,) = load_configuration(out).backbones
    assert (backbone.layers, backbone.pooling, backbone.image_size) == ((11,), ("head",), 294)


def test_what_init_writes_of_a_transformer_goes_the_whole_road(tiny_competition, tmp_path, capsys):
    """Without labels too, where the recipe is top7, of the embedding alone."""
    import timm
    from safetensors.torch import save_file

    weights, out = tmp_path / "weights.safetensors", tmp_path / "tiny.toml"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    arguments = ["--model", "test_vit", "--weights", weights, "--out", out]
    assert main(["init", str(tiny_competition.parent), *map(str, arguments)]) == 0
    text = out.read_text().replace("images = 2000", "images = 8").replace("= 288", "= 64")
    out.write_text("".join(line for line in text.splitlines(True) if not line.startswith("labels")))
    common = ["--config", str(out), "--work", str(tmp_path / "work")]
    assert main(["extract", *common]) == 0
    assert main(["tune", *common, "--trials", "3"]) == 0
    capsys.readouterr()
    assert main(["submit", *common]) == 0
    assert "recipe top7" in capsys.readouterr().err
    recipe = json.loads((tmp_path / "work" / "recipes" / "top7.json").read_text())
    assert [component["pooling"] for component in recipe["components"]] == ["head"]
