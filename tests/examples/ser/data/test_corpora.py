"""RAVDESS and manifest loaders, their list of problems, and the speaker-independent split."""

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from examples.ser.data.corpora import (
    RAVDESS_FOLDS,
    RAVDESS_LABELS,
    CorpusError,
    Utterance,
    load_manifest,
    load_ravdess,
    ravdess_rows,
)
from examples.ser.data.load import split

REPO = Path(__file__).parents[4]
RAVDESS = Path(os.environ.get("ICASA_RAVDESS", REPO.parent / "shared" / "data" / "ravdess"))
needs_ravdess = pytest.mark.skipif(
    not RAVDESS.is_dir(), reason=f"no RAVDESS at {RAVDESS}; name its folder by ICASA_RAVDESS"
)


@pytest.fixture
def archive(tmp_path):
    """The official layout with all 1440 names, one folder deep; the loader reads no audio."""
    root = tmp_path / "ravdess"
    for row in ravdess_rows():
        path = root / "Audio_Speech_Actors_01-24" / row["speaker"] / f"{row['id']}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def manifest(folder, header, *rows):
    for row in rows:
        name = row.split(",")[0]
        if name and not name.startswith("missing"):
            (folder / name).touch()
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


# --- RAVDESS


def test_committed_fold_manifest_follows_from_the_names():
    command = [sys.executable, "-m", "examples.ser.data.corpora"]
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
        ("Actor_01/notes.txt", "stray file, no RAVDESS clip .*move it out of the tree"),
        ("Actor_01/03-01-01.wav", "stray file"),
        ("Actor_01/03-01-09-01-01-01-01.wav", "unknown emotion code 09, wanted 01 to 08"),
        ("Actor_01/03-02-01-01-01-01-01.wav", "unknown channel code 02, wanted 01; move it out"),
        ("Actor_01/02-01-01-01-01-01-01.wav", "unknown modality code 02, wanted 03"),
        ("Actor_01/03-01-02-03-01-01-01.wav", "unknown intensity code 03, wanted 01 to 02"),
        ("Actor_01/03-01-02-01-00-01-01.wav", "unknown statement code 00"),
        ("Actor_01/03-01-02-01-01-03-01.wav", "unknown repetition code 03"),
        ("Actor_25/03-01-02-01-01-01-25.wav", "unknown actor code 25, wanted 01 to 24"),
        ("Actor_01/03-01-01-02-01-01-01.wav", "neutral at intensity 02"),
        ("Actor_02/03-01-02-01-01-01-01.flac", "lies in Actor_02, but its name says Actor_01"),
        ("Actor_01/03-01-02-01-01-01-01.flac", "duplicated id, also .*remove one of the two"),
    ],
)
def test_a_bad_ravdess_name_is_a_problem_naming_file_and_mend(archive, name, message):
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
        corpus.settle(["x.wav: silent"], ["x"], skip_bad=False)
    assert len(caught.value.problems) == 4
    for part in (
        "corpus ravdess: 4 problem(s)",
        "stray.txt: stray file",
        "Actor_03: 59 of 60 clips, missing 03-01-01-01-01-01-03; unpack",
        "Actor_07: 0 of 60 clips, missing 03-01-01-01-01-01-07, ",
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
    assert len(corpus.problems) == 60
    settled = corpus.settle([], [], skip_bad=True)
    assert not settled.problems
    assert len(settled.notes) == 60
    assert all(note.startswith("skipped: ") and "duplicated id" in note for note in settled.notes)


def test_a_root_without_ravdess_is_refused(tmp_path):
    with pytest.raises(
        CorpusError, match="nowhere: is no folder; unpack the archive and name that"
    ):
        load_ravdess(tmp_path / "nowhere")
    (tmp_path / "a.zip").touch()
    with pytest.raises(CorpusError, match=r"a\.zip: is no folder; unpack the archive"):
        load_ravdess(tmp_path / "a.zip")
    with pytest.raises(CorpusError, match=r"(?s)stray file.*no RAVDESS speech clip; wanted Actor_"):
        load_ravdess(tmp_path)


@needs_ravdess
def test_real_ravdess_has_no_problem():
    corpus = load_ravdess(RAVDESS)
    assert not corpus.problems
    assert Counter(u.gender for u in corpus.utterances) == {"male": 720, "female": 720}
    for u in corpus.utterances:
        assert u.path.stem == u.id
        assert u.speaker[-2:] == u.id[-2:]


# --- manifest


def test_manifest_paths_are_relative_to_it_and_the_fold_column_wins(tmp_path):
    path = manifest(
        tmp_path,
        " path,label,speaker,gender,fold,session,corpus",
        "a.wav,sad,x,F,1,s1,toy",
        "b.wav,happy,y,male,0,s2,toy",
    )
    corpus = load_manifest(path)
    assert (corpus.name, corpus.labels, corpus.notes) == ("toy", ("happy", "sad"), ())
    assert corpus.utterances[0] == Utterance(
        "a.wav", tmp_path / "a.wav", "sad", "x", "female", "s1", 1
    )
    assert load_manifest(path, labels=("sad", "happy")).labels == ("sad", "happy")


def test_without_folds_sessions_or_speakers_give_them(tmp_path):
    rows = [f"{n}.wav,sad,spk{n % 7},s{n % 7 % 2}" for n in range(21)]
    by_session = load_manifest(manifest(tmp_path, "path,label,speaker,session", *rows))
    assert by_session.folds == (0, 1)
    assert by_session.notes == ("one fold per session: s0, s1",)
    rows = [row.rsplit(",", 1)[0] for row in rows]
    by_speaker = load_manifest(manifest(tmp_path, "path,label,speaker", *rows), folds=3)
    assert by_speaker == load_manifest(tmp_path / "clips.csv", folds=3)
    assert by_speaker.name == tmp_path.name
    assert by_speaker.folds == (0, 1, 2)
    assert not by_speaker.problems
    few = load_manifest(manifest(tmp_path, "path,label,speaker", "a.wav,sad,x", "b.wav,sad,y"))
    assert few.notes == ("2 speakers spread over 2 folds",)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "path,label,speaker",
            "b.wav,rage,x",
            r"line 4: .*b\.wav: unknown label 'rage'; wanted one",
        ),
        ("path,label,speaker", "b.wav,,x", "line 4: empty label; fill it in"),
        ("path,label,speaker", "missing.wav,sad,x", r"missing file .*missing\.wav; paths are rel"),
        ("path,label,speaker", "a.wav,sad,x", r"line 4: duplicated id a\.wav; remove one"),
        ("path,label,speaker", "./a.wav,sad,x", r"duplicated id \./a\.wav"),
        ("path,label,speaker,gender", "b.wav,sad,z,boy", "unknown gender 'boy'; wanted male, fem"),
        ("path,label,speaker,fold", "b.wav,sad,z,-1", "fold '-1' is no whole number from 0"),
    ],
)
def test_a_bad_row_is_a_problem(tmp_path, header, row, message):
    path = manifest(tmp_path, header, "a.wav,sad,x", "c.wav,happy,y", row)
    corpus = load_manifest(path, labels=("happy", "sad"))
    with pytest.raises(CorpusError, match=message):
        split(corpus, 0)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "fold",
            ["0", "1", "0", "1", ""],
            r"clips\.csv: 4\.wav: no fold, where others have one; fill",
        ),
        ("session", ["a", "b", "a", "b", ""], r"4\.wav: no session, where others have one"),
        (
            "fold",
            ["0", "1", "0", "1", "2"],
            r"speaker x \(all its clips\) has 2 folds; give all its",
        ),
        ("session", ["a", "b", "a", "b", "c"], r"speaker x \(all its clips\) has 2 folds; give"),
        (
            "gender",
            ["f", "f", "f", "m", "m"],
            r"speaker x \(all its clips\) has 2 genders; give all",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_left_out_whole(tmp_path, column, values, message):
    speakers = ["x", "y", "z", "u", "x"]
    rows = [f"{n}.wav,sad,{speakers[n]},{value}" for n, value in enumerate(values)]
    corpus = load_manifest(manifest(tmp_path, f"path,label,speaker,{column}", *rows))
    with pytest.raises(CorpusError, match=message):
        split(corpus, 0)
    assert len(corpus.problems) == 1
    kept = "xyzu" if "no " in corpus.problems[0] else "yzu"
    settled = corpus.settle([], [], skip_bad=True)
    assert [u.speaker for u in settled.utterances] == list(kept)
    assert settled.notes[-1] == f"skipped: {corpus.problems[0]}"
    assert split(settled, 0).test


def test_a_table_that_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"missing column label; wanted path, label, speaker, ca"):
        load_manifest(manifest(tmp_path, "path,emotion,speaker", "a.wav,sad,x"))
    with pytest.raises(CorpusError, match="more cells than columns in line 2; quote"):
        load_manifest(manifest(tmp_path, "path,label,speaker", "a.wav,sad,x,y"))
    with pytest.raises(CorpusError, match="no row under its header"):
        load_manifest(manifest(tmp_path, "path,label,speaker"))
    with pytest.raises(CorpusError, match=r"no\.csv: no readable CSV"):
        load_manifest(tmp_path / "no.csv")
    with pytest.raises(CorpusError, match=r"(?s)missing file.*no two folds to test"):
        load_manifest(manifest(tmp_path, "path,label,speaker", "missing.wav,sad,x"))
    with pytest.raises(CorpusError, match="no two folds to test and train on; name clips of two"):
        load_manifest(manifest(tmp_path, "path,label,speaker", "a.wav,sad,x"))
    with pytest.raises(CorpusError, match="no two folds"):
        load_manifest(
            manifest(tmp_path, "path,label,speaker,fold", "a.wav,sad,x,0", "b.wav,sad,y,0")
        )
