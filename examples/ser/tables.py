"""Tables: the runs' rows joined, with the paper's six-fold averages beside them.

``python -m examples.ser.tables`` reads results/*/result.csv and writes results/summary.csv.
"""

import csv
from pathlib import Path

from examples.ser.report import write_csv

RESULTS = Path(__file__).parent / "results"
PAPER = Path(__file__).parent / "paper.csv"  # Li et al. 2026, Tables 8 and 12, in percent
CELL = ("corpus", "attention", "augmentation")
FIRST = ("attention", "augmentation", "selection", "epoch")
LAST = ("corpus", "fold", "preset", "epochs", "seed")


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summarise(results: Path) -> list[dict[str, str]]:
    """One row per run and selection: measured on its fold, then the paper's average."""
    paper = {tuple(row[key] for key in CELL): row for row in read(PAPER)}
    rows = []
    for path in sorted(results.glob("*/result.csv")):
        for row in read(path):
            theirs = paper.get(tuple(row[key] for key in CELL), {})
            shown = {key: row[key] for key in FIRST}
            for key in ("WA", "UA"):
                shown |= {key: f"{float(row[key]):.2f}", f"paper {key}": theirs.get(key, "")}
            shown |= {key: f"{float(row[key]):.2f}" for key in ("F1", "ECE")}
            shown |= {key: row[key] for key in LAST} | {"commit": row["commit"][:9]}
            rows.append(shown)
    return rows


if __name__ == "__main__":
    if not (summary := summarise(RESULTS)):
        raise SystemExit(f"no {RESULTS}/*/result.csv; train with --out {RESULTS}/NAME first")
    write_csv(RESULTS / "summary.csv", summary)
    print(f"{len(summary)} rows: {RESULTS / 'summary.csv'}")
