"""The forms that might do better (docs/study.md): what each half of the speakers chooses.

The speakers of three folds choose a form by a cross-validation among themselves; the speakers of
the other three test it. So there are three sets of cells: two to choose by, and one to test both
choices by, which is a family of its own with a single comparison.
"""

from collections.abc import Iterable
from pathlib import Path

from examples.ser.grid.cells import FORMS, STUDY
from examples.study.cells import FOLDS, Family, check_commits, is_whole, outcomes, paths
from examples.study.paired import Row, contributions, weights

NAME = "speech-1d-forms"
FOLDER = "study/results/cells/forms"
CELL = "{corpus}-speaker-{{variant}}-strong{epochs}-32-true-seed{{seed}}-fold{{fold}}.json.gz"
HALVES = {1: (0, 1, 2), 2: (3, 4, 5)}  # of the speakers, by their folds
CHOICE_SEEDS = STUDY["forms"][1]
TEST_SEEDS = (1, 2, 3, 4, 5)
CHOSEN = "chosen"


def corpus_of_half(half: int) -> str:
    """Return the name of the corpus that has the speakers of a half alone."""
    return f"ravdess_half{half}"


def pattern(corpus: str, epochs: int) -> str:
    """Return the pattern of the files of a corpus's cells."""
    return f"{FOLDER}/{CELL.format(corpus=corpus, epochs=epochs)}"


def choosing(half: int, epochs: int = 30) -> Family:
    """Return the cells by which the speakers of a half choose."""
    return Family(
        f"{NAME}, choice of half {half}", pattern(corpus_of_half(half), epochs), ("none", *FORMS),
        CHOICE_SEEDS, HALVES[half], "UA", 2.0,
    )  # fmt: skip


def confirming(rows: Iterable[Row], epochs: int = 30) -> Family:
    """Return the family that tests the choice of each half on the folds of the other."""
    of_fold = {
        fold: form for half, form in choices(rows).items() for fold in FOLDS
        if fold not in HALVES[half]
    }  # fmt: skip
    return Family(
        NAME, pattern("ravdess", epochs), ("none", CHOSEN), TEST_SEEDS, FOLDS, "UA", 2.0,
        {CHOSEN: of_fold},
    )  # fmt: skip


def choices(rows: Iterable[Row]) -> dict[int, str]:
    """Return the form that each half has chosen."""
    return {row["half"]: row["form"] for row in rows if row["chosen"]}


def choose(root: Path, epochs: int = 30, *, any_commit: bool = False) -> list[Row]:
    """Print which cells are there and what each half chooses; return a row per half and form.

    Nothing is chosen and no row is returned before all of these cells are there.
    """
    families = [choosing(half, epochs) for half in HALVES]
    if sum(is_whole(family, paths(family, root)) for family in families) < len(HALVES):
        return []
    rows = [row for half in HALVES for row in compare_forms(half, root, epochs, any_commit)]
    for half, form in choices(rows).items():
        print(f"{NAME}: half {half} of the speakers chooses {form}")
    return rows


def compare_forms(half: int, root: Path, epochs: int, any_commit: bool) -> list[Row]:
    """Return a row for each form: its UA over the half's speakers, and whether it is chosen.

    The highest mean over the seeds is chosen, the first of equals.
    """
    family = choosing(half, epochs)
    files = paths(family, root)
    commit = check_commits(family, files, any_commit=any_commit)
    base = outcomes(family, "none", files)
    share, rows = weights(base.label, family.measure), []
    for form in FORMS:
        ours = outcomes(family, form, files)
        added, _ = contributions(ours, base, family.measure)
        rows.append({
            "half": half, "folds": " ".join(map(str, family.folds)), "form": form,
            "measure": family.measure, "base": float((base.right @ share).mean()),
            "ours": float((ours.right @ share).mean()), "difference": float(added.mean()),
            "seeds": len(family.seeds), "groups": added.shape[1], "commit": commit,
        })  # fmt: skip
    best = max(rows, key=lambda row: row["difference"])
    return [row | {"chosen": row is best} for row in rows]
