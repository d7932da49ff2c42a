"""A corpus: its speakers and folds, and problems that are raised together or skipped."""

from pathlib import Path

import pytest

from examples.ser.data.corpora import Corpus, CorpusError, Utterance

CLIPS = tuple(Utterance(f"{n}", Path(f"{n}.wav"), "sad", f"s{n % 2}", fold=n % 3) for n in range(6))
CORPUS = Corpus("toy", ("sad",), CLIPS, notes=("a note",), problems=("x.txt: stray",))


def test_speakers_and_folds_are_sorted_and_named_once():
    assert CORPUS.speakers == ("s0", "s1")
    assert CORPUS.folds == (0, 1, 2)


def test_all_problems_are_raised_together_with_a_hint():
    with pytest.raises(CorpusError) as caught:
        CORPUS.raise_or_skip(["0.wav: silent"], ["0"], skip_bad=False)
    assert caught.value.problems == ("x.txt: stray", "0.wav: silent")
    assert str(caught.value).splitlines() == [
        "corpus toy: 2 problem(s)",
        "  - x.txt: stray",
        "  - 0.wav: silent",
        "Fix these; skip_bad=True (--skip-bad) leaves bad clips out.",
    ]


def test_skipped_clips_are_left_out_with_a_note():
    left = CORPUS.raise_or_skip(["0.wav: silent"], ["0"], skip_bad=True)
    assert left.utterances == CLIPS[1:]
    assert left.notes == ("a note", "skipped: x.txt: stray", "skipped: 0.wav: silent")
    assert left.problems == ()


def test_a_corpus_without_a_usable_clip_is_refused():
    with pytest.raises(CorpusError, match="expected a usable clip, got none"):
        CORPUS.raise_or_skip([], [clip.id for clip in CLIPS], skip_bad=True)


def test_a_message_names_the_first_problems_of_a_kind_and_counts_the_others():
    many = [f"{n}.wav: expected audio, got {n} samples; copy it again" for n in range(1440)]
    error = CorpusError("toy", [*many, "a.csv: expected a row, got none; add it"])
    assert len(error.problems) == 1441
    assert str(error).split("\n") == [
        "corpus toy: 1441 problem(s)",
        *(f"  - {problem}" for problem in many[:3]),
        "  - and 1437 more like this (1440 in all)",
        "  - a.csv: expected a row, got none; add it",
    ]


def test_chosen_labels_leave_others_out_with_a_note():
    clips = tuple(Utterance(f"{n}", Path(), "abc"[n % 3], "x") for n in range(7))
    corpus = Corpus("toy", ("a", "b", "c"), clips)
    chosen = corpus.select_labels(["c", "a"])
    assert chosen.labels == ("c", "a")
    assert {u.label for u in chosen.utterances} == {"a", "c"}
    assert chosen.notes == ("clips of other classes left out: b 2",)
    with pytest.raises(CorpusError, match="expected --labels among a, b, c, got d; correct"):
        corpus.select_labels(["a", "d"])
    with pytest.raises(CorpusError, match="expected two --labels or more, each once, got a"):
        corpus.select_labels(["a"])
