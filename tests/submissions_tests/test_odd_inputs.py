"""Ids that look like paths, externals without all splits, a held lock: one line each, and nothing outside work."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from competition.configuration import load_configuration
from competition.errors import Top7Error
from features.dumps import open_dump
from features.extraction import plan
from submissions.__main__ import main


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture()
def competition(tiny_competition, tmp_path) -> Path:
    folder = tmp_path / "deep" / "competition"
    shutil.copytree(tiny_competition.parent, folder)
    return folder / "config.toml"


def external(config: Path, ids: list[str], *splits: str) -> None:
    """Add descriptors made elsewhere: random ones of the gallery, and of the other splits named."""
    lines = []
    for split, own in (("gallery", ids), ("validation", "v"), ("test", "t")):
        if split == "gallery" or split in splits:
            own = own if split == "gallery" else [f"{own}{number}" for number in range(8)]
            rows = np.random.default_rng(0).normal(size=(len(own), 4)).astype(np.float32)
            np.save(config.parent / f"{split}.npy", rows)
            (config.parent / f"{split}.ids").write_text("".join(f"{name}\n" for name in own))
            lines.append(f'{split} = "{split}.npy"')
    config.write_text(config.read_text() + '\n[[external]]\nname = "elsewhere"\n' + "\n".join(lines) + "\n")


def test_an_id_is_never_a_path(competition, tmp_path, capsys):
    gallery, work = competition.parent / "gallery", tmp_path / "deep" / "work"
    for number, name in enumerate(("a\\..\\..\\x", "%2e%2e%2f%2e%2e%2fx", "x..")):
        next(gallery.rglob(f"n{number + 16}.jpg")).rename(gallery / f"{name}.jpg")
    before = files(tmp_path)
    common = ("--config", competition, "--work", work)
    assert run(capsys, "extract", *common)[0] == 0
    for split in ("validation", "test"):
        code, _, err = run(capsys, "submit", *common, "--recipe", "pwa_qe", "--split", split)
        assert code == 0, err
    good = (work / "submissions" / "pwa_qe-test.csv").read_text()
    for name in ("../../x", "/etc/passwd", "..", "gallery/../../x"):
        bad, labels = work / "bad.csv", work / "labels.csv"
        bad.write_text(good.replace(good.split(",")[1], name))
        labels.write_text(f"v0,{name}\n")
        assert run(capsys, "check", *common, bad)[0] == 1
        assert run(capsys, "leaderboard", *common, "--record", bad, 0.5)[0] == 1
        assert run(capsys, "blend", *common, bad, bad)[0] == 1
        code, _, err = run(capsys, "score", *common, bad, "--labels", labels)
        assert code == 1 and len(err.strip().splitlines()) == 1
    after = {path: data for path, data in files(tmp_path).items() if work not in path.parents}
    assert after == before
    rows = [path.stem for path in sorted(gallery.rglob("*.jpg"))]
    external(competition, [*rows[1:], "../../x"], "validation", "test")
    code, out, err = run(capsys, "extract", *common)
    assert (code, out) == (1, "") and "gallery.ids" in err


@pytest.mark.parametrize("splits", [(), ("validation",), ("test",)])
def test_an_external_without_all_splits_is_one_line(competition, tmp_path, capsys, splits):
    external(
        competition, sorted(path.stem for path in (competition.parent / "gallery").rglob("*.jpg")), *splits
    )
    common = ("--config", competition, "--work", tmp_path / "work")
    assert run(capsys, "extract", *common)[0] == 0
    code, _, err = run(capsys, "tune", *common, "--trials", 3, "--folds", 0)
    lines = err.strip().splitlines()
    if "validation" not in splits:
        assert code == 2 and "elsewhere" in lines[-1] and "validation" in lines[-1], err
    else:
        assert code == 0, err
        code, _, err = run(capsys, "submit", *common, "--recipe", "untuned")
        assert code == 2 and "elsewhere" in err and "test" in err and len(err.strip().splitlines()) == 1
    assert "Traceback" not in err and "TypeError" not in err


def test_a_plan_writes_nothing_while_another_extraction_runs(competition, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    with FileLock(work / ".extract.lock"):
        before = set(work.rglob("*"))
        with pytest.raises(Top7Error, match="another extraction is running on this folder"):
            plan(load_configuration(competition, work=work), device="cpu")
        assert set(work.rglob("*")) == before


def test_a_missing_dump_is_named_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Top7Error, match=f"^{tmp_path}/work/dumps/a.npy: no such dump"):
        open_dump(Path("work/dumps/a.npy"))
