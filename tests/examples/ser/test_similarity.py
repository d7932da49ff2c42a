"""Table 5: the pairs that each threshold admits, and the paper's match."""

import pytest

from examples.provenance import read_csv
from examples.ser import similarity


def test_similarity_counts_the_pairs_that_it_admits(small_grid, tmp_path):
    _, source = small_grid
    similarity.main([*source, "--out", str(tmp_path / "t.csv")])
    rows = read_csv(tmp_path / "t.csv")
    assert len(rows) == len(similarity.REPRESENTATIONS) * len(similarity.THRESHOLDS)
    for start in range(0, len(rows), len(similarity.THRESHOLDS)):
        group = rows[start : start + len(similarity.THRESHOLDS)]
        shares, pairs = ([float(row[k]) for row in group] for k in ("pair share", "pairs"))
        assert shares == sorted(shares, reverse=True)
        every = pairs[0] / shares[0]  # T = 0.1 admits some
        assert pairs == pytest.approx([share * every for share in shares], abs=0.0051 * every)
        assert [row["paper label match"] for row in group] == [
            "52.3",
            "60.8",
            "68.7",
            "75.4",
            "82.1",
        ]
