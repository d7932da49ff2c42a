"""The RAVDESS loader and its folds, on a tree of empty files with the archive's names."""

import csv
import subprocess
import sys
from collections import Counter

import pytest

from examples.ser.data.corpora import CorpusError
from examples.ser.data.ravdess import RAVDESS_FOLDS, RAVDESS_LABELS, load_ravdess, ravdess_rows
from examples.ser.data.splits import split
from tests.examples.ser.clips import RAVDESS, REPO, needs_ravdess


@pytest.fixture
def archive(tmp_path):
    """The official layout with all 1440 names, one folder deep; the loader reads no audio."""
    root = tmp_path / "ravdess"
    for row in ravdess_rows():
        path = root / "Audio_Speech_Actors_01-24" / row["speaker"] / f"{row['id']}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_committed_fold_manifest_follows_from_the_names():
    command = [sys.executable, "-m", "examples.ser.data.ravdess"]
    written = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert RAVDESS_FOLDS.read_text(encoding="utf-8") == written.stdout


def test_fold_manifest_has_the_official_counts_and_balanced_folds():
    rows = list(csv.DictReader(RAVDESS_FOLDS.read_text(encoding="utf-8").splitlines()))
    assert len({row["id"] for row in rows}) == len(rows) == 1440
    assert set(Counter(row["speaker"] for row in rows).values()) == {60}
    assert Counter(row["label"] for row in rows) == dict.fromkeys(RAVDESS_LABELS[1:], 192) | {
        "neutral": 96
    }
    people = {(row["fold"], row["speaker"], row["gender"]) for row in rows}
    assert Counter((fold, gender) for fold, _, gender in people) == {
        (str(fold), gender): 2 for fold in range(6) for gender in ("male", "female")
    }
    first = next(row for row in rows if row["id"] == "03-01-06-02-01-01-17")
    assert list(first.values()) == ["03-01-06-02-01-01-17", "fearful", "Actor_17", "male", "4"]


def test_official_nested_archive_is_taken_as_it_is(archive):
    corpus = load_ravdess(archive)
    assert (corpus.name, len(corpus.utterances), corpus.problems) == ("ravdess", 1440, ())
    assert corpus.labels == RAVDESS_LABELS
    assert corpus.folds == tuple(range(6))
    assert len(corpus.speakers) == 24
    direct = load_ravdess(archive / "Audio_Speech_Actors_01-24")
    assert direct.utterances == corpus.utterances


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Actor_01/notes.txt", "expected a clip 03-01-.*, got a stray file; move it out"),
        ("Actor_01/03-01-01.wav", "got a stray file"),
        (
            "Actor_01/03-01-09-01-01-01-01.wav",
            "expected emotion code 01 to 08, got 09; move it",
        ),
        ("Actor_01/03-02-01-01-01-01-01.wav", "expected spoken clips 03-01-.*, got 1 sung ones"),
        ("Actor_01/02-01-01-01-01-01-01.wav", "expected modality code 03, got 02"),
        ("Actor_01/03-01-02-03-01-01-01.wav", "expected intensity code 01 to 02, got 03"),
        ("Actor_01/03-01-02-01-00-01-01.wav", "expected statement code 01 to 02, got 00"),
        ("Actor_01/03-01-02-01-01-03-01.wav", "expected repetition code 01 to 02, got 03"),
        ("Actor_25/03-01-02-01-01-01-25.wav", "expected actor code 01 to 24, got 25"),
        ("Actor_01/03-01-01-02-01-01-01.wav", "expected intensity 01 for neutral, got 02"),
        (
            "Actor_02/03-01-02-01-01-01-01.flac",
            "expected in Actor_01 by its name, got Actor_02",
        ),
        (
            "Actor_01/03-01-02-01-01-01-01.flac",
            "got 1 that are copies of others.*remove the copies",
        ),
    ],
)
def test_a_bad_ravdess_name_is_a_problem_with_file_and_hint(archive, name, message):
    path = archive / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    corpus = load_ravdess(archive)
    assert len(corpus.utterances) == 1440
    assert len(corpus.problems) == 1
    assert corpus.problems[0].startswith(str(archive))
    assert name.split("/")[1] in corpus.problems[0]
    with pytest.raises(CorpusError, match=message):
        split(corpus, 0)


def test_missing_clips_are_counted_by_actor_and_all_problems_come_together(archive):
    actors = archive / "Audio_Speech_Actors_01-24"
    (actors / "Actor_03" / "03-01-01-01-01-01-03.wav").unlink()
    for path in (actors / "Actor_07").iterdir():
        path.unlink()
    (archive / "stray.txt").touch()
    corpus = load_ravdess(archive)
    assert len(corpus.problems) == 3
    with pytest.raises(CorpusError) as caught:
        corpus.raise_or_skip(["x.wav: silent"], ["x"], skip_bad=False)
    assert len(caught.value.problems) == 4
    for part in (
        "corpus ravdess: 4 problem(s)",
        "stray.txt: expected a clip",
        "Actor_03: expected 60 clips, got 59, missing 03-01-01-01-01-01-03; unpack",
        "Actor_07: expected 60 clips, got 0, missing 03-01-01-01-01-01-07, ",
        "and 56 more",
        "x.wav: silent",
        "skip_bad=True (--skip-bad)",
    ):
        assert part in str(caught.value)


def test_the_kaggle_copy_holds_everything_twice(archive):
    for path in sorted((archive / "Audio_Speech_Actors_01-24").rglob("*.wav"))[:60]:
        copy = archive / path.parent.name / path.name
        copy.parent.mkdir(exist_ok=True)
        copy.touch()
    corpus = load_ravdess(archive)
    assert len(corpus.utterances) == 1440
    (problem,) = corpus.problems
    assert "Audio_Speech_Actors_01-24: expected each clip once, got 60 that are copies" in problem
    assert problem.endswith("and 59 more; remove the copies")
    settled = corpus.raise_or_skip([], [], skip_bad=True)
    assert not settled.problems
    assert len(settled.notes) == 1
    assert all(
        note.startswith("skipped: ") and "copies of others" in note for note in settled.notes
    )


def test_a_root_without_ravdess_is_refused(tmp_path):
    with pytest.raises(
        CorpusError, match="nowhere: expected a folder, got none; unpack the archive"
    ):
        load_ravdess(tmp_path / "nowhere")
    (tmp_path / "a.zip").touch()
    with pytest.raises(CorpusError, match=r"a\.zip: expected a folder, got none"):
        load_ravdess(tmp_path / "a.zip")
    with pytest.raises(CorpusError, match=r"(?s)stray file.*expected Actor_01 to .* got no RAV"):
        load_ravdess(tmp_path)


@needs_ravdess
def test_real_ravdess_has_no_problem():
    corpus = load_ravdess(RAVDESS)
    assert not corpus.problems
    assert Counter(u.gender for u in corpus.utterances) == {"male": 720, "female": 720}
    for u in corpus.utterances:
        assert u.path.stem == u.id
        assert u.speaker[-2:] == u.id[-2:]
