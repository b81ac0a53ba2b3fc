"""The papers' experiments as they stand in experiments/*.toml: read, checked, and their rows multiplied out.

A row is a published figure and how ours is made: `five` (a pooling: the five VGG layers under it) or `layers` with
`pooling`, `weights`, or `parts` {count, dim, exponent, form, selection, variant, layer}, and `steps`. Beside them `seeds`
(parts chosen at random so often), `random` and `optimum` (of a region), and `each`: the row once for each value, which
stands for "{name}" wherever that is written. A row without any of them is a published figure alone.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from competition.errors import ConfigurationError, nearest
from features.ranking.steps import check_steps

FOLDER = Path(__file__).parent / "experiments"
FIVE = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
ROW = (
    "label",
    "published",
    "five",
    "layers",
    "pooling",
    "weights",
    "parts",
    "steps",
    "seeds",
    "random",
    "optimum",
    "each",
)
PARTS = ("count", "dim", "exponent", "form", "selection", "variant", "layer", "seed")


@dataclass(frozen=True)
class Row:
    """One line of a table. layers: shallow to deep, empty for a published figure alone or for parts."""

    label: str
    published: Mapping[str, float]
    layers: tuple[str | int, ...] = ()
    pooling: str = "fcrow"
    weights: tuple[float, ...] = ()
    parts: Mapping[str, object] | None = None
    steps: tuple[dict, ...] = ()
    seeds: int = 1
    random: str | None = None
    optimum: str | None = None

    @property
    def ours(self) -> bool:
        """Whether there is anything to run."""
        return bool(self.layers) or self.parts is not None


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper. network: a [[backbone]] table without layers; learn: data set -> where parts are learnt."""

    name: str
    title: str
    paper: str
    data: tuple[str, ...]
    network: Mapping[str, object]
    rows: tuple[Row, ...]
    variants: tuple[Row, ...] = ()
    learn: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Mapping[str, object], ...] = ()
    note: str = ""
    figure: str = "score"
    fallback_dim: int = 0
    membership: bool = False
    picture: bool = False
    parts_page: bool = False
    dims: tuple[int, ...] = ()  # every M of the same file, so that its experiments share their dumps


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
        rows = [row for each in own for row in (*each.rows, *each.variants) if row.parts is not None]
        dims = tuple(sorted({int(row.parts["dim"]) for row in rows}))
        found |= {each.name: replace(each, dims=dims) for each in own}
    return found


def chosen(name: str, folder: Path = FOLDER) -> list[Experiment]:
    """Return the experiment `name`, or all whose name starts with it ("pwa", "fcrow", "all")."""
    known = experiments(folder)
    found = [each for key, each in known.items() if key == name] or [
        each for key, each in known.items() if name == "all" or key.startswith(f"{name}-")
    ]
    if not found:
        raise ConfigurationError(f"no experiment {name!r}: {nearest(name, [*known, 'all'])}")
    return found


def _experiment(table: Mapping, where: str) -> Experiment:
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
        for key in ("better", "worse"):
            if claim[key] not in labels:
                raise ConfigurationError(
                    f"{where}: a claim speaks of {claim[key]!r}: {nearest(claim[key], labels)}"
                )
    return Experiment(
        **{**values, "data": tuple(table.get("data", ())), "claims": tuple(table.get("claims", ()))}
    )


def _rows(entry: Mapping, where: str) -> list[Row]:
    where = f"{where}: row {entry.get('label', '?')!r}"
    _known(entry, ROW, where)
    each = entry.get("each", {})
    found = []
    for values in itertools.product(*each.values()):
        row = _filled({key: value for key, value in entry.items() if key != "each"}, dict(zip(each, values)))
        if "five" in row:
            row["pooling"], row["layers"] = row.pop("five"), FIVE
        elif "pooling" in dict(zip(each, values)):
            row.setdefault("pooling", dict(zip(each, values))["pooling"])
        _known(row.get("parts", {}), PARTS, f"{where}: parts")
        check_steps(row.get("steps", []))
        layers, weights = tuple(row.get("layers", ())), tuple(row.get("weights", ()))
        if weights and len(weights) != len(layers):
            raise ConfigurationError(
                f"{where}: {len(weights)} weights for {len(layers)} layers: give one each"
            )
        row |= {"layers": layers, "weights": weights, "steps": tuple(row.get("steps", ()))}
        found.append(Row(**{"published": {}, **row}))
    return found


def _filled(value: object, names: Mapping[str, object]) -> object:
    """The value with "{name}" replaced wherever it stands; alone it takes the value itself, not its text."""
    if isinstance(value, str):
        for name, item in names.items():
            if value == f"{{{name}}}":
                return item
            value = value.replace(f"{{{name}}}", str(item))
        return value
    if isinstance(value, Mapping):
        return {key: _filled(item, names) for key, item in value.items()}
    return [_filled(item, names) for item in value] if isinstance(value, list) else value


def _known(table: Mapping, keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigurationError(f"{where}: unknown key {key!r}: {nearest(key, keys)}")
