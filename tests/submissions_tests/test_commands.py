"""The commands as a user calls them: results on stdout, one clear line on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from competition import progress
from submissions import commands
from submissions.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def done(tiny_competition, tmp_path_factory):
    """The tiny competition extracted and tuned once; returns (config, work)."""
    work = tmp_path_factory.mktemp("work")
    assert main(["extract", "--config", str(tiny_competition), "--work", str(work)]) == 0
    assert main(["tune", "--config", str(tiny_competition), "--work", str(work), "--repeats", "1"]) == 0
    return tiny_competition, work


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_tune_leaves_a_recipe_and_adds_no_trials_the_second_time(done, capsys):
    config, work = done
    recipe = json.loads((work / "recipes" / "best.json").read_text())
    assert abs(sum(recipe["weights"]) - 1) < 1e-9 and len(recipe["components"]) == 4
    code, out, _ = run(capsys, "tune", "--config", config, "--work", work, "--repeats", 1, "--json")
    assert code == 0
    again = json.loads(out)
    assert again["trials"] == 12 and again["new_trials"] == 0
    assert json.loads((work / "recipes" / "best.json").read_text()) == recipe
    code, out, _ = run(
        capsys, "tune", "--config", config, "--work", work, "--trials", 15, "--folds", 0, "--json"
    )
    values = json.loads(out)
    assert values["new_trials"] == 3 and "cross_validated" not in values
    # without folds the gain is that on queries that did not choose, never that on those tuned on
    gain = values["bias_corrected"] - values["untuned_scores"]["public"]
    assert values["gain"]["mean"] == pytest.approx(gain) and 0 < values["gain"]["p"] <= 1
    assert values["scores"]["bias-corrected"] == values["bias_corrected"]


def test_tune_with_a_certificate(done, capsys):
    config, work = done
    code, out, _ = run(
        capsys, "tune", "--config", config, "--work", work, "--folds", 0, "--certify", 3, "--json"
    )
    values = json.loads(out)
    assert code == 0 and values["certificate"]["bound"] >= values["certificate"]["best"] - 1e-12
    assert values["scores"]["public"] == pytest.approx(values["certificate"]["best"])


def test_submit_check_score_leaderboard(done, capsys, tmp_path):
    config, work = done
    code, out, _ = run(
        capsys,
        *("submit", "--config", config, "--work", work, "--split", "validation"),
        *("--recipe", "best", "--json"),
    )
    assert code == 0
    written = json.loads(out)
    file = Path(written["file"])
    lines = file.read_text().splitlines()
    assert len(lines) == 8 and all(len(set(line.split(","))) == 8 for line in lines)
    code, out, err = run(capsys, "check", "--config", config, "--work", work, file)
    assert (code, err) == (0, "") and "accepted" in out
    code, out, _ = run(capsys, "score", "--config", config, "--work", work, file, "--json")
    scored = json.loads(out)
    # the figure of the file is the figure of the recipe: one canonical score in tune and submit
    expected = json.loads((work / "recipes" / "best.json").read_text())["scores"]
    assert code == 0 and scored["maps"]["min(m,k)"] == pytest.approx(expected["all"], abs=1e-12)
    assert scored["public"] == pytest.approx(expected["public"], abs=1e-12)
    code, _, _ = run(capsys, "leaderboard", "--config", config, "--work", work, "--record", file, 0.5)
    code, out, _ = run(capsys, "leaderboard", "--config", config, "--work", work)
    assert code == 0 and file.name in out and "0.5" in out and "USTC" not in out


def test_the_leaderboard_ranks_figures_of_the_same_labels_and_carries_those_of_blends(done, capsys, tmp_path):
    config, work = done[0], tmp_path / "work"
    shutil.copytree(done[1], work, ignore=shutil.ignore_patterns("leaderboard.jsonl", "submissions"))
    common = ("--config", config, "--work", work)

    def rows():
        return json.loads(run(capsys, "leaderboard", *common, "--json")[1])["rows"]

    for recipe in ("best", "untuned"):
        assert run(capsys, "submit", *common, "--recipe", recipe)[0] == 0
    tests = [work / "submissions" / f"{recipe}-test.csv" for recipe in ("best", "untuned")]
    code, out, _ = run(capsys, "blend", *common, *tests)
    assert code == 0 and "./run.sh submit --split validation --recipe best writes it" in out
    assert "blend-test.csv" not in [row["file"] for row in rows()]
    # with the validation submissions the blend's figure is that of the blend of those, by hand with score
    validations = []
    for recipe in ("best", "untuned"):
        assert run(capsys, "submit", *common, "--recipe", recipe, "--split", "validation")[0] == 0
        validations.append(work / "submissions" / f"{recipe}-validation.csv")
    _, out, _ = run(capsys, "blend", *common, *tests, "--json")
    expected = json.loads(out)["expected"]
    assert run(capsys, "blend", *common, *validations, "--out", tmp_path / "b.csv")[0] == 0
    _, out, _ = run(capsys, "score", *common, tmp_path / "b.csv", "--json")
    scored = json.loads(out)
    assert expected["all"] == pytest.approx(scored["maps"]["min(m,k)"], abs=1e-12)
    assert expected["public"] == pytest.approx(scored["public"], abs=1e-12)
    noted = {row["file"]: row for row in rows()}
    assert noted["blend-test.csv"]["maps"]["min(m,k)"] == pytest.approx(expected["all"])
    assert not any(row["unlike"] for row in noted.values())
    # a figure by other labels is marked, comes last and has no place
    (tmp_path / "other.csv").write_text("".join(f"v{number},n{number:02d}\n" for number in range(8)))
    assert run(capsys, "score", *common, validations[0], "--labels", tmp_path / "other.csv")[0] == 0
    last = rows()[-1]
    assert (last["file"], last["unlike"], last["moved"]) == ("best-validation.csv", "other labels", None)
    _, out, _ = run(capsys, "leaderboard", *common)
    line = next(line for line in out.splitlines() if "other labels" in line)
    assert line.split()[:4] == ["-", "best-validation.csv", "validation", "validation,"]
    assert "their figures do not compare" in out
    # what an index finds carries the figure of the exact search, and says so until it is scored itself
    assert run(capsys, "submit", *common, "--recipe", "best", "--index", "hnsw")[0] == 0
    _, out, _ = run(capsys, "leaderboard", *common)
    assert "validation, the exact search" in next(line for line in out.splitlines() if "hnsw" in line)
    # figures of a recipe stay those of its labels when the configuration's labels change
    other = tmp_path / "elsewhere.toml"
    text = config.read_text().replace('"val.csv"', f'"{tmp_path}/other.csv"')
    for key in ("gallery", "val", "test"):
        text = text.replace(f'"{key}"', f'"{config.parent / key}"')
    other.write_text(text)
    _, out, _ = run(capsys, "leaderboard", "--config", other, "--work", work, "--json")
    assert [row["unlike"] for row in json.loads(out)["rows"]] == ["", *["other labels"] * (len(noted) - 1)]


def test_an_official_score_is_recorded_of_any_checked_csv(done, capsys, tmp_path):
    config, work = done[0], tmp_path / "work"
    shutil.copytree(done[1], work, ignore=shutil.ignore_patterns("leaderboard.jsonl"))
    common = ("--config", config, "--work", work)
    foreign = tmp_path / "foreign.csv"
    foreign.write_text(
        "".join(f"t{query},{','.join(f'n{row:02d}' for row in range(7))}\n" for query in range(8))
    )
    code, out, _ = run(capsys, "leaderboard", *common, "--record", foreign, 0.25)
    assert code == 0 and out.splitlines()[1].split()[:3] == ["1", "foreign.csv", "test"] and "0.2500" in out
    foreign.write_text(foreign.read_text().replace("n06", "n05"))
    code, out, err = run(capsys, "leaderboard", *common, "--record", foreign, 0.5)
    assert (code, out) == (1, "") and "foreign.csv: 8 faults" in err
    assert len((work / "leaderboard.jsonl").read_text().splitlines()) == 1


def test_predict_gives_what_submit_gives(done, capsys, tmp_path):
    config, work = done
    code, out, _ = run(
        capsys, "submit", "--config", config, "--work", work, "--out", tmp_path / "submitted.csv"
    )
    assert code == 0
    code, out, _ = run(
        capsys,
        "predict",
        "--config",
        config,
        "--work",
        work,
        config.parent / "test",
        tmp_path / "predicted.csv",
    )
    assert code == 0 and out.strip() == str(tmp_path / "predicted.csv")
    assert (tmp_path / "predicted.csv").read_bytes() == (tmp_path / "submitted.csv").read_bytes()
    assert not list(work.glob("predict-*"))


def test_compare_blend_parts_and_named_recipes(done, capsys, tmp_path, monkeypatch):
    config, work = done
    monkeypatch.setattr(progress, "EVERY_S", 0)
    common = ("--config", config, "--work", work)
    code, out, err = run(capsys, "compare", *common, "best", "untuned", "pwa_qe", "--json")
    rows = json.loads(out)["recipes"]
    assert code == 0 and [row["recipe"] for row in rows] == ["best", "untuned", "pwa_qe"]
    assert "search: 100%" in err  # what may take long shows how far it is
    best = json.loads((work / "recipes" / "best.json").read_text())["scores"]
    assert rows[0]["all"] == pytest.approx(best["all"], abs=1e-12) and "gain" not in rows[0]
    code, out, _ = run(capsys, "compare", *common, "best", "untuned")
    assert code == 0 and "untuned" in out and "gain over best" in out and "better/equal/worse" in out
    _, out, err = run(capsys, "compare", *common, "--json")
    names = [row["recipe"] for row in json.loads(out)["recipes"]]
    assert "left out: recipe top7: " in err and "no simulated photos" in err  # others are compared
    (lacking,) = [line for line in err.splitlines() if "they want poolings" in line]
    assert "gan2018, ustc2019" in lacking and "wants the pooling" not in err  # one line for all of them
    assert "pwa_qe" in names and len(set(names)) == len(names)  # kept and shipped: once, as Holm counts
    files = []
    for recipe in ("best", "pwa_qe"):
        files.append(tmp_path / f"{recipe}.csv")
        assert run(capsys, "submit", *common, "--recipe", recipe, "--out", files[-1])[0] == 0
    for method in ("rank", "reciprocal", "score"):
        out_file = tmp_path / f"{method}.csv"
        assert (
            run(capsys, "blend", *common, *files, "--method", method, "--weights", 2, 1, "--out", out_file)[0]
            == 0
        )
        assert run(capsys, "check", *common, out_file)[0] == 0
    # a recipe with steps answers unseen images as submit does
    code, _, err = run(
        capsys, "predict", *common, "--recipe", "pwa_qe", config.parent / "test", tmp_path / "p.csv"
    )
    assert code == 0, err
    assert (tmp_path / "p.csv").read_bytes() == files[1].read_bytes()
    code, out, _ = run(capsys, "parts", *common, "--top", 2, "--images", 2, "--out", tmp_path / "parts.html")
    assert code == 0 and "<html" in (tmp_path / "parts.html").read_text()


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq", "ivf_ondisk"])
def test_an_index_takes_the_place_of_the_search(done, capsys, tmp_path, kind):
    config, work = done
    common = ("--config", config, "--work", work)
    for recipe in (("--recipe", "best"), ("--recipe", "top7_pca")):
        exact, found, predicted = tmp_path / "exact.csv", tmp_path / "found.csv", tmp_path / "predicted.csv"
        assert run(capsys, "submit", *common, *recipe, "--out", exact)[0] == 0
        code, out, err = run(capsys, "submit", *common, *recipe, "--index", kind, "--out", found, "--json")
        assert (
            code == 0
            and json.loads(out)["recipe"].endswith(f"-{kind}")
            and json.loads(out)["figures_of"] == "the exact search"
        )
        assert "built once" in err and "recall@7" in err and "8 of 8 queries" in err
        # 24 images are one cluster: every image is a candidate, and the lists are the exact ones
        assert found.read_bytes() == exact.read_bytes()
        code, _, err = run(
            capsys, "predict", *common, *recipe, "--index", kind, config.parent / "test", predicted
        )
        assert code == 0 and "built once" not in err and "recall@7" in err
        assert predicted.read_bytes() == found.read_bytes()
    code, out, err = run(capsys, "compare", *common, "best", "top7_pca", "--index", kind, "--json")
    rows = json.loads(out)["recipes"]
    assert code == 0 and [row["recipe"] for row in rows] == [f"best-{kind}", f"top7_pca-{kind}"]
    assert rows[0]["all"] == pytest.approx(
        json.loads((work / "recipes" / "best.json").read_text())["scores"]["all"]
    )
    assert err.count("recall@7") == 2 and "built once" not in err


def test_an_index_that_cannot_be_is_refused_in_one_line(done, capsys, tmp_path):
    config, work = done
    common = ("--config", config, "--work", work)
    diffusing = tmp_path / "diffusing.json"
    diffusing.write_text(
        '{"components": [{"layer": "last"}], "steps": [{"step": "diffuse", "neighbours": 3}]}'
    )
    for arguments, words in (
        (("submit", "--index", "hnws"), "unknown kind of index 'hnws': did you mean 'hnsw'"),
        (("submit", "--index", "hnsw", "--recipe", diffusing), "recipe diffusing ends in diffuse"),
        (("compare", diffusing, "--index", "ivfpq"), "recipe diffusing ends in diffuse"),
    ):
        code, out, err = run(capsys, arguments[0], *common, *arguments[1:])
        assert (code, out) == (2, "") and words in err and len(err.strip().splitlines()) == 1


def test_extract_ends_with_a_table_and_submit_with_what_to_expect(done, capsys, tmp_path):
    config, work = done
    common = ("--config", config, "--work", work)
    _, out, _ = run(capsys, "extract", *common)
    backbone, header, *rows, last = out.splitlines()
    assert backbone == "test_resnet" and "dumps complete in" in last
    assert header.split()[:6] == ["layer", "pooling", "dims", "gallery", "validation", "test"]
    assert rows[0].split()[:6] == ["0", "spoc", "32", "24", "8", "8"] and len(rows) == 8
    _, out, _ = run(capsys, "submit", *common, "--recipe", "best", "--out", tmp_path / "s.csv")
    expected = json.loads((work / "recipes" / "best.json").read_text())["scores"]["validated"]
    assert out.splitlines()[0] == str(tmp_path / "s.csv")
    assert f"8 queries of test by recipe best; expected MAP@7 {expected:.4f}" in out.splitlines()[1]
    _, out, _ = run(capsys, "submit", *common, "--recipe", "untuned", "--out", tmp_path / "u.csv")
    figure, low, high = map(
        float, re.search(r"expected MAP@7 (\S+) \(.*95 % (\S+) to (\S+)", out.splitlines()[1]).groups()
    )
    assert low < figure < high


def test_on_a_terminal_of_80_columns_tables_fit_and_are_in_colour_and_names_steer_nothing(
    done, capsys, monkeypatch, tmp_path
):
    config, work = done[0], tmp_path / "work"
    shutil.copytree(done[1], work, ignore=shutil.ignore_patterns("leaderboard.jsonl"))
    common = ["--config", str(config), "--work", str(work)]
    for recipe in ("best", "untuned"):
        assert run(capsys, "submit", *common, "--recipe", recipe)[0] == 0
    hostile = work / "submissions" / "red\x1b[31m-and-a-very-long-name-that-no-column-has-room-for.csv"
    shutil.copy(work / "submissions" / "best-test.csv", hostile)
    hostile.write_text("\n".join(reversed(hostile.read_text().splitlines())) + "\n")
    assert run(capsys, "leaderboard", *common, "--record", hostile, "0.5")[0] == 0

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name, value in {"COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for command in (["leaderboard"], ["recipes"], ["compare", "untuned", "best"], ["extract"]):
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            assert main([*command, *common]) == 0
        text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
        assert "\x1b" not in text and "\x1b[31m" not in terminal.getvalue()
        assert all(len(line) <= 80 for line in text.splitlines() if "/" not in line), command
        assert ("\x1b[1m" in terminal.getvalue()) == (command != ["extract"])
    assert "\x1b" not in run(capsys, "leaderboard", *common)[1]  # plain where it is piped


def test_check_lists_every_fault(done, capsys, tmp_path):
    config, work = done
    _, out, _ = run(capsys, "submit", "--config", config, "--work", work, "--out", tmp_path / "good.csv")
    lines = (tmp_path / "good.csv").read_text().splitlines()
    lines[1] = lines[0]
    lines[2] += ",n01"
    (tmp_path / "bad.csv").write_text("\n".join(lines) + "\n")
    code, out, err = run(capsys, "check", "--config", config, "--work", work, tmp_path / "bad.csv")
    assert code == 1
    assert "line 2" in out and "line 3" in out and "t1" in out
    assert err.strip().endswith("faults") and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["submit", "--recipe", "nothing"], "no recipe and no file"),
        (["score", "absent.csv"], "absent.csv"),
        (["leaderboard", "--record", "absent.csv", "much"], "'much' is not a number"),
        (["tune", "--trials", "0"], "whole number of at least 1"),
        (["extract", "--device", "tpu"], "invalid choice"),
        (["extract", "--device", "cuda"], "cuda"),
    ],
)
def test_errors_are_one_line_with_the_right_exit_code(done, capsys, arguments, expected):
    config, work = done
    if arguments[-1] == "cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA: its absence cannot be tested")
    command, *rest = arguments
    code, out, err = run(capsys, command, "--config", config, "--work", work, *rest)
    assert code == (1 if command == "score" else 2)
    assert expected in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err and out == ""


def test_verify_names_bad_rows_and_extract_repairs_them(tiny_competition, capsys, tmp_path):
    common = ("--config", tiny_competition, "--work", tmp_path)
    assert run(capsys, "extract", *common)[0] == 0
    assert run(capsys, "verify", *common)[0] == 0
    dump = next((tmp_path / "dumps" / "gallery").glob("test_resnet.2.spoc*.npy"))
    before = dump.read_bytes()
    dump.write_bytes(before[:-4] + b"\x00\x00\x80\x3f")
    code, out, err = run(capsys, "verify", *common)
    assert code == 1 and "n23" in out and "repairs" in err
    assert run(capsys, "extract", *common)[0] == 0
    assert dump.read_bytes() == before and run(capsys, "verify", *common)[0] == 0


def test_duplicates_are_listed_and_left_out_on_request(tiny_competition, capsys, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_competition.parent, folder)
    shutil.copy(folder / "gallery" / "0000" / "n00.jpg", folder / "gallery" / "n00copy.jpg")
    common = ("--config", folder / "config.toml", "--work", tmp_path / "work")
    assert run(capsys, "extract", *common)[0] == 0
    _, out, _ = run(capsys, "duplicates", *common)
    listing = tmp_path / "work" / "duplicates" / "exact.csv"
    said, where, group = out.splitlines()
    assert "1 group, 2 images" in said and where == str(listing) and group.split() == ["2", "n00,", "n00copy"]
    assert listing.read_text() == "group,id\n1,n00\n1,n00copy\n"
    _, out, _ = run(capsys, "duplicates", *common, "--near", 0.9999, "--json")
    found = json.loads(out)
    assert ["n00", "n00copy"] in [
        [name for name in row if name in ("n00", "n00copy")] for row in found["largest"]
    ]
    rows = [line.split(",") for line in Path(found["csv"]).read_text().splitlines()]
    assert rows[0] == ["group", "id", "cosine"] and len(rows) == 1 + found["images"]
    for flags, expected in (((), True), (("--distinct",), False)):
        file = tmp_path / f"{expected}.csv"
        code, out, _ = run(capsys, "submit", *common, "--recipe", "pwa_qe", "--out", file, "--json", *flags)
        of = json.loads(out).get("figures_of")  # a recipe's figures are of lists with repeats
        assert code == 0 and of == (None if expected else "lists without --distinct")
        first = file.read_text().splitlines()[0].split(",")
        assert first[0] == "t0" and ("n00copy" in first) == expected and len(set(first)) == 8


def test_quarantined_images_are_never_listed(tiny_competition, capsys, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_competition.parent, folder)
    files = {path.stem: path for path in (folder / "gallery").rglob("*.jpg")}
    kept = {name for line in (folder / "val.csv").read_text().splitlines() for name in line.split(",")[1:]}
    for name in sorted(files.keys() - kept)[: len(files) - 8]:
        files.pop(name).write_bytes(b"<html>404</html>")
    (folder / "test" / "t0.jpg").write_bytes(b"")
    common = ("--config", folder / "config.toml", "--work", tmp_path / "work")
    assert run(capsys, "extract", *common)[0] == 0
    assert run(capsys, "tune", *common, "--folds", 0)[0] == 0
    for recipe in ("best", "pwa_qe"):
        out = tmp_path / f"{recipe}.csv"
        code, _, err = run(capsys, "submit", *common, "--recipe", recipe, "--out", out)
        assert code == 0 and "t0 could not be read" in err
        lists = [line.split(",") for line in out.read_text().splitlines()]
        assert len(files) < 20 and all(set(row[1:]) <= files.keys() and len(set(row)) == 8 for row in lists)


def test_images_that_look_alike_are_left_out_on_request(tiny_competition, capsys, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_competition.parent, folder)
    original = folder / "gallery" / "0000" / "n00.jpg"
    with Image.open(original) as image:  # another file of the same look
        image.save(folder / "gallery" / "n00again.jpg", quality=97)
    common = ("--config", folder / "config.toml", "--work", tmp_path / "work")
    assert run(capsys, "extract", *common)[0] == 0
    assert "no two gallery files" in run(capsys, "duplicates", *common)[1]
    (path,) = (tmp_path / "work" / "dumps" / "gallery").glob("*.2.spoc-*[0-9a-f].npy")
    looks, names = np.load(path), sorted(path.stem for path in (folder / "gallery").rglob("*.jpg"))
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    cosine = {(names[a], names[b]): float(looks[a] @ looks[b]) for a, b in pairs}
    _, out, _ = run(capsys, "duplicates", *common, "--near", 0.9, "--json")
    rows = [line.split(",") for line in Path(json.loads(out)["csv"]).read_text().splitlines()[1:]]
    for _, name, highest in rows:
        assert float(highest) == pytest.approx(max(v for pair, v in cosine.items() if name in pair), abs=1e-5)
    assert {name for _, name, _ in rows} == {name for pair, v in cosine.items() for name in pair if v >= 0.9}
    threshold = cosine["n00", "n00again"] - 1e-3
    alike = {pair for pair, value in cosine.items() if value >= threshold}

    def lists(*flags):
        file = tmp_path / f"{len(flags)}.csv"
        code, _, err = run(capsys, "submit", *common, "--recipe", "pwa_qe", "--out", file, *flags)
        assert code == 0, err
        return [line.split(",") for line in file.read_text().splitlines()]

    def twice(row):
        return any((a, b) in alike for a in row[1:] for b in row[1:])

    plain = lists()
    assert lists("--distinct") == plain, "no two files have the same content"
    distinct = lists("--distinct", threshold)
    assert any(map(twice, plain)) and not any(map(twice, distinct))
    assert all(a == b for a, b in zip(plain, distinct, strict=True) if not twice(a))
    assert all(a[:2] == b[:2] for a, b in zip(plain, distinct, strict=True)), "the best of a look stays"
    code, _, err = run(capsys, "submit", *common, "--recipe", "pwa_qe", "--distinct", 0.001)
    assert code == 1 and "choose a higher cosine" in err.splitlines()[-1] and "Traceback" not in err
    assert run(capsys, "submit", *common, "--distinct", "2")[0] == 2


def test_a_missing_dump_says_what_to_run(tiny_competition, capsys, tmp_path):
    code, _, err = run(capsys, "tune", "--config", tiny_competition, "--work", tmp_path)
    assert code == 1 and "./run.sh extract" in err and len(err.strip().splitlines()) == 1


def test_a_top_k_beyond_the_gallery_is_refused(tiny_competition, capsys, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_competition.parent, folder)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('test = "test"', 'test = "test"\ntop_k = 30'))
    code, _, err = run(capsys, "tune", "--config", config, "--work", tmp_path / "work")
    assert code == 2 and "top_k = 30" in err and "24" in err


def test_published_scores_only_where_the_configuration_says_so(done, capsys, tmp_path):
    config, work = done
    text = config.read_text().replace('name = "tiny"', 'name = "tiny"\npublished = "perfect500k"')
    other = config.parent / "published.toml"
    other.write_text(text)
    _, out, _ = run(capsys, "leaderboard", "--config", other, "--work", work)
    assert "0.4086" in out


def test_run_sh_lists_its_commands_and_refuses_others():
    listed = subprocess.run([ROOT / "run.sh"], capture_output=True, text=True)
    assert listed.returncode == 0
    for command in ("demo", "test", "extract", "tune", "submit", "check", "score", "leaderboard", "predict"):
        assert f"  {command} " in listed.stdout
    unknown = subprocess.run([ROOT / "run.sh", "extrct"], capture_output=True, text=True)
    assert unknown.returncode == 2 and len(unknown.stderr.strip().splitlines()) == 1


@pytest.fixture
def fresh_machine(tmp_path):
    """The project without its .venv, and calls of its run.sh where only Python's standard library is there."""
    for name in ("run.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("competition", "submissions"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.npy", "__pycache__")
        )
    base = Path(sys.base_prefix) / "bin"

    def call(*arguments, **environment):
        return subprocess.run(
            [tmp_path / "run.sh", *arguments],
            capture_output=True,
            text=True,
            env={"PATH": f"{base}:/usr/bin:/bin", "PYTHONNOUSERSITE": "1", **environment},
        )

    yield call
    assert not (tmp_path / ".venv").exists() and not (tmp_path / ".venv.lock").exists(), "a set-up began"


def test_help_needs_no_packages(fresh_machine):
    listed = fresh_machine()
    assert listed.returncode == 0 and fresh_machine("--help").stdout == listed.stdout
    names = [line.split()[0] for line in listed.stdout.splitlines()[2:]]
    for name in names:
        found = fresh_machine(name, "--help")
        assert (found.returncode, found.stderr) == (0, "") and f"usage: ./run.sh {name}" in found.stdout


def test_a_mistake_in_the_call_names_the_nearest_and_its_help(capsys):
    for arguments, words in (
        (("extrct",), ("no command 'extrct'", "did you mean 'extract'?", "see ./run.sh --help")),
        (("tune", "--trails", 5), ("no option --trails", "'--trials'?", "see ./run.sh tune --help")),
        (("submit", "x.csv"), ("'x.csv'", "see ./run.sh submit --help")),
        (("check",), ("FILE", "see ./run.sh check --help")),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "") and len(err.splitlines()) == 1 and all(word in err for word in words)


def test_run_sh_works_where_cdpath_is_set(fresh_machine, tmp_path):
    for folder in ("elsewhere/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    called = subprocess.run(
        ["bash", "bin/../run.sh", "extract", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "CDPATH": str(tmp_path / "elsewhere"), "PYTHON": sys.executable},
    )
    assert (called.returncode, called.stderr) == (0, "")


def test_run_sh_with_python_uses_it_and_every_command_has_help():
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    for command in ("extract", "predict"):
        found = subprocess.run(
            [ROOT / "run.sh", command, "--help"], capture_output=True, text=True, env=environment
        )
        assert found.returncode == 0 and "--config" in found.stdout
    wrong = subprocess.run(
        [ROOT / "run.sh", "extract"],
        capture_output=True,
        text=True,
        env={**environment, "PYTHON": "/nowhere"},
    )
    assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1


def test_control_characters_in_names_do_not_reach_the_terminal(done, capsys, tmp_path):
    config, work = done
    common = ("--config", config, "--work", work)
    steering = tmp_path / "a\x1b]0;title\x07\u202e\x9b2J\U000e0001.csv"
    for arguments in (
        ("score", *common, steering),
        ("submit", *common, "--recipe", str(steering)),
        ("submit", *common, "--out", steering),
        ("submit", *common, "--out", steering, "--json"),
        ("check", *common, steering),
        ("tune", *common, "--\x1b[2J"),
    ):
        _, out, err = run(capsys, *arguments)
        assert out + err and (out + err).replace("\n", "").replace("\r", "").isprintable()
        if "--json" in arguments:
            assert json.loads(out)["file"] == str(steering)
    assert "\\u001b" in out + err


def test_weights_keep_every_bit_through_the_recipe_file(done):
    from features.recipes.recipe import read_recipe, write_recipe

    _, work = done
    recipe = read_recipe(work / "recipes" / "best.json")
    copy = read_recipe(write_recipe(work / "recipes" / "copy.json", recipe))
    assert np.array_equal(copy.weight_array, recipe.weight_array)


@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_is_one_line_with_the_folder_and_its_room(tmp_path, monkeypatch, capsys, named):
    def full(options):
        raise OSError(28, "No space left on device", *([str(tmp_path / "new" / "a.npy")] if named else []))

    monkeypatch.setitem(commands.COMMANDS, "verify", full)
    assert main(["verify", "--work", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"the disk of {tmp_path} is full" in said and "bytes are free" in said and said.count("\n") == 1
    assert ("a.npy" in said) == named and "OSError" not in said


def test_submit_takes_the_best_validated_recipe_and_says_which(done, capsys, tmp_path):
    config, work = done
    common = ("--config", config, "--work", work)
    code, out, _ = run(capsys, "recipes", *common, "--json")
    listed = json.loads(out)
    rows = {row["recipe"]: row for row in listed["recipes"]}
    assert code == 0 and {"best", "untuned", "pwa_qe", "ustc2019"} <= set(rows)
    usable = [row for row in rows.values() if row["of this data"] and "within noise" not in row["how"]]
    expected = max(usable, key=lambda row: (row["validated"], row["public"]))
    code, out, err = run(capsys, "submit", *common, "--out", tmp_path / "x.csv", "--json")
    written = json.loads(out)
    assert code == 0 and written["recipe"] == listed["submits"]
    assert written["expected"]["validated"] == expected["validated"]
    assert f"recipe {written['recipe']}: MAP@7 {expected['validated']:.4f}" in err
    assert err.count("top7: ") == 1
    code, out, _ = run(capsys, "recipes", *common, "pwa_qe")
    assert code == 0 and "then expand" in out


def test_tune_recipes_tunes_each_by_name_and_then_the_configuration(done, capsys, tmp_path):
    config, work = done[0], tmp_path / "work"
    shutil.copytree(done[1], work, ignore=shutil.ignore_patterns("recipes", "study"))
    common = ("--config", config, "--work", work)
    code, out, err = run(capsys, "tune", *common, "--recipes", "--trials", 3, "--folds", 0, "--json")
    assert code == 0, err
    found = {path.stem: json.loads(path.read_text()) for path in (work / "recipes").glob("*.json")}
    assert "recipe gan2018 was not tuned: " in err and "wants the pooling mac" in err
    assert {"best", "untuned", "pwa_qe", "pwa_qe-tuned", "fcrow_wmff_qe-tuned"} <= set(found)
    assert "studied" not in found["best"]["provenance"] and json.loads(out)["trials"] == 3
    assert found["pwa_qe-tuned"]["provenance"]["studied"] == "pwa_qe"
    told = [json.dumps([each["components"], each["weights"], each["steps"]]) for each in found.values()]
    assert not [name for name in found if name.startswith("untuned-")] and len(told) - len(set(told)) <= 2


def test_compare_keeps_the_figures_of_the_recipes_by_name(done, capsys, tmp_path):
    config, work = done[0], tmp_path / "work"
    shutil.copytree(done[1], work)
    common = ("--config", config, "--work", work)
    kept = work / "recipes" / "pwa_qe.json"
    kept.unlink(missing_ok=True)
    foreign = tmp_path / "top7.json"  # a file of the same name as a recipe of ours is not that recipe
    foreign.write_text('{"components": [{"layer": "last"}], "steps": []}')
    (work / "recipes" / "top7.json").unlink(missing_ok=True)
    _, out, _ = run(capsys, "compare", *common, "pwa_qe", foreign, "--json")
    compared = json.loads(out)["recipes"]
    assert not (work / "recipes" / "top7.json").exists()
    scores = json.loads(kept.read_text())["scores"]
    assert scores["validated"] == scores["all"] == pytest.approx(compared[0]["all"], abs=1e-12)
    _, out, _ = run(capsys, "submit", *common, "--recipe", "pwa_qe", "--json")
    assert json.loads(out)["expected"] == scores
    low, high = json.loads(kept.read_text())["provenance"]["interval"]
    assert low < scores["validated"] < high
    _, out, _ = run(capsys, "submit", *common, "--recipe", "pwa_qe")
    assert f"95 % {low:.4f} to {high:.4f}" in out
    # a better one of the same data that stood there, by an earlier version of the recipe, is kept aside and named
    earlier = json.loads(kept.read_text())
    earlier["steps"], earlier["scores"]["validated"] = [], 1.0
    kept.write_text(json.dumps(earlier))
    _, _, err = run(capsys, "compare", *common, "pwa_qe")
    (aside,) = work.glob("recipes/pwa_qe-*.json")
    assert str(aside) in err and json.loads(aside.read_text())["scores"]["validated"] == 1.0
    assert json.loads(kept.read_text())["scores"] == scores


def test_figures_of_other_labels_choose_where_no_others_are_and_are_said_to_be_of_those(
    done, capsys, tmp_path
):
    config, work = done
    copy = tmp_path / "work"
    shutil.copytree(work, copy)
    command = ("submit", "--config", config, "--work", copy, "--out", tmp_path / "x.csv")
    before = json.loads(run(capsys, *command, "--json")[1])["recipe"]
    assert before != "best"  # which is within noise of the untuned one here
    for path in (copy / "recipes").glob("*.json"):
        values = json.loads(path.read_text())
        values["provenance"].get("data", {})["labels"] = "other"
        path.write_text(json.dumps(values))
    code, out, err = run(capsys, *command)
    assert code == 0 and f"by recipe {before}" in out and "of other data than there are now" in out
    assert "on the last study's data" in err and "no figure under" in err and "./run.sh tune" in err
    for path in (copy / "recipes").glob(
        "*.json"
    ):  # figures of yet other labels do not compare with the study's
        if path.stem != "best":
            path.write_text(path.read_text().replace('"other"', '"yet others"'))
    code, out, err = run(capsys, *command, "--json")
    assert code == 0 and json.loads(out)["recipe"] == "best" and "the last study's" in err
