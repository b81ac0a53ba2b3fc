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
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from competition.errors import ConfigurationError, nearest
from features.ranking.steps import check_steps

FOLDER = Path(__file__).parent
FIVE = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
NOT_AT_HAND = "not at hand"


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
    """One line of a table. layers: shallow to deep, empty for a published figure alone or for parts."""

    label: str
    published: Mapping[str, float] = field(default_factory=dict)
    not_at_hand: bool = False
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


ROW = (*(key for key in TableRow.__dataclass_fields__ if key != "not_at_hand"), "five", "each")


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


SHARED = ("paper", "data", "network", "learn", "fallback_dim")
KEYS = tuple(key for key in Experiment.__dataclass_fields__ if key != "dims")


def experiments(folder: Path = FOLDER) -> dict[str, Experiment]:
    """Return every experiment by name, in the order of the files; ConfigurationError names file and key of a fault."""
    found: dict[str, Experiment] = {}
    for path in sorted(Path(folder).glob("*.toml")):
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: not valid TOML: {' '.join(str(error).split())}") from None
        own: list[Experiment] = []
        for number, table in enumerate(document.get("experiment", []), start=1):
            shared = {key: document[key] for key in SHARED if key in document}
            where = f"{path}: [[experiment]] {table.get('name', number)}"
            own.append(_experiment({**shared, **table}, where))
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
    _known(table, KEYS, where)
    for key in ("name", "title", "rows", "network"):
        if key not in table:
            raise ConfigurationError(f"{where}: {key} is missing")
    values = dict(table)
    for key in ("rows", "variants"):
        values[key] = tuple(row for entry in table.get(key, []) for row in _rows(entry, where))
    labels = [row.label for row in (*values["rows"], *values["variants"])]
    for claim in table.get("claims", []):
        _known(claim, ("text", "better", "worse", "same"), f"{where}: a claim")
        for row in (claim["better"], claim["worse"]):
            if row not in labels:
                raise ConfigurationError(f"{where}: a claim speaks of {row!r}: {nearest(row, labels)}")
    return Experiment(**values | {key: tuple(table.get(key, ())) for key in ("data", "claims")})


def _rows(entry: Mapping[str, Any], where: str) -> list[TableRow]:
    where = f"{where}: row {entry.get('label', '?')!r}"
    _known(entry, ROW, where)
    each: Mapping[str, list[Any]] = entry.get("each", {})
    found = []
    for values in itertools.product(*each.values()):
        names = dict(zip(each, values))
        row = _filled({key: value for key, value in entry.items() if key != "each"}, names)
        if "five" in row:
            row["pooling"], row["layers"] = row.pop("five"), FIVE
        elif "pooling" in names:
            row.setdefault("pooling", names["pooling"])
        if "parts" in row:
            _known(row["parts"], PartsRow.__dataclass_fields__, f"{where}: parts")
            row["parts"] = PartsRow(**row["parts"])
        if row.get("published") == NOT_AT_HAND:
            row |= {"published": {}, "not_at_hand": True}
        check_steps(row.get("steps", []), where)
        for key in ("layers", "weights", "steps"):
            row[key] = tuple(row.get(key, ()))
        found.append(TableRow(**row))
    return found


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    """Return the value with each "{name}" replaced; a text that is "{name}" alone becomes the value itself."""
    if isinstance(value, str):
        for name, item in names.items():
            if value == f"{{{name}}}":
                return item
            value = value.replace(f"{{{name}}}", str(item))
        return value
    if isinstance(value, Mapping):
        return {key: _filled(item, names) for key, item in value.items()}
    return [_filled(item, names) for item in value] if isinstance(value, list) else value


def _known(table: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigurationError(f"{where}: unknown key {key!r}: {nearest(key, list(keys))}")
