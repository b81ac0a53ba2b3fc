"""The command line behind run.sh and the script `top7`: one clear line for an error, and its exit code (0, 1, 2).

Ctrl-C ends it within a second, whatever it finds running: every file is safe at any instant.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TextIO

from competition.errors import ConfigurationError, Top7Error
from competition.messages import on_stderr
from competition.once import one_command
from competition.printable import PrintableStream, printable
from submissions.arguments import parse

GRACE_S = 0.8  # for what ends in order after an interruption
INTERRUPTED = "top7: interrupted; the same command goes on where it stopped"
said = threading.Event()  # the line is on its way


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 or 2. A traceback only with --debug. No file's name steers the terminal."""
    options, terminal = parse(sys.argv[1:] if arguments is None else arguments), sys.stdout
    with (
        contextlib.redirect_stdout(PrintableStream(sys.stdout)),
        contextlib.redirect_stderr(PrintableStream(sys.stderr)),
        on_stderr(),
    ):
        return _run(options, terminal)


def _run(options: Namespace, terminal: TextIO) -> int:
    try:
        from features.search.sharding import on_cluster
        from submissions.commands import COMMANDS

        if options.command not in COMMANDS:  # `test`, which run.sh gives to pytest
            raise ConfigurationError(
                "the tests come with the repository, not with the package: ./run.sh test"
            )
        with on_cluster(getattr(options, "cluster", None)), one_command():
            outcome = COMMANDS[options.command](options)
        if options.json:
            print(json.dumps(outcome.values, ensure_ascii=False, sort_keys=True))
        elif outcome.text and terminal.isatty():
            _show(outcome.text, terminal)
        elif outcome.text:
            print(outcome.text)
        sys.stdout.flush()
        return outcome.exit_code
    except KeyboardInterrupt:
        said.set()
        print(INTERRUPTED, file=sys.stderr)
        return 1
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # the reader left; Python must not complain
        os.dup2(nowhere, sys.stdout.fileno())
        return 1
    except Exception as error:
        if options.debug:
            raise
        line = " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror:
            line = _os_error(error, options)
        elif not isinstance(error, Top7Error):
            line = f"{type(error).__name__}: {line} (--debug shows where)"
        print(f"top7: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, Top7Error) else 1


def _show(text: str, terminal: TextIO) -> None:
    """Print a result on a terminal: lines broken between words, figures and warnings in colour (unless NO_COLOR)."""
    from rich.console import Console
    from rich.highlighter import RegexHighlighter

    class Marked(RegexHighlighter):
        highlights = [
            r"(?P<bold>(?<![\w.])[01]\.\d{4}(?!\d))",
            r"(?P<yellow>^WARNING.*|not comparable|within noise of.*)",
            r"(?P<red>\bline \d+:|\bdamaged\b|\bmissing\b$)",
            r"(?P<green>\baccepted\b|\bwhole$|nothing is wrong)",
        ]

    console = Console(file=terminal, highlighter=Marked(), markup=False, emoji=False)
    for line in printable(text).splitlines():
        if len(line) > console.width:  # no line of a table, which fits
            line = textwrap.fill(line, console.width, break_long_words=False, break_on_hyphens=False)
        console.print(line, soft_wrap=True)


def _os_error(error: OSError, options: Namespace) -> str:
    """What the system refused, with the file; of a full disk the room there is."""
    from competition.atomic import FULL

    named = error.filename if isinstance(error.filename, str | os.PathLike) else None
    refused = f"{named or 'a file'}: {error.strerror}"
    if error.errno not in FULL:
        return refused
    folder = os.path.abspath(named or getattr(options, "work", None) or ".")
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    return (
        f"{refused}: the disk of {folder} is full, {free} bytes are free: make room there (a few MB more than are to be "
        "written), or choose another folder with --work or --out; then run the same command again"
    )


def end_within_a_second() -> None:
    """From now on an interruption that is not over after GRACE_S, in a library's long call or a thread, is cut short."""
    if os.name == "nt":  # wakes sockets only
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGINT not in os.read(reading, 1):
            pass
        time.sleep(GRACE_S)
        if not said.is_set():
            os.write(2, f"\n{INTERRUPTED}\n".encode())
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def console() -> int:
    """The command of sys.argv in a process of its own, as run.sh and the script `top7` start it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as run.sh does
    end_within_a_second()
    return main()


if __name__ == "__main__":
    sys.exit(console())
