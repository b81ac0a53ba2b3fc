"""Every fault a submission can have, with its line number and what to do about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from competition.errors import Top7Error
from competition.images import list_images
from submissions.checking import Expected, check_submission

GALLERY = [f"g{row}" for row in range(10)]
SPLITS = {"validation": ["v1", "v2"], "test": ["t1", "t2", "t3"]}
EXPECTED = Expected(SPLITS, GALLERY)
ANSWER = ",g0,g1,g2,g3,g4,g5,g6"
GOOD = [f"t1{ANSWER}", f"t2{ANSWER}", f"t3{ANSWER}"]


def check(folder, data, splits=SPLITS, **options):
    path = folder / "s.csv"
    if isinstance(data, list):
        data = "".join(f"{line}\n" for line in data)
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return check_submission(path, Expected(splits, GALLERY, **options))


def faults(folder, data, **options):
    return [(fault.line, fault.text) for fault in check(folder, data, **options).faults]


@pytest.mark.parametrize("data", [GOOD, GOOD[::-1], "\n".join(GOOD), [f"v2{ANSWER}", f"v1{ANSWER}"]])
def test_accepted(tmp_path, data):
    result = check(tmp_path, data)
    assert result.faults == () and result.split == ("validation" if data[0][0] == "v" else "test")
    assert result.answers["v1" if data[0][0] == "v" else "t2"] == tuple(ANSWER[1:].split(","))


SPACED = " ".join(ANSWER[1:].split(","))
KAGGLE = ["id,images", *(f"t{number},{SPACED}" for number in (1, 2, 3))]
ONE_COMMA = "expected one, after the query; the gallery ids are separated by single spaces"


@pytest.mark.parametrize(
    "data, expected",
    [
        (KAGGLE, []),
        (KAGGLE[1:], [(1, "no header: expected id,images")]),
        (
            [*KAGGLE[:3], f"t3{ANSWER}"],
            [(4, f"7 commas: {ONE_COMMA}"), (4, "query 't3' of test is missing: add its line")],
        ),
        (
            [*KAGGLE[:3], "t3"],
            [(4, f"0 commas: {ONE_COMMA}"), (4, "query 't3' of test is missing: add its line")],
        ),
        ([*KAGGLE[:3], f"t3,{SPACED} g7"], [(4, "8 gallery ids: expected 7")]),
        (
            [*KAGGLE[:3], f"t3,{SPACED[:-2]} g6"],
            [(4, "an empty gallery id: remove the comma or add the id"), (4, "8 gallery ids: expected 7")],
        ),
        (
            [*KAGGLE[:3], "t3,g0 g0 g2 g3 g4 g5 g6"],
            [(4, "gallery id 'g0' appears 2 times: expected 7 distinct ids")],
        ),
    ],
)
def test_kaggles_form(tmp_path, data, expected):
    assert sorted(faults(tmp_path, data, form="kaggle")) == sorted(expected)


MISSING = "query {!r} of test is missing: add its line"
OTHER_SPLIT = "query 'v1' is of validation, while most lines answer test: expected the queries of one split"
CARRIAGE = "a carriage return inside the line: expected lines ending in \\n, save with Unix line ends"
HEADER = "a header line ({!r}): remove it, line 1 is the first query"


@pytest.mark.parametrize(
    "data, expected",
    [
        (GOOD[:2], [(3, MISSING.format("t3"))]),
        (GOOD[1:2], [(2, MISSING.format("t1")), (2, MISSING.format("t3"))]),
        (GOOD + GOOD[:1], [(4, "query 't1' appears twice, first on line 1: remove one of the lines")]),
        (GOOD + [f"t4{ANSWER}"], [(4, "unknown query 't4': expected a query id of test")]),
        (
            GOOD + [f"v1{ANSWER}"],
            [(4, OTHER_SPLIT)],
        ),
        (
            [GOOD[0], GOOD[1], f" t3{ANSWER}"],
            [
                (3, "query ' t3' is empty or has blanks around it: expected the bare id"),
                (4, MISSING.format("t3")),
            ],
        ),
        ([GOOD[0], "t2,g0,g1,g2,g3,g4,g5", GOOD[2]], [(2, "6 gallery ids: expected 7")]),
        ([GOOD[0], GOOD[1] + ",g9", GOOD[2]], [(2, "8 gallery ids: expected 7")]),
        (
            [GOOD[0], GOOD[1] + ",", GOOD[2]],
            [(2, "8 gallery ids: expected 7"), (2, "an empty gallery id: remove the comma or add the id")],
        ),
        (["t1", *GOOD[1:]], [(1, "0 gallery ids: expected 7")]),
        (
            [GOOD[0].replace("g6", "g0"), *GOOD[1:]],
            [(1, "gallery id 'g0' appears 2 times: expected 7 distinct ids")],
        ),
        (
            [GOOD[0].replace("g6", "x"), *GOOD[1:]],
            [(1, "unknown gallery id 'x': expected one of the 10 gallery ids")],
        ),
        (
            [GOOD[0].replace("g6", "g6.jpg"), *GOOD[1:]],
            [(1, "unknown gallery id 'g6.jpg': expected the id without extension, 'g6'")],
        ),
        (
            [GOOD[0].replace(",g6", ", g6"), *GOOD[1:]],
            [(1, "blanks around gallery id ' g6': expected the bare id")],
        ),
        (["id,id1,id2,id3,id4,id5,id6,id7", *GOOD], [(1, HEADER.format("id,id1,id2,id3,id4,id5,id6,id7"))]),
        (
            ["\ufeff" + GOOD[0], *GOOD[1:]],
            [(1, "a byte order mark (BOM) before the first id: save as UTF-8 without BOM")],
        ),
        (
            ["\ufeffquery,gallery", *GOOD],
            [
                (1, "a byte order mark (BOM) before the first id: save as UTF-8 without BOM"),
                (1, HEADER.format("query,gallery")),
            ],
        ),
        (
            [GOOD[0], GOOD[1] + "\r", GOOD[2] + "\r"],
            [(2, "2 of 3 lines end in \\r\\n, this is the first: expected \\n, save with Unix line ends")],
        ),
        (
            [line.replace(",", ";") for line in GOOD],
            [(n, "the ids are separated by semicolons: expected commas") for n in (1, 2, 3)],
        ),
        (
            [GOOD[0], GOOD[1].replace(",", "\t"), GOOD[2]],
            [(2, "the ids are separated by tabs: expected commas"), (4, MISSING.format("t2"))],
        ),
        (
            [GOOD[0], '"t2",' + GOOD[1][3:], GOOD[2]],
            [(2, "quotes: expected bare ids, id,id1,…"), (4, MISSING.format("t2"))],
        ),
        (
            [GOOD[0], "", GOOD[1], " ", GOOD[2]],
            [(2, "a blank line: remove it"), (4, "a blank line: remove it")],
        ),
        (
            "\r".join(GOOD),
            [(1, CARRIAGE)],
        ),
        ("", [(1, "the file is empty: expected a line a query")]),
        ("\ufeff\n \n", [(1, "the file is empty: expected a line a query")]),
        (
            "\n".join(GOOD[:2]).encode() + b"\nt\xe43",
            [(3, "not UTF-8 (byte 0xe4): save as UTF-8"), (3, MISSING.format("t3"))],
        ),
        (
            [f"x{ANSWER}", f"y{ANSWER}"],
            [
                (n, f"unknown query {q!r}: expected a query id of validation or test")
                for n, q in ((1, "x"), (2, "y"))
            ],
        ),
        (
            [f"v1{ANSWER}", "x,y", *GOOD],
            [
                (1, OTHER_SPLIT),
                (2, "unknown query 'x': expected a query id of test"),
                (2, "1 gallery ids: expected 7"),
                (2, "unknown gallery id 'y': expected one of the 10 gallery ids"),
            ],
        ),
    ],
)
def test_faults(tmp_path, data, expected):
    assert faults(tmp_path, data) == expected


def test_fault_as_text(tmp_path):
    assert str(check(tmp_path, ["t1", *GOOD[1:]]).faults[0]) == "line 1: 0 gallery ids: expected 7"


def test_top_k(tmp_path):
    assert faults(tmp_path, ["v1,g1,g2", "v2,g3,g4"], top_k=2) == []
    assert faults(tmp_path, ["v1,g1,g2", "v2,g3"], top_k=2) == [(2, "1 gallery ids: expected 2")]


def test_split_where_ids_are_in_both(tmp_path):
    splits = {"validation": ["q1", "q2"], "test": ["q1", "q2", "q3"]}
    assert check(tmp_path, [f"q1{ANSWER}", f"q2{ANSWER}"], splits).split == "validation"
    assert check(tmp_path, [f"q{n}{ANSWER}" for n in (1, 2, 3)], splits).split == "test"
    assert check(tmp_path, [f"q1{ANSWER}"], {}).split is None


@given(st.permutations(range(3)), st.lists(st.permutations(GALLERY), min_size=3, max_size=3), st.data())
def test_any_good_file_passes_and_losing_an_id_never_does(tmp_path_factory, order, rankings, data):
    folder = tmp_path_factory.getbasetemp()
    rows = [[SPLITS["test"][i], *rankings[i][:7]] for i in order]
    assert faults(folder, [",".join(row) for row in rows]) == []
    line = data.draw(st.integers(0, 2))
    del rows[line][data.draw(st.integers(1, 7))]
    assert faults(folder, [",".join(row) for row in rows]) == [(line + 1, "6 gallery ids: expected 7")]


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything(tmp_path_factory, data):
    assert check(tmp_path_factory.getbasetemp(), data).faults


def test_unreadable(tmp_path):
    with pytest.raises(Top7Error, match="no.csv: no such submission$"):
        check_submission(tmp_path / "no.csv", EXPECTED)
    with pytest.raises(Top7Error, match="the submission cannot be read: Is a directory$"):
        check_submission(tmp_path, EXPECTED)


def test_grocery(tmp_path, shared):
    ids = {name: list_images(shared / "grocery" / name).ids for name in ("gallery", "val", "test")}
    answer = ",".join(ids["gallery"][:7])
    path = tmp_path / "s.csv"
    path.write_text("".join(f"{query},{answer}\n" for query in ids["test"][:-1]))
    result = check_submission(path, Expected({"validation": ids["val"], "test": ids["test"]}, ids["gallery"]))
    assert result.split == "test"
    assert [str(fault) for fault in result.faults] == [
        f"line 324: query {ids['test'][-1]!r} of test is missing: add its line"
    ]
