"""MAP@k by both conventions: by hand, against a naive second implementation, laws for any ranking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from competition.errors import Top7Error
from competition.metrics import (
    CONVENTIONS,
    pad_relevant,
    query_figures,
)

KAGGLE, HITS = CONVENTIONS


def average_precisions(ranks, relevant, k=7, convention=KAGGLE):
    return query_figures(ranks, relevant, k, convention=convention)


def average_precision(ranks, relevant, k=7, convention=KAGGLE):
    ranks = np.asarray(ranks)
    return average_precisions(
        ranks.astype(ranks.dtype if len(ranks) else int)[None], [relevant], k, convention
    )[0]


def naive(ranks, relevant, k, convention):
    """AP@k from the definition, one rank after the other."""
    seen, total = set(), 0.0
    for position, row in enumerate(list(ranks)[:k], start=1):
        if row >= 0 and row in relevant and row not in seen:
            seen.add(row)
            total += len(seen) / position
    if convention == "hits":
        return total / len(seen) if seen else 0.0
    return total / min(len(set(relevant)), k)


RANKINGS = st.permutations(range(10)).flatmap(
    lambda order: st.integers(0, 10).map(lambda length: list(order[:length]))
)
RELEVANT = st.sets(st.integers(0, 9), min_size=1)


@pytest.mark.parametrize(
    "ranks, relevant, kaggle, hits",
    [
        ([5, 0, 1, 2, 3, 4, 6], [5], 1.0, 1.0),
        ([0, 5, 1, 2, 3, 4, 6], [5], 1 / 2, 1 / 2),
        ([0, 1, 2, 3, 4, 6, 5], [5], 1 / 7, 1 / 7),
        ([0, 1, 2, 3, 4, 6, 7], [5], 0.0, 0.0),
        ([8, 0, 9, 1, 2, 3, 4], [8, 9], (1 + 2 / 3) / 2, (1 + 2 / 3) / 2),
        ([8, 0, 1, 2, 3, 4, 6], [8, 9], 1 / 2, 1.0),  # one of two found: here they differ
        ([0, 8, 1, 9, 2, 3, 4], [7, 8, 9], (1 / 2 + 2 / 4) / 3, (1 / 2 + 2 / 4) / 2),
        ([0, 1, 2, 3, 4, 5, 6], list(range(9)), 1.0, 1.0),  # nine correct, only seven can be found
        ([10, 0, 11, 1, 12, 2, 13], list(range(9)), (1 / 2 + 2 / 4 + 3 / 6) / 7, (1 / 2 + 2 / 4 + 3 / 6) / 3),
        ([-1, 5, -1, -1, -1, -1, -1], [5], 1 / 2, 1 / 2),  # a missing answer keeps its rank
        ([-1] * 7, [5], 0.0, 0.0),
        ([5, 5, 5, 5, 5, 5, 5], [5, 6], 1 / 2, 1.0),  # a repeated answer is one hit
        ([0, 5], [5, 6], 1 / 4, 1 / 2),  # a list that ends early
        ([], [5], 0.0, 0.0),
        ([0, 1, 2, 3, 4, 6, 7, 5], [5], 0.0, 0.0),  # rank 8 does not count
    ],
)
def test_by_hand(ranks, relevant, kaggle, hits):
    assert average_precision(ranks, relevant) == pytest.approx(kaggle, abs=1e-15)
    assert average_precision(ranks, relevant, 7, KAGGLE) == pytest.approx(kaggle, abs=1e-15)
    assert average_precision(ranks, relevant, 7, HITS) == pytest.approx(hits, abs=1e-15)


@pytest.mark.parametrize("convention", CONVENTIONS)
@given(st.lists(st.tuples(RANKINGS, RELEVANT), min_size=1, max_size=5), st.integers(1, 11))
def test_against_the_definition(convention, queries, k):
    ranks = np.full((len(queries), 10), -1)
    for query, (ranking, _) in enumerate(queries):
        ranks[query, : len(ranking)] = ranking
    relevant = [sorted(rows) for _, rows in queries]
    expected = [naive(row, rows, k, convention) for row, rows in zip(ranks, relevant, strict=True)]
    values = average_precisions(ranks, relevant, k, convention)
    assert values.dtype == np.float64 and values == pytest.approx(expected, abs=1e-12)
    assert (average_precisions(ranks, pad_relevant(relevant), k, convention) == values).all()
    alone = [average_precision(row, rows, k, convention) for row, rows in zip(ranks, relevant, strict=True)]
    assert values.tolist() == alone  # no query touches another's bits


@given(st.permutations(range(10)), RELEVANT, st.integers(1, 10))
def test_laws(ranking, relevant, k):
    kaggle, hits = (average_precision(ranking, relevant, k, convention) for convention in CONVENTIONS)
    assert 0 <= kaggle <= hits <= 1
    perfect = sorted(ranking, key=lambda row: row not in relevant)
    assert average_precision(perfect, relevant, k) == pytest.approx(1)
    assert average_precision(ranking[:k] + [99] * 5, relevant, k) == kaggle
    at = next(
        (i for i in range(len(ranking) - 1) if ranking[i] not in relevant and ranking[i + 1] in relevant),
        None,
    )
    if at is not None:  # a correct image moving up never hurts
        better = [*ranking[:at], ranking[at + 1], ranking[at], *ranking[at + 2 :]]
        assert average_precision(better, relevant, k) >= kaggle
    renamed = [row + 100 for row in ranking]
    assert average_precision(renamed, [row + 100 for row in relevant], k) == kaggle


def test_ranks_of_any_integer_type():
    ranks = np.array([[1, 2, 0]])
    assert {average_precision(ranks[0].astype(kind), [2]) for kind in ("int16", "int32", "uint32")} == {1 / 2}


def test_errors():
    ranks = np.zeros((2, 7), dtype=np.int64)
    with pytest.raises(
        Top7Error, match="^query row 1 has no correct gallery image, so its average precision is not def"
    ):
        average_precisions(ranks, [[0], []])
    with pytest.raises(
        Top7Error, match=r"^ranks of shape \(2, 7\) for 3 labelled queries: expected one row a query$"
    ):
        average_precisions(ranks, [[0], [1], [2]])


def test_recall_and_precision_by_hand():
    ranks = np.array([[4, 1, 2], [0, -1, 9]])
    relevant = [[1, 2, 7, 8], [9]]
    assert query_figures(ranks, relevant, 3, "recall").tolist() == [0.5, 1.0]
    assert query_figures(ranks, relevant, 3, "precision").tolist() == [2 / 3, 1 / 3]
    assert query_figures(ranks, relevant, 2, "precision").tolist() == [0.5, 0.0]
    assert query_figures(ranks[:, :2], relevant, 3, "precision").tolist() == [
        1 / 3,
        0.0,
    ]  # a list that ends early
    assert (query_figures(ranks, relevant, 3) == average_precisions(ranks, relevant, 3)).all()
