"""Label files: what is tolerated, and every error with file, line, what was found and what to do."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from competition.configuration import Competition, Configuration, Tuning
from competition.configured import validation_labels
from competition.errors import ConfigurationError, Top7Error
from competition.images import list_images
from competition.labels import read_labels, relevant_rows

QUERIES = ("v1", "v2", "v3")
GALLERY = ("g1", "g2", "g3", "g4")
EXPECTED = {"v1": ("g1",), "v2": ("g3", "g2"), "v3": ("g4", "g1", "g2")}
ROWS = "v1,g1\nv2,g3,g2\nv3,g4,g1,g2\n"


def read(folder, data, **options):
    path = folder / "val.csv"
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return read_labels(path, **{"query_ids": QUERIES, "gallery_ids": GALLERY, **options})


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        "query,gallery\n" + ROWS,
        "Validation Image ID,Training Image ID\n" + ROWS,
        "\ufeff" + ROWS,
        "\ufeffValidation Image ID,Training Image ID\n" + ROWS,
        ("\ufeffquery,gallery\n" + ROWS).replace("\n", "\r\n"),
        ROWS.rstrip("\n"),
        "query\n" + ROWS,
        "query,gallery,gallery,,\nv1,g1,,\nv2,g3,g2,\nv3,g4,g1,g2\n",
        "query,gallery\n\nv1,g1\n\nv2,g3,g2\nv3,g4,g1,g2\n,,\n\n",
        'query,gallery\n"v1","g1"\nv2, g3, g2\n v3,g4,g1,g2 \n',
        "v3,g4,g1,g2\nv1,g1\nv2,g3,g2\n",
    ],
)
def test_accepted(tmp_path, data):
    labels = read(tmp_path, data)
    assert labels == EXPECTED and list(labels) == list(QUERIES)


UNKNOWN_QUERY = "expected one of the 3 query ids (file names without extension)"
UNKNOWN_GALLERY = "expected one of the 4 gallery ids (file names without extension)"


@pytest.mark.parametrize(
    "data, message",
    [
        (ROWS + "v4,g1\n", f": line 4: unknown query 'v4': {UNKNOWN_QUERY}"),
        ("v4,g1\n" + ROWS, f": line 1: unknown query 'v4': {UNKNOWN_QUERY}"),
        ("a,b\nquery,gallery\n" + ROWS, f": line 2: unknown query 'query': {UNKNOWN_QUERY}"),
        ("v1,g9\n" + ROWS, f": line 1: unknown gallery id 'g9': {UNKNOWN_GALLERY}"),
        ("q,g\r\n\r\nv1,g1.jpg\r\n", f": line 3: unknown gallery id 'g1.jpg': {UNKNOWN_GALLERY}"),
        (
            "v1,g1\nv2,g1\n",
            ": 1 of 3 queries have no row, the first is 'v3': label them or remove their images",
        ),
        (
            "query,gallery\nv1,g1\nv2\nv3,g1\n",
            ": line 3: query 'v2' has no gallery id: expected query,gallery[,gallery…]",
        ),
        ("v1,g1\nv2,,,\n", ": line 2: query 'v2' has no gallery id: expected query,gallery[,gallery…]"),
        (
            "h\n" + ROWS + "v2,g1\nv2,g3\n",
            ": line 6: gallery id 'g3' appears twice for 'v2', first on line 3: remove one",
        ),
        ("v1,g1,g2,g1\n", ": line 1: gallery id 'g1' appears twice in the row: remove one"),
        ("v1,g1,,g2\n", ": line 1: field 3 is empty: expected query,gallery[,gallery…]"),
        (",g1\n", ": line 1: field 1 is empty: expected query,gallery[,gallery…]"),
        (
            ROWS.replace(",", ";"),
            ": line 1: the fields are separated by semicolons: expected commas, save the file as "
            "comma-separated CSV",
        ),
        (
            "query\tgallery\nv1\tg1\n",
            ": line 1: the fields are separated by tabs: expected commas, save the file as "
            "comma-separated CSV",
        ),
        (
            "v1,g1\nv2;g1\n",
            ": line 2: the fields are separated by semicolons: expected commas, save the file as "
            "comma-separated CSV",
        ),
        (b"v1,g1\nv2,g\xe4\n", ": line 2: not UTF-8 (byte 0xe4): save the label file as UTF-8"),
        ("v1,g1\n".encode("utf-16"), ": line 1: not UTF-8 (byte 0xff): save the label file as UTF-8"),
        ("", ": the label file holds no label: expected rows query,gallery[,gallery…]"),
        ("\ufeff\n\n", ": the label file holds no label: expected rows query,gallery[,gallery…]"),
        ("query,gallery\n", ": the label file holds no label: expected rows query,gallery[,gallery…]"),
        (
            'v1,"g1"x\n',
            ": line 1: not valid CSV (',' expected after '\"'): expected query,gallery[,gallery…]",
        ),
        (
            'v1,g1\nv2,"g1\n',
            ": line 2: not valid CSV (unexpected end of data): expected query,gallery[,gallery…]",
        ),
    ],
)
def test_refused(tmp_path, data, message):
    with pytest.raises(Top7Error, match="^" + re.escape(f"{tmp_path}/val.csv{message}") + "$"):
        read(tmp_path, data)


def test_a_pair_a_row(tmp_path):
    pairs = "query,gallery\nv2,g3\nv1,g1\nv2,g2\nv3,g4\nv3,g1,g2\n"
    assert read(tmp_path, pairs) == {"v1": ("g1",), "v2": ("g3", "g2"), "v3": ("g4", "g1", "g2")}


def test_labels_of_folders():
    gallery = ("apple/1", "apple/2", "pear/1", "pear/green/1", "top")
    queries = ("apple/9", "pear/9", "pear/green/9")
    assert read_labels("folders", query_ids=queries, gallery_ids=gallery) == {
        "apple/9": ("apple/1", "apple/2"),
        "pear/9": ("pear/1",),
        "pear/green/9": ("pear/green/1",),
    }
    for stranger in ("plum/1", "top", "apple"):
        with pytest.raises(Top7Error, match=f"1 of 4 queries .* the first is '{stranger}'"):
            read_labels("folders", query_ids=(*queries, stranger), gallery_ids=gallery)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(Top7Error, match="no.csv: no such label file$"):
        read_labels(tmp_path / "no.csv", query_ids=QUERIES, gallery_ids=GALLERY)
    with pytest.raises(Top7Error, match="the label file cannot be read: Is a directory$"):
        read_labels(tmp_path, query_ids=QUERIES, gallery_ids=GALLERY)


def test_incomplete_labels_where_they_may_be(tmp_path):
    assert read(tmp_path, "v3,g1\nv1,g2\n", complete=False) == {"v1": ("g2",), "v3": ("g1",)}
    with pytest.raises(Top7Error, match="unknown query 'v9'"):
        read(tmp_path, "v9,g1\n", complete=False)


@given(
    st.dictionaries(
        st.sampled_from(QUERIES), st.lists(st.sampled_from(GALLERY), min_size=1, unique=True), min_size=1
    ),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_round_trip(tmp_path_factory, labels, header, bom, line_end):
    lines = ["query,gallery"] * header + [",".join([query, *correct]) for query, correct in labels.items()]
    data = "\ufeff" * bom + "".join(line + line_end for line in lines)
    found = read(tmp_path_factory.getbasetemp(), data, complete=False)
    assert found == {query: tuple(correct) for query, correct in labels.items()}


def test_validation_labels(tmp_path):
    competition = Competition("n", tmp_path, tmp_path)
    with pytest.raises(
        ConfigurationError, match="^c.toml: .competition. has no labels: add labels = … with the label"
    ):
        validation_labels(Configuration("c.toml", competition, (), (), Tuning()), QUERIES, GALLERY)
    competition = Competition("n", tmp_path, tmp_path, tmp_path / "val.csv")
    configuration = Configuration("c.toml", competition, (), (), Tuning())
    with pytest.raises(Top7Error, match="^c.toml: .competition. labels: .*val.csv does not exist$"):
        validation_labels(configuration, QUERIES, GALLERY)
    (tmp_path / "val.csv").write_text(ROWS)
    assert validation_labels(configuration, QUERIES, GALLERY) == EXPECTED


def test_relevant_rows():
    rows = relevant_rows(EXPECTED, GALLERY)
    assert [row.tolist() for row in rows] == [[0], [1, 2], [0, 1, 3]] and all(
        row.dtype == np.int64 for row in rows
    )


def test_grocery(shared):
    queries, gallery = (list_images(shared / "grocery" / name).ids for name in ("val", "gallery"))
    labels = read_labels(shared / "grocery" / "val.csv", query_ids=queries, gallery_ids=gallery)
    assert len(labels) == 162 and {len(correct) for correct in labels.values()} == {7}
    assert labels["v000001"][:2] == ("n0001_0000011", "n0001_0000032")
