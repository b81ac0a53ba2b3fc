"""The one store: dumps and everything else that is computed row by row and kept on the disk."""

from features.dumps.dump import (
    DAMAGE,
    Dump,
    bad_rows,
    column_sum,
    file_label,
    open_dump,
    recipe_digest,
    row_sums,
)
from features.dumps.dump_writer import write_dump
from features.dumps.sidecar import DamagedSidecar, beside, read_sidecar, sidecar_for
from features.dumps.writer import npy_header

__all__ = [
    "DAMAGE",
    "DamagedSidecar",
    "Dump",
    "bad_rows",
    "beside",
    "column_sum",
    "file_label",
    "npy_header",
    "open_dump",
    "read_sidecar",
    "recipe_digest",
    "row_sums",
    "sidecar_for",
    "write_dump",
]
