"""The split: speaker-independent, a validation pair, and a guard that refuses what crosses."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.errors import UserError
from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.ravdess import RAVDESS_LABELS, ravdess_rows
from examples.ser.data.splits import (
    Split,
    describe,
    refold,
    separate_copies,
    spelling_faults,
    split,
)


def clip(name, speaker, fold, gender=""):
    return Utterance(name, Path(name), "sad", speaker, gender, fold=fold)


@pytest.mark.parametrize("fold", range(6))
def test_split_is_a_speaker_independent_partition_with_a_validation_pair(fold):
    rows = ravdess_rows()
    clips = (
        Utterance(r["id"], Path(), r["label"], r["speaker"], r["gender"], fold=int(r["fold"]))
        for r in rows
    )
    corpus = Corpus("ravdess", RAVDESS_LABELS, tuple(clips))
    sides = split(corpus, fold, validation=True)
    everyone = [{u.speaker for u in side} for side in (sides.train, sides.validation, sides.test)]
    assert [len(side) for side in everyone] == [18, 2, 4]
    assert not any(a & b for a, b in itertools.combinations(everyone, 2))
    everything = {*sides.train, *sides.validation, *sides.test}
    assert everything == set(corpus.utterances)
    assert {u.fold for u in sides.test} == {fold}
    assert {u.fold for u in sides.validation} == {(fold + 1) % 6}
    assert {u.gender for u in sides.validation} == {"male", "female"}
    assert sides == split(corpus, fold, validation=True)
    assert len(split(corpus, fold).train) == 1200


def test_validation_pair_with_few_speakers_or_no_genders():
    clips = tuple(clip(str(n), f"s{n}", n) for n in range(4))
    pair = split(Corpus("toy", ("sad",), clips), 2, validation=True)
    assert [u.speaker for u in pair.validation] == ["s0", "s3"]
    men_first = tuple(
        replace(u, gender=g) for u, g in zip(clips, ["female", "male", "male", "male"], strict=True)
    )
    pair = split(Corpus("toy", ("sad",), men_first), 2, validation=True)
    assert {u.speaker for u in pair.validation} == {"s3", "s0"}
    with pytest.raises(ValueError, match=r"expected 3 training speakers or more .* got 2 with fol"):
        split(Corpus("toy", ("sad",), clips[:3]), 0, validation=True)
    with pytest.raises(ValueError, match="expected a fold of corpus toy, 0, 1, 2, 3, got 9"):
        split(Corpus("toy", ("sad",), clips), 9)
    with pytest.raises(ValueError, match="expected utterances on each side, got none in train"):
        split(Corpus("toy", ("sad",), clips[:1]), 0)


def test_split_refuses_a_speaker_or_utterance_on_two_sides():
    a, b, c = clip("a", "x", 0), clip("b", "y", 0), clip("c", "x", 0)
    with pytest.raises(
        ValueError, match="expected each speaker on one side, got x in train and te"
    ):
        Split((a,), (), (b, c))
    with pytest.raises(ValueError, match="got x in train and validation"):
        Split((a,), (c,), (b,))
    with pytest.raises(
        ValueError, match="each utterance on one side, got b in validation and test"
    ):
        Split((a,), (b,), (b,))


def test_a_speaker_of_two_spellings_is_on_two_sides():
    for name in ("S03", "s 03", "\uff3303"):
        with pytest.raises(ValueError, match="expected each speaker on one side, got s03 in train"):
            Split((clip("a", "s03", 0),), (), (clip("b", name, 1),))


@pytest.mark.parametrize("other", ["S03", "s03 ", "\uff5303"])
def test_names_that_differ_in_spelling_alone_are_refused(other):
    corpus = Corpus("toy", ("F", "f"), (clip("a", "s03", 0), clip("b", other, 1)))
    speaker, label = spelling_faults(corpus)
    assert label.startswith("expected one spelling of a label, got 'F', 'f'; write them alike")
    assert "spelling of a speaker" in speaker
    assert repr(other) in speaker
    assert spelling_faults(Corpus("toy", ("F", "g"), (clip("a", "s03", 0),))) == []


def test_a_recording_under_two_speakers_is_refused_or_skipped_and_under_one_is_noted():
    a, b, c, d = (clip(name, f"s{name}", n) for n, name in enumerate("abcd"))
    copy = clip("a2", "sa", 0)
    corpus = Corpus("toy", ("sad",), (a, b, c, d, copy))
    frames = {u.id: np.full((13, 9), n, np.float32) for n, u in enumerate(corpus.utterances)}
    assert separate_copies(corpus, frames) == corpus
    frames["a2"] = frames["a"].copy()
    assert separate_copies(corpus, frames).notes == (
        "1 recordings are listed more than once: a, a2",
    )
    frames["d"] = frames["c"].copy()
    with pytest.raises(CorpusError, match=r"one speaker of a recording, got sc \(c\), sd \(d\); k"):
        separate_copies(corpus, frames)
    assert separate_copies(corpus, frames, skip_bad=True).utterances == (a, b, copy)


def mixed(*speakers):
    """Clips from "name gender fold labels" of each speaker."""
    return tuple(
        Utterance(f"{who}{label}{n}", Path(), label, who, {"f": "female", "m": "male"}.get(g, ""),
                  fold=int(fold))
        for who, g, fold, labels in (text.split() for text in speakers)
        for n, label in enumerate(labels)
    )  # fmt: skip


def test_the_validation_pair_is_one_that_has_every_class():
    clips = mixed("t - 0 ab", "u m 1 a", "v f 1 a", "w m 2 ab", "x f 2 ab", "y f 3 ab")
    sides = split(Corpus("toy", ("a", "b"), clips), 0, validation=True)
    assert {u.speaker for u in sides.validation} == {"u", "x"}  # not u and v, who have no b
    assert {u.label for u in sides.train} == {"a", "b"}


def test_more_speakers_validate_where_no_two_have_every_class():
    clips = mixed("t - 0 abc", "u - 1 a", "v - 1 b", "w - 1 c", "x - 2 a", "y - 2 b", "z - 2 c")
    sides = split(Corpus("toy", ("a", "b", "c"), clips), 0, validation=True)
    assert {u.speaker for u in sides.validation} == {"u", "v", "w"}


def test_new_folds_balance_genders_then_clips():
    clips = mixed("a f 0 xxxx", "b f 0 x", "c m 0 x", "d m 0 xx", "e - 0 x", "g - 0 x")
    found = refold(Corpus("toy", ("x",), clips), 2)
    assert found.folds == (0, 1)
    for fold in found.folds:
        known = {u.speaker: u.gender for u in found.utterances if u.fold == fold}
        assert sorted(known.values()) == ["", "female", "male"]
    assert found.notes == ("6 speakers spread over 2 folds by --folds",)
    alone = refold(Corpus("toy", ("x",), clips), "speaker")
    assert alone.folds == tuple(range(6))
    assert len({(u.speaker, u.fold) for u in alone.utterances}) == 6
    with pytest.raises(UserError, match=r"expected --folds from 2 to .*, 6, got 7; give fewer"):
        refold(Corpus("toy", ("x",), clips), 7)


def test_a_split_says_who_is_on_each_side_and_which_classes_are_not():
    clips = mixed("a f 0 xy", "b m 1 xy", "c - 2 x")
    lines = describe(split(Corpus("toy", ("x", "y"), clips), 2).sides(), ("x", "y"))
    assert lines == (
        "train: 4 clips of 2 speakers (1 female, 1 male): a, b",
        "test: 1 clips of 1 speakers (1 unknown): c; no clip of y",
    )
