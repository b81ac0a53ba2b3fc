"""Groups of pairs against a naive search, and their order."""

import networkx
import numpy as np

from submissions.duplicate_groups import grouped


def test_groups_are_the_connected_components():
    generator = np.random.default_rng(0)
    for n_pairs in (0, 1, 10, 40):
        pairs = [
            (*sorted(generator.choice(60, 2, replace=False).tolist()), float(generator.random()))
            for _ in range(n_pairs)
        ]
        groups, cosines = grouped(pairs)
        graph = networkx.Graph([pair[:2] for pair in pairs])
        assert sorted(groups) == sorted(map(sorted, networkx.connected_components(graph)))
        assert [(-len(rows), rows[0]) for rows in groups] == sorted((-len(rows), rows[0]) for rows in groups)
        assert all(cosines[row] == max(c for *pair, c in pairs if row in pair) for row in cosines)
