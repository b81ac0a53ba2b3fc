"""The arguments of every command; run as a program, before any package is there, it shows help or a mistake."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from competition.errors import nearest
from competition.printable import printable

PROGRAM = (
    "top7" if Path(sys.argv[0]).stem == "top7" else "./run.sh"
)  # the installed script, or the repository's
DEVICES = ("auto", "cpu", "cuda")
RECIPE, BEST = "--recipe NAME|FILE", "the recipe (the best by validated figure; best: the last study's)"
CLUSTER = ("--cluster ADDRESS", "a Dask scheduler whose workers see the same files")
INDEX = (
    "--index KIND",
    "search by an approximate index, built once, instead of exactly: "
    "hnsw, ivfpq or ivf_ondisk; its recall is printed",
)


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(printable(f"top7: {self.prog}: {message}: see {self.prog} --help"), file=sys.stderr)
        raise SystemExit(2)

    def option(self, name: str, text: str | None, kind: Any = None, default: Any = None, **more: Any) -> None:
        """Add an argument: "FILE", "--out FILE" with the name of its value, or "--debug", a switch."""
        flag, _, value = name.partition(" ")
        if not flag.startswith("-"):
            self.add_argument(flag.lower(), help=text, type=kind, metavar=flag, **more)
        elif value:
            self.add_argument(flag, help=text, type=kind, default=default, metavar=value, **more)
        else:
            self.add_argument(flag, help=text, action="store_true")

    def choice(self, flag: str, default: str, *others: str) -> None:
        """Add an option that is one of some words."""
        self.add_argument(flag, choices=(default, *others), default=default)


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


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of all, and each command's own."""
    parser = _Parser(prog=PROGRAM, description="top7: from product images to a top-7 submission you trust")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, text: str, *, config: bool = True) -> _Parser:
        made = commands.add_parser(name, help=text, description=text)
        if config:
            made.option(
                "--config FILE", "TOML configuration (without it: the embedded mini competition)", Path
            )
        made.option("--work DIR", "where dumps, studies and submissions go", Path)
        made.option("--json", "the result as one JSON object on stdout")
        made.option("--debug", "show the traceback of an error")
        return made

    demo = command("demo", "the whole road on the embedded mini competition, offline", config=False)
    demo.option("--seed SEED", "seed of the competition's generator (0)", _whole(0), 0)
    demo.option("--trials TRIALS", "trials of the study (the configuration's)", _whole(1))

    commands.add_parser(
        "test",
        usage=f"{PROGRAM} test [PYTEST ARGUMENTS]",
        description="run the tests (arguments go to pytest); no network after set-up",
    )

    init = command("init", "look at a folder of images and write a first configuration", config=False)
    init.option("FOLDER", None, Path)
    init.option("--out FILE", "what to write (NAME-OF-FOLDER.toml, here)", Path)
    init.option("--model NAME", "a timm model (recommended for this machine)")
    init.option("--weights FILE", "its weights in a local file (timm's own)", Path)

    extract = command(
        "extract", "fill the descriptor dumps of gallery, validation and test; what is there is kept"
    )
    extract.choice("--device", *DEVICES)
    sample = "a seeded sample of the gallery that holds every labelled positive; its scores are optimistic"
    extract.option("--limit N", sample, _whole(1))
    extract.option("--jobs N", "processes on this machine (1)", _whole(1), 1)
    extract.option(*CLUSTER)
    extract.option("--check-content", "compare content hashes, not only where a file's size or time differ")
    extract.option(
        "--drop-gone",
        "drop the rows of images that are gone from finished dumps (without it, extract ends with their count)",
    )

    command("verify", "prove every dump whole, or name its bad rows, which extract then repairs")

    duplicates = command(
        "duplicates", "group gallery images with the same content, or that look alike; writes a CSV"
    )
    chained = "images chained by this cosine or more in the deepest layer's dump; time grows with the square"
    duplicates.option("--near COSINE", chained, _cosine)

    doctor = command(
        "doctor", "say what of a data set or a competition is missing, misnamed, corrupt or of the wrong size"
    )
    doctor.option("--data DIR", "a data set as its archives unpack, or a folder of several", Path)

    reproduce = command(
        "reproduce", "rerun an experiment of the papers: the published figure, ours, the difference"
    )
    reproduce.option("NAME", "as listed without it; pwa, fcrow and all: all of them", nargs="?")
    unpacked = "where the archives of Oxford5k, Paris6k, Holidays, … were unpacked; or one folder each, of these names"
    reproduce.option("--data DIR", unpacked, Path)
    reproduce.option("--distractors DIR", "further images for the gallery (Flickr 100k)", Path)
    reproduce.option("--variants", "the other readings of what a paper leaves open, beside ours")
    reproduce.option("--weights FILE", "the network's weights in a local file (timm's own)")
    reproduce.option("--image-size PX", "longer side (the recipe's)", _whole(0))
    reproduce.choice("--device", *DEVICES)
    reproduce.option(*CLUSTER)

    tune = command("tune", "the Optuna study; the same command again adds no trials")
    tune.option("--trials N", "trials of the study in total (the configuration's)", _whole(1))
    tune.option("--seed S", "seed of the study (the configuration's)", _whole(0))
    tune.option("--folds K", "folds of the cross-validation (5; 0: none)", _whole(0))
    tune.option("--repeats R", "repeats of the cross-validation (2)", _whole(1), 2)
    bound = "then search the region by branch and bound: best weights and a proven bound on MAP"
    tune.option("--certify SECONDS", bound, _positive("number of seconds"))
    tune.option("--certify-all", "certify over all discrete choices, not the best recipe's")
    tune.option("--recipes", "also tune each recipe by name, with as many trials")
    tune.option(RECIPE, "a recipe to tune: its weights and steps; one that tune wrote: its choices, fixed")
    tune.option(*CLUSTER)

    submit = command("submit", "write the submission of the best recipe")
    submit.choice("--split", "test", "validation")
    submit.option("--out FILE", "where to write it (work/…/submissions/RECIPE-SPLIT.csv)", Path)
    submit.option(
        "--distinct COSINE",
        "of gallery files with the same content list only the first; with a COSINE (such as 0.98): nor "
        "any image that looks like a better one of its list, by the deepest layer's dump",
        _cosine,
        False,
        nargs="?",
        const=True,
    )
    submit.option(RECIPE, BEST)
    submit.option(*INDEX)
    submit.option(*CLUSTER)

    check = command("check", "say whether a CSV would be accepted: every fault with its line number")
    check.option("FILE", None, Path)

    score = command("score", "MAP@7 of a CSV against labels; records it on the leaderboard")
    score.option("FILE", None, Path)
    score.option("--labels FILE", "label file (the configuration's)", Path)

    leaderboard = command("leaderboard", "the local leaderboard")
    uploaded = "note the official score of an uploaded file"
    leaderboard.add_argument("--record", nargs=2, metavar=("FILE", "SCORE"), help=uploaded)

    predict = command("predict", "a folder of unseen query images in, the submission out")
    predict.option("INPUT_DIR", None, Path)
    predict.option("OUTPUT_CSV", None, Path)
    predict.choice("--device", *DEVICES)
    alone = "answer from a bundle alone, without --config (default: the variable TOP7_BUNDLE)"
    predict.option("--bundle DIR", alone, Path, os.environ.get("TOP7_BUNDLE"))
    predict.option("--check-content", "first compare every byte of the bundle with its manifest")
    predict.option(RECIPE, BEST)
    predict.option(*INDEX)

    bundle = command("bundle", "one folder that predict needs and no more: recipe, dumps, weights, checksums")
    bundle.option("--out DIR", "where to make it (work/…/bundle)", Path)
    bundle.option(RECIPE, BEST)
    bundle.option(*INDEX)

    compare = command("compare", "several recipes on the same dumps: one table with paired intervals")
    several = "recipes (default: the study's and all by name)"
    compare.add_argument("recipes", nargs="*", metavar="NAME|FILE", help=several)
    compare.option(*INDEX)
    compare.option(*CLUSTER)

    blend = command("blend", "average finished submissions of one split by rank or score")
    blend.add_argument("files", nargs="+", type=Path, metavar="CSV")
    blend.option("--weights W", "one each (equal)", _positive("weight"), nargs="+")
    blend.choice("--method", "rank", "reciprocal", "score")
    blend.option("--out FILE", "where to write it (work/…/submissions/blend-SPLIT.csv)", Path)

    recipes = command("recipes", "the recipes by name and those kept under work, with their figures")
    recipes.option("NAME", "explain this one", nargs="?")

    clean = command("clean", "remove what no current recipe, study or submission needs, and say how much")
    clean.option("--dry-run", "say so, and remove nothing")

    report = command("report", "one folder of pages to look at: leaderboard, sheets, study, data")
    report.option("--out DIR", "the folder to write (work/…/report)", Path)
    report.option("--labels FILE", "labels of the test queries, where there are any", Path)

    parts = command(
        "parts", "a page of the part detectors: the images that excite each most, weight maps on top"
    )
    parts.option("--top TOP", "detectors shown (12)", _whole(1), 12)
    parts.option("--images IMAGES", "pictures a detector (6)", _whole(1), 6)
    parts.option("--out FILE", "where to write the page (work/…/parts.html)", Path)
    parts.choice("--device", *DEVICES)
    return parser, dict(commands.choices)


def _read(
    kind: Callable[[str], float], fits: Callable[[float], bool], expected: str
) -> Callable[[str], float]:
    """Read a number that `fits`."""

    def parse_number(text: str) -> float:
        with contextlib.suppress(ValueError):
            if fits(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a {expected}")

    return parse_number


def _whole(minimum: int) -> Callable[[str], float]:
    return _read(int, lambda value: value >= minimum, f"whole number of at least {minimum}")


def _positive(noun: str) -> Callable[[str], float]:
    return _read(float, lambda value: 0 < value < float("inf"), f"positive {noun}")


_cosine = _read(float, lambda value: 0 < value <= 1, "cosine above 0 and up to 1, such as 0.98")


if __name__ == "__main__":
    try:
        parse(sys.argv[1:])
    except BrokenPipeError:  # the reader left, as `| head` does
        os._exit(1)
