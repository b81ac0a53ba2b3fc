"""The whole road on a real competition: ../shared/grocery with a pretrained network, against figures measured elsewhere."""

from __future__ import annotations

import json

import pytest

from submissions.__main__ import main
from tests.grocery import grocery_configuration

PARTS = "{ layer = 4, counts = [100], dims = [128], exponents = [1.0] }"


@pytest.mark.slow
def test_extract_tune_submit_check(shared, tmp_path, capsys):
    config, work = tmp_path / "grocery.toml", tmp_path / "work"
    config.write_text(grocery_configuration(shared, ["spoc"], PARTS))
    common = ["--config", str(config), "--work", str(work), "--json"]

    def run(*arguments: str) -> dict:
        capsys.readouterr()
        assert main([arguments[0], *common, *arguments[1:]]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    extracted = run("extract")
    assert (
        extracted["unreadable"] == []
        and len(extracted["dumps"]) == 18
        and extracted["images"] >= 567 + 162 + 324
    )
    tuned = run("tune", "--trials", "200", "--repeats", "1")
    assert tuned["trials"] == 200
    named = tuned["named"]
    assert named["mobilenetv1_100/4/spoc"]["all"] == pytest.approx(
        0.268, abs=0.004
    )  # measured before: best single layer
    assert named["mobilenetv1_100.parts-4/N100-M128-t1"]["all"] == pytest.approx(
        0.320, abs=0.006
    )  # measured before: PWA
    assert (
        tuned["scores"]["public"] >= named["mobilenetv1_100.parts-4/N100-M128-t1"]["public"] - 1e-9
    )  # a vertex
    assert {"public", "private", "all"} <= set(tuned["scores"])
    submitted = run("submit", "--split", "test")
    assert submitted["queries"] == 324
    assert run("check", submitted["file"])["accepted"]
    validation = run("submit", "--split", "validation", "--recipe", "best")
    scored = run("score", validation["file"])
    assert scored["maps"]["min(m,k)"] == pytest.approx(tuned["scores"]["all"], abs=1e-12)
