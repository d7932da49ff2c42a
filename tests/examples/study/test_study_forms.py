"""The forms: each half chooses by its own cells, the other tests it; the driver trains both."""

import csv
import gzip
import json
import shlex

import numpy as np
import pytest

from examples.ser import reproduce
from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.manifest import load_manifest
from examples.ser.grid.cells import Cell
from examples.ser.run.flags import parse
from examples.study import __main__ as study
from examples.study import choice, forms
from examples.study.cells import EXAMPLES, paths
from tests.examples.study import second
from tests.examples.study.test_study_files import LABELS, clips

# The chance of each half to be right at once, by form: the first half prefers the fourth form, the
# second the first; on the test folds each form has the chance of the half that did not choose it.
RIGHT = {
    1: dict.fromkeys(choice.FORMS, 0.4) | {"none": 0.55, "none+aam-harder": 0.7},
    2: dict.fromkeys(choice.FORMS, 0.5) | {"none": 0.5, "icasa-faded": 0.72},
}


def record(variant, seed, fold, chance, commit):
    rng = np.random.default_rng([seed, fold, sum(map(ord, variant))])
    run = {"commit": commit, "torch": "2", "parameters": len(variant)}
    return {"labels": LABELS, "run": run, "utterances": list(clips(rng, fold, chance))}


def write_family(family, root, right, commit="abc"):
    for (variant, seed), some in paths(family, root).items():
        for fold, path in zip(family.folds, some, strict=True):
            content = record(variant, seed, fold, right(variant, fold), commit)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(json.dumps(content).encode()))


def write_halves(root, commit="abc", right=RIGHT):
    for half in choice.HALVES:
        write_family(choice.choosing(half), root, lambda v, _, h=half: right[h][v], commit)


def test_each_half_chooses_the_best_of_its_own_speakers(tmp_path, capsys):
    assert choice.choose(tmp_path) == []
    assert capsys.readouterr().out.count("0 of 63 cells are there") == 2
    write_halves(tmp_path)
    rows = choice.choose(tmp_path)
    assert choice.choices(rows) == {1: "none+aam-harder", 2: "icasa-faded"}
    assert capsys.readouterr().out.endswith("half 2 of the speakers chooses icasa-faded\n")
    family = choice.confirming(rows)
    chosen = [path.name for path in paths(family, tmp_path)["chosen", 1]]
    assert [name.split("-strong")[0].split("speaker-")[1] for name in chosen] == [
        *["icasa-faded"] * 3, *["none+aam-harder"] * 3,
    ]  # fmt: skip
    assert [(row["half"], row["folds"], row["groups"]) for row in rows[::6]] == [
        (1, "0 1 2", 12),
        (2, "3 4 5", 12),
    ]


def test_the_best_is_chosen_even_if_none_is_better_and_the_first_of_equals(tmp_path):
    worse = {half: dict.fromkeys(choice.FORMS, 0.4) | {"none": 0.9} for half in choice.HALVES}
    write_halves(tmp_path, right=worse)
    rows = choice.choose(tmp_path)
    assert max(row["difference"] for row in rows) < 0
    assert set(choice.choices(rows)) == {1, 2}
    best, files = next(iter(choice.FORMS)), paths(choice.choosing(1), tmp_path)
    for (variant, seed), some in files.items():
        for path, first in zip(some, files[best, seed], strict=True):
            if variant != "none":
                path.write_bytes(first.read_bytes())
    assert choice.choices(choice.choose(tmp_path))[1] == best


def test_a_half_that_lacks_a_cell_or_has_two_commits_chooses_nothing(tmp_path, capsys):
    write_halves(tmp_path)
    path = paths(choice.choosing(2), tmp_path)["icasa-last", 3][1]
    content = path.read_bytes()
    path.unlink()
    assert study.analyse_forms(tmp_path) == ([], [])
    out = capsys.readouterr().out
    assert "choice of half 2: 62 of 63 cells are there" in out
    assert "seed 3: missing fold 4 of icasa-last" in out
    assert "chooses" not in out
    path.write_bytes(content)
    write_family(choice.choosing(2), tmp_path, lambda v, _: RIGHT[2][v], "abc-dirty")
    with pytest.raises(SystemExit, match="choice of half 2: expected cells of one clean commit"):
        choice.choose(tmp_path)
    assert len(choice.choose(tmp_path, any_commit=True)) == 12


def write_test(root, commit="abc"):
    family = choice.confirming(choice.choose(root))
    write_family(family, root, lambda v, fold: 0.5 if v == "none" else 0.6 + fold / 50, commit)
    return family


def test_a_second_computation_agrees_with_the_choice_and_every_figure(tmp_path):
    write_halves(tmp_path)
    write_test(tmp_path)
    compared, (row,) = study.analyse_forms(tmp_path)
    folder = tmp_path / choice.FOLDER
    chosen = {}
    for half, folds in ((1, (0, 1, 2)), (2, (3, 4, 5))):
        means = second.means_of_half(folder, half, folds)
        base = means.pop("none")
        ours = {r["form"]: r for r in compared if r["half"] == half}
        assert means.keys() == ours.keys()
        for form, mean in means.items():
            assert ours[form]["ours"] == pytest.approx(mean)
            assert ours[form]["base"] == pytest.approx(base)
            assert ours[form]["difference"] == pytest.approx(mean - base)
        chosen[half] = max(means, key=means.get)
    assert {half: row[f"chosen by half {half}"] for half in (1, 2)} == chosen
    ours, base = (second.cells_of_choice(folder, of) for of in (chosen, {1: "none", 2: "none"}))
    expected = second.figures(ours, base, "UA", 2.0, 1)
    drawn = 0.15 * expected.pop("boot_sd")
    for name, value in expected.items():
        near = {"abs": drawn} if name.startswith("boot") else {"rel": 1e-6, "abs": 1e-9}
        assert row[name] == pytest.approx(value, **near), name
    assert row["p_holm"] == row["p"]  # one comparison needs no correction
    assert (row["groups"], row["seeds"], row["variant"]) == (24, 5, "chosen")


def test_the_command_writes_choice_test_and_picture(tmp_path, capsys):
    write_halves(tmp_path)
    argv = ["--family", choice.NAME, "--cells", str(tmp_path), "--out", str(tmp_path / "out")]
    study.main(argv)
    assert not list((tmp_path / "out").iterdir())  # the halves alone are not shown
    family = write_test(tmp_path)
    capsys.readouterr()
    study.main([*argv, "--list"])
    assert capsys.readouterr().out.endswith("speech-1d-forms: all 60 cells are there\n")
    study.main(argv)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "speech-1d-forms.csv", "speech-1d-forms-choice.csv", "speech-1d-forms.png",
    }  # fmt: skip
    with (tmp_path / "out" / "speech-1d-forms-choice.csv").open() as file:
        assert [row["form"] for row in csv.DictReader(file) if row["chosen"] == "True"] == [
            "none+aam-harder", "icasa-faded",
        ]  # fmt: skip
    said = capsys.readouterr().out
    with (tmp_path / "out" / "speech-1d-forms.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["verdict"] in said
    write_family(family, tmp_path, lambda *_: 0.6, "def")
    with pytest.raises(SystemExit, match=r"speech-1d-forms: expected cells of one .*, got abc def"):
        study.main(argv)


def test_one_form_chosen_twice_is_named(tmp_path):
    write_halves(tmp_path, right={1: RIGHT[2], 2: RIGHT[2]})
    write_test(tmp_path)
    assert study.analyse_forms(tmp_path)[1][0]["variant"] == "icasa-faded"


def test_the_forms_and_their_seeds_are_those_of_the_protocol():
    page = (EXAMPLES.parent / "docs" / "study.md").read_text()
    seeds = ", ".join(map(str, choice.TEST_SEEDS))
    assert f"| `{choice.NAME}` | `none` | 1 | {seeds} | UA | 2 |" in page
    assert f"seeds {', '.join(map(str, choice.CHOICE_SEEDS))}, against `none`" in page
    table = page.split("## Forms that might do better")[1].split("\n\n")[2]
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == [*choice.FORMS]


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Stand in for the corpus and for the training processes; returns the cells trained."""
    clips = []
    for n in range(48):
        path = tmp_path / "corpus" / f"Actor_{n // 2 + 1:02}" / f"{n}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"wave")
        clips.append(Utterance(f"{n}", path, LABELS[n % 2], path.parent.name, "male", fold=n // 8))
    monkeypatch.setattr(forms, "load_ravdess", lambda root: Corpus("ravdess", LABELS, tuple(clips)))
    seen, fails = [], ["ravdess_half1-speaker-icasa-last-strong30-32-true-seed2-fold1"]  # once

    def train_cell(command, log):
        args = parse(command[3:])
        cell = Cell.parse(args.out.name)
        seen.append((cell, args))
        right = RIGHT[int(cell.corpus[-1])][cell.variant] if args.manifest else 0.6
        content = record(cell.variant, cell.seed, cell.fold, right, "abc")
        content["run"]["command"] = shlex.join(["python", "-m", *command[2:]])
        (args.out / "predictions.json").write_text(json.dumps(content))
        log.write_text("stopped\n")
        return 1 if cell.name in fails and not fails.remove(cell.name) else 0

    monkeypatch.setattr(reproduce, "train_cell", train_cell)
    return seen


def test_the_driver_trains_what_chooses_then_what_tests_each_cell_once(tmp_path, trained, capsys):
    argv = ["--ravdess", tmp_path / "corpus", "--runs", tmp_path / "runs", "--cells", tmp_path]
    argv = [str(word) for word in argv]
    assert forms.main(argv) == 1  # and so nothing is chosen yet
    assert len(trained) == 126
    for half, folds in choice.HALVES.items():
        of_half = [args for cell, args in trained if cell.corpus == f"ravdess_half{half}"]
        manifest = load_manifest(of_half[0].manifest)
        assert {args.fold for args in of_half} == {*folds} == {*manifest.folds}
        assert len(manifest.speakers) == 12
    first = [(cell.seed, cell.fold) for cell, _ in trained[:21]]
    assert first == [(1, fold) for fold in (0, 1, 2) for _ in range(7)]  # whole comparisons
    assert all(
        (args.epochs, args.threads, args.device, args.validation, args.preset)
        == (30, 1, "cpu", False, "strong")
        for _, args in trained
    )
    trained.clear()
    capsys.readouterr()
    forms.main([*argv, "--list"])
    out = capsys.readouterr().out
    assert not trained
    assert "half 1: 62 of 63 cells are there" in out
    assert forms.main(argv) == 0
    assert trained[0][0].corpus == "ravdess_half1"  # the one that failed
    tests = [(cell.variant, cell.fold, cell.seed) for cell, _ in trained[1:]]
    assert len(tests) == len(set(tests)) == 60
    assert {test for test in tests if test[0] != "none"} == {
        (form, fold, seed) for seed in range(1, 6) for fold in range(6)
        for form in ["icasa-faded" if fold < 3 else "none+aam-harder"]
    }  # fmt: skip
    assert all(args.ravdess == tmp_path / "corpus" for _, args in trained[1:])
    trained.clear()
    assert forms.main(argv) == 0
    assert not trained
    assert capsys.readouterr().out.endswith("speech-1d-forms: all 60 cells are there\n")
    assert len(study.analyse_forms(tmp_path)[1]) == 1


def test_bad_flags_are_one_line(tmp_path, capsys):
    with pytest.raises(CorpusError, match=r"nowhere: expected a folder, got none"):
        forms.main(["--ravdess", str(tmp_path / "nowhere"), "--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        forms.main(["--ravdess", str(tmp_path), "--epochs", "0"])
    assert capsys.readouterr().err.endswith("expected --epochs of 1 or more, got 0; raise it\n")
