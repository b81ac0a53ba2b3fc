"""`clean`: removes from the work folder what no recipe, study or submission needs, and says how much of each kind.

What extraction made for this configuration or for a kept recipe stays, finished or not, with all that was learnt, tuned
and written. Candidates and what steps keep go: they are made again at the next use. No link is followed or removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from competition.atomic import abandoned
from competition.configuration import SIMULATED, SPLITS, USERS, Configuration
from competition.errors import ConfigurationError, Top7Error
from features.dumps import DAMAGE, DamagedSidecar, beside, read_sidecar
from features.dumps.journal import unfinished
from features.dumps.layout import component_path, dumps_folder, views_folder, whole_folder
from features.extraction.verify import split_dumps
from features.recipes.kept import kept_recipes
from features.recipes.recipe import Recipe

DUMP = re.compile(rf"(.+-[0-9a-f]{{12}})(\.npy|\.json|\.norms\.npy|\.sums\.npy|{re.escape(DAMAGE)})")
RECORD = re.compile(r"[0-9a-f]{12}\.images\.npy")
UNFINISHED = (".journal", ".ids", ".partial")  # under the lock of whoever writes them
DUMPS, CACHES, TEMPORARY = "dumps of other settings", "candidates and what steps keep", "temporary files"


def clean(configuration: Configuration, *, dry_run: bool = False) -> dict[str, dict[str, int]]:
    """Remove what is not needed; returns files and bytes by kind. dry_run: only say so.

    Top7Error: a command is writing in one of the folders.
    """
    work = configuration.competition.work.resolve()
    folders = [at for top in ("dumps", "candidates", "ranking") for at in _folders(work / top)]
    with _alone([work, *folders]):
        halves = work.glob(".*.partial")  # a bundle or competition
        left = [path for at in _folders(work) for path in abandoned(at)]
        found = {
            DUMPS: _dumps(configuration, folders, work / "dumps"),
            CACHES: [path for top in ("candidates", "ranking") for path in _files(_folders(work / top))],
            TEMPORARY: left + [path for made in halves for path in _files(_folders(made))],
        }
        report = {
            kind: {"files": len(set(paths)), "bytes": sum(path.stat().st_size for path in set(paths))}
            for kind, paths in found.items()
        }
        if not dry_run:
            _remove(found, work)
    return report


def _remove(found: dict[str, list[Path]], work: Path) -> None:
    for path in (path for paths in found.values() for path in paths):
        if path.name.endswith(".npy"):  # no sidecar is left beside rows that are gone
            beside(path, ".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    tops = [work / "dumps", work / "ranking", *work.glob(".*.partial")]
    for at in sorted({at for top in tops for at in _folders(top)}, reverse=True):
        if not any(at.iterdir()):
            at.rmdir()


def _folders(folder: Path) -> list[Path]:
    """The folder and those below it, links left out; none where it is a link itself or not there."""
    return [] if folder.is_symlink() else [Path(at) for at, *_ in os.walk(folder)]


def _files(folders: Iterable[Path]) -> list[Path]:
    """The files of the folders but for links and locks."""
    paths = [path for at in folders for path in at.iterdir()]
    return [path for path in paths if path.is_file() and not path.is_symlink() and path.suffix != ".lock"]


@contextmanager
def _alone(folders: Sequence[Path]) -> Iterator[None]:
    """Hold every lock in the folders; the system drops those of dead processes."""
    with ExitStack() as held:
        for lock in (path for folder in folders for path in folder.glob("*.lock") if not path.is_symlink()):
            try:
                held.enter_context(FileLock(lock, timeout=0))
            except Timeout:
                raise Top7Error(
                    f"{lock.parent}: a command is writing there: run clean when it has ended"
                ) from None
        yield


def _dumps(configuration: Configuration, folders: Sequence[Path], root: Path) -> list[Path]:
    """The files of dumps that neither the configuration nor a kept recipe names, unfinished ones among them."""
    recipes = kept_recipes(configuration)
    needed = _needed(configuration, recipes)
    splits = (*SPLITS, SIMULATED)
    used = {at(configuration, split).resolve() for split in splits for at in (whole_folder, dumps_folder)}
    used |= {views_folder(dumps_folder(configuration, split)).resolve() for split in USERS}
    samples = [str(recipe.provenance.get("data", {}).get("gallery", "none"))[:8] for recipe in recipes]
    unneeded = []
    for folder in folders:
        if root not in folder.parents or not folder.relative_to(root).parts[0].startswith(splits):
            continue  # not of images
        paths = _files([folder])
        going_on = [
            journal.stem  # the dot and the label that all its files share
            for journal, header in unfinished(folder)
            if needed & {str(name).removesuffix(".npy") for name in header["files"]}
        ]
        if folder not in used and not going_on and not folder.name.endswith(tuple(f"-{s}" for s in samples)):
            unneeded += paths
            continue
        stays = [path for path in paths if (dump := DUMP.fullmatch(path.name)) and dump[1] in needed]
        records = {_record(path) for path in stays if path.suffix == ".json"}
        for path in paths:
            if dump := DUMP.fullmatch(path.name):
                stray = dump[1] not in needed
            elif RECORD.fullmatch(path.name):
                stray = None not in records and path.name not in records
            else:
                hidden = path.name.startswith(".") and path.suffix in UNFINISHED
                stray = hidden and not any(label in path.name for label in going_on)
            unneeded += [path] * stray
    return unneeded


def _needed(configuration: Configuration, recipes: Sequence[Recipe]) -> set[str]:
    """The names, without a suffix, of dumps that the configuration or a kept recipe asks for."""
    needed = {
        path.stem
        for split in (*SPLITS, SIMULATED)
        for paths in split_dumps(configuration, split)
        for path in paths
    }
    for recipe in recipes:
        needed |= {Path(name).stem for name in recipe.provenance.get("data", {}).get("dumps", [])}
        for component in recipe.components:
            if component.external is None:
                with suppress(ConfigurationError, IndexError):  # of another configuration
                    needed.add(component_path(configuration, component, "gallery").stem)
    return needed


def _record(sidecar: Path) -> str | None:
    """The file of the images' record that a dump names; None where that cannot be read: all records then stay."""
    try:
        return read_sidecar(sidecar.with_suffix(".npy")).get("images", "")
    except DamagedSidecar:
        return None
