"""Reachability: which of the paper's RAVDESS numbers, and of ours, a result can have.

``python -m examples.ser.reachability`` reads paper.csv and the tables of the grid, and writes
results/reachability.csv.
With c clips right out of n, WA is c / n; with six equal folds its average over the folds is too.
UA is the mean of eight recalls, seven out of 192 clips and one out of 96, so a multiple of
1 / (8 * 192); so is its average over folds, each of which has 32 clips of a class and 16 neutral
ones. A number between two neighbours of these lattices cannot come from one such run.
"""

from decimal import Decimal
from fractions import Fraction
from typing import Any

from examples.errors import user_errors
from examples.provenance import git_commit, read_csv, write_csv
from examples.ser.grid.cells import RESULTS
from examples.ser.grid.paper import PAPER

SPEAKERS = {"all": 24, "male": 12, "female": 12}
CLIPS = dict.fromkeys(
    ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"), 8
) | {"neutral": 4}  # of one speaker
UNITS = {"percent": 100, "share": 1}
OURS = ("08", "10", "12")  # tables of ours that give averages over the six folds


def denominator(measure: str, speakers: str = "all") -> int:
    """Return n such that a measure (WA, UA or "recall <class>") is a multiple of 1 / n."""
    if measure == "WA":
        return SPEAKERS[speakers] * sum(CLIPS.values())
    if measure == "UA":  # the rarer class's clips divide the others', so one n serves all
        return SPEAKERS[speakers] * len(CLIPS) * max(CLIPS.values())
    return SPEAKERS[speakers] * CLIPS[measure.removeprefix("recall ")]


def reach(published: str, n: int, unit: int = 100) -> dict[str, Any]:
    """Say whether k / n rounds to a published number for some k, in exact arithmetic.

    Args:
        published: the number as printed, with all its digits.
        n: see :func:`denominator`.
        unit: 100 if printed in percent, 1 if as a share.

    Returns:
        ``nearest`` k / n and its ``k``; ``gap`` to the printed number; ``reached``, whether it
        rounds to it (a tie may go either way); ``cut``, whether it does if digits may be cut off,
        or each fold rounded before the average; ``chance``, the share of all such numbers that
        are reached; ``runs``, the fewest equal runs whose average can be printed so.
    """
    value = Fraction(published)
    half = Fraction(1, 2 * 10 ** max(0, -int(Decimal(published).as_tuple().exponent)))

    def nearest(total: int) -> tuple[int, Fraction]:
        k = round(value / unit * total)
        return k, abs(Fraction(k * unit, total) - value)

    k, gap = nearest(n)
    runs = next(s for s in range(1, unit * half.denominator) if nearest(s * n)[1] <= half)
    return {
        "n": n, "k": k, "nearest": f"{float(Fraction(k * unit, n)):.4f}",
        "gap": f"{float(gap):.4f}", "reached": gap <= half, "cut": gap <= 2 * half,
        "chance": f"{min(1.0, float(2 * half * n / unit)):.3f}", "runs": runs,
    }  # fmt: skip


def published() -> list[dict[str, str]]:
    """Return the paper's RAVDESS numbers that count right answers, where each first appears."""
    averages = {"macro average": "UA", "micro average": "WA"}
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in read_csv(PAPER):
        if row["corpus"] != "ravdess" or row["table"] == "21":
            continue
        name, (*condition, measure) = row["row"], row["column"].split(" ")
        # A gap between the genders has the denominator of one gender.
        side = name.rpartition(" - ")[2]
        speakers, unit = side if side in {"male", "female"} else "all", "percent"
        if row["column"] == "recall":
            measure, unit = averages.get(name, f"recall {name}"), "share"
        elif row["column"] == "difference":
            measure = name
        elif measure not in {"WA", "UA"}:
            continue
        condition = [part for part in condition if part != "clean"]
        key = (name, *condition, measure) + (row["table"],) * (row["column"] == "difference")
        shown = {"table": row["table"], "row": " ".join([name, *condition]), "measure": measure}
        shown |= {"speakers": speakers, "unit": unit, "published": row["value"]}
        found.setdefault(key, shown)
    return list(found.values())


def measured() -> list[dict[str, str]]:
    """Return our WA and UA over all folds and one seed, as the tables print them."""
    return [
        {"table": str(int(table)), "row": f"{row['variant']}, {row['preset']}{row['epochs']}",
         "measure": measure, "speakers": "all", "unit": "percent", "published": row[measure]}
        for table in OURS for row in read_csv(RESULTS / f"table{table}.csv")
        if (row["corpus"], row["folds"], row["seeds"]) == ("ravdess", "6", "1")
        for measure in ("WA", "UA")
    ]  # fmt: skip


def main() -> list[dict[str, Any]]:
    """Write a row per published number."""
    facts = {"commit": git_commit(), "command": "python -m examples.ser.reachability"}
    rows = [
        {"source": source} | row
        | reach(row["published"], denominator(row["measure"], row["speakers"]), UNITS[row["unit"]])
        | facts
        for source, found in (("paper", published()), ("ours", measured())) for row in found
    ]  # fmt: skip
    write_csv(RESULTS / "reachability.csv", rows)
    for source in ("paper", "ours"):
        some = [row for row in rows if row["source"] == source]
        reached, lenient = (sum(row[key] for row in some) for key in ("reached", "cut"))
        chance = sum(float(row["chance"]) for row in some)
        print(f"{source}: {reached} of {len(some)} numbers can come from one run of six folds,")
        print(f"  {lenient} with leniency, {chance:.1f} if their digits were arbitrary")
    return rows


if __name__ == "__main__":
    with user_errors():
        main()
