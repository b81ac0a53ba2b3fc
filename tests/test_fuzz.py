"""A fixed small number of mutated files; the large number is a benchmark (`python -m tests.fuzz 100000 1`)."""

import pytest

from tests.fuzz import READERS, fuzz


@pytest.mark.parametrize("kind", READERS)
def test_mutated_files_end_in_one_line_of_ours(kind):
    outcomes, failures = fuzz(250, 0, (kind,))
    assert not failures
    assert outcomes[f"{kind} accepted"] > 10 and outcomes[f"{kind} refused"] > 50
