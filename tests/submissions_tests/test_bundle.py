"""The bundle and the container's entry point, run as the image would run it: its files only, the network cut off."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from competition.errors import Top7Error
from features.dumps.seals import sealed_text
from submissions import bundle as making
from submissions.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tiny_competition, tmp_path_factory):
    """Extracted, tuned, predicted and bundled once; then the competition and its work folder are moved away.

    Returns (bundle, query images, the CSV that predict wrote from the work folder).
    """
    folder = tmp_path_factory.mktemp("bundled")
    shutil.copytree(tiny_competition.parent, folder / "competition")
    config, work = folder / "competition" / tiny_competition.name, folder / "work"
    common = ["--config", str(config), "--work", str(work)]
    assert main(["extract", *common]) == 0
    assert main(["tune", *common, "--folds", "0"]) == 0
    recipe = work / "recipes" / "best.json"
    values = json.loads(recipe.read_text())
    values["steps"] = [{"step": "whiten", "dim": 8, "exponent": 0.5}, {"step": "expand", "neighbours": 1}]
    recipe.write_text(json.dumps(values))
    shutil.copytree(folder / "competition" / "test", folder / "queries")
    assert (
        main(
            [
                "predict",
                str(folder / "queries"),
                str(folder / "expected.csv"),
                *common,
                "--recipe",
                "best",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert main(["bundle", *common, "--recipe", "best", "--out", str(folder / "bundle")]) == 0
    os.rename(folder / "competition", folder / "competition-away")
    os.rename(work, folder / "work-away")
    return folder / "bundle", folder / "queries", folder / "expected.csv"


def image_of(folder: Path, bundle: Path) -> tuple[list[str], dict[str, str]]:
    """Lay out `folder` by the Dockerfile's COPY lines; returns its ENTRYPOINT and ENV with paths of this machine."""
    text = (ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, flags=re.M):
        *sources, target = line.split()
        for source in sources:
            if source == "${BUNDLE}":
                shutil.copytree(bundle, folder / "bundle")
            elif (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, folder / "top7" / target, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / source, folder / "top7" / target / source)
    variables = dict(
        pair.split("=", 1) for line in re.findall(r"^ENV (.+)$", text, flags=re.M) for pair in line.split()
    )
    assert variables["TOP7_BUNDLE"] == "/bundle" and variables["PYTHON"] == "python"
    variables |= {"TOP7_BUNDLE": str(folder / "bundle"), "PYTHON": sys.executable}
    return json.loads(re.search(r"^ENTRYPOINT (.+)$", text, flags=re.M)[1]), variables


def without_network(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return a command prefix and variables that cut the network off: a namespace of its own, or sockets that raise."""
    if (
        shutil.which("unshare")
        and subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    ):
        return ["unshare", "-rn"], {}
    (folder / "cut").mkdir()
    (folder / "cut" / "sitecustomize.py").write_text(
        "import socket\ndef refuse(*_, **__):\n    raise OSError('the network is cut off')\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\nsocket.getaddrinfo = refuse\n"
    )
    return [], {"PYTHONPATH": str(folder / "cut")}


def test_the_entry_point_answers_as_predict_does_without_network_gallery_and_work_folder(made, tmp_path):
    bundle, queries, expected = made
    (tmp_path / "top7").mkdir()
    entry, variables = image_of(tmp_path, bundle)
    prefix, cut = without_network(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "bundle").rglob("*")}
    finished = subprocess.run(
        [*prefix, *entry, "predict", queries, tmp_path / "answer.csv", "--device", "cpu"],
        text=True,
        cwd=tmp_path / "top7",
        env={**os.environ, **variables, **cut},
        capture_output=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "answer.csv").read_bytes() == expected.read_bytes()
    assert len(expected.read_text().splitlines()) == 8
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "bundle").rglob("*")}


def test_predict_starts_without_what_it_does_not_need(made, tmp_path):
    bundle, queries, expected = made
    code = (
        "import sys; from submissions.__main__ import main; code = main(sys.argv[1:]); "
        "print(*{name.split('.')[0] for name in sys.modules}, *sys.modules, file=sys.stderr); sys.exit(code)"
    )
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "predict",
            queries,
            tmp_path / "answer.csv",
            "--bundle",
            bundle,
            "--device",
            "cpu",
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "answer.csv").read_bytes() == expected.read_bytes()
    heavy = {
        "scipy",
        "sklearn",
        "pandas",
        "optuna",
        "faiss",
        "tuning",
        "dask",
    }
    assert "torch" in finished.stderr.split()
    assert heavy & set(finished.stderr.split()) == set()


def test_a_bundle_holds_no_gallery_image_and_says_its_files(made):
    bundle, _, _ = made
    manifest = json.loads((bundle / "bundle.json").read_text())
    files = {
        path.relative_to(bundle).as_posix(): path.stat().st_size
        for path in bundle.rglob("*")
        if path.is_file()
    }
    assert files.pop("bundle.json") and files == {
        name: entry["bytes"] for name, entry in manifest["files"].items()
    }
    assert not [name for name in files if name.endswith((".jpg", ".png"))]
    assert any(name.startswith("work/ranking/whitened-") for name in files)


def answer(capsys, bundle: Path, queries: Path, out: Path, *more: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["predict", str(queries), str(out), "--bundle", str(bundle), "--device", "cpu", *more])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("kind", ["hnsw", "ivf_ondisk"])
def test_a_bundle_carries_its_index(made, tmp_path, capsys, kind):
    bundle, queries, expected = made
    away, indexed = bundle.parent, tmp_path / "indexed"
    common = ["--config", str(away / "competition-away" / "config.toml"), "--work", str(away / "work-away")]
    assert main(["bundle", *common, "--recipe", "best", "--index", kind, "--out", str(indexed)]) == 0
    names = json.loads((indexed / "bundle.json").read_text())["files"]
    assert [
        name for name in names if name.startswith(f"work/ranking/index-{kind}-") and name.endswith(".faiss")
    ]
    code, said = answer(capsys, indexed, queries, tmp_path / "answer.csv")
    assert code == 0 and "recall@7" in said and "built once" not in said
    assert (tmp_path / "answer.csv").read_bytes() == expected.read_bytes()  # 24 images are all candidates
    code, said = answer(capsys, bundle, queries, tmp_path / "answer.csv", "--index", kind)
    assert code == 2 and "leave --index out" in said and said.count("\n") == 1


def test_a_damaged_bundle_is_refused_in_one_line(made, tmp_path, capsys):
    bundle, queries, _ = made
    out = tmp_path / "answer.csv"
    short = shutil.copytree(bundle, tmp_path / "short")
    victim = next((short / "work" / "dumps" / "gallery").glob("*.norms.npy"))
    victim.write_bytes(victim.read_bytes()[:-1])
    code, said = answer(capsys, short, queries, out)
    assert code == 1 and str(victim) in said and "damaged" in said and said.count("\n") == 1
    changed = shutil.copytree(bundle, tmp_path / "changed")
    victim = next((changed / "work" / "dumps" / "gallery").glob("*.sums.npy"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    code, said = answer(capsys, changed, queries, out, "--check-content")
    assert code == 1 and str(victim) in said
    (changed / "bundle.json").unlink()
    code, said = answer(capsys, changed, queries, out)
    assert code == 1 and "no bundle" in said
    assert not out.exists()


def test_a_folder_that_is_no_bundle_is_not_overwritten(made, tmp_path, capsys):
    bundle, _, _ = made
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    away = bundle.parent
    capsys.readouterr()
    code = main(
        [
            "bundle",
            "--config",
            str(away / "competition-away" / "config.toml"),
            "--work",
            str(away / "work-away"),
            "--out",
            str(tmp_path / "mine"),
        ]
    )
    assert code == 2 and "no bundle" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose"


def altered(bundle: Path, change) -> None:
    """Change the manifest of a bundle as somebody who knows its checksum would."""
    path = bundle / "bundle.json"
    manifest = json.loads(path.read_text())
    change(manifest["files"])
    path.write_text(sealed_text(manifest))


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "work/../../outside", "work/link"])
def test_a_bundle_whose_manifest_or_links_lead_outside_is_refused(made, tmp_path, capsys, name):
    bundle = shutil.copytree(made[0], tmp_path / "bundle")
    (tmp_path / "outside").write_text("secret")
    (bundle / "work" / "link").symlink_to(tmp_path / "outside")
    size = os.path.getsize(bundle / name)
    altered(bundle, lambda files: files.update({name: {"bytes": size, "sha256": "0"}}))
    code, said = answer(capsys, bundle, made[1], tmp_path / "answer.csv")
    assert code == 1 and "leads out of the bundle" in said and said.count("\n") == 1
    assert not (tmp_path / "answer.csv").exists()


def test_a_bundle_that_names_weights_elsewhere_is_refused(made, tmp_path, capsys):
    bundle = shutil.copytree(made[0], tmp_path / "bundle")
    weights = next((bundle / "weights").glob("*.safetensors"))
    shutil.copy(weights, tmp_path / "mine.safetensors")
    config = bundle / "config.toml"
    config.write_text(
        config.read_text().replace(f"weights/{weights.name}", str(tmp_path / "mine.safetensors"))
    )
    altered(bundle, lambda files: files["config.toml"].update(bytes=config.stat().st_size))
    code, said = answer(capsys, bundle, made[1], tmp_path / "answer.csv")
    assert code == 1 and "leads out of the bundle" in said and said.count("\n") == 1


def test_a_bundle_that_fails_leaves_the_earlier_one_and_nothing_else(made, tmp_path, monkeypatch):
    away = made[0].parent
    out = shutil.copytree(made[0], tmp_path / "bundle")
    for left in (".bundle.partial", ".bundle.old"):  # by a run that was killed
        (tmp_path / left / "work").mkdir(parents=True)
    common = ["--config", str(away / "competition-away" / "config.toml"), "--work", str(away / "work-away")]
    arguments = ["bundle", *common, "--recipe", "best", "--out", str(out)]
    before = (out / "bundle.json").stat().st_ino

    def failing(folder):
        raise Top7Error("it does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(making, "_answer_once", failing)
        assert main(arguments) == 1
        assert (out / "bundle.json").stat().st_ino == before and list(tmp_path.iterdir()) == [out]
        os.rename(out, tmp_path / ".bundle.old")  # as a run that is killed between two renames leaves it
        assert main(arguments) == 1
    assert (out / "bundle.json").stat().st_ino == before and list(tmp_path.iterdir()) == [out]
    assert main(arguments) == 0
    assert (out / "bundle.json").stat().st_ino != before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["../../../x", "/tmp/x", "a\\b", ".hidden", "", "a\nb"])
def test_a_recipes_name_is_no_path(made, tmp_path, capsys, name):
    away = made[0].parent
    values = json.loads((away / "work-away" / "recipes" / "best.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps(values | {"name": name}))
    common = ["--config", str(away / "competition-away" / "config.toml"), "--work", str(away / "work-away")]
    capsys.readouterr()
    assert main(["submit", "--recipe", str(tmp_path / "recipe.json"), *common]) == 2
    said = capsys.readouterr().err
    assert "expected a name without /" in said and said.count("\n") == 1
