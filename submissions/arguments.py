"""The arguments of every command; run as a program, before any package is there, it shows help or a mistake."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from competition.errors import nearest
from competition.printable import printable

PROGRAM = "top7" if Path(sys.argv[0]).stem == "top7" else "./run.sh"  # the installed script, or the other


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(printable(f"top7: {self.prog}: {message}: see {self.prog} --help"), file=sys.stderr)
        raise SystemExit(2)

    def take(self, argument: Mapping[str, Any]) -> None:
        """Add an argument as arguments.toml describes it."""
        given = dict(argument)
        name, *values = given.pop("name").split()
        if "type" in given:
            given["type"] = TYPES[given["type"]]
        if not name.startswith("-"):
            given = {"metavar": name, **given}
        elif values:
            given["metavar"] = tuple(values) if len(values) > 1 else values[0]
        elif "choices" not in given:
            given["action"] = "store_true"
        self.add_argument(name.lower(), **given)


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
    told = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    shared = told.pop("shared")
    for name, command in told.items():
        if name == "test":
            commands.add_parser(name, usage=f"{PROGRAM} test [PYTEST ARGUMENTS]", description=command["does"])
            continue
        made = commands.add_parser(name, description=command["does"])
        common = (
            ["work", "json", "debug"] if name in ("demo", "init") else ["config", "work", "json", "debug"]
        )
        for argument in (*common, *command.get("arguments", ())):
            made.take(shared[argument] if isinstance(argument, str) else argument)
    commands.choices["predict"].set_defaults(bundle=os.environ.get("TOP7_BUNDLE"))
    return parser, dict(commands.choices)


def _number(kind: Callable[[str], Any], fits: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """Return what reads a number that `fits`."""

    def parse_number(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if fits(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a {expected}")

    return parse_number


TYPES: dict[str, Callable[[str], Any]] = {
    "path": Path,
    "whole 0": _number(int, lambda value: value >= 0, "whole number of at least 0"),
    "whole 1": _number(int, lambda value: value >= 1, "whole number of at least 1"),
    "seconds": _number(float, lambda value: 0 < value < float("inf"), "positive number of seconds"),
    "weight": _number(float, lambda value: 0 < value < float("inf"), "positive weight"),
    "cosine": _number(float, lambda value: 0 < value <= 1, "cosine above 0 and up to 1, such as 0.98"),
}


if __name__ == "__main__":
    try:
        parse(sys.argv[1:])
    except BrokenPipeError:  # the reader left, as `| head` does
        os._exit(1)
