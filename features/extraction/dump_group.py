"""The dumps that one pass fills together: a window's computed, taken over and copied rows, and the sidecars at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from competition.errors import Top7Error
from competition.images import ids_digest
from competition.messages import log
from features.dumps import sidecar_for
from features.dumps.disk import Disk
from features.dumps.dump_writer import DumpWriter
from features.dumps.journal import read_journal
from features.dumps.layout import Target
from features.dumps.writer import label_of
from features.extraction.batching import Window
from features.extraction.earlier_dumps import EarlierDumps

IMAGE = [("size_bytes", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,)), ("by", "u1")]


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
        disk: Disk,
        earlier: EarlierDumps | None = None,
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
            disk=disk,
        )

    @property
    def bytes_needed(self) -> int:
        """What the finished files take."""
        sidecars = len(self.targets) * (8 * self.rows + sum(len(image_id) + 4 for image_id in self.ids))
        return sum(file.size_bytes for file in self.written.values()) + sidecars

    def bytes_there(self) -> int:
        """What of it an unfinished run has taken already."""
        partials = [self.partial(name) for name in self.written]
        return sum(path.stat().st_size for path in partials if path.exists())

    def start(self) -> None:
        """Go on from the journal, or create the files; what was begun for other images is removed, with a message."""
        for journal in self.folder.glob(".*.journal"):
            lines, _ = read_journal(journal)
            if (
                journal != self.journal
                and lines
                and not self.written.keys().isdisjoint(unfinished_names(lines[0]))
            ):
                label = journal.name.split(".")[1]
                log.warning(
                    f"{self.folder}: an unfinished run was of other images or of an earlier version: its rows are "
                    "computed again"
                )
                for path in [journal, *self.folder.glob(f".*{label}.*")]:
                    self.disk.remove(path)
        super().start()

    def note(self, line: dict) -> None:
        """Take over what the journal says of a finished window."""
        super().note(line)
        self.unreadable |= {int(row): reason for row, reason in line["unreadable"]}
        if len(line["settings"]) > len(self.settings):
            self.settings = line["settings"]

    def write_window(self, number: int, window: Window, columns: Mapping[str, int], settings: dict) -> None:
        """Write one window.

        columns: dump name -> its column in `window`; rows that `window` did not compute come from the earlier dumps,
        copies of earlier rows from what is written already.
        """
        rows = self.window(number)
        if settings not in self.settings:
            self.settings = [*self.settings, settings]
        records = np.zeros(len(rows), dtype=self.files[self.record].dtype)
        records["by"] = self.settings.index(settings)
        window.identify(records)
        unreadable = dict(window.unreadable)
        taken = self.earlier.take(rows) if self.earlier else None
        if taken is not None:
            for field, *_ in IMAGE:
                records[field][taken.places] = taken.records[field]
            unreadable |= taken.unreadable
        given = {*window.computed, *window.copies, *(row - rows.start for row in unreadable)}
        if len(given.union(taken.places.tolist() if taken else ())) < len(rows):
            raise Top7Error(
                f"{self.folder}: finished rows changed while they were read: run the same command again"
            )
        originals = {
            place: self.read(self.record, range(row, row + 1))[0] for place, row in window.copies.items()
        }
        matrices: dict[str, np.ndarray] = {}
        for name in (target.path.name for target in self.targets):
            column, file = self.dumps.index(name), self.files[name]
            matrices[name] = matrix = np.zeros((len(rows), *file.shape[1:]), dtype=file.dtype)
            if name in columns:
                matrix[:] = window.descriptors[columns[name]]
                norms = window.norms[window.computed, columns[name]]
                records["norms"][window.computed, column] = norms
            if taken is not None:
                matrix[taken.places] = taken.matrices[name]
                records["norms"][taken.places, column] = taken.norms[name]
            for place, original in originals.items():
                row = window.copies[place]
                matrix[place] = self.read(name, range(row, row + 1))[0]
                records["norms"][place, column] = original["norms"][column]
        for place, original in originals.items():
            records["by"][place] = original["by"]
        self.write_rows(
            number, matrices, records, unreadable=sorted(unreadable.items()), settings=self.settings
        )

    def known_contents(self, number: int) -> list[tuple[int, bytes, int]]:
        """Return (size in bytes, content hash, row) of the readable images of a finished window."""
        rows = self.window(number)
        return [
            (int(entry["size_bytes"]), entry["sha256"].tobytes(), row)
            for row, entry in zip(rows, self.read(self.record, rows))
            if row not in self.unreadable
        ]

    def finish_group(self) -> None:
        """Give the complete dumps their names."""
        self.commit()
        if not self.done.all():
            raise Top7Error(f"{self.journal}: {int((~self.done).sum())} windows are not finished")
        leftovers = [name for name in (self.earlier.leftovers if self.earlier else ()) if name != self.record]
        self.finish_dumps(self._sidecars(), leftovers)

    def _sidecars(self) -> Iterator[tuple[str, dict]]:
        unreadable = [
            {"row": row, "id": self.ids[row], "reason": reason}
            for row, reason in sorted(self.unreadable.items())
        ]
        by = self.mapped(self.record)["by"]
        cuts = [0, *(np.flatnonzero(np.diff(by)) + 1).tolist(), len(by)]
        runs = [
            {"rows": [first, end], **self.settings[by[first]]}
            for first, end in zip(cuts, cuts[1:])
            if end > first
        ]
        for target in self.targets:
            name = target.path.name
            yield (
                name,
                sidecar_for(
                    shape=(self.rows, self.files[name].shape[1]),
                    dtype=target.dtype,
                    ids=self.ids,
                    recipe=target.recipe,
                    unreadable=unreadable,
                    settings=runs,
                    window_rows=self.window_rows,
                    images=self.record,
                    columns=self.dumps,
                ),
            )


def unfinished_names(header: Mapping) -> set[str]:
    """Return the names of the files that a journal is of, one of an earlier version, too."""
    return set(header.get("files", header.get("targets", ())))
