"""The check of a corpus: what it counts and what it finds odd."""

import re
from pathlib import Path

import pytest

from examples.errors import UserError
from examples.ser import check, manifest
from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from tests.examples.ser.acted import NAMES, PATTERN, write_acted


def listed(folder, *more):
    """Write a made corpus and its manifest; return the manifest."""
    write_acted(folder / "wav")
    path = folder / "corpus.csv"
    genders = ("--male", "03", "10", "11", "--female", "08", "09")
    flags = ("--pattern", PATTERN, *NAMES, "--out", str(path), *(more or genders))
    manifest.main([str(folder / "wav"), *flags])
    return path


def test_a_corpus_is_counted_by_class_and_fold_and_drawn(tmp_path, capsys):
    path = listed(tmp_path)
    folders = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "check")]
    found = check.main([str(path), "--folds", "3", *folders])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()
            if line[:1].isalpha() and line.count("  ") > 3}  # fmt: skip
    assert rows["anger"] == ["18", "17", "6", "2", "3", "1"]
    assert rows["neutral"][0] == "5"
    assert rows["all"][0] == "47"
    assert [line.split(";")[0] for line in found] == [
        "classes of unequal size: anger has 18 clips, neutral 5",
        "1 speakers without gender: 12",
    ]
    assert (tmp_path / "check" / "corpus.png").stat().st_size > 10_000


def speak(*speakers):
    """Return the corpus of "name gender fold labels" of each speaker."""
    clips = tuple(
        Utterance(f"{who}{n}", Path(), label, who, {"f": "female", "m": "male"}.get(g, ""),
                  fold=int(fold))
        for who, g, fold, labels in (text.split() for text in speakers)
        for n, label in enumerate(labels)
    )  # fmt: skip
    return Corpus("toy", tuple(sorted({u.label for u in clips})), clips)


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        (("a - 0 xy", "b - 1 xx", "c - 2 xx"), "class y: expected two speakers or more, got 1"),
        (
            ("a f 0 x", "b f 0 y", "c m 1 xy", "d m 1 xy"),
            "fold 0: expected both genders, got femal",
        ),
        (("a - 0 xy", "b - 1 x"), "fold 1: no test clip of y"),
        (("a - 0 xy", "b - 1 xy"), "fold 1: expected 3 training speakers or more, .*; --no-val"),
        (
            ("a - 0 xz", "b - 1 xy", "c - 1 xy", "d - 1 xy"),
            "fold 0: the training speakers have no clip of z",
        ),
        (
            ("a - 0 xy", "b - 1 xy", "c - 1 x", "d - 1 x"),
            "fold 0: the validation speakers have no clip of y",
        ),
    ],
)
def test_what_is_odd_is_said(speakers, message):
    assert any(re.search(message, line) for line in check.odd(speak(*speakers)))


def test_nothing_is_odd_in_a_balanced_corpus():
    speakers = [f"{who} {'fm'[n % 2]} {n // 2} xy" for n, who in enumerate("abcdefgh")]
    assert check.odd(speak(*speakers)) == []


def test_the_kind_of_a_corpus_is_found(tmp_path):
    (tmp_path / "a" / "IEMOCAP_full_release" / "Session1").mkdir(parents=True)
    (tmp_path / "b" / "Session1").mkdir(parents=True)
    (tmp_path / "c" / "speech" / "Actor_01").mkdir(parents=True)
    (tmp_path / "corpus.csv").touch()
    found = [check.find_source(tmp_path / name) for name in ("a", "b", "c", "corpus.csv")]
    assert found == ["iemocap", "iemocap", "ravdess", "manifest"]
    (tmp_path / "d").mkdir()
    for path in (tmp_path / "d", tmp_path / "none"):
        with pytest.raises(UserError, match="expected a manifest"):
            check.find_source(path)


def test_a_name_that_the_pattern_does_not_match_is_refused(tmp_path):
    write_acted(tmp_path / "wav", seconds=0.1)
    for name in ("notes-1.wav", "notes-2.wav"):
        (tmp_path / "wav" / name).touch()
    flags = [str(tmp_path / "wav"), "--pattern", PATTERN, "--out", str(tmp_path / "a.csv")]
    with pytest.raises(CorpusError, match=r"(?s)2 problem.*notes-1.wav: expected a name that --p"):
        manifest.main(flags)
    with pytest.raises(UserError, match="expected a folder of clips, got"):
        manifest.main([str(tmp_path / "none"), *flags[1:]])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pattern", "("], "expected a regular expression"),
        (["--pattern", r"(?P<speaker>\d)"], "expected groups speaker and label in --pattern"),
        (["--pattern", PATTERN, "--rename", "W"], "expected --rename CODE=LABEL, got W"),
    ],
)
def test_flags_of_the_manifest_are_checked(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        manifest.parse([str(tmp_path), "--out", "a.csv", *flags])
    assert message in capsys.readouterr().err
