"""doctor names what is missing, misnamed, corrupt or of the wrong size, a line each, and ends with 1 where anything is."""

from PIL import Image

from submissions.__main__ import main
from tests.archives import ARCHIVES


def said(capsys, *arguments):
    code = main(["doctor", *map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()


def test_a_whole_set_has_nothing_wrong(tmp_path, capsys):
    folder = ARCHIVES["folders"](tmp_path)
    code, lines = said(capsys, "--data", folder)
    assert code == 0 and lines[-1] == "nothing is wrong" and "6 gallery images, 2 queries" in lines[1]


def test_what_is_wrong_with_an_archive(tmp_path, capsys):
    folder = ARCHIVES["oxford5k"](tmp_path)
    Image.new("RGB", (8, 8)).save(folder / "images" / "tiny.jpg")
    (folder / "images" / "hall_000005.jpg").write_bytes(b"")
    (folder / "images" / "hall_000006.jpg").rename(folder / "images" / "Hall_000006.jpg")
    (folder / "oxbuild_images.tgz.part").write_bytes(b"half")
    code, lines = said(capsys, "--data", folder)
    text = "\n".join(lines)
    assert code == 1 and lines[-1] == "6 faults"
    assert "13 images, oxford5k has 5063: 5050 are missing" in text
    assert "oxbuild_images.tgz.part: half downloaded, or not unpacked" in text
    assert "the first is 'hall_000006' (there is 'Hall_000006')" in text
    assert "hall_000011.jpg: not an image" in text and "hall_000005.jpg: empty file (0 bytes)" in text
    assert "tiny.jpg: 8 × 8 pixels, a network wants 32 at least" in text


def test_several_sets_below_one_folder(tmp_path, capsys):
    for name in ("paris6k", "holidays"):
        ARCHIVES[name](tmp_path / name)
    code, lines = said(capsys, "--data", tmp_path)
    assert (
        code == 1 and sum("has 1491: 1483 are missing" in line or "has 6412" in line for line in lines) == 2
    )


def test_a_configuration(tiny_competition, tmp_path, capsys):
    code, lines = said(capsys, "--config", tiny_competition, "--work", tmp_path)
    assert code == 0 and "labels: 8 queries, 16 correct images" in lines
    broken = tiny_competition.with_name("doctored.toml")
    text = tiny_competition.read_text().replace('"val.csv"', '"nowhere.csv"')
    broken.write_text(text.replace('weights = "random"', 'weights = "lost.safetensors"'))
    code, lines = said(capsys, "--config", broken, "--work", tmp_path)
    assert code == 1 and lines[-1] == "2 faults"
    assert any("nowhere.csv does not exist" in line for line in lines)
    assert any("lost.safetensors is not there" in line for line in lines)
    assert main(["doctor"]) == 2
