"""The arguments of every command; run as a program, before any package is there, it shows help or a mistake."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from competition.errors import nearest
from competition.printable import printable

PROGRAM = (
    "top7" if Path(sys.argv[0]).stem == "top7" else "./run.sh"
)  # the installed script, or the repository's


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(printable(f"top7: {self.prog}: {message}: see {self.prog} --help"), file=sys.stderr)
        raise SystemExit(2)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments; ends the process with 2 on a usage error, with 0 after --help."""
    parser, commands = _parsers()
    if list(arguments) in ([], ["help"], ["-h"], ["--help"]):
        print(f"usage: {PROGRAM} COMMAND [OPTIONS]        every command takes --help\n")
        print("\n".join(f"  {name:<12} {each.description}" for name, each in commands.items()), flush=True)
        raise SystemExit(0)
    name, *rest = arguments
    if name == "help":
        name, *rest = *rest, "--help"
    if name not in commands:
        parser.error(f"no command {name!r}: {nearest(name, commands)}")
    if name == "test" and not {"-h", "--help"} & set(rest):
        return argparse.Namespace(command=name, debug=False)  # the rest is pytest's
    known = list(commands[name]._option_string_actions)
    for word in rest[: rest.index("--") if "--" in rest else None]:
        option = word.partition("=")[0]
        if word.startswith("--") and not any(each.startswith(option) for each in known):
            commands[name].error(f"no option {option}: {nearest(option, known)}")
    options, unknown = parser.parse_known_args([name, *rest])
    if unknown:
        commands[name].error(f"one word too many, {unknown[0]!r}")
    return options


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of all, and each command's own."""
    parser = _Parser(prog=PROGRAM, description="top7: from product images to a top-7 submission you trust")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    demo = _command(
        commands, "demo", "the whole road on the embedded mini competition, offline", config=False
    )
    demo.add_argument("--seed", type=_whole(0), default=0, help="seed of the competition's generator (0)")
    demo.add_argument(
        "--trials", type=_whole(1), default=None, help="trials of the study (the configuration's)"
    )

    commands.add_parser(
        "test",
        usage=f"{PROGRAM} test [PYTEST ARGUMENTS]",
        description="run the tests (arguments go to pytest); no network after set-up",
    )
    init = _command(
        commands, "init", "look at a folder of images and write a first configuration", config=False
    )
    init.add_argument("folder", type=Path, metavar="FOLDER")
    init.add_argument("--out", type=Path, metavar="FILE", help="what to write (NAME-OF-FOLDER.toml, here)")
    init.add_argument("--model", metavar="NAME", help="a timm model (recommended for this machine)")
    init.add_argument("--weights", type=Path, metavar="FILE", help="its weights in a local file (timm's own)")
    extract = _command(
        commands,
        "extract",
        "fill the descriptor dumps of gallery, validation and test; what is there is kept",
    )
    extract.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    extract.add_argument(
        "--limit",
        type=_whole(1),
        metavar="N",
        help="a seeded sample of the gallery that holds every labelled positive; its scores are optimistic",
    )
    extract.add_argument(
        "--jobs", type=_whole(1), default=1, metavar="N", help="processes on this machine (1)"
    )
    _cluster(extract)
    extract.add_argument(
        "--check-content",
        action="store_true",
        help="compare content hashes, not only where a file's size or time differ",
    )

    extract.add_argument(
        "--drop-gone",
        action="store_true",
        help="drop the rows of images that are gone from finished dumps (without it, extract ends with their count)",
    )

    _command(commands, "verify", "prove every dump whole, or name its bad rows, which extract then repairs")

    duplicates = _command(
        commands, "duplicates", "group gallery images with the same content, or that look alike; writes a CSV"
    )
    duplicates.add_argument(
        "--near",
        type=_cosine,
        metavar="COSINE",
        help="images chained by this cosine or more in the deepest layer's dump; time grows with the square",
    )

    doctor = _command(
        commands,
        "doctor",
        "say what of a data set or a competition is missing, misnamed, corrupt or of the wrong size",
    )
    doctor.add_argument(
        "--data", type=Path, metavar="DIR", help="a data set as its archives unpack, or a folder of several"
    )
    reproduce = _command(
        commands, "reproduce", "rerun an experiment of the papers: the published figure, ours, the difference"
    )
    reproduce.add_argument(
        "name", nargs="?", metavar="NAME", help="as listed without it; pwa, fcrow and all: all of them"
    )
    reproduce.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where the archives of Oxford5k, Paris6k, Holidays, … were unpacked; or one folder each, of these names",
    )
    reproduce.add_argument(
        "--distractors", type=Path, metavar="DIR", help="further images for the gallery (Flickr 100k)"
    )
    reproduce.add_argument(
        "--variants", action="store_true", help="the other readings of what a paper leaves open, beside ours"
    )
    reproduce.add_argument(
        "--weights", metavar="FILE", help="the network's weights in a local file (timm's own)"
    )
    reproduce.add_argument(
        "--image-size", type=_whole(0), metavar="PX", dest="image_size", help="longer side (the recipe's)"
    )
    reproduce.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    _cluster(reproduce)

    tune = _command(commands, "tune", "the Optuna study; the same command again adds no trials")
    tune.add_argument(
        "--trials", type=_whole(1), metavar="N", help="trials of the study in total (the configuration's)"
    )
    tune.add_argument("--seed", type=_whole(0), metavar="S", help="seed of the study (the configuration's)")
    tune.add_argument(
        "--folds", type=_whole(0), metavar="K", help="folds of the cross-validation (5; 0: none)"
    )
    tune.add_argument(
        "--repeats", type=_whole(1), default=2, metavar="R", help="repeats of the cross-validation (2)"
    )
    tune.add_argument(
        "--certify",
        type=_positive,
        metavar="SECONDS",
        help="then search the region by branch and bound: best weights and a proven bound on MAP",
    )
    tune.add_argument(
        "--certify-all", action="store_true", help="certify over all discrete choices, not the best recipe's"
    )
    tune.add_argument(
        "--recipes", action="store_true", help="also tune each recipe by name, with as many trials"
    )
    _recipe(tune, "a recipe to tune: its weights and steps; one that tune wrote: its choices, fixed")
    _cluster(tune)

    submit = _command(commands, "submit", "write the submission of the best recipe")
    submit.add_argument("--split", choices=("test", "validation"), default="test")
    submit.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write it (work/…/submissions/RECIPE-SPLIT.csv)"
    )
    submit.add_argument(
        "--distinct",
        nargs="?",
        type=_cosine,
        const=True,
        default=False,
        metavar="COSINE",
        help="of gallery files with the same content list only the first; with a COSINE (such as 0.98): nor "
        "any image that looks like a better one of its list, by the deepest layer's dump",
    )
    _recipe(submit, "the recipe (the best by validated figure; best: the last study's)")
    _index(submit)
    _cluster(submit)

    check = _command(
        commands, "check", "say whether a CSV would be accepted: every fault with its line number"
    )
    check.add_argument("file", type=Path, metavar="FILE")

    score = _command(commands, "score", "MAP@7 of a CSV against labels; records it on the leaderboard")
    score.add_argument("file", type=Path, metavar="FILE")
    score.add_argument("--labels", type=Path, metavar="FILE", help="label file (the configuration's)")

    leaderboard = _command(commands, "leaderboard", "the local leaderboard")
    leaderboard.add_argument(
        "--record", nargs=2, metavar=("FILE", "SCORE"), help="note the official score of an uploaded file"
    )

    predict = _command(commands, "predict", "a folder of unseen query images in, the submission out")
    predict.add_argument("input_dir", type=Path, metavar="INPUT_DIR")
    predict.add_argument("output_csv", type=Path, metavar="OUTPUT_CSV")
    predict.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    predict.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        default=os.environ.get("TOP7_BUNDLE"),
        help="answer from a bundle alone, without --config (default: the variable TOP7_BUNDLE)",
    )
    predict.add_argument(
        "--check-content",
        action="store_true",
        help="first compare every byte of the bundle with its manifest",
    )
    _recipe(predict, "the recipe (the best by validated figure; best: the last study's)")
    _index(predict)

    bundle = _command(
        commands, "bundle", "one folder that predict needs and no more: recipe, dumps, weights, checksums"
    )
    bundle.add_argument("--out", type=Path, metavar="DIR", help="where to make it (work/…/bundle)")
    _recipe(bundle, "the recipe (the best by validated figure; best: the last study's)")
    _index(bundle)

    compare = _command(
        commands, "compare", "several recipes on the same dumps: one table with paired intervals"
    )
    compare.add_argument(
        "recipes", nargs="*", metavar="NAME|FILE", help="recipes (default: the study's and all by name)"
    )
    _index(compare)
    _cluster(compare)

    blend = _command(commands, "blend", "average finished submissions of one split by rank or score")
    blend.add_argument("files", nargs="+", type=Path, metavar="CSV")
    blend.add_argument("--weights", nargs="+", type=_positive_weight, metavar="W", help="one each (equal)")
    blend.add_argument("--method", choices=("rank", "reciprocal", "score"), default="rank")
    blend.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write it (work/…/submissions/blend-SPLIT.csv)"
    )

    recipes = _command(
        commands, "recipes", "the recipes by name and those kept under work, with their figures"
    )
    recipes.add_argument("name", nargs="?", metavar="NAME", help="explain this one")

    clean = _command(
        commands, "clean", "remove what no current recipe, study or submission needs, and say how much"
    )
    clean.add_argument("--dry-run", action="store_true", help="say so, and remove nothing")

    report = _command(commands, "report", "one folder of pages to look at: leaderboard, sheets, study, data")
    report.add_argument("--out", type=Path, metavar="DIR", help="the folder to write (work/…/report)")
    report.add_argument(
        "--labels", type=Path, metavar="FILE", help="labels of the test queries, where there are any"
    )

    parts = _command(
        commands,
        "parts",
        "a page of the part detectors: the images that excite each most, weight maps on top",
    )
    parts.add_argument("--top", type=_whole(1), default=12, help="detectors shown (12)")
    parts.add_argument("--images", type=_whole(1), default=6, help="pictures a detector (6)")
    parts.add_argument("--out", type=Path, metavar="FILE", help="where to write the page (work/…/parts.html)")
    parts.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser, dict(commands.choices)


def _command(commands, name: str, description: str, *, config: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=description, description=description)
    if config:
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="TOML configuration (without it: the embedded mini competition)",
        )
    command.add_argument("--work", type=Path, metavar="DIR", help="where dumps, studies and submissions go")
    command.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _recipe(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--recipe", metavar="NAME|FILE", help=text)


def _cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cluster", metavar="ADDRESS", help="a Dask scheduler whose workers see the same files"
    )


def _index(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--index",
        metavar="KIND",
        help="search by an approximate index, built once, instead of exactly: "
        "hnsw, ivfpq or ivf_ondisk; its recall is printed",
    )


def _whole(minimum: int):
    def parse_whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
        return value

    return parse_whole


def _positive_weight(text: str) -> float:
    try:
        return _positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive weight") from None


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a cosine above 0 and up to 1, such as 0.98")
    return value


if __name__ == "__main__":
    try:
        parse(sys.argv[1:])
    except BrokenPipeError:  # the reader left, as `| head` does
        os._exit(1)
