"""The TOML configuration as frozen dataclasses; an error names file, table, key and what was expected."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from competition import toml_values as toml
from competition.errors import ConfigurationError, nearest
from competition.toml_values import Parser, Place, read_table, shown

SMALLEST_SIDE_PX, LARGEST_SIDE_PX = (
    32,
    16_384,
)  # of what a network is given; smaller maps vanish in its strides
SPLITS = ("gallery", "validation", "test")
DATA_SETS = (  # what `[competition] format` may be; competition/datasets reads them
    "oxford5k",
    "paris6k",
    "roxford5k",
    "rparis6k",
    "holidays",
    "perfect500k-2018",
    "perfect500k-2020",
    "folders",
)
SIMULATED = "simulated"  # a split of its own: photos of gallery images, with dumps and no files


@dataclass(frozen=True)
class Competition:
    """Where the images and labels are. Only `gallery` must be there; `top_k` gallery ids answer a query.

    ids: an id is the file's "name" or its "path" below the split's folder, both without extension; labels: a
    label file, or "folders": an image is correct for the queries of the folder of the same path; submission:
    the CSV's form; metric: at top_k; format: a data set of `competition.datasets`, read from `gallery` as its
    archives unpack, with its own queries and ground truth, distractors: a folder of further images for its
    gallery.
    """

    name: str
    gallery: Path
    validation: Path | None = None
    labels: Path | str | None = None
    test: Path | None = None
    top_k: int = 7
    work: Path = Path("work")
    published: str | None = None
    ids: str = "name"
    submission: str = "plain"
    metric: str = "map"
    format: str | None = None
    distractors: Path | None = None

    @property
    def labelled(self) -> bool:
        """Whether it has validation queries with labels: a label file's, or those of its `format`."""
        return self.validation is not None and (self.labels is not None or self.format is not None)


@dataclass(frozen=True)
class Parts:
    """One `parts` table (PWA): the study takes one of `counts`, one of `dims` and one of `exponents`."""

    layer: int | str
    counts: tuple[int, ...]
    dims: tuple[int, ...]
    exponents: tuple[float, ...] = (1.0,)
    alpha: float = 2.0
    beta: float = 2.0
    form: str = "NxC"
    selection: str | Path = "variance"
    training_images: int = 2000
    training: Path | None = None
    seed: int = 0
    variant: str = "default"
    half: bool = False


@dataclass(frozen=True)
class Backbone:
    """One network and how images get into it. `name` labels its files and parameters; unique.

    clamp: negative maps are set to zero, for networks without a ReLU; flip, scales: test-time views, averaged
    after pooling.
    """

    model: str
    layers: tuple[int | str, ...]
    name: str
    weights: str | Path = "pretrained"
    options: dict = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int = 224
    resize: str = "squash"
    max_size: int = 1024
    pooling: tuple[str, ...] = ("fcrow",)
    parts: tuple[Parts, ...] = ()
    clamp: bool = False
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class External:
    """Descriptors made elsewhere: per split a .npy file, one row an id; beside it .ids, one id a line."""

    name: str
    gallery: Path
    validation: Path | None = None
    test: Path | None = None


@dataclass(frozen=True)
class Simulate:
    """Photos simulated of gallery images: `images` of them at most, drawn by `seed` (0: none), `views` photos of each."""

    images: int = 2000
    views: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Tuning:
    """The settings of the study.

    `private`: share of the labelled queries that it never sees; `storage`: an Optuna URL; `steps`: what
    happens before and after fusion, where a list is a choice (tuning/step_choices.py); `cache_gib`: what
    steps and candidates may take on the disk (None: twice the dumps they come from); `objective`: what judges
    a trial (None: see tuning/labelled.py).
    """

    trials: int = 200
    region: str = "similarity"
    private: float = 0.3
    seed: int = 0
    sampler: str = "tpe"
    storage: str | None = None
    steps: tuple[dict, ...] = ()
    cache_gib: float | None = None
    objective: str | None = None


@dataclass(frozen=True)
class Configuration:
    """A whole configuration file. There is at least one backbone or external."""

    path: Path
    competition: Competition
    backbones: tuple[Backbone, ...]
    externals: tuple[External, ...]
    tuning: Tuning
    simulate: Simulate = Simulate()


COMPETITION: dict[str, Parser] = {
    "name": toml.label,
    "gallery": toml.path,
    "validation": toml.path,
    "labels": toml.path_or("folders"),
    "test": toml.path,
    "top_k": toml.whole_number(1),
    "work": toml.work_path,
    "published": toml.choice("perfect500k"),
    "ids": toml.choice("name", "path"),
    "submission": toml.choice("plain", "kaggle"),
    "metric": toml.choice("map", "recall", "precision", "trapezoid"),
    "format": toml.choice(*DATA_SETS),
    "distractors": toml.path,
}

PARTS: dict[str, Parser] = {
    "layer": toml.layer,
    "counts": toml.several(toml.whole_number(1)),
    "dims": toml.several(toml.whole_number(1)),
    "exponents": toml.several(toml.real_number(0, most=4)),
    "alpha": toml.real_number(above=0, most=100),
    "beta": toml.real_number(above=0, most=100),
    "form": toml.text,
    "selection": toml.path_or("variance", "variance-mean", "random"),
    "training_images": toml.whole_number(1),
    "training": toml.path,
    "seed": toml.whole_number(0),
    "variant": toml.text,
    "half": toml.switch,
}


def _parts(value: object, place: Place) -> tuple[Parts, ...]:
    tables = value if isinstance(value, list) else [value]
    if not tables:
        raise place.wrong(value, "a table or a list of tables; without part detectors leave the key out")
    inside = f"{place.table} {place.key}"
    return tuple(
        Parts(
            **read_table(
                table,
                PARTS,
                Place(place.file, inside if len(tables) == 1 else f"{inside} {number}"),
                required=("layer", "counts", "dims"),
            )
        )
        for number, table in enumerate(tables, start=1)
    )


BACKBONE: dict[str, Parser] = {
    "model": toml.text,
    "name": toml.label,
    "weights": toml.path_or("pretrained", "random"),
    "options": toml.options,
    "mean": toml.several(toml.real_number(), distinct=False),
    "std": toml.several(toml.real_number(above=0), distinct=False),
    "image_size": toml.whole_number(0, LARGEST_SIDE_PX),
    "resize": toml.choice("squash", "pad", "keep"),
    "max_size": toml.whole_number(1, LARGEST_SIDE_PX),
    "layers": toml.several(toml.layer),
    "pooling": toml.several(toml.text),
    "parts": _parts,
    "clamp": toml.switch,
    "flip": toml.switch,
    "scales": toml.several(toml.real_number(above=0, most=16)),
}

EXTERNAL: dict[str, Parser] = {
    "name": toml.label,
    "gallery": toml.path,
    "validation": toml.path,
    "test": toml.path,
}

SIMULATE: dict[str, Parser] = {
    "images": toml.whole_number(0),
    "views": toml.whole_number(1),
    "seed": toml.whole_number(0),
}

TUNING: dict[str, Parser] = {
    "trials": toml.whole_number(1),
    "region": toml.choice("similarity", "distance", "simplex"),
    "private": toml.real_number(0, below=1),
    "seed": toml.whole_number(0),
    "sampler": toml.choice("tpe", "cmaes", "qmc", "random"),
    "storage": toml.text,
    "steps": toml.steps,
    "cache_gib": toml.real_number(above=0),
    "objective": toml.choice("labels", "simulated", "both"),
}

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
    backbones = tuple(read_backbone(table, place) for table, place in _tables(document, "backbone", path))
    externals = tuple(
        External(**read_table(table, EXTERNAL, place, required=("name", "gallery")))
        for table, place in _tables(document, "external", path)
    )
    if not backbones and not externals:
        raise ConfigurationError(f"{path}: neither [[backbone]] nor [[external]]: add at least one")
    tuning = Tuning(**read_table(document.get("tuning", {}), TUNING, Place(path, "[tuning]")))
    simulate = Simulate(**read_table(document.get("simulate", {}), SIMULATE, Place(path, "[simulate]")))
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
    """The tables of an array [[key]] with their places, numbered when there are several."""
    tables = document.get(key, [])
    if not isinstance(tables, list):
        found = f"[{key}]" if isinstance(tables, dict) else f"{key} = {shown(tables)}"
        raise ConfigurationError(
            f"{path}: {found}: expected [[{key}]] in double brackets, one for each {key}"
        )
    return [
        (table, Place(path, f"[[{key}]]" if len(tables) == 1 else f"[[{key}]] {number}"))
        for number, table in enumerate(tables, start=1)
    ]


def _competition(table: object, place: Place, work: Path | str | None) -> Competition:
    values = read_table(table, COMPETITION, place, required=("name", "gallery"))
    if "format" in values:
        for key in ("validation", "labels"):
            if key in values:
                raise Place(place.file, place.table, key).wrong(
                    str(values[key]), f'no {key} beside format = "{values["format"]}", which has its own'
                )
        values["validation"] = values["gallery"]
    elif "distractors" in values:
        raise Place(place.file, place.table, "distractors").wrong(
            str(values["distractors"]), "format = … beside it, the data set they are added to"
        )
    if "labels" in values and "validation" not in values:
        raise ConfigurationError(
            f"{place.file}: {place.table} has labels but no validation: add the folder of the "
            "labelled query images, validation = …"
        )
    if values.get("labels") == "folders" and values.setdefault("ids", "path") != "path":
        raise Place(place.file, place.table, "ids").wrong(
            values["ids"], '"path" beside labels = "folders": the folder of an image is part of its id'
        )
    values.setdefault("work", Path("work") / values["name"])
    if work is not None:
        values["work"] = Path(work)
    return Competition(**values)


def read_backbone(table: object, place: Place) -> Backbone:
    """Read one [[backbone]] table; its name is empty where none is written."""
    values = read_table(table, BACKBONE, place, required=("model", "layers"))
    if values.get("image_size") == 0 and values.get("resize", "squash") != "keep":
        raise Place(place.file, place.table, "image_size").wrong(
            0, 'at least 1, or resize = "keep" beside it for images of their original size'
        )
    side = values.get("image_size", Backbone.image_size) * min(values.get("scales", (1.0,)))
    if values.get("image_size") != 0 and side < SMALLEST_SIDE_PX:
        raise Place(place.file, place.table, "image_size").wrong(
            values.get("image_size", Backbone.image_size),
            f"at least {SMALLEST_SIDE_PX} pixels, at each of the scales too",
        )
    if "mean" in values and "std" in values and len(values["mean"]) != len(values["std"]):
        raise Place(place.file, place.table, "std").wrong(
            list(values["std"]), f"as many values as mean has, {len(values['mean'])}"
        )
    return Backbone(**{"name": "", **values})


def _unique(
    backbones: tuple[Backbone, ...], externals: tuple[External, ...], path: Path
) -> tuple[Backbone, ...]:
    """`backbones` with a name each: the given one, or the model's, with -2, -3 … when that is taken."""
    given = [backbone.name for backbone in backbones if backbone.name] + [
        external.name for external in externals
    ]
    for name in given:
        if given.count(name) > 1:
            raise ConfigurationError(
                f"{path}: the name {name!r} appears twice: give each [[backbone]] and [[external]] "
                "a name of its own"
            )
    taken = set(given)
    named = []
    for backbone in backbones:
        name, copies = backbone.name or backbone.model, 1
        while not backbone.name and name in taken:
            copies += 1
            name = f"{backbone.model}-{copies}"
        taken.add(name)
        named.append(replace(backbone, name=name))
    return tuple(named)
