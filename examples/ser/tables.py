"""Tables 6 to 19 of the paper and the protocol study, from the grid's predictions alone.

``python -m examples.ser.tables`` reads results/grid/*.json.gz and results/svm.csv and writes
results/table*.csv, results/protocol.csv and the pictures, with the paper's numbers and ours. Tables
8, 9, 10 and 12 have rows of the study's cells, too.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from examples.errors import user_errors
from examples.provenance import Row, read_csv, write_csv
from examples.ser.grid.accuracy import (
    LAYERS,
    TABLES_OF_ACCURACY,
    accuracy,
    accuracy_in_study,
    averages,
)
from examples.ser.grid.calibration import calibrated, calibration, draw_calibration
from examples.ser.grid.cells import ATTENTIONS, GRID, OURS, RESULTS, STUDIED, TABLES
from examples.ser.grid.names import name as in_words
from examples.ser.grid.paper import literature, read_paper, with_paper
from examples.ser.grid.predictions import join_runs
from examples.ser.grid.runs import Grid, Runs, on_common_seeds, read_grid
from examples.ser.grid.significance import METRICS, compare, compare_groups, holm
from examples.ser.run import figures
from examples.ser.run.evaluate import confusion, scores

ORACLE = "test-best (oracle)"
CONDITIONS = {
    "15": ("clean", "awgn20", "awgn10", "awgn0"),
    "16": ("clean", "mp3-128k", "reverb-0.3s"),
}
AGAINST = {  # Table 19: the variants compared with each baseline
    "none": ("icasa+aam", "icasa", "none+aam", "none+aam-random", "none+aam-unweighted"),
    "none+aam": tuple(f"{name}+aam" for name in ATTENTIONS if name != "none"),
}


def run_name(runs: Runs, grid: Grid) -> str:
    """Name runs by their variant, with corpus and budget where the grid has several."""
    cell, cells = runs.cell, [other.cell for other in grid.values()]
    parts = [cell.variant]
    if len({other.corpus for other in cells}) > 1:
        parts.append(cell.corpus)
    if len({(other.preset, other.precision) for other in cells}) > 1:
        parts.append(cell.budget)
    elif len({other.epochs for other in cells}) > 1:
        parts.append(f"{cell.epochs} epochs")
    return ", ".join(parts)


def is_reported(runs: Runs) -> bool:
    """Whether the paper's Tables 13, 17 and 18 are of this variant: the full model."""
    return runs.cell.variant == OURS[1]


def complete_runs(grid: Grid, variants: Iterable[str] = OURS) -> list[Runs]:
    """Return speaker-independent runs with all folds: by default the baseline and AAM + ICASA."""
    return [
        runs for variant in variants for key, runs in grid.items()
        if key[1] == "speaker" and key[3] == variant and runs.complete
    ]  # fmt: skip


def table13(grid: Grid) -> list[Row]:
    """Precision, recall and F1 by class, of the pooled predictions."""
    rows = []
    for runs in complete_runs(grid):
        posterior, y = runs.pooled()
        found = precision_recall_fscore_support(y, posterior.argmax(1), zero_division=0.0)
        columns = ("precision", "recall", "F1")
        lines = dict(zip(runs.labels, np.stack(found[:3], 1), strict=True))
        lines["macro average"] = np.stack(found[:3], 1).mean(0)
        lines["micro average"] = np.full(3, (posterior.argmax(1) == y).mean())
        for name, values in lines.items():
            head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant, "class": name}
            measured = dict(zip(columns, values, strict=True))
            shown = with_paper("13" * is_reported(runs), runs.cell.corpus, name, measured, 3)
            rows.append(head | shown | runs.facts())
    return rows


def table14(grid: Grid) -> list[Row]:
    """Calibration of the pooled predictions."""
    rows = []
    for runs in complete_runs(grid):
        head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
        found = calibration(*runs.pooled())
        values = {name: found[name] for name in ("ECE", "MCE", "Brier")}
        values["high confidence accuracy"] = 100 * found["confident_accuracy"]
        head["confident"] = found["confident"]
        shown = with_paper("14", head["corpus"], head["variant"], values, 4)
        low, high = calibrated(runs.pooled()[0])
        shown["ECE if calibrated"] = f"{low:.4f} to {high:.4f}"
        rows.append(head | shown | runs.facts())
    return rows


def robustness(table: str, grid: Grid) -> list[Row]:
    """Tables 15 and 16: WA and UA of the pooled predictions by condition."""
    rows = []
    for runs in complete_runs(grid):
        base = grid.get((*runs.cell.group[:3], OURS[0]))
        for condition in CONDITIONS[table]:
            if not runs.has_condition(condition):
                continue
            result = scores(*runs.pooled(condition), runs.labels)
            values = {f"{condition} {measure}": result[measure] for measure in ("WA", "UA")}
            shown = with_paper(table, runs.cell.corpus, runs.cell.variant, values)
            short = {key.removeprefix(f"{condition} "): value for key, value in shown.items()}
            if (
                is_reported(runs)
                and base
                and base.has_condition(condition)
                and (both := on_common_seeds(runs, base))
            ):
                found = compare(*(join_runs(side.records, condition) for side in both))
                names = {"difference": "WA gained", "low": "low", "high": "high"}
                short |= {name: f"{found[key]:.2f}" for key, name in names.items()}
            head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
            rows.append(
                head | {"condition": condition} | short | runs.facts() | runs.scoring_facts()
            )
    return rows


def gender(grid: Grid) -> list[Row]:
    """Table 17: scores by the speaker's gender, and their difference."""
    rows = []
    for runs in complete_runs(grid):
        head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
        table, sides = "17" * is_reported(runs), ("female", "male")
        for name in sides:
            found = scores(*runs.pooled(gender=name), runs.labels)
            shown = with_paper(table, head["corpus"], name, {m: found[m] for m in METRICS})
            rows.append(head | {"gender": name} | shown | runs.facts())
        gaps = {
            m: compare_groups(*(join_runs(runs.records, gender=side) for side in sides), metric=m)
            for m in METRICS
        }
        name = " - ".join(sides)
        shown = with_paper(table, head["corpus"], name, {m: gaps[m]["difference"] for m in METRICS})
        ends = {f"{m} {end}": f"{gaps[m][end]:.2f}" for m in METRICS for end in ("low", "high")}
        rows.append(head | {"gender": name} | shown | ends | runs.facts())
    return rows


def table18(grid: Grid) -> list[Row]:
    """F1 by class and gender, clean and at 10 dB."""
    rows = []
    for runs in complete_runs(grid):
        if not runs.has_condition("awgn10"):
            continue
        head = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
        for name in ("male", "female"):
            clean, noisy = (
                scores(*runs.pooled(selection, gender=name), runs.labels)
                for selection in ("clean", "awgn10")
            )
            for label in runs.labels:
                values = {
                    f"{name} clean F1": clean[f"F1_{label}"],
                    f"{name} awgn10 F1": noisy[f"F1_{label}"],
                }
                shown = with_paper("18" * is_reported(runs), head["corpus"], label, values)
                short = {key.removeprefix(f"{name} "): v for key, v in shown.items()}
                facts = runs.facts() | runs.scoring_facts()
                rows.append(head | {"gender": name, "class": label} | short | facts)
    return rows


def table19(grid: Grid) -> list[Row]:
    """Test the gains of AAM, ICASA and their parts; a family of Holm's spans all budgets."""
    families: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for base in complete_runs(grid, AGAINST):
        for runs in complete_runs(grid, AGAINST[base.cell.variant]):
            if (runs.cell.corpus, runs.cell.budget) != (base.cell.corpus, base.cell.budget):
                continue
            if (sides := on_common_seeds(runs, base)) is None:
                continue
            head = {"corpus": runs.cell.corpus, "ours": runs.cell.variant}
            for metric in METRICS:
                row = compare(*(join_runs(side.records) for side in sides), metric=metric)
                row = head | {"against": base.cell.variant} | row | sides[0].facts()
                row["commit (against)"] = sides[1].facts()["commit"]
                families[runs.cell.corpus, metric].append(row)
    rows = [row for family in families.values() for row in holm(family)]
    return [
        {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        | {f"{name} (paper)": value for name, value in paper_row(row).items()}
        for row in rows
    ]


def paper_row(row: Row) -> dict[str, str]:
    """Return the paper's Table 19 for a difference, empty for most."""
    if (row["ours"], row["against"]) != OURS[::-1]:
        return {}
    where = ("19", row["corpus"], row["metric"])
    return {key[-1]: value for key, value in read_paper().items() if key[:-1] == where}


def protocol(grid: Grid) -> list[Row]:
    """Each model by protocol and selection, with the SVM and the paper."""
    rows = []
    for key, runs in grid.items():
        if key[3] not in TABLES["protocol"][0]:
            continue
        for selection in ("last", ORACLE):
            result = averages(runs.by_fold(selection), ())
            leaks = [key[1]] * (key[1] != "speaker") + ["leaky-epoch"] * (selection != "last")
            head = {"corpus": key[0], "model": run_name(runs, grid)}
            head["leak"] = " + ".join(leaks) or "none"
            table = "8" if key[3] == "none" else LAYERS[runs.cell.base_corpus]
            shown = with_paper(table, key[0], key[3], result)
            rows.append(head | shown | runs.facts())
    svm = defaultdict(list)
    if (RESULTS / "svm.csv").exists():
        for row in read_csv(RESULTS / "svm.csv"):
            cut = f", every {row['stride (s)']} s" * (row["stride (s)"] == "0.4")
            model = f"svm, {row['features']} by {row['normalisation']}{cut}"
            key = (row["corpus"], model, row["protocol"])
            svm[key].append({m: float(row[m]) for m in ("WA", "UA")})
    for (corpus, model, name), found in svm.items():
        head = {"corpus": corpus, "model": model, "leak": "none" if name == "speaker" else name}
        shown = with_paper("", corpus, "svm", averages(found, ()))
        rows.append(head | shown | {"folds": len(found)})
    order = {"none": 0, "leaky-epoch": 1, "leaky-utterance": 2, "leaky-segment": 4}
    return sorted(rows, key=lambda row: sum(order[leak] for leak in row["leak"].split(" + ")))


def single_runs() -> list[Row]:
    """Read the runs outside the grid: a row per selection, then the paper's."""
    rows = []
    for path in sorted(RESULTS.glob("*/result.csv")):
        for row in read_csv(path):
            aam = "+aam" * (row["augmentation"] == "aam")
            values = {measure: float(row[measure]) for measure in ("WA", "UA", "ECE")}
            variant = row["attention"] + aam
            table = "8" if variant == "none" else "12"
            facts = {key: row[key] for key in ("fold", "preset", "epochs", "seed")}
            leak = "leaky-epoch" if row["selection"] == ORACLE else "none"
            head = {"variant": variant, "selection": row["selection"], "leak": leak}
            head["epoch"] = row["epoch"]
            shown = with_paper(table, row["corpus"], variant, values)
            rows.append(head | shown | facts | {"commit": row["commit"][:9]})
    return rows


def write(name: str, rows: list[Row]) -> None:
    """Write a table that has rows."""
    if rows:
        write_csv(RESULTS / f"{name}.csv", rows)
        print(f"{name}: {len(rows)} rows")


def draw(grid: Grid) -> None:
    """Figures 5, 6, 8 and 9, and the protocol picture."""
    for runs in complete_runs(grid):
        name = f"{runs.cell.corpus}-{runs.cell.variant}-{runs.cell.budget}"
        title = f"{in_words(runs.cell.variant)}, {runs.cell.epochs} epochs"
        posterior, y = runs.pooled()
        counts = confusion(posterior, y, runs.labels)
        figures.draw_confusion(counts, runs.labels, title, RESULTS / f"figure8-{name}.png")
        draw_calibration(posterior, y, title, RESULTS / f"figure9-{name}.png")
        if "icasa" in runs.cell.variant:
            histories = [record["history"] for record in runs.records]
            figures.draw_betas(histories, title, RESULTS / f"figure5-{name}.png")
    boxes = {
        in_words(run_name(runs, grid)): [row["WA"] for row in runs.by_fold()]
        for key, runs in grid.items() if key[1] == "speaker" and runs.complete
    }  # fmt: skip
    if boxes:
        figures.draw_boxes(boxes, "accuracy of each fold", RESULTS / "figure6.png")
    if (RESULTS / "table05.csv").exists():
        figures.draw_similarity(read_csv(RESULTS / "table05.csv"), RESULTS / "table05.png")
    # By corpus, the classes of a complete run that is scored by clips.
    clips = {runs.cell.corpus: runs.pooled()[1].tolist() for runs in complete_runs(grid)}
    for corpus, y in clips.items():
        rows = [row for row in protocol(grid) if row["corpus"] == corpus]
        chance = 100 * max(Counter(y).values()) / len(y)
        figures.draw_protocols(rows, chance, RESULTS / f"protocol-{corpus}.png")


def main() -> None:
    """Write every table and picture of the paper's model that the grid has runs for."""
    grid = {key: runs for key, runs in read_grid(GRID).items() if runs.cell.is_paper_model}
    study = read_grid(STUDIED)
    for table in TABLES_OF_ACCURACY:
        write(f"table{int(table):02}", accuracy(table, grid) + accuracy_in_study(table, study))
    write("table13", table13(grid))
    write("table14", table14(grid))
    for table in CONDITIONS:
        write(f"table{table}", robustness(table, grid))
    write("table17", gender(grid))
    write("table18", table18(grid))
    write("table19", table19(grid))
    write("summary", single_runs())
    write("table21", literature())
    write("protocol", protocol(grid))
    draw(grid)


if __name__ == "__main__":
    with user_errors():
        main()
