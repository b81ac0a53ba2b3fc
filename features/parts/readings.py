"""The readings of the PWA paper by name, and what of a parts table can be refused before any image is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from competition.configuration import Parts
from competition.errors import ConfigurationError, nearest
from features.parts import selection

FORMS = ("NxC", "NxN")


@dataclass(frozen=True)
class Variant:
    """A reading of the paper.

    root: the exponent 1/alpha in eq. 2; centred: the mean is subtracted before eq. 4; power: of the exponent (2:
    eigenvalues in place of singular values); shrunk: Ledoit-Wolf before whitening.
    """

    root: bool = True
    centred: bool = True
    power: float = 1.0
    shrunk: bool = False


# the last L2, which eq. 4 lacks, is in all of them: dumps are unit rows and scores are cosines
VARIANTS = {
    "default": Variant(),
    "printed-weights": Variant(root=False),
    "uncentred": Variant(centred=False),
    "eigenvalues": Variant(power=2.0),
    "printed": Variant(root=False, centred=False),
    "ledoit-wolf": Variant(shrunk=True),
}


def check_parts(parts: Parts, where: str) -> None:
    """Raise ConfigurationError for an unknown form or variant; `where` names the table."""
    if parts.form not in FORMS:
        raise ConfigurationError(f"{where}: unknown form {parts.form!r}: {nearest(parts.form, FORMS)}")
    if parts.variant not in VARIANTS:
        raise ConfigurationError(
            f"{where}: unknown variant {parts.variant!r}: {nearest(parts.variant, VARIANTS)}"
        )
    possible = parts.training_images - VARIANTS[parts.variant].centred
    if max(parts.dims) > possible:
        raise beyond_rank(where, max(parts.dims), possible, f"training_images = {parts.training_images}")
    selection_key(parts)


def selection_key(parts: Parts) -> str | list[int]:
    """Return what identifies the selection: its name, or the channels that the given file lists."""
    if parts.selection in selection.SELECTIONS:
        return parts.selection
    if not Path(parts.selection).is_file():
        raise ConfigurationError(
            f"parts of layer {parts.layer!r}: selection {str(parts.selection)!r} is no file with an order of detectors,"
            f" nor one of {', '.join(selection.SELECTIONS)}"
        )
    return selection.read_order(Path(parts.selection))


def beyond_rank(where: str, dims: int, rank: int, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{where}: dims holds {dims}, but {what} give {rank} dimensions: ask for at most {rank}, or raise training_images"
    )
