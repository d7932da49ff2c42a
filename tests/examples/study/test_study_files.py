"""The study's command on made prediction files, against a second computation of every figure."""

import csv
import functools
import gzip
import json
import re

import numpy as np
import pytest

from examples.ser.grid.cells import Cell
from examples.study import __main__ as study
from examples.study import cells
from examples.study.cells import Family, facts, paths, read
from tests.examples.study import second

SPEECH = Family(
    "speech", cells.SPEECH % "strong30", ("none", "se", "sa"), (1, 2, 3), (0, 1, 2), "UA", 2.0
)
IMAGES = Family("images", cells.IMAGES, ("none", "eca"), (1, 2, 3), (0,), "accuracy", 1.0)
CHANCE = {"none": 0.55, "se": 0.62, "sa": 0.55, "eca": 0.6}
LABELS = ["angry", "calm", "sad"]


def clips(rng, fold, chance):
    """Draw the answers of a fold of four speakers, who say some classes more often."""
    for speaker in range(4 * fold, 4 * fold + 4):
        for n in range(20 + speaker):
            label = (n * n + speaker) % 3
            posterior = rng.dirichlet(np.ones(3) / 2)
            best = label if rng.random() < chance else rng.integers(3)
            posterior[best] += 1
            name = {"id": f"{speaker}-{n}", "label": LABELS[label], "speaker": f"s{speaker}"}
            yield name | {"last": (posterior / 2).tolist()}


def record(family, variant, seed, fold, commit):
    rng = np.random.default_rng([seed, fold, sum(map(ord, variant))])
    run = {"commit": commit, "torch": "2", "parameters": 10}
    if family.measure == "UA":
        return {"labels": LABELS, "run": run, "utterances": list(clips(rng, fold, CHANCE[variant]))}
    label = np.arange(300) % 3
    predicted = np.where(rng.random(300) < CHANCE[variant], label, rng.integers(0, 3, 300))
    columns = {"id": [f"{i:03}" for i in range(300)], "label": label.tolist()}
    return {"labels": LABELS, "run": run, "images": columns | {"predicted": predicted.tolist()}}


def write_cells(family, root, commit="abc"):
    for (variant, seed), some in paths(family, root).items():
        for fold, path in zip(family.folds, some, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(record(family, variant, seed, fold, commit)).encode()
            path.write_bytes(gzip.compress(content))


def computed_again(family, root):
    """The figures of a family's rows by the second computation, by variant."""
    files = paths(family, root)
    base, *tables = (
        second.read(
            {(seed, fold): path for seed in family.seeds
             for fold, path in zip(family.folds, files[variant, seed], strict=True)}
        )
        for variant in family.variants
    )  # fmt: skip
    rows = [
        second.figures(table, base, family.measure, family.margin, len(tables)) for table in tables
    ]
    for column in ("p", "equivalence_p"):
        adjusted = second.holm([row[column] for row in rows])
        for row, value in zip(rows, adjusted, strict=True):
            row[f"{column}_holm"] = value
    return dict(zip(family.variants[1:], rows, strict=True))


def check_figures(row, expected, rel, slack=0.15):
    """Both bootstraps draw 10,000 times, so an end has a standard error of 0.04 of their SD."""
    drawn = slack * expected.pop("boot_sd")
    for name, value in expected.items():
        near = {"abs": drawn} if name.startswith("boot") else {"rel": rel, "abs": 1e-9}
        got = row[name] if isinstance(value, str) else float(row[name])
        assert got == pytest.approx(value, **near), name


@pytest.mark.parametrize("family", [SPEECH, IMAGES], ids=lambda family: family.name)
def test_a_second_computation_agrees_with_every_figure(tmp_path, family):
    write_cells(family, tmp_path)
    rows = study.analyse(family, tmp_path)
    for (variant, expected), row in zip(
        computed_again(family, tmp_path).items(), rows, strict=True
    ):
        assert row["variant"] == variant
        check_figures(row, expected, rel=1e-6)


@pytest.mark.parametrize(
    "family",
    [family for family in cells.FAMILIES if (study.RESULTS / f"{family.name}.csv").is_file()],
    ids=lambda family: family.name,
)
def test_a_second_computation_agrees_with_every_committed_row(family, monkeypatch):
    fewer = functools.partial(second.bootstrap_ends, resamples=200)  # of 10,000 images: seconds
    monkeypatch.setattr(second, "bootstrap_ends", fewer)
    with (study.RESULTS / f"{family.name}.csv").open(newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    again = computed_again(family, cells.EXAMPLES)
    assert list(rows) == list(again)
    for variant, row in rows.items():
        check_figures(row, again[variant], rel=1e-3, slack=0.8)  # they have four digits


def test_the_command_writes_rows_and_a_picture_of_whole_families(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "FAMILIES", (SPEECH, IMAGES))
    write_cells(SPEECH, tmp_path)
    study.main(["--cells", str(tmp_path), "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"speech.csv", "speech.png"}
    said = capsys.readouterr().out
    assert "speech: all 27 cells are there\n" in said
    assert "images: 0 of 6 cells are there, not analysed" in said
    with (tmp_path / "out" / "speech.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["se", "sa"]
    assert all(row["verdict"] in said and row["commit"] == "abc" for row in rows)


def test_a_family_that_lacks_a_cell_is_not_looked_at_and_says_which(tmp_path, capsys):
    write_cells(SPEECH, tmp_path)
    files = paths(SPEECH, tmp_path)
    files["sa", 2][1].unlink()
    assert study.analyse(SPEECH, tmp_path) == []
    head = "speech: {} of 27 cells are there, not analysed before all are\n"
    shown = head.format(26) + "  seeds 1 3: nothing is missing\n  seed 2: missing fold 1 of sa\n"
    assert capsys.readouterr().out == shown
    for path in (*files["sa", 1], *files["se", 1][1:], *files["none", 1][1:]):
        path.unlink()
    for variant in SPEECH.variants:
        for path in files[variant, 3][2:]:
            path.unlink()
    assert study.analyse(SPEECH, tmp_path) == []
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  seed 1: missing folds 1 2 of none, se; sa",
        "  seed 2: missing fold 1 of sa",
        "  seed 3: missing fold 2 of every variant",
    ]


def test_the_state_can_be_asked_for_without_an_analysis(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "FAMILIES", (SPEECH, IMAGES))
    write_cells(SPEECH, tmp_path)
    argv = ["--list", "--cells", str(tmp_path), "--out", str(tmp_path / "out")]
    study.main([*argv, "--family", "speech", "images"])
    assert capsys.readouterr().out.splitlines() == [
        "speech: all 27 cells are there",
        "images: 0 of 6 cells are there, not analysed before all are",
        "  seeds 1 2 3: missing every variant",
    ]
    assert not (tmp_path / "out").exists()


def test_the_cells_lie_where_the_protocol_has_them_written():
    for family in cells.FAMILIES:
        is_speech = family.measure == "UA"
        folder = "study/results/cells" if is_speech else "vision/results/cells"
        files = paths(family, cells.EXAMPLES)
        assert {path.parent for some in files.values() for path in some} == {
            cells.EXAMPLES / folder
        }
        if is_speech:
            names = [path.name.removesuffix(".json.gz") for some in files.values() for path in some]
            assert [Cell.parse(name).name for name in names] == names


@pytest.mark.parametrize("commit", ["abc def", "abc-dirty"])
def test_cells_must_share_one_clean_commit(tmp_path, commit):
    write_cells(SPEECH, tmp_path, commit)
    with pytest.raises(SystemExit, match=f"expected cells of one clean commit, got {commit}"):
        study.analyse(SPEECH, tmp_path)
    assert len(study.analyse(SPEECH, tmp_path, any_commit=True)) == 2


def test_seeds_must_have_answered_the_same_units(tmp_path):
    write_cells(SPEECH, tmp_path)
    files = paths(SPEECH, tmp_path)
    files["se", 2][0].write_bytes(files["se", 2][1].read_bytes())
    with pytest.raises(SystemExit, match="se, seed 2: expected every unit once, got some twice"):
        study.analyse(SPEECH, tmp_path)
    record = read(files["se", 1][0])
    record["utterances"][0]["id"] = "another"
    write_cells(SPEECH, tmp_path)
    files["se", 2][0].write_bytes(gzip.compress(json.dumps(record).encode()))
    with pytest.raises(SystemExit, match="se: expected the same units for every seed, got others"):
        study.analyse(SPEECH, tmp_path)


def test_the_families_are_those_of_the_protocol():
    page = (cells.EXAMPLES.parent / "docs" / "study.md").read_text()
    for family in cells.FAMILIES:
        (row,) = re.findall(rf"^\| `{family.name}` .*$", page, re.MULTILINE)
        _, _, base, count, seeds, measure, margin, _ = (cell.strip() for cell in row.split("|"))
        assert (base, count) == (f"`{family.variants[0]}`", str(len(family.variants) - 1))
        assert seeds == ", ".join(map(str, family.seeds))
        assert (measure, float(margin)) == (family.measure, family.margin)
        assert all(f"`{variant}`" in page for variant in family.variants)


def test_cells_written_before_a_column_was_new_stay_readable(tmp_path):
    write_cells(SPEECH, tmp_path)
    files = paths(SPEECH, tmp_path)
    for path in files["se", 1]:
        record = read(path)
        record["run"] = {"commit": "abc", "seed": 1}  # neither parameters nor threads nor backend
        path.write_bytes(gzip.compress(json.dumps(record).encode()))
    row = facts(files, "se")
    assert (row["commit"], row["parameters"].split(), row["threads"]) == ("abc", ["10"], "")
    assert study.analyse(SPEECH, tmp_path)[0]["groups"] == 12
