"""`clean` removes what nothing needs, says the same with --dry-run, and leaves all that answers as it is."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from filelock import FileLock

from competition.configuration import load_configuration
from competition.errors import Top7Error
from features.extraction import extract, verify
from submissions.__main__ import main
from submissions.cleaning import CACHES, DUMPS, TEMPORARY, clean


def tree(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture(scope="module")
def used(tiny_competition, tmp_path_factory):
    """The tiny competition tuned under spoc and fcrow; its configuration now asks for spoc and one count alone."""
    folder = tmp_path_factory.mktemp("clean")
    shutil.copytree(tiny_competition.parent, folder / "tiny")
    config, work = folder / "tiny" / "config.toml", folder / "work"
    assert main(["extract", "--config", str(config), "--work", str(work)]) == 0
    assert main(["tune", "--config", str(config), "--work", str(work), "--folds", "0"]) == 0
    text = config.read_text()
    config.write_text(text.replace('["spoc", "fcrow"]', '["spoc"]').replace("[4, 8], dims", "[8], dims"))
    return config, work


@pytest.fixture
def copied(used, tmp_path):
    shutil.copytree(used[1], tmp_path / "work")
    return load_configuration(used[0], work=tmp_path / "work"), tmp_path / "work"


def test_what_nothing_needs_goes_and_the_rest_stays_byte_for_byte(copied):
    configuration, work = copied
    for path in (work / "recipes").glob("*.json"):
        path.unlink()  # their dumps are nobody's now
    (work / "submissions").mkdir()
    for name, age_s in (("x", 7200), ("y", 0)):  # left by a killed process; being written
        path = work / "submissions" / f".best.csv.{name}.writing"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    before = tree(work)
    said = clean(configuration, dry_run=True)
    assert tree(work) == before
    assert clean(configuration) == said
    after = tree(work)
    gone = before.keys() - after.keys()
    assert after == {name: size for name, size in before.items() if name not in gone}
    assert sum(kind["bytes"] for kind in said.values()) == sum(before[name] for name in gone)
    assert sum(kind["files"] for kind in said.values()) == len(gone)
    expected = {
        name
        for name in before
        if name.startswith(("candidates/", "ranking/"))
        or ".fcrow-" in name
        or ".parts-N4-" in name
        or name.endswith(".x.writing")
    }
    assert gone == expected and any(".fcrow-" in name for name in gone) and any("N4-M" in n for n in gone)
    assert said[TEMPORARY] == {"files": 1, "bytes": 4} and said[CACHES]["files"] and said[DUMPS]["files"]
    assert verify(configuration, progress=False).whole
    extracted = extract(configuration, progress=False)
    assert extracted.images == 0 and tree(work).keys() - after.keys() <= {"weights.json"}
    assert all(kind["files"] == 0 for kind in clean(configuration).values())


def test_dumps_that_a_kept_recipe_names_stay(copied):
    configuration, work = copied
    recipe = work / "recipes" / "mine.json"
    found = json.loads((work / "recipes" / "best.json").read_text())
    fcrow = next((work / "dumps" / "gallery").glob("*.1.fcrow-????????????.npy"))
    for path in (work / "recipes").glob("*.json"):
        path.unlink()
    found["name"], found["provenance"]["data"] = "mine", {"dumps": [fcrow.name]}
    own = {"name": "x", "chain": "x", "backbone": "gone"}
    recipe.write_text(json.dumps(found | {"components": [own], "weights": [1.0]}))
    clean(configuration)
    stem = fcrow.name.removesuffix(".npy")
    for split in ("gallery", "validation", "test"):
        left = {path.name for path in (work / "dumps" / split).glob("*.fcrow-*")}
        assert left == {stem + suffix for suffix in (".npy", ".json", ".norms.npy", ".sums.npy")}
    assert recipe.exists()


def test_other_samples_go_and_the_one_in_use_stays(used, tmp_path):
    config, _ = used
    configuration = load_configuration(config, work=tmp_path / "work")
    for limit in (18, 20):
        extract(configuration, splits=("gallery",), limit=limit, progress=False)
    folders = sorted(path.name for path in (tmp_path / "work" / "dumps").glob("gallery-limit-*"))
    clean(configuration)
    assert len(folders) == 2
    assert [path.name for path in (tmp_path / "work" / "dumps").glob("gallery-limit-*")] == [folders[1]]
    assert verify(configuration, splits=("gallery",), progress=False).whole


def test_an_unfinished_extraction_of_this_configuration_goes_on(used, tmp_path, monkeypatch):
    from features.extraction.dump_group import DumpGroup

    config, _ = used
    configuration = load_configuration(config, work=tmp_path / "work")

    def killed(self, *arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(DumpGroup, "finish_group", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(configuration, splits=("gallery",), progress=False)
    before = tree(tmp_path / "work")
    assert any(name.endswith(".journal") for name in before)
    assert clean(configuration)[DUMPS]["files"] == 0 and tree(tmp_path / "work") == before
    shutil.copytree(config.parent, tmp_path / "tiny")
    other = tmp_path / "tiny" / "config.toml"
    other.write_text(config.read_text().replace("image_size = 48", "image_size = 40"))
    clean(load_configuration(other, work=tmp_path / "work"))
    assert not any(name.startswith("dumps/gallery/") for name in tree(tmp_path / "work"))


def test_no_link_is_followed_and_nothing_outside_is_removed(copied, tmp_path):
    configuration, work = copied
    outside = tmp_path / "outside"
    shutil.copytree(work / "ranking", outside) if (work / "ranking").exists() else outside.mkdir()
    (outside / "mine.npy").write_bytes(b"mine")
    shutil.rmtree(work / "ranking", ignore_errors=True)
    (work / "ranking").symlink_to(outside)
    (work / "candidates").mkdir(exist_ok=True)
    (work / "candidates" / "x.npz").symlink_to(outside / "mine.npy")
    (work / "candidates" / "below").symlink_to(outside)
    (work / "dumps" / "gallery-limit-9-00000000").symlink_to(outside)
    before = tree(outside)
    clean(configuration)
    assert tree(outside) == before and (work / "candidates" / "x.npz").is_symlink()


def test_whoever_writes_is_left_alone(copied):
    configuration, work = copied
    (work / "ranking").mkdir(exist_ok=True)
    before = tree(work)
    with (
        FileLock(work / "ranking" / ".augmented-0123456789ab.lock"),
        pytest.raises(Top7Error, match="writing"),
    ):
        clean(configuration)
    assert tree(work) == before


def test_the_command_says_kinds_files_and_megabytes(copied, used, capsys):
    configuration, work = copied
    options = ["clean", "--config", str(used[0]), "--work", str(work)]
    assert main([*options, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "dumps of other settings: " in text and "MB would be removed" in text
    assert main([*options, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["removed"][CACHES]["files"] > 0 and values["dry_run"] is False
    assert (work / "recipes" / "best.json").exists() and (work / "study" / "journal.log").exists()
