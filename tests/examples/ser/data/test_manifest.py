"""The manifest loader: folds, and each problem of a table with its line and hint."""

import pytest

from examples.ser.data.corpora import CorpusError, Utterance
from examples.ser.data.manifest import load_manifest
from examples.ser.data.splits import split


def manifest(folder, header, *rows):
    for row in rows:
        name = row.split(",")[0]
        if name and not name.startswith("missing"):
            (folder / name).touch()
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


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
            r"line 4: .*b\.wav: expected a label of happy, sad, got 'rage'",
        ),
        (
            "path,label,speaker",
            "b.wav,,x",
            "line 4: expected a label, got an empty cell; fill",
        ),
        (
            "path,label,speaker",
            "missing.wav,sad,x",
            r"expected a file, got none at .*missing\.wav; p",
        ),
        ("path,label,speaker", "a.wav,sad,x", r"line 4: duplicate id a\.wav; remove one"),
        ("path,label,speaker", "./a.wav,sad,x", r"duplicate id \./a\.wav"),
        ("path,label,speaker,gender", "b.wav,sad,z,boy", "expected gender male, .* got 'boy'"),
        ("path,label,speaker,fold", "b.wav,sad,z,-1", "expected a fold 0, 1, .*, got '-1'"),
        ("path,label,speaker,fold", "b.wav,sad,z,1.0", "got '1.0'; write whole numbers, without"),
        ("path,label,speaker", "missing\\\\b.wav,sad,x", "write / for the backslashes of the path"),
        ("path,label,speaker", f"missing{'n' * 256}.wav,sad,x", "too long.*; shorten the name"),
    ],
)
def test_a_bad_row_is_a_problem(tmp_path, header, row, message):
    path = manifest(tmp_path, header, "a.wav,sad,x", "c.wav,happy,y", row)
    corpus = load_manifest(path, labels=("happy", "sad"))
    with pytest.raises(CorpusError, match=message):
        split(corpus, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path;label;speaker\na.wav;sad;x\n", "; write commas between the columns, not semicol"),
        (b"path\tlabel\tspeaker\na.wav\tsad\tx\n", "<tab>speaker; write commas .*, not tabs"),
        (b"Path,LABEL,speaker\na.wav,sad,x\n", "write the names of the columns in lower case"),
        ("path,label,speaker\na.wav,sad,x\n".encode("utf-16"), "expected UTF-8, got UTF-16; save"),
        (b"path,label,speaker\na.wav,sad,x\n\xe9.wav,sad,x\n", "line 3: .*, got byte 0xe9; save"),
        (b"\n", "expected a table of clips, got an empty file; write a header and a row"),
        (b"path,label,speaker,label\na.wav,sad,x,1\n", "each column once, got label more often"),
        (
            b'path,label,speaker\na.wav,sad,x\n"b.wav,sad,y\nc.wav,sad,z\n',
            "line 3: .*close the quo",
        ),
    ],
)
def test_a_table_of_another_format_is_refused_with_its_line_and_a_hint(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load_manifest(tmp_path / "a.csv")


def test_where_no_row_is_good_the_rows_alone_are_the_problems(tmp_path):
    rows = ["a.wav,sad,x,1.0", f"b.wav,happy,y,{'9' * 5000}"]
    with pytest.raises(CorpusError, match="decimal point") as caught:
        load_manifest(manifest(tmp_path, "path,label,speaker,fold", *rows))
    assert len(caught.value.problems) == 2


def test_files_of_macos_are_ignored_and_counted(tmp_path):
    rows = ["a.wav,sad,x", "._a.wav,sad,x", "b.wav,sad,y", ".DS_Store,sad,y"]
    corpus = load_manifest(manifest(tmp_path, "path,label,speaker", *rows))
    assert [clip.id for clip in corpus.utterances] == ["a.wav", "b.wav"]
    assert corpus.notes[-1] == "2 macOS files (._*, .DS_Store) ignored"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "fold",
            ["0", "1", "0", "1", ""],
            r"clips\.csv: 4\.wav: expected a fold, got none; fill it in",
        ),
        ("session", ["a", "b", "a", "b", ""], r"4\.wav: expected a session, got none"),
        (
            "fold",
            ["0", "1", "0", "1", "2"],
            r"speaker x \(all clips\): expected one fold, got 2; give all",
        ),
        (
            "session",
            ["a", "b", "a", "b", "c"],
            r"speaker x \(all clips\): expected one fold, got 2",
        ),
        (
            "gender",
            ["f", "f", "f", "m", "m"],
            r"speaker x \(all clips\): expected one gender, got 2",
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
    kept = "xyzu" if "none" in corpus.problems[0] else "yzu"
    settled = corpus.raise_or_skip([], [], skip_bad=True)
    assert [u.speaker for u in settled.utterances] == list(kept)
    assert settled.notes[-1] == f"skipped: {corpus.problems[0]}"
    assert split(settled, 0).test


def test_a_table_that_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="label, speaker, got path, emotion, speaker; add label"):
        load_manifest(manifest(tmp_path, "path,emotion,speaker", "a.wav,sad,x"))
    with pytest.raises(CorpusError, match="expected a cell per column, got more in line 2; quote"):
        load_manifest(manifest(tmp_path, "path,label,speaker", "a.wav,sad,x,y"))
    with pytest.raises(CorpusError, match="expected a row per clip, got none"):
        load_manifest(manifest(tmp_path, "path,label,speaker"))
    with pytest.raises(CorpusError, match=r"no\.csv: expected a readable CSV, got"):
        load_manifest(tmp_path / "no.csv")
    with pytest.raises(CorpusError, match=r"(?s)1 problem.*expected a file"):
        load_manifest(manifest(tmp_path, "path,label,speaker", "missing.wav,sad,x"))
    with pytest.raises(CorpusError, match="expected two folds or more, got 1; list clips of two"):
        load_manifest(manifest(tmp_path, "path,label,speaker", "a.wav,sad,x"))
    with pytest.raises(CorpusError, match="expected two folds or more, got 1"):
        load_manifest(
            manifest(tmp_path, "path,label,speaker,fold", "a.wav,sad,x,0", "b.wav,sad,y,0")
        )
