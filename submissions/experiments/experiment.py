"""The papers' experiments as the *.toml files beside this one describe them: read, checked, their rows multiplied out.

A row is a published figure and how ours is made: `five` (a pooling: the five VGG layers under it) or `layers` with
`pooling`, `weights`, or `parts` {count, dim, exponent, form, selection, variant, layer}, and `steps`. Beside them `seeds`
(parts chosen at random so often), `random` and `optimum` (of a region), and `each`: the row once for each value, which
takes the place of "{name}" wherever that is written. A row without any of them is a published figure alone.
`published` is a figure for each data set, or "not at hand" where the paper gives one that nobody here has read; without
it the row is ours alone.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from competition.errors import ConfigurationError, nearest
from features.ranking.steps import check_steps

FOLDER = Path(__file__).parent
FIVE = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
NOT_AT_HAND = "not at hand"
OURS_ALONE = "-"  # the paper has no such row


@dataclass(frozen=True)
class PartsRow:
    """The part detectors of a row: N, M, whitening exponent, and how they are chosen and learnt."""

    count: int
    dim: int
    exponent: float = 1.0
    form: str = "NxC"
    selection: str = "variance"
    variant: str = "default"
    layer: str | int = "pool5"


@dataclass(frozen=True)
class TableRow:
    """One line of a table. layers: shallow to deep, empty for a published figure alone or for parts.

    lacking: what stands where the paper's figure is not known.
    """

    label: str
    published: Mapping[str, float] = field(default_factory=dict)
    lacking: str = OURS_ALONE
    layers: tuple[str | int, ...] = ()
    pooling: str = "fcrow"
    weights: tuple[float, ...] = ()
    parts: PartsRow | None = None
    steps: tuple[dict[str, Any], ...] = ()
    seeds: int = 1
    random: str | None = None
    optimum: str | None = None

    @property
    def ours(self) -> bool:
        """Whether there is anything to run."""
        return bool(self.layers) or self.parts is not None


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper.

    network: a [[backbone]] table without layers; learn: data set -> where parts are learnt; dims: every M of the same
    file, so that its experiments share their dumps.
    """

    name: str
    title: str
    paper: str
    data: tuple[str, ...]
    network: Mapping[str, Any]
    rows: tuple[TableRow, ...]
    variants: tuple[TableRow, ...] = ()
    learn: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Mapping[str, Any], ...] = ()
    note: str = ""
    figure: str = "score"
    fallback_dim: int = 0
    membership: bool = False
    picture: bool = False
    parts_page: bool = False
    dims: tuple[int, ...] = ()


Made = TypeVar("Made", PartsRow, TableRow, Experiment)


def experiments(folder: Path = FOLDER) -> dict[str, Experiment]:
    """Return every experiment by name, in the order of the files; ConfigurationError names file and key of a fault."""
    found: dict[str, Experiment] = {}
    for path in sorted(Path(folder).glob("*.toml")):
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: not valid TOML: {' '.join(str(error).split())}") from None
        tables = document.pop("experiment", [])  # what stands above them all share
        own = [_experiment({**document, **table}, f"{path}: [[experiment]]") for table in tables]
        rows = [row for each in own for row in (*each.rows, *each.variants)]
        dims = tuple(sorted({row.parts.dim for row in rows if row.parts is not None}))
        found |= {each.name: replace(each, dims=dims) for each in own}
    return found


def chosen(name: str, folder: Path = FOLDER) -> list[Experiment]:
    """Return the experiment `name`, or all whose name starts with it ("pwa", "fcrow", "all")."""
    known = experiments(folder)
    found = [each for key, each in known.items() if name == "all" or key.startswith(f"{name}-")]
    found = [known[name]] if name in known else found
    if not found:
        raise ConfigurationError(f"no experiment {name!r}: {nearest(name, [*known, 'all'])}")
    return found


def _experiment(table: Mapping[str, Any], where: str) -> Experiment:
    where = f"{where} {table.get('name', '?')}"
    values = {**table, "rows": table.get("rows", ()), "claims": tuple(table.get("claims", ()))}
    for key in ("rows", "variants"):
        values[key] = tuple(row for entry in values.get(key, ()) for row in _rows(entry, where))
    labels = [row.label for row in (*values["rows"], *values["variants"])]
    for row in (claim[side] for claim in values["claims"] for side in ("better", "worse")):
        if row not in labels:
            raise ConfigurationError(f"{where}: a claim speaks of {row!r}: {nearest(row, labels)}")
    return _made(Experiment, values, where)


def _rows(entry: Mapping[str, Any], where: str) -> list[TableRow]:
    """The row once for each value of its `each`, whose names in braces are replaced; alone in quotes by the value itself."""
    where = f"{where}: row {entry.get('label', '?')!r}"
    each: Mapping[str, list[Any]] = entry.get("each", {})
    found = []
    for values in itertools.product(*each.values()):
        names = dict(zip(each, values))
        text = json.dumps({key: value for key, value in entry.items() if key != "each"})
        for name, value in names.items():
            text = text.replace(f'"{{{name}}}"', json.dumps(value)).replace(f"{{{name}}}", str(value))
        row = json.loads(text)
        if "five" in row:
            row["pooling"], row["layers"] = row.pop("five"), FIVE
        elif "pooling" in names:
            row.setdefault("pooling", names["pooling"])
        if "parts" in row:
            row["parts"] = _made(PartsRow, row["parts"], f"{where}: parts")
        if row.get("published") == NOT_AT_HAND:
            row |= {"published": {}, "lacking": NOT_AT_HAND}
        check_steps(row.get("steps", []), where)
        found.append(_made(TableRow, row, where))
    return found


def _made(kind: type[Made], values: Mapping[str, Any], where: str) -> Made:
    """Make a dataclass of a table, its lists as tuples; ConfigurationError names a key that it does not know or lacks."""
    known = [key.name for key in fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigurationError(f"{where}: unknown key {key!r}: {nearest(key, known)}")
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigurationError(f"{where}: {error}") from None
