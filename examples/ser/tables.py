"""Tables 6 to 19 of the paper and the protocol study, from the grid's predictions alone.

``python -m examples.ser.tables`` reads results/grid/*.json.gz and results/svm.csv and writes
results/table*.csv, results/protocol.csv and the pictures, the paper's numbers beside ours.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from examples.ser import figures
from examples.ser.calibration import calibration, draw_calibration
from examples.ser.evaluate import confusion, scores
from examples.ser.report import write_csv
from examples.ser.reproduce import FOLDS, GRID, OURS, TABLES, Cell, read_cells
from examples.ser.statistics import compare, holm, join_runs

RESULTS = Path(__file__).parent / "results"
PAPER = Path(__file__).parent / "paper.csv"  # Li et al. 2026, table by table
ORACLE = "test-best (oracle)"
ACCURACY = ("6", "7", "8", "9", "10", "12")
CONDITIONS = {
    "15": ("clean", "awgn20", "awgn10", "awgn0"),
    "16": ("clean", "mp3-128k", "reverb-0.3s"),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Runs:
    """The runs of one variant under one protocol and budget: a record per fold and seed."""

    cell: Cell  # the first of them
    records: tuple[Mapping[str, Any], ...]

    @property
    def labels(self) -> list[str]:
        """Classes in order."""
        return list(self.records[0]["labels"])

    @property
    def complete(self) -> bool:
        """Whether every fold is there."""
        return {r["run"]["fold"] for r in self.records} == set(FOLDS[self.cell.corpus])

    def facts(self) -> Row:
        """Return what a row says of its runs."""
        cell, seen = self.cell, [r["run"] for r in self.records]
        return {
            "folds": len({run["fold"] for run in seen}),
            "seeds": len({run["seed"] for run in seen}),
            "epochs": cell.epochs, "preset": cell.preset, "arithmetic": cell.precision,
            "commit": " ".join(sorted({run["commit"][:9] for run in seen})),
        }  # fmt: skip

    def by_fold(self, selection: str = "last") -> list[Row]:
        """Return the scores of every run."""
        return [row for r in self.records for row in r["rows"] if row["selection"] == selection]

    def pooled(self, selection: str = "last", **where: str) -> tuple[np.ndarray, np.ndarray]:
        """Posteriors (U, K) and classes (U,) over all runs; `where` picks, say, gender="male"."""
        clips = [
            clip for r in self.records for clip in r["utterances"]
            if all(clip[key] == value for key, value in where.items())
        ]  # fmt: skip
        posterior = np.array([clip[selection] for clip in clips])
        return posterior, np.array([self.labels.index(clip["label"]) for clip in clips])


Grid = dict[tuple[str, ...], Runs]  # (corpus, protocol, budget, variant) -> its runs


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_grid(folder: Path) -> Grid:
    """Read every cell."""
    found = defaultdict(list)
    for cell, record in read_cells(folder).values():
        key = (cell.corpus, cell.protocol, cell.budget, cell.variant)
        found[key].append((cell, record))
    return {key: Runs(runs[0][0], tuple(r for _, r in runs)) for key, runs in found.items()}


def read_paper() -> dict[tuple[str, ...], str]:
    """Return the paper's value by (table, corpus, row, column)."""
    keys = ("table", "corpus", "row", "column")
    return {tuple(row[key] for key in keys): row["value"] for row in read(PAPER)}


def beside(table: str, corpus: str, row: str, values: Mapping[str, float], digits: int = 2) -> Row:
    """Return ours, each followed by the paper's where it has one."""
    paper = read_paper()
    out: Row = {}
    for column, value in values.items():
        out[column] = "" if np.isnan(value) else f"{value:.{digits}f}"
        theirs = [c for c in (corpus, "iemocap") if (table, c, row, column) in paper]
        if theirs:
            source = "paper" if theirs[0] == corpus else "paper on iemocap"
            out[f"{column} ({source})"] = paper[table, theirs[0], row, column]
    return out


def averages(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, float]:
    """WA and UA with their spread over the runs, and F1 by class."""
    out: dict[str, float] = {}
    for measure in ("WA", "UA"):
        values = [row[measure] for row in rows]
        out |= {measure: mean(values), f"{measure} SD": pstdev(values)}
    return out | {f"F1 {label}": mean(row[f"F1_{label}"] for row in rows) for label in labels}


def accuracy(table: str, grid: Grid) -> list[Row]:
    """Tables 6 to 10 and 12: a row per variant, the mean over folds and its spread."""
    variants, (protocol,) = TABLES[table]
    return [
        {"corpus": key[0], "variant": key[3]}
        | beside(table, key[0], key[3], averages(runs.by_fold(), runs.labels)) | runs.facts()
        for variant in variants
        for key, runs in grid.items() if key[1] == protocol and key[3] == variant
    ]  # fmt: skip


def named(key: tuple[str, ...], grid: Grid) -> str:
    """Return the variant of a key, with its budget where the grid has several."""
    return key[3] if len({other[2] for other in grid}) == 1 else f"{key[3]}, {key[2]}"


def reported(runs: Runs) -> bool:
    """Whether Tables 13, 17 and 18 are of this variant: they show the full model alone."""
    return runs.cell.variant == OURS[1]


def ours(grid: Grid, variants: Iterable[str] = OURS) -> list[Runs]:
    """Return speaker-independent runs that have all folds: the baseline and AAM + ICASA."""
    return [
        runs for variant in variants for key, runs in grid.items()
        if key[1] == "speaker" and key[3] == variant and runs.complete
    ]  # fmt: skip


def table13(grid: Grid) -> list[Row]:
    """Precision, recall and F1 by class, of the pooled predictions."""
    rows = []
    for runs in ours(grid):
        posterior, y = runs.pooled()
        found = precision_recall_fscore_support(y, posterior.argmax(1), zero_division=0.0)
        columns = ("precision", "recall", "F1")
        lines = dict(zip(runs.labels, np.stack(found[:3], 1), strict=True))
        lines["macro average"] = np.stack(found[:3], 1).mean(0)
        for name, values in lines.items():
            head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant, "class": name}
            measured = dict(zip(columns, values, strict=True))
            shown = beside("13" * reported(runs), runs.cell.corpus, name, measured, 3)
            rows.append(head | shown | runs.facts())
    return rows


def table14(grid: Grid) -> list[Row]:
    """Calibration of the pooled predictions."""
    rows = []
    for runs in ours(grid):
        head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
        found = calibration(*runs.pooled())
        values = {name: found[name] for name in ("ECE", "MCE", "Brier")}
        values["high confidence accuracy"] = 100 * found["confident_accuracy"]
        head["confident"] = found["confident"]
        rows.append(head | beside("14", head["corpus"], head["variant"], values, 4) | runs.facts())
    return rows


def robustness(table: str, grid: Grid) -> list[Row]:
    """Tables 15 and 16: WA and UA of the pooled predictions by condition."""
    rows = []
    for runs in ours(grid):
        for condition in CONDITIONS[table]:
            if not all(condition in r["utterances"][0] for r in runs.records):
                continue
            result = scores(*runs.pooled(condition), runs.labels)
            values = {f"{condition} {measure}": result[measure] for measure in ("WA", "UA")}
            shown = beside(table, runs.cell.corpus, runs.cell.variant, values)
            short = {key.removeprefix(f"{condition} "): value for key, value in shown.items()}
            head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
            rows.append(head | {"condition": condition} | short | runs.facts())
    return rows


def gender(table: str, grid: Grid) -> list[Row]:
    """Tables 17 (clean) and 18 (also at 10 dB): scores by the speaker's gender."""
    rows = []
    for runs in ours(grid):
        head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
        for name in ("male", "female"):
            clean = scores(*runs.pooled(gender=name), runs.labels)
            if table == "17":
                values = {measure: clean[measure] for measure in ("WA", "UA")}
                shown = beside("17" * reported(runs), head["corpus"], name, values)
                rows.append(head | {"gender": name} | shown | runs.facts())
            elif all("awgn10" in r["utterances"][0] for r in runs.records):
                noisy = scores(*runs.pooled("awgn10", gender=name), runs.labels)
                for label in runs.labels:
                    values = {
                        f"{name} clean F1": clean[f"F1_{label}"],
                        f"{name} awgn10 F1": noisy[f"F1_{label}"],
                    }
                    shown = beside("18" * reported(runs), head["corpus"], label, values)
                    short = {key.removeprefix(f"{name} "): v for key, v in shown.items()}
                    rows.append(head | {"gender": name, "class": label} | short | runs.facts())
    return rows


def table19(grid: Grid) -> list[Row]:
    """Test what AAM + ICASA gains over the baseline, and what each brings alone."""
    rows = []
    baselines = {(r.cell.corpus, r.cell.budget): r for r in ours(grid, OURS[:1])}
    for runs in ours(grid, ("icasa+aam", "icasa", "none+aam")):
        if (base := baselines.get((runs.cell.corpus, runs.cell.budget))) is None:
            continue
        for metric in ("WA", "UA"):
            row = compare(join_runs(runs.records), join_runs(base.records), metric=metric)
            head = {"corpus": runs.cell.corpus, "ours": runs.cell.variant}
            rows.append(head | {"against": base.cell.variant} | row | runs.facts())
    return [
        {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        for row in holm(rows)
    ]


def protocol(grid: Grid) -> list[Row]:
    """One model under every protocol and selection, beside the SVM and the paper."""
    rows = []
    for key, runs in grid.items():
        if key[3] not in OURS:
            continue
        for selection in ("last", ORACLE):
            result = averages(runs.by_fold(selection), ())
            leaks = [key[1]] * (key[1] != "speaker") + ["leaky-epoch"] * (selection != "last")
            head = {"corpus": key[0], "model": named(key, grid)}
            head["leak"] = " + ".join(leaks) or "none"
            shown = beside("8" if key[3] == "none" else "12", key[0], key[3], result)
            rows.append(head | shown | runs.facts())
    svm = defaultdict(list)
    if (RESULTS / "svm.csv").exists():
        for row in read(RESULTS / "svm.csv"):
            model = f"svm, {row['features']} by {row['normalisation']}"
            key = (row["corpus"], model, row["protocol"])
            svm[key].append({m: float(row[m]) for m in ("WA", "UA")})
    for (corpus, model, name), found in svm.items():
        head = {"corpus": corpus, "model": model, "leak": "none" if name == "speaker" else name}
        shown = beside("", corpus, "svm", averages(found, ()))
        rows.append(head | shown | {"folds": len(found)})
    order = {"none": 0, "leaky-epoch": 1, "leaky-utterance": 2, "leaky-segment": 4}
    return sorted(rows, key=lambda row: sum(order[leak] for leak in row["leak"].split(" + ")))


def literature() -> list[Row]:
    """Table 21: published numbers as the paper cites them, ours not among them."""
    rows: dict[tuple[str, str], Row] = {}
    for (table, corpus, row, column), value in read_paper().items():
        if table == "21":
            rows.setdefault((corpus, row), {"corpus": corpus, "model": row})[column] = value
    return list(rows.values())


def single_runs() -> list[Row]:
    """Read the runs outside the grid: a row per selection, then the paper's."""
    rows = []
    for path in sorted(RESULTS.glob("*/result.csv")):
        for row in read(path):
            aam = "+aam" * (row["augmentation"] == "aam")
            values = {measure: float(row[measure]) for measure in ("WA", "UA", "ECE")}
            variant = row["attention"] + aam
            table = "8" if variant == "none" else "12"
            facts = {key: row[key] for key in ("fold", "preset", "epochs", "seed")}
            head = {"variant": variant, "selection": row["selection"], "epoch": row["epoch"]}
            shown = beside(table, row["corpus"], variant, values)
            rows.append(head | shown | facts | {"commit": row["commit"][:9]})
    return rows


def write(name: str, rows: list[Row]) -> None:
    """Write a table, every row with every column."""
    if rows:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        write_csv(RESULTS / f"{name}.csv", [{c: row.get(c, "") for c in columns} for row in rows])
        print(f"{name}: {len(rows)} rows")


def draw(grid: Grid) -> None:
    """Figures 5, 6, 8 and 9, and the protocol picture."""
    for runs in ours(grid):
        name = f"{runs.cell.corpus}-{runs.cell.variant}-{runs.cell.budget}"
        title = f"{name}, {len(runs.records)} runs"
        posterior, y = runs.pooled()
        counts = confusion(posterior, y, runs.labels)
        figures.draw_confusion(counts, runs.labels, title, RESULTS / f"figure8-{name}.png")
        draw_calibration(posterior, y, title, RESULTS / f"figure9-{name}.png")
        if "icasa" in runs.cell.variant:
            histories = [record["history"] for record in runs.records]
            figures.draw_betas(histories, title, RESULTS / f"figure5-{name}.png")
    boxes = {
        named(key, grid): [row["WA"] for row in runs.by_fold()]
        for key, runs in grid.items() if key[1] == "speaker" and runs.complete
    }  # fmt: skip
    if boxes:
        figures.draw_boxes(boxes, "each run of the grid", RESULTS / "figure6.png")
    if (RESULTS / "table05.csv").exists():
        figures.draw_similarity(read(RESULTS / "table05.csv"), RESULTS / "table05.png")
    if rows := protocol(grid):
        chance = 100 / 7.5  # the largest classes of RAVDESS are each a 7.5th of it
        figures.draw_protocols(rows, chance, RESULTS / "protocol.png")


def main() -> None:
    """Write every table and picture that the grid has runs of the paper's model for."""
    grid = {key: runs for key, runs in read_grid(GRID).items() if runs.cell.papers}
    for table in ACCURACY:
        write(f"table{int(table):02}", accuracy(table, grid))
    write("table13", table13(grid))
    write("table14", table14(grid))
    for table in CONDITIONS:
        write(f"table{table}", robustness(table, grid))
    for table in ("17", "18"):
        write(f"table{table}", gender(table, grid))
    write("table19", table19(grid))
    write("summary", single_runs())
    write("table21", literature())
    write("protocol", protocol(grid))
    draw(grid)


if __name__ == "__main__":
    main()
