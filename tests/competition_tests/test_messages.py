"""Messages go through the logger "top7": the command line prints them, Python code may silence them."""

from __future__ import annotations

import ast
import logging

from competition.messages import log, on_stderr
from submissions.__main__ import main
from tests.conftest import ROOT

OWN = {
    "submissions/__main__.py",
    "submissions/arguments.py",
    "competition/messages.py",
}  # the command line itself


def test_only_the_command_line_prints_on_stderr():
    printed = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for folder in ("competition", "features", "tuning", "submissions")
        for path in (ROOT / folder).rglob("*.py")
        if path.relative_to(ROOT).as_posix() not in OWN
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("print", "tqdm.write")
        and any(ast.unparse(each.value) == "sys.stderr" for each in call.keywords)
    ]
    assert not printed, f"use competition.messages.log: {printed}"


def test_the_command_line_prints_messages_and_leaves_the_logger_as_it_was(
    monkeypatch, capsys, tiny_competition, tmp_path
):
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "level", logging.NOTSET)
    file = tmp_path / "x.csv"
    file.write_text("".join(f"t{query},n00,n01,n02,n03,n04,n05,n06\n" for query in range(8)))
    arguments = ["leaderboard", "--config", tiny_competition, "--work", tmp_path, "--record", file, "0.5"]
    assert main([str(each) for each in arguments]) == 0
    assert "no local figure is known of it" in capsys.readouterr().err
    assert not log.handlers and log.level == logging.NOTSET


def test_a_message_is_printed_once_and_none_below_a_level_of_choice(monkeypatch, capsys):
    monkeypatch.setattr(log, "handlers", [])
    with on_stderr(), on_stderr():
        log.info("100 % of it")
        log.setLevel(logging.ERROR)
        log.warning("not this")
    assert capsys.readouterr().err == "100 % of it\n"
