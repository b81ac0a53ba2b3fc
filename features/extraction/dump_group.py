"""The dumps that one pass fills together: a window's computed, taken over and copied rows, and the sidecars at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from competition.errors import Top7Error
from competition.images import ids_digest
from competition.messages import log
from features.dumps import row_sums
from features.dumps.dump import mapped_rows
from features.dumps.dump_writer import DumpWriter, record_type
from features.dumps.journal import unfinished
from features.dumps.layout import Target
from features.dumps.writer import label_of
from features.extraction.batching import Window

IMAGE = [("size_bytes", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,)), ("by", "u1")]


class EarlierDump:
    """A finished dump whose rows may be taken over. row_of: (n,) int64, its row of each image of now, -1 for none."""

    def __init__(self, path: Path, sidecar: Mapping, row_of: np.ndarray, settings: list[dict]) -> None:
        self.row_of, self.column = row_of, sidecar["columns"].index(path.name)
        self.matrix = mapped_rows(path, tuple(sidecar["shape"]), sidecar["dtype"])
        kind = record_type(len(sidecar["columns"]), IMAGE)
        self.records = np.memmap(path.parent / sidecar["images"], dtype=kind, mode="r")
        self.unreadable = {entry["row"]: entry["reason"] for entry in sidecar["unreadable"]}
        self.by = settings_by_row(sidecar["settings"], len(self.records), settings)

    def whole(self, rows: np.ndarray) -> np.ndarray:
        """Whether rows are as they were written, by their checksums, (m,) bool."""
        records = self.records[rows]
        sums = row_sums(self.matrix[rows], records["norms"][:, self.column])
        return sums == records["sums"][:, self.column]


class EarlierRows:
    """Rows of finished dumps that need not be computed: the gallery grew, or others are damaged or changed.

    there: (n,) bool, the images that every dump has a row of, computed with the same settings. found: for each dump
    its path, its sidecar and its rows of the images of now, as in `EarlierDump`.
    """

    def __init__(self, found: Sequence[tuple[Path, Mapping, np.ndarray]]) -> None:
        self.settings: list[dict] = []
        self.dumps = {
            path.name: EarlierDump(path, sidecar, row_of, self.settings) for path, sidecar, row_of in found
        }
        first = next(iter(self.dumps.values()))
        self.there = np.ones(len(first.row_of), dtype=bool)
        for dump in self.dumps.values():
            self.there &= (dump.row_of >= 0) & (dump.by[dump.row_of] == first.by[first.row_of])
        records = {sidecar["images"]: sidecar["columns"] for _, sidecar, _ in found}
        self.records_left = [name for name, columns in records.items() if self.dumps.keys() >= set(columns)]

    def whole(self, rows: range) -> np.ndarray:
        """Return those of the rows that are there, and as they were written in every dump, (m,) int64."""
        places = rows.start + np.flatnonzero(self.there[rows.start : rows.stop])
        for dump in self.dumps.values():
            places = places[dump.whole(dump.row_of[places])]
        return places


def settings_by_row(runs: Sequence[Mapping], rows: int, settings: list[dict]) -> np.ndarray:
    """Return the number of each row's settings in `settings`, which grows by new ones, and 0 for row -1, (rows + 1,) uint8."""
    by = np.zeros(rows + 1, dtype=np.uint8)
    for run in runs:
        entry = {key: value for key, value in run.items() if key != "rows"}
        if entry not in settings:
            settings.append(entry)
        by[run["rows"][0] : run["rows"][1]] = settings.index(entry)
    return by


class DumpGroup(DumpWriter):
    """Targets that share a journal and a record of the images.

    The record holds each file's size, time and content hash, and the number (`by`) of the settings it was computed with.
    dumps: {file name: (width, dtype)} of all that an unfinished run began; targets: those that are still wanted.
    `unreadable`: {row: reason} in finished windows; `earlier`: where rows may be taken over from.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        dumps: Mapping[str, tuple[int, str]],
        ids: Sequence[str],
        window_rows: int,
        earlier: EarlierRows | None = None,
    ) -> None:
        self.targets, self.earlier = list(targets), earlier
        self.unreadable: dict[int, str] = {}
        self.settings: list[dict] = list(earlier.settings) if earlier else []
        label = label_of(*dumps, ids_digest(ids))
        super().__init__(
            targets[0].path.parent,
            label,
            dumps,
            ids,
            image=IMAGE,
            record=f"{label}.images.npy",
            window_rows=window_rows,
            unwanted=dumps.keys() - {target.path.name for target in targets},
        )

    @property
    def bytes_needed(self) -> int:
        """What is still to be written: an unfinished run has taken its part already."""
        sidecars = len(self.targets) * (8 * self.rows + sum(len(image_id) + 4 for image_id in self.ids))
        partials = [self.partial(name) for name in self.written]
        there = sum(path.stat().st_size for path in partials if path.exists())
        return max(0, sum(file.size_bytes for file in self.written.values()) + sidecars - there)

    def start(self) -> None:
        """Go on from the journal, or create the files; what was begun otherwise is removed, with a message."""
        for journal, header in unfinished(self.folder):
            if journal != self.journal and not self.written.keys().isdisjoint(header["files"]):
                log.warning(
                    f"{self.folder}: an unfinished run was of other images, of other dumps or of an earlier version: "
                    "its rows are computed again"
                )
                for path in [journal, *self.folder.glob(f".*{journal.name.split('.')[1]}.*")]:
                    self.disk.remove(path)
        super().start()

    def note(self, line: dict) -> None:
        """Take over what the journal says of a finished window."""
        super().note(line)
        self.unreadable |= {int(row): reason for row, reason in line["unreadable"]}
        if len(line["settings"]) > len(self.settings):
            self.settings = line["settings"]

    def pending(self) -> Iterator[tuple[range, list[int]]]:
        """Yield the rows of each window that is not finished, in order, and those of them that must be computed."""
        for rows in self.windows_left():
            taken = set(self.earlier.whole(rows).tolist()) if self.earlier else ()
            yield rows, [row for row in rows if row not in taken]

    def write_window(self, window: Window) -> None:
        """Write one window: rows that were not computed are those of the earlier dumps, or copies of rows before them."""
        rows = window.rows
        if window.settings not in self.settings:
            self.settings = [*self.settings, window.settings]
        records = np.zeros(len(rows), dtype=self.files[self.record].dtype)
        records["by"] = self.settings.index(window.settings)
        for place, (size_bytes, mtime_ns, sha256) in window.pictures.items():
            records["size_bytes"][place], records["mtime_ns"][place] = size_bytes, mtime_ns
            records["sha256"][place] = np.frombuffer(sha256, dtype=np.uint8)

        def original(values: np.ndarray, name: str, row: int) -> np.ndarray:
            return values[row - rows.start] if row in rows else self.read(name, range(row, row + 1))[0]

        unreadable = dict(window.unreadable)
        matrices: dict[str, np.ndarray] = {}
        taken = np.array(
            [place for place in range(len(rows)) if place not in window.pictures], dtype=np.int64
        )
        assert not len(taken) or (self.earlier and self.earlier.there[rows.start + taken].all())
        for t, target in enumerate(self.targets):
            name = target.path.name
            column, file = self.dumps.index(name), self.files[name]
            matrices[name] = matrix = np.zeros((len(rows), *file.shape[1:]), dtype=file.dtype)
            if t in window.descriptors:
                matrix[:], records["norms"][:, column] = window.descriptors[t], window.norms[t]
            if self.earlier and len(taken):
                dump = self.earlier.dumps[name]
                old = dump.row_of[rows.start + taken]
                matrix[taken] = dump.matrix[old]
                known = dump.records[old]
                records["norms"][taken, column] = known["norms"][:, dump.column]
                for field in ("size_bytes", "mtime_ns", "sha256"):
                    records[field][taken] = known[field]
                records["by"][taken] = dump.by[old]
                of_row = zip((rows.start + taken).tolist(), old.tolist())
                unreadable |= {row: dump.unreadable[was] for row, was in of_row if was in dump.unreadable}
            for place, row in window.copies.items():
                matrix[place] = original(matrix, name, row)
        for place, row in window.copies.items():
            known = original(records, self.record, row)
            records["norms"][place], records["by"][place] = known["norms"], known["by"]
            if row in unreadable:  # the network gives nothing finite for this content
                unreadable[rows.start + place] = unreadable[row]
        noted = sorted(unreadable.items())
        self.write_rows(rows, matrices, records, unreadable=noted, settings=self.settings)

    def known_contents(self) -> dict[bytes, int]:
        """Return {content hash: first row} of the readable images of finished windows."""
        known: dict[bytes, int] = {}
        for rows in map(self.window, np.flatnonzero(self.done).tolist()):
            for row, entry in zip(rows, self.read(self.record, rows)):
                if row not in self.unreadable:
                    known.setdefault(entry["sha256"].tobytes(), row)
        return known

    def add_contents(self, window: Window, known: dict[bytes, int]) -> None:
        """Add those of the images of a window that were computed or are taken over to `known`."""
        for place in window.computed:
            known.setdefault(window.pictures[place][2], window.rows.start + place)
        if self.earlier:
            dump = next(iter(self.earlier.dumps.values()))
            for row, old in zip(window.rows, dump.row_of[window.rows].tolist()):
                if row - window.rows.start not in window.pictures and old not in dump.unreadable:
                    known.setdefault(dump.records[old]["sha256"].tobytes(), row)

    def finish_group(self) -> None:
        """Give the complete dumps their names."""
        self.commit()
        if not self.done.all():
            raise Top7Error(f"{self.journal}: {int((~self.done).sum())} windows are not finished")
        by = self.mapped(self.record)["by"]
        cuts = [0, *(np.flatnonzero(np.diff(by)) + 1).tolist(), len(by)]
        spans = [[first, end] for first, end in zip(cuts, cuts[1:]) if end > first]
        records_left = self.earlier.records_left if self.earlier else ()
        self.finish_dumps(
            {target.path.name: target.recipe for target in self.targets},
            self.unreadable,
            gone=[name for name in records_left if name != self.record],
            settings=[{"rows": span, **self.settings[by[span[0]]]} for span in spans],
            window_rows=self.window_rows,
            images=self.record,
            columns=self.dumps,
        )
