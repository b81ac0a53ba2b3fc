"""Mutated configurations, labels, submissions, recipes, sidecars and journals: `python -m tests.fuzz N SEED`.

Each of the N files goes to its reader; any exception or warning that is not the project's own is a failure, and
so is a submission that is accepted though it is none. Exit 1 with the failures and the files that show them.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from competition.configuration import load_configuration
from competition.errors import Top7Error
from competition.labels import read_labels
from features.dumps.dump import open_dump
from features.dumps.sidecar import FORMAT
from features.extraction.dump_group import settings_by_row
from features.recipes.kept import FOLDER
from features.recipes.recipe import read_recipe, resolve
from submissions.checking import Expected, check_submission
from tuning.step_choices import configured_steps

QUERIES, GALLERY = [f"q{n}" for n in range(12)], [f"g{n:03}" for n in range(40)]
ODD = (
    None,
    True,
    -1,
    0,
    1,
    2,
    2**40,
    10**400,
    0.5,
    -0.0,
    1e300,
    float("inf"),
    float("nan"),
    "",
    "~nobody/x",
    "../x",
)
ODD += (
    "a\0b",
    "ä" * 3000,
    [],
    {},
    [[1]],
    ["x"],
    [0.5, "x"],
    {"step": "expand"},
    {"is": [1]},
    "*",
    7.0,
    "1",
    b"\xff",
)
CONFIGURATION = """
[competition]
name = "c"
gallery = "gallery"
validation = "val"
labels = "val.csv"
test = "test"
top_k = 7
work = "work"
published = "perfect500k"
[[backbone]]
model = "vgg16"
name = "v"
weights = "random"
options = { pad_type = "same" }
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
image_size = 64
resize = "squash"
max_size = 1024
layers = ["conv1_2", 4]
pooling = ["fcrow", "spoc", "rmac", "mac", "crow"]
parts = { layer = "conv5_3", counts = [10, 25], dims = [32], exponents = [0.5, 1.0], alpha = 2.0, seed = 1 }
clamp = true
flip = false
scales = [1.0, 0.5]
[[external]]
name = "clip"
gallery = "clip/gallery.npy"
validation = "~/clip/val.npy"
[tuning]
trials = 20
region = "similarity"
private = 0.3
seed = 0
sampler = "tpe"
steps = [ { step = "expand", neighbours = [0, 2], kind = "weighted", optional = true }, { step = "cascade", stages = [ { weights = "own", keep = [10, 20] } ] } ]
"""


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return "\udcff"
    return json.dumps(value, default=str)


def _in_bytes(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(found) + 1)
        end = min(len(found), start + rng.choice((0, 1, 1, 3, 20)))
        put = rng.choice(
            (b"", b"\0", b"\xff", b'"', b"\n", b"\r", b",", b"[" * 30_000, b"9" * 5000, b"-", b"e9", b"{}")
        )
        found[start:end] = rng.choice((put, bytes(found[:60]), rng.randbytes(3)))
    return bytes(found[: rng.randrange(len(found) + 1)] if rng.random() < 0.1 else found)


def _in_json(value: object, rng: random.Random) -> object:
    """`value` with one place inside changed, dropped, doubled or exchanged."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            places.append((inside, key))
            if isinstance(inside[key], dict | list):
                walk(inside[key])

    if isinstance(value, dict | list) and value:
        walk(value)
    if not places or rng.random() < 0.03:
        return rng.choice(ODD)
    inside, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.65:
        inside[key] = rng.choice(ODD)
    elif kind < 0.75:
        del inside[key]
    elif kind < 0.85:
        other, name = rng.choice(places)
        inside[key] = (
            copy.deepcopy(other[name]) if name in other or isinstance(name, int) and name < len(other) else 0
        )
    elif kind < 0.9:
        inside[key] = _nested(rng.choice((1, 30)))
    elif isinstance(inside, dict):
        inside[rng.choice(("x", "", "weights", "step", "format"))] = rng.choice(ODD)
    else:
        inside.append(rng.choice(ODD))
    return value


def _json_file(rng: random.Random, value: object) -> bytes:
    if rng.random() < 0.2:
        return _in_bytes(json.dumps(value).encode(), rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _in_json(value, rng)
    return _text(value).encode("utf-8", "surrogateescape")


def _lines(rng: random.Random, rows: list[list[str]]) -> bytes:
    rows = [list(row) for row in rows]
    for _ in range(rng.randint(0, 3)):
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(
            ("", " ", '"', "g001", "q1", "g999", "g001.jpg", "a\0", "\r", "ä", ";")
        )
        if rng.random() < 0.2:
            rows.append(rng.choice(rows))
        if rng.random() < 0.2:
            row.append(rng.choice(GALLERY))
    text = rng.choice(("\n", "\n", "\r\n")).join(",".join(row) for row in rows) + "\n"
    data = text.encode()
    return _in_bytes(data, rng) if rng.random() < 0.5 else data


def _configuration(folder: Path, rng: random.Random) -> None:
    lines = CONFIGURATION.splitlines()
    for _ in range(rng.choice((1, 1, 2))):
        number = rng.randrange(len(lines))
        key, equals, value = lines[number].partition(" = ")
        kind = rng.random()
        try:
            tree = tomllib.loads(f"a = {value}")["a"] if equals else None
        except tomllib.TOMLDecodeError:  # changed before
            kind = 0.0
        if not equals or kind < 0.2:
            lines[number] = rng.choice(("", lines[number], rng.choice(lines)))
        elif kind < 0.8 and "step" not in key:
            lines[number] = f"{key} = {_toml(_in_json([tree], rng))}"
        else:
            lines[number] = (
                f"{key} = {_toml(_in_json(tree, rng) if isinstance(tree, dict | list) else rng.choice(ODD))}"
            )
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    path = folder / "c.toml"
    path.write_bytes(_in_bytes(data, rng) if rng.random() < 0.2 else data)
    configuration = load_configuration(path)
    configured_steps(configuration.tuning.steps, configuration.path, 6)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else _text(value)


def _labels(folder: Path, rng: random.Random) -> None:
    rows = [[query, *rng.sample(GALLERY, rng.randint(1, 4))] for query in QUERIES]
    path = folder / "labels.csv"
    path.write_bytes(_lines(rng, rows))
    found = read_labels(path, query_ids=QUERIES, gallery_ids=GALLERY)
    assert list(found) == QUERIES and all(
        ids and len(set(ids)) == len(ids) and set(ids) <= set(GALLERY) for ids in found.values()
    )


def _submission(folder: Path, rng: random.Random) -> None:
    path = folder / "s.csv"
    path.write_bytes(_lines(rng, [[query, *rng.sample(GALLERY, 7)] for query in QUERIES]))
    faults = check_submission(path, Expected({"test": QUERIES}, GALLERY)).faults
    if faults:
        raise Top7Error(str(faults[0]))
    else:
        rows = [line.split(b",") for line in path.read_bytes().removesuffix(b"\n").split(b"\n")]
        assert sorted(row[0].decode() for row in rows) == sorted(QUERIES)
        assert all(
            len(row) == 8 and len({item.decode() for item in row[1:]} & set(GALLERY)) == 7 for row in rows
        )


def _recipe(folder: Path, rng: random.Random) -> None:
    """A recipe of a study, or one by name, which is also resolved."""
    path = folder / "r.json"
    if rng.random() < 0.5:
        path.write_bytes(_json_file(rng, STUDIED))
        read_recipe(path)
        return
    path.write_bytes(_json_file(rng, rng.choice(NAMED)))
    resolve(read_recipe(path), RESOLVED_ON)


STUDIED = {
    "format": 1,
    "name": "best",
    "components": [
        {
            "name": "v/conv5_3/fcrow",
            "chain": "v/fcrow",
            "backbone": "v",
            "layer": "conv5_3",
            "pooling": "fcrow",
        },
        {"name": "v/4/fcrow", "chain": "v/fcrow", "backbone": "v", "layer": 4, "pooling": "fcrow"},
    ],
    "weights": [0.25, 0.75],
    "choice": {"v.pooling": "fcrow"},
    "scores": {"public": 0.3, "private": 0.25},
    "provenance": {"region": "similarity", "trial": 3},
    "steps": [{"step": "whiten", "dim": 8}, {"step": "cascade", "stages": [{"weights": [1, 2], "keep": 5}]}],
    "groups": [0, 1],
}
NAMED = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def _fixed() -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.toml"
        path.write_text(CONFIGURATION, encoding="utf-8")
        return load_configuration(path)


RESOLVED_ON = _fixed()


def _sidecar(folder: Path, rng: random.Random) -> None:
    import numpy as np

    path = folder / "d.npy"
    np.save(path, np.eye(3, 4, dtype=np.float32))
    np.save(folder / "d.norms.npy", np.ones(3, dtype=np.float32))
    sidecar = {
        "format": FORMAT,
        "shape": [3, 4],
        "dtype": "float32",
        "ids": ["a", "b", "c"],
        "recipe": {"model": "v"},
    }
    sidecar |= {
        "unreadable": [{"row": 2, "id": "c", "reason": "damaged"}],
        "settings": [{"rows": [0, 3]}],
        "images": "x.images.npy",
        "columns": ["d.npy"],
    }
    sidecar |= {"column_sum": [1.0, 1.0, 1.0, 0.0]}
    (folder / "d.json").write_bytes(_json_file(rng, sidecar))
    dump = open_dump(path, ids=["a", "b", "c"])
    dump.column_sum(np.ones(3, dtype=bool))
    settings_by_row(dump.sidecar.get("settings", []), len(dump.ids), [])


def _journal(folder: Path, rng: random.Random) -> None:
    import optuna

    from tuning.storage import open_storage

    path = folder / "study" / "journal.log"
    path.parent.mkdir(exist_ok=True)
    lines = journal().splitlines()
    number = rng.randrange(len(lines))
    lines[number : number + 1] = [_json_file(rng, json.loads(lines[number]))] * rng.choice((0, 1, 1, 1, 2))
    path.write_bytes(b"\n".join(lines) + rng.choice((b"\n", b"\n", b"")))
    storage = open_storage(None, folder)
    for name in optuna.get_all_study_names(storage):
        optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)


def journal() -> bytes:
    """The log of a small study; written once."""
    if not _written:
        import optuna

        from tuning.storage import open_storage

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            study = optuna.create_study(
                storage=open_storage(None, Path(folder)), study_name="s", direction="maximize"
            )
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
            _written.append((Path(folder) / "study" / "journal.log").read_bytes())
    return _written[0]


_written: list[bytes] = []
READERS: dict[str, Callable[[Path, random.Random], None]] = {
    "configuration": _configuration,
    "labels": _labels,
    "submission": _submission,
    "recipe": _recipe,
    "sidecar": _sidecar,
    "journal": _journal,
}


def fuzz(count: int, seed: int, kinds: tuple[str, ...] = tuple(READERS)) -> tuple[Counter, dict[str, str]]:
    """Read `count` mutated files; returns how many were refused or accepted by kind, and the failures by what failed."""
    outcomes, failures = Counter(), {}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                READERS[kind](Path(folder), random.Random(f"{seed} {number}"))
                outcomes[f"{kind} accepted"] += 1
            except Top7Error as error:
                outcomes[f"{kind} refused"] += 1
                if "\n" in str(error):
                    failures.setdefault(f"{kind}: a message of several lines", f"number {number}: {error}")
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{kind}: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
                failures.setdefault(place, f"number {number}, {str(error)[:200]!r}")
    return outcomes, failures


if __name__ == "__main__":
    found, wrong = fuzz(int(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]) or tuple(READERS))
    for name, times in sorted(found.items()):
        print(f"{name}: {times}")
    for place, example in sorted(wrong.items()):
        print(f"FAILURE {place}: {example}")
    sys.exit(1 if wrong else 0)
