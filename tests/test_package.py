"""The wheel carries what the commands read and no tests; what it holds runs where there is no repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

FOLDERS = ("competition", "features", "tuning", "submissions")
CARRIED = (".py", ".json", ".toml", ".html", ".css", ".js", ".safetensors")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the repository, so that nothing is written into this one."""
    copy = tmp_path_factory.mktemp("repository")
    for folder in (*FOLDERS, "tests/features_tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "top7.py"):
        shutil.copy(ROOT / file, copy)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    made = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return zipfile.ZipFile(next(copy.glob("top7-*.whl")))


def test_the_wheel_carries_every_file_of_the_four_folders_and_no_tests(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in CARRIED and "__pycache__" not in path.parts
    }
    assert held == wanted | {"top7.py"}
    (scripts,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "top7 = submissions.__main__:console" in wheel.read(scripts).decode()


@pytest.mark.parametrize("document", sorted(path.name for path in ROOT.glob("*.md")))
def test_what_documents_link_and_name_lies_in_the_repository(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)}|tests)/[\w/.-]+\.(?:py|md|json|html))`", text)
    assert not [name for name in (*links, *named) if not (ROOT / name).exists()]


def test_what_is_installed_runs_elsewhere(wheel, tmp_path):
    wheel.extractall(tmp_path)
    script = "import sys; sys.argv[0] = 'top7'; from submissions.__main__ import console; sys.exit(console())"

    def call(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-P", "-c", script, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )

    listed = call("--help")
    assert listed.returncode == 0 and listed.stdout.startswith("usage: top7 COMMAND"), listed.stderr
    refused = call("test")
    assert refused.returncode == 2 and "./run.sh test" in refused.stderr
