"""Write a blend of submissions, with the figures to expect of it where those of its parts on validation are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.leaderboard import Row, file_digest, read_rows
from competition.metrics import WHOLE_LISTS, query_figures
from features.recipes.kept import ranked_among
from submissions.blending import Lists, blend_files, write_scores
from submissions.submitting import record_expected
from submissions.writing import write_submission
from tuning.evaluating import figures
from tuning.labelled import labelled_queries


def write_blend(
    configuration: Configuration,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    method: str,
    out: Path | None,
    queries: Mapping[str, Sequence[str]],
    gallery: Sequence[str],
) -> dict:
    """Write the blend of submission files of one split and note it on the leaderboard; returns what it is.

    expected: the figures of the same blend of the parts' validation submissions, {} with `unknown`, the reason, where
    one of those is not there.
    """
    competition = configuration.competition

    def blend_of(paths: Sequence[Path]) -> Lists:
        return blend_files(
            paths,
            weights,
            splits=queries,
            gallery_ids=gallery,
            top_k=competition.top_k,
            form=competition.submission,
            method=method,
        )

    lists = blend_of(files)
    path = out or Path(competition.work) / "submissions" / f"blend-{lists.split}.csv"
    write_submission(path, lists.query_ids, lists.ranks, gallery, competition.top_k, competition.submission)
    if lists.scores is not None:
        write_scores(path, lists.query_ids, lists.scores)
    values = {
        "file": str(path),
        "sha256": file_digest(path),
        "split": lists.split,
        "queries": len(lists.query_ids),
        "of": [str(file) for file in files],
        "recipe": f"blend of {', '.join(Path(file).stem for file in files)}",
        "weights": list(weights or [1.0] * len(files)),
        "expected": {},
    }
    data = ranked_among(configuration)
    try:
        if competition.metric == WHOLE_LISTS:
            raise Top7Error("mAP is of whole lists, which submissions do not hold")
        parts = list(files) if lists.split == "validation" else _on_validation(configuration, files, data)
        labelled = labelled_queries(configuration, gallery)
        found = query_figures(blend_of(parts).ranks, labelled.relevant, competition.top_k, competition.metric)
        values["expected"] = figures(found, labelled)
    except (ConfigurationError, Top7Error) as error:
        values["unknown"] = str(error)
    record_expected(competition.work, values, data or {})
    return values


def _on_validation(
    configuration: Configuration, files: Sequence[Path], data: Mapping[str, object] | None
) -> list[Path]:
    """For each test submission the validation submission of the same recipe on the same data, by the leaderboard."""
    work = Path(configuration.competition.work)
    rows = read_rows(work, data)
    found = []
    for file in files:
        digest = file_digest(file)
        own = next((row for row in rows if row.sha256 == digest and "recipe" in row.details), None)
        if own is None:
            raise Top7Error(f"the leaderboard knows no recipe for {file}")
        path = next(
            (
                folder / row.file
                for row in rows
                if _same_recipe(row, own) and not row.unlike
                for folder in (Path(file).parent, work / "submissions")
                if (folder / row.file).is_file() and file_digest(folder / row.file) == row.sha256
            ),
            None,
        )
        if path is None:
            recipe = own.details["recipe"]
            raise Top7Error(
                f"no validation submission of {recipe}, the recipe of {file}: "
                f"./run.sh submit --split validation --recipe {recipe} writes it"
            )
        found.append(path)
    return found


def _same_recipe(row: Row, own: Row) -> bool:
    told = [(each.details.get("recipe"), each.details.get("weights")) for each in (row, own)]
    return row.split == "validation" and told[0] == told[1]
