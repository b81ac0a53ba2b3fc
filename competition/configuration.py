"""The TOML configuration as frozen dataclasses; an error names file, table, key and what was expected."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from competition import toml_values as toml
from competition.errors import ConfigurationError, nearest
from competition.toml_values import Place, read_table, shown

# of what a network is given; smaller maps vanish in its strides
SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 32, 16_384
SPLITS = ("gallery", "validation", "test")
# what `[competition] format` may be; competition/datasets reads them
DATA_SETS = "oxford5k paris6k roxford5k rparis6k holidays perfect500k-2018 perfect500k-2020 folders".split()
USERS = ("validation", "test")  # splits whose images are photos of users
SIMULATED = "simulated"  # a split of its own: photos of gallery images, with dumps and no files

# a field's type says how its TOML value is read
Label = Annotated[str, toml.label]
Text = Annotated[str, toml.text]
OwnPath = Annotated[Path, toml.path]
Seed = Annotated[int, toml.whole_number(0)]
Switch = Annotated[bool, toml.switch]


@dataclass(frozen=True)
class Competition:
    """Where the images and labels are. Only `gallery` must be there; `top_k` gallery ids answer a query.

    ids: an id is the file's "name" or its "path" below the split's folder, both without extension; labels: a
    label file, or "folders": an image is correct for the queries of the folder of the same path; submission:
    the CSV's form; metric: at top_k; format: a data set of `competition.datasets`, read from `gallery` as its
    archives unpack, with its own queries and ground truth, distractors: a folder of further images for its
    gallery.
    """

    name: Label
    gallery: OwnPath
    validation: OwnPath | None = None
    labels: Annotated[Path | str | None, toml.path_or("folders")] = None
    test: OwnPath | None = None
    top_k: Annotated[int, toml.whole_number(1)] = 7
    work: Annotated[Path, toml.work_path] = Path("work")
    published: Annotated[str | None, toml.choice("perfect500k")] = None
    ids: Annotated[str, toml.choice("name", "path")] = "name"
    submission: Annotated[str, toml.choice("plain", "kaggle")] = "plain"
    metric: Annotated[str, toml.choice("map", "recall", "precision", "trapezoid")] = "map"
    format: Annotated[str | None, toml.choice(*DATA_SETS)] = None
    distractors: OwnPath | None = None

    @property
    def labelled(self) -> bool:
        """Whether it has validation queries with labels: a label file's, or those of its `format`."""
        return self.validation is not None and (self.labels is not None or self.format is not None)


@dataclass(frozen=True)
class Parts:
    """One `parts` table (PWA): the study takes one of `counts`, one of `dims` and one of `exponents`."""

    layer: Annotated[int | str, toml.layer]
    counts: Annotated[tuple[int, ...], toml.several(toml.whole_number(1))]
    dims: Annotated[tuple[int, ...], toml.several(toml.whole_number(1))]
    exponents: Annotated[tuple[float, ...], toml.several(toml.real_number(0, most=4))] = (1.0,)
    alpha: Annotated[float, toml.real_number(above=0, most=100)] = 2.0
    beta: Annotated[float, toml.real_number(above=0, most=100)] = 2.0
    form: Text = "NxC"
    selection: Annotated[str | Path, toml.path_or("variance", "variance-mean", "random")] = "variance"
    training_images: Annotated[int, toml.whole_number(1)] = 2000
    training: OwnPath | None = None
    seed: Seed = 0
    variant: Text = "default"
    half: Switch = False


def _parts(value: object, place: Place) -> tuple[Parts, ...]:
    tables = value if isinstance(value, list) else [value]
    if not tables:
        raise place.wrong(value, "a table or a list of tables; without part detectors leave the key out")
    return tuple(Parts(**read_table(table, Parts, at)) for table, at in _numbered(tables, place.inside()))


@dataclass(frozen=True)
class Backbone:
    """One network and how images get into it. `name` labels its files and parameters; unique.

    clamp: negative maps are set to zero, for networks without a ReLU; flip, scales, crops (shares of the sides, about
    the middle): test-time views, averaged after pooling. query_views: whether queries are described by views too, for
    recipes that ask for it (None: unless the competition has a `format`).
    """

    model: Text
    layers: Annotated[tuple[int | str, ...], toml.several(toml.layer)]
    name: Label = ""
    weights: Annotated[str | Path, toml.path_or("pretrained", "random")] = "pretrained"
    options: Annotated[dict, toml.options] = field(default_factory=dict)
    mean: Annotated[tuple[float, ...] | None, toml.several(toml.real_number(), distinct=False)] = None
    std: Annotated[tuple[float, ...] | None, toml.several(toml.real_number(above=0), distinct=False)] = None
    image_size: Annotated[int, toml.whole_number(0, LARGEST_SIDE_PX)] = 224
    resize: Annotated[str, toml.choice("squash", "pad", "keep")] = "squash"
    max_size: Annotated[int, toml.whole_number(1, LARGEST_SIDE_PX)] = 1024
    pooling: Annotated[tuple[str, ...], toml.several(toml.text)] = ("fcrow",)
    parts: Annotated[tuple[Parts, ...], _parts] = ()
    clamp: Switch = False
    flip: Switch = False
    scales: Annotated[tuple[float, ...], toml.several(toml.real_number(above=0, most=16))] = (1.0,)
    crops: Annotated[tuple[float, ...], toml.several(toml.real_number(above=0, most=1))] = (1.0,)
    query_views: Annotated[bool | None, toml.switch] = None


@dataclass(frozen=True)
class External:
    """Descriptors made elsewhere: per split a .npy file, one row an id; beside it .ids, one id a line."""

    name: Label
    gallery: OwnPath
    validation: OwnPath | None = None
    test: OwnPath | None = None


@dataclass(frozen=True)
class Simulate:
    """Photos simulated of gallery images: `images` of them at most, drawn by `seed` (0: none), `views` photos of each."""

    images: Annotated[int, toml.whole_number(0)] = 2000
    views: Annotated[int, toml.whole_number(1)] = 8
    seed: Seed = 0


@dataclass(frozen=True)
class Tuning:
    """The settings of the study.

    `private`: share of the labelled queries that it never sees; `storage`: an Optuna URL; `steps`: what
    happens before and after fusion, where a list is a choice (tuning/step_choices.py); `cache_gib`: what
    steps and candidates may take on the disk (None: twice the dumps they come from); `objective`: what judges
    a trial (None: see tuning/labelled.py).
    """

    trials: Annotated[int, toml.whole_number(1)] = 200
    region: Annotated[str, toml.choice("similarity", "distance", "simplex")] = "similarity"
    private: Annotated[float, toml.real_number(0, below=1)] = 0.3
    seed: Seed = 0
    sampler: Annotated[str, toml.choice("tpe", "cmaes", "qmc", "random")] = "tpe"
    storage: Text | None = None
    steps: Annotated[tuple[dict, ...], toml.steps] = ()
    cache_gib: Annotated[float | None, toml.real_number(above=0)] = None
    objective: Annotated[str | None, toml.choice("labels", "simulated", "both")] = None


@dataclass(frozen=True)
class Configuration:
    """A whole configuration file. There is at least one backbone or external."""

    path: Path
    competition: Competition
    backbones: tuple[Backbone, ...]
    externals: tuple[External, ...]
    tuning: Tuning
    simulate: Simulate = Simulate()

    @property
    def objective(self) -> str:
        """What judges the trials of a study: as configured, else by whether there are labels."""
        return self.tuning.objective or ("labels" if self.competition.labelled else "simulated")


TABLES = ("competition", "backbone", "external", "simulate", "tuning")


def load_configuration(path: Path | str, *, work: Path | str | None = None) -> Configuration:
    """Read and check the TOML file `path`.

    work: instead of [competition] work; like it relative to the current folder. Without both: work/<name>.
    Paths in the result are joined to the folder of the file, not resolved; whether they exist is for their
    reader to say. ConfigurationError, one line, for everything else that is wrong.
    """
    path = Path(path)
    document = _document(path)
    for key in document:
        if key not in TABLES:
            raise ConfigurationError(
                f"{path}: unknown table or key {key!r} outside the tables; {nearest(key, TABLES)}"
            )
    if "competition" not in document:
        raise ConfigurationError(
            f"{path}: the table [competition] is missing: add it with name = … and gallery = …"
        )
    competition = _competition(document["competition"], Place(path, "[competition]"), work)
    backbones = tuple(read_backbone(*found) for found in _tables(document, "backbone", path))
    externals = tuple(
        External(**read_table(table, External, place)) for table, place in _tables(document, "external", path)
    )
    if not backbones and not externals:
        raise ConfigurationError(f"{path}: neither [[backbone]] nor [[external]]: add at least one")
    tuning = Tuning(**read_table(document.get("tuning", {}), Tuning, Place(path, "[tuning]")))
    simulate = Simulate(**read_table(document.get("simulate", {}), Simulate, Place(path, "[simulate]")))
    return Configuration(path, competition, _unique(backbones, externals, path), externals, tuning, simulate)


def _document(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: no such configuration file: give the path of a TOML file with --config"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read as a configuration file: {error.strerror}"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{path}: line {line} is not UTF-8: save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: not valid TOML: {reason}") from None


def _tables(document: dict, key: str, path: Path) -> list[tuple[object, Place]]:
    """The tables of an array [[key]] with their places."""
    tables = document.get(key, [])
    if not isinstance(tables, list):
        found = f"[{key}]" if isinstance(tables, dict) else f"{key} = {shown(tables)}"
        raise ConfigurationError(
            f"{path}: {found}: expected [[{key}]] in double brackets, one for each {key}"
        )
    return _numbered(tables, Place(path, f"[[{key}]]"))


def _numbered(tables: list, place: Place) -> list[tuple[object, Place]]:
    """Tables with their places, which have a number where there are several."""
    names = [place.table] if len(tables) == 1 else [f"{place.table} {n}" for n in range(1, len(tables) + 1)]
    return [(table, replace(place, table=name)) for table, name in zip(tables, names)]


def _competition(table: object, place: Place, work: Path | str | None) -> Competition:
    values = read_table(table, Competition, place)
    if "format" in values:
        for key in ("validation", "labels"):
            if key in values:
                only = f'no {key} beside format = "{values["format"]}", which has its own'
                raise replace(place, key=key).wrong(str(values[key]), only)
        values["validation"] = values["gallery"]
    elif "distractors" in values:
        raise replace(place, key="distractors").wrong(
            str(values["distractors"]), "format = … beside it, the data set they are added to"
        )
    if "labels" in values and "validation" not in values:
        raise ConfigurationError(
            f"{place.file}: {place.table} has labels but no validation: add the folder of the "
            "labelled query images, validation = …"
        )
    if values.get("labels") == "folders" and values.setdefault("ids", "path") != "path":
        raise replace(place, key="ids").wrong(
            values["ids"], '"path" beside labels = "folders": the folder of an image is part of its id'
        )
    values.setdefault("work", Path("work") / values["name"])
    if work is not None:
        values["work"] = Path(work)
    return Competition(**values)


def read_backbone(table: object, place: Place) -> Backbone:
    """Read one [[backbone]] table; its name is empty where none is written."""
    backbone = Backbone(**read_table(table, Backbone, place))
    size = replace(place, key="image_size")
    if backbone.image_size == 0 and backbone.resize != "keep":
        raise size.wrong(0, 'at least 1, or resize = "keep" beside it for images of their original size')
    if backbone.image_size and backbone.image_size * min(backbone.scales) < SMALLEST_SIDE_PX:
        least = f"at least {SMALLEST_SIDE_PX} pixels, at each of the scales too"
        raise size.wrong(backbone.image_size, least)
    if backbone.mean and backbone.std and len(backbone.mean) != len(backbone.std):
        as_many = f"as many values as mean has, {len(backbone.mean)}"
        raise replace(place, key="std").wrong(list(backbone.std), as_many)
    return backbone


def _unique(
    backbones: tuple[Backbone, ...], externals: tuple[External, ...], path: Path
) -> tuple[Backbone, ...]:
    """`backbones` with a name each: the given one, or the model's, with -2, -3 … when that is taken."""
    given = [*filter(None, [*(one.name for one in backbones), *(one.name for one in externals)])]
    for name in given:
        if given.count(name) > 1:
            raise ConfigurationError(
                f"{path}: the name {name!r} appears twice: give each [[backbone]] and [[external]] "
                "a name of its own"
            )
    named = []
    for backbone in backbones:
        free = (f"{backbone.model}-{n}" if n > 1 else backbone.model for n in itertools.count(1))
        given.append(backbone.name or next(name for name in free if name not in given))
        named.append(replace(backbone, name=given[-1]))
    return tuple(named)
