"""Configuration files: the documented example, and every error as one line that says what to do."""

import re
from pathlib import Path

import pytest

from competition.configuration import (
    Backbone,
    Competition,
    External,
    Parts,
    Simulate,
    Tuning,
    load_configuration,
)
from competition.errors import ConfigurationError
from competition.toml_values import Place, read_table

EXAMPLE = """
[competition]
name       = "grocery"
gallery    = "gallery"
validation = "val"
labels     = "val.csv"
test       = "test"
top_k      = 7
work       = "work/grocery"

[[backbone]]
model      = "mobilenetv1_100"
weights    = "../weights/mobilenetv1_100.safetensors"
options    = { pad_type = "same" }
mean       = [0.5, 0.5, 0.5]
std        = [0.5, 0.5, 0.5]
image_size = 288
resize     = "squash"
layers     = [0, 1, 2, 3, 4]
pooling    = ["fcrow"]
parts      = { layer = 4, counts = [10, 25, 50, 150], dims = [128, 256, 512], exponents = [0.5, 1.0] }

[[external]]
name       = "my-clip"
gallery    = "clip/gallery.npy"
validation = "clip/val.npy"
test       = "clip/test.npy"

[simulate]
images     = 2000
views      = 8

[tuning]
trials     = 200
region     = "similarity"
private    = 0.3
"""
COMPETITION_TABLE = '[competition]\nname = "n"\ngallery = "g"\n'
BACKBONE_TABLE = '[[backbone]]\nmodel = "vgg16"\nlayers = ["conv5_3"]\n'
MINIMAL = COMPETITION_TABLE + BACKBONE_TABLE


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_documented_example(tmp_path):
    configuration = load_configuration(written(tmp_path, EXAMPLE))
    assert configuration.competition == Competition(
        "grocery",
        tmp_path / "gallery",
        tmp_path / "val",
        tmp_path / "val.csv",
        tmp_path / "test",
        7,
        Path("work/grocery"),
        None,
    )
    assert configuration.backbones == (
        Backbone(
            "mobilenetv1_100",
            (0, 1, 2, 3, 4),
            "mobilenetv1_100",
            tmp_path / "../weights/mobilenetv1_100.safetensors",
            {"pad_type": "same"},
            (0.5, 0.5, 0.5),
            (0.5, 0.5, 0.5),
            288,
            "squash",
            1024,
            ("fcrow",),
            (Parts(4, (10, 25, 50, 150), (128, 256, 512), (0.5, 1.0)),),
        ),
    )
    assert configuration.externals == (
        External(
            "my-clip", tmp_path / "clip/gallery.npy", tmp_path / "clip/val.npy", tmp_path / "clip/test.npy"
        ),
    )
    assert configuration.tuning == Tuning(200, "similarity", 0.3, 0, "tpe", None)
    assert configuration.simulate == Simulate(2000, 8, 0)
    assert configuration.path == tmp_path / "config.toml"


def test_defaults(tmp_path):
    configuration = load_configuration(written(tmp_path, MINIMAL))
    assert configuration.competition == Competition("n", tmp_path / "g", work=Path("work/n"))
    assert configuration.backbones == (Backbone("vgg16", ("conv5_3",), "vgg16"),)
    assert configuration.externals == () and configuration.tuning == Tuning()
    assert configuration.simulate == Simulate()
    off = load_configuration(written(tmp_path, MINIMAL + "[simulate]\nimages = 0\n"))
    assert off.simulate == Simulate(images=0)


@pytest.mark.parametrize("table", [Competition, Parts, Backbone, External, Simulate, Tuning])
def test_every_field_has_its_key(table):
    keys = list(table.__dataclass_fields__)
    for key in keys:
        wrong = {key: None, **dict.fromkeys(keys)}
        with pytest.raises(ConfigurationError, match=rf"^c.toml: \[t\] {key} (= None|is None): expected"):
            read_table(wrong, table, Place(Path("c.toml"), "[t]"))


def test_work_option_wins(tmp_path):
    assert load_configuration(written(tmp_path, EXAMPLE), work="elsewhere").competition.work == Path(
        "elsewhere"
    )


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_configuration(path).competition.name == "n"


def test_absolute_paths_stay(tmp_path):
    text = MINIMAL.replace('"g"', f'"{tmp_path}/images"')
    assert load_configuration(written(tmp_path, text)).competition.gallery == tmp_path / "images"


def test_names_are_made_unique(tmp_path):
    named = BACKBONE_TABLE + 'name = "vgg16-2"\n'
    configuration = load_configuration(written(tmp_path, COMPETITION_TABLE + BACKBONE_TABLE * 2 + named))
    assert [backbone.name for backbone in configuration.backbones] == ["vgg16", "vgg16-3", "vgg16-2"]


def test_several_parts_tables_and_weights_words(tmp_path):
    text = (
        MINIMAL + 'weights = "random"\nparts = [{ layer = 1, counts = [2], dims = [3] }, '
        '{ layer = "x", counts = [4], dims = [5], training = "t" }]\n'
    )
    (backbone,) = load_configuration(written(tmp_path, text)).backbones
    assert backbone.weights == "random"
    assert backbone.parts == (Parts(1, (2,), (3,)), Parts("x", (4,), (5,), training=tmp_path / "t"))


@pytest.mark.parametrize(
    "text, message",
    [
        (MINIMAL + "colour = 1\n", "[[backbone]] has the unknown key 'colour'; known: model, layers, name, "),
        (
            MINIMAL + "imagesize = 1\n",
            "[[backbone]] has the unknown key 'imagesize'; did you mean 'image_size'? known: ",
        ),
        (
            MINIMAL + BACKBONE_TABLE + "Layers = 1\n",
            "[[backbone]] 2 has the unknown key 'Layers'; did you mean 'layers'?",
        ),
        (
            MINIMAL + "[tunning]\n",
            "unknown table or key 'tunning' outside the tables; did you mean 'tuning'? known: ",
        ),
        (
            "top_k = 7\n" + MINIMAL,
            "unknown table or key 'top_k' outside the tables; known: competition, backbone, ",
        ),
        (
            MINIMAL + "parts = { layer = 1, counts = [1], dims = [1], dim = 1 }\n",
            "[[backbone]] parts has the unknown key 'dim'; did you mean 'dims'? known: layer, counts, ",
        ),
        (
            MINIMAL + "parts = [{ layer = 1, counts = [1], dims = [1] }, { layer = 1, counts = [1] }]\n",
            "[[backbone]] parts 2 lacks the key 'dims': add dims = …",
        ),
        (
            MINIMAL + "[[external]]\nname = 'e'\ngalery = 'g'\n",
            "[[external]] has the unknown key 'galery'; did you mean 'gallery'? known: name, gallery, "
            "validation, test",
        ),
        (MINIMAL + "[simulate]\nviews = 0\n", "[simulate] views = 0: expected a whole number of at least 1"),
        (
            MINIMAL + "[tuning]\ntrails = 1\n",
            "[tuning] has the unknown key 'trails'; did you mean 'trials'? known: ",
        ),
        (BACKBONE_TABLE, "the table [competition] is missing: add it with name = … and gallery = …"),
        (
            "[competition]\ngallery = 'g'\n" + BACKBONE_TABLE,
            "[competition] lacks the key 'name': add name = …",
        ),
        (
            "[competition]\nname = 'n'\n" + BACKBONE_TABLE,
            "[competition] lacks the key 'gallery': add gallery = …",
        ),
        (COMPETITION_TABLE, "neither [[backbone]] nor [[external]]: add at least one"),
        (
            COMPETITION_TABLE + "[[backbone]]\nlayers = [1]\n",
            "[[backbone]] lacks the key 'model': add model = …",
        ),
        (
            COMPETITION_TABLE + "[[backbone]]\nmodel = 'm'\n",
            "[[backbone]] lacks the key 'layers': add layers = …",
        ),
        (
            COMPETITION_TABLE + "[backbone]\nmodel = 'm'\n",
            "[backbone]: expected [[backbone]] in double brackets, one for each backbone",
        ),
        (
            "backbone = 3\n" + COMPETITION_TABLE,
            "backbone = 3: expected [[backbone]] in double brackets, one for each ",
        ),
        ("competition = 3\n" + BACKBONE_TABLE, "[competition] is 3: expected a table of name, gallery, "),
        (
            COMPETITION_TABLE + "labels = 'l'\n" + BACKBONE_TABLE,
            "[competition] has labels but no validation: add the folder of the labelled query images, "
            "validation = …",
        ),
        (
            COMPETITION_TABLE
            + BACKBONE_TABLE
            + "[[external]]\nname = 'x'\ngallery = 'g'\n[[external]]\nname = 'x'\n"
            "gallery = 'g'\n",
            "the name 'x' appears twice: give each [[backbone]] and [[external]] a name of its own",
        ),
        (
            MINIMAL + "image_size = 0\n",
            '[[backbone]] image_size = 0: expected at least 1, or resize = "keep" beside it ',
        ),
        (
            MINIMAL + "mean = [0.5]\nstd = [1, 1]\n",
            "[[backbone]] std = [1.0, 1.0]: expected as many values as mean has, 1",
        ),
        (MINIMAL + "x = \n", "not valid TOML: Invalid value (at line 7, column 5)"),
    ],
)
def test_errors(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match="^" + re.escape(f"{path}: {message}")) as caught:
        load_configuration(path)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


WRONG_VALUES = [
    ("competition", "name = 3", "a text in quotes, not empty"),
    ("competition", "name = 'a/b'", "a name without / or \\ and without a leading dot"),
    ("competition", "gallery = ''", "a text in quotes, not empty"),
    ("competition", "validation = false", "a text in quotes, not empty"),
    ("competition", "labels = ['a']", '"folders" or the path of a file'),
    ("competition", "ids = 'paths'", "another value; did you mean 'path'? known: name, path"),
    ("competition", "submission = 'csv'", "another value; known: plain, kaggle"),
    ("competition", "test = 1.5", "a text in quotes, not empty"),
    ("competition", "work = 1", "a text in quotes, not empty"),
    ("competition", "top_k = 0", "a whole number of at least 1"),
    ("competition", "top_k = true", "a whole number of at least 1"),
    ("competition", "top_k = 7.0", "a whole number of at least 1"),
    ("competition", "published = 'perfect'", "another value; did you mean 'perfect500k'? known: perfect500k"),
    ("backbone", "model = 1", "a text in quotes, not empty"),
    ("backbone", "weights = true", '"pretrained" or "random" or the path of a file'),
    ("backbone", "weights = ''", "a text in quotes, not empty"),
    ("backbone", "options = 'same'", "a table, like { key = value }"),
    ("backbone", "mean = 0.5", "a list of at least one value, like [ … ]"),
    ("backbone", "mean = ['a']", "a number"),
    ("backbone", "std = [1, 0, 1]", "a number above 0"),
    ("backbone", "image_size = -1", "a whole number of at least 0"),
    ("backbone", "resize = 'pads'", "another value; did you mean 'pad'? known: squash, pad, keep"),
    ("backbone", "resize = 1", 'one of "squash", "pad", "keep"'),
    ("backbone", "max_size = 0", "a whole number of at least 1"),
    ("backbone", "layers = []", "a list of at least one value, like [ … ]"),
    ("backbone", "layers = 3", "a list of at least one value, like [ … ]"),
    ("backbone", "layers = [1, true]", "a feature index from 0, the shallowest, or a layer's name in quotes"),
    ("backbone", "layers = [1.5]", "a feature index from 0, the shallowest, or a layer's name in quotes"),
    ("backbone", "layers = [-1]", "a feature index from 0, the shallowest, or a layer's name in quotes"),
    ("backbone", "layers = [1, 1]", "each value once"),
    ("backbone", "pooling = []", "a list of at least one value, like [ … ]"),
    ("backbone", "pooling = [1]", "a text in quotes, not empty"),
    ("backbone", "parts = []", "a table or a list of tables; without part detectors leave the key out"),
    ("parts", "counts = []", "a list of at least one value, like [ … ]"),
    ("parts", "counts = [0]", "a whole number of at least 1"),
    ("parts", "dims = [-1]", "a whole number of at least 1"),
    ("parts", "dims = [1, 2, 1]", "each value once"),
    ("parts", "exponents = [-0.5]", "a number of at least 0"),
    ("parts", "exponents = [nan]", "a number of at least 0"),
    ("parts", "alpha = 0", "a number above 0"),
    ("parts", "beta = inf", "a number above 0"),
    ("parts", "training_images = 0", "a whole number of at least 1"),
    ("parts", "seed = -1", "a whole number of at least 0"),
    ("parts", "half = 1", "true or false"),
    ("parts", "form = 1", "a text in quotes, not empty"),
    ("tuning", "trials = 0", "a whole number of at least 1"),
    ("tuning", "trials = '10'", "a whole number of at least 1"),
    (
        "tuning",
        "region = 'simplx'",
        "another value; did you mean 'simplex'? known: similarity, distance, simplex",
    ),
    ("tuning", "private = 1.0", "a number of at least 0 and below 1"),
    ("tuning", "private = -0.1", "a number of at least 0 and below 1"),
    ("tuning", "private = true", "a number of at least 0 and below 1"),
    ("tuning", "seed = 1.0", "a whole number of at least 0"),
    ("tuning", "sampler = 'TPE'", "another value; did you mean 'tpe'? known: tpe, cmaes, qmc, random"),
    ("tuning", "storage = 5", "a text in quotes, not empty"),
    ("tuning", "trials = 99999999999999999999", "a whole number of at most 2147483647"),
    ("backbone", "image_size = 1", "at least 32 pixels, at each of the scales too"),
    ("backbone", "image_size = 99999", "a whole number of at most 16384"),
    ("backbone", "mean = [1e300, 1, 1]", "a number of at most 1e+09"),
    ("parts", "exponents = [100]", "a number of at most 4"),
    ("parts", "alpha = 1e9", "a number of at most 100"),
    ("competition", "gallery = '~nobody-here/x'", "a path; this machine knows no home folder of that user"),
]


@pytest.mark.parametrize("table, line, expected", WRONG_VALUES)
def test_wrong_values(tmp_path, table, line, expected):
    key = line.split(" = ")[0]
    tables = {
        "competition": {"name": "'n'", "gallery": "'g'"},
        "backbone": {"model": "'m'", "layers": "[1]"},
        "tuning": {},
        "parts": {"layer": "1", "counts": "[1]", "dims": "[1]"},
    }
    tables[table][key] = line.split(" = ", 1)[1]
    lines = {name: [f"{key} = {value}" for key, value in values.items()] for name, values in tables.items()}
    if table == "parts":
        lines["backbone"].append("parts = { " + ", ".join(lines["parts"]) + " }")
    path = written(
        tmp_path,
        "\n".join(
            [
                "[competition]",
                *lines["competition"],
                "[[backbone]]",
                *lines["backbone"],
                "[tuning]",
                *lines["tuning"],
            ]
        ),
    )
    header = {"backbone": "[[backbone]]", "parts": "[[backbone]] parts"}.get(table, f"[{table}]")
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {header} {key} = ") and message.endswith(f": expected {expected}")
    assert "\n" not in message


def test_missing_file_folder_and_other_encodings(tmp_path):
    with pytest.raises(
        ConfigurationError, match="no.toml: no such configuration file: give the path of a TOML file"
    ):
        load_configuration(tmp_path / "no.toml")
    with pytest.raises(ConfigurationError, match="cannot be read as a configuration file: Is a directory"):
        load_configuration(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes(b"[competition]\nname = 'caf\xe9'\n")
    with pytest.raises(ConfigurationError, match="latin.toml: line 2 is not UTF-8: save the file as UTF-8"):
        load_configuration(path)


def test_labels_from_folders_make_ids_paths(tmp_path):
    text = "[competition]\nname = 'n'\ngallery = 'g'\nvalidation = 'v'\nlabels = 'folders'\n{}[[backbone]]\nmodel = 'm'\nlayers = [1]"
    competition = load_configuration(written(tmp_path, text.format(""))).competition
    assert (competition.labels, competition.ids) == ("folders", "path")
    with pytest.raises(ConfigurationError, match='ids = .name.: expected "path" beside labels = "folders"'):
        load_configuration(written(tmp_path, text.format("ids = 'name'\n")))


@pytest.mark.parametrize(
    "text", ["top_k = " + "9" * 5000, "x = " + "[" * 5000, "x = " + "[" * 500 + "]" * 500]
)
def test_numbers_and_lists_without_end_are_one_line(tmp_path, text):
    with pytest.raises(ConfigurationError) as error:
        load_configuration(written(tmp_path, COMPETITION_TABLE + text + "\n" + BACKBONE_TABLE))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_scale_may_not_make_images_too_small(tmp_path):
    with pytest.raises(ConfigurationError, match="at least 32 pixels"):
        load_configuration(written(tmp_path, MINIMAL + "image_size = 64\nscales = [1.0, 0.25]\n"))
