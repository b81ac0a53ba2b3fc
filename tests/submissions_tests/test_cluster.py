"""Commands with --cluster: the files and figures of one machine, from two processes of which one dies meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from features.search import exact_search as search
from features.search import sharding
from submissions.__main__ import main
from tuning import candidates

COMMANDS = {
    "tune": ("tune", "--folds", "0", "--trials", "12"),
    "tune a recipe": ("tune", "--recipe", "pwa_qe", "--folds", "0", "--trials", "2"),
    "submit": ("submit", "--split", "validation"),
    "compare": ("compare", "best", "pwa_qe"),
}
REPRODUCE = ("reproduce", "fcrow-figure4", "--device", "cpu")


def files(work: Path) -> dict[str, bytes]:
    """Recipes, submissions, rankings and candidates; not the study's journal, which holds times."""
    folders = ("recipes", "submissions", "candidates", "reproduce", "ranking")
    found = [path for name in folders for path in (work / name).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in found
        if path.suffix in (".npy", ".npz", ".csv") or "recipes" in path.parts
    }


def run(capsys, *arguments: str) -> object:
    """The result of a command, without seconds."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0

    def without_seconds(values: object) -> object:
        if isinstance(values, dict):
            return {
                key: without_seconds(value)
                for key, value in values.items()
                if "second" not in key and key != "kinds"
            }
        return list(map(without_seconds, values)) if isinstance(values, list) else values

    return without_seconds(json.loads(capsys.readouterr().out))


@pytest.mark.slow
def test_commands_on_a_cluster_give_what_one_machine_gives(
    tiny_competition, dask_cluster, tmp_path, capsys, monkeypatch
):
    work = tmp_path / "work"  # the same name for both: it is in what they print
    common = ("--config", str(tiny_competition), "--work", str(work))
    network = 'model = "top7_vgg16_quarter"\nweights = "random"\nimage_size = 32\nlayers = [0]\npooling = ["spoc"]\n'
    papers = tiny_competition.read_text().split("[[backbone]]")[0] + "[[backbone]]\n" + network
    (tiny_competition.parent / "papers.toml").write_text(papers)
    reproduced = (
        "--config",
        str(tiny_competition.parent / "papers.toml"),
        "--work",
        str(tmp_path / "papers"),
    )
    assert main(["extract", *common]) == 0
    shutil.copytree(work, tmp_path / "extracted")
    alone = {name: run(capsys, *command, *common) for name, command in COMMANDS.items()}
    alone["reproduce"] = run(capsys, *REPRODUCE, *reproduced)
    expected = files(work)
    shutil.rmtree(work)
    (tmp_path / "extracted").rename(work)

    monkeypatch.setattr(sharding, "SHARD_ROWS", 6)
    map_over_shards, maps = sharding.map_over_shards, []

    def killing(*arguments, **named):
        """After the first result of the first map a worker dies, while other shards are under way."""
        maps.append(0)
        for found in map_over_shards(*arguments, **named):
            maps[-1] += 1
            if len(maps) == maps[-1] == 1:
                os.kill(next(iter(dask_cluster.workers.values())).pid, 9)
            yield found

    monkeypatch.setattr(search, "map_over_shards", killing)
    monkeypatch.setattr(candidates, "map_over_shards", killing)
    address = dask_cluster.scheduler_address
    for name, command in COMMANDS.items():
        before = len(maps)
        assert run(capsys, *command, *common, "--cluster", address) == alone[name], name
        assert max(maps[before:], default=0) >= 2, f"{name}: nothing went to the workers"
    before = len(maps)
    assert run(capsys, *REPRODUCE, *reproduced, "--cluster", address) == alone["reproduce"]
    assert max(maps[before:]) >= 2
    found = files(work)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
