"""The IEMOCAP loader, on a tree of the release's layout that the tests write."""

from collections import Counter

import numpy as np
import pytest
import soundfile

from examples.ser.data.corpora import CorpusError, Utterance
from examples.ser.data.feature_cache import load_frames
from examples.ser.data.iemocap import IEMOCAP_COUNTS, IEMOCAP_LABELS, load_iemocap
from examples.ser.data.splits import split

OTHERS = {"impro": {"fru": 3, "xxx": 5, "fea": 1}, "script": {"fru": 2, "oth": 1}}
HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
RATERS = "C-E2:\tNeutral;\t()\nC-F1:\tSadness;\t(na\xefve\x85[sic])\nA-E3:\tval 3;\t()\n\n"


def line(turn, emotion):
    return f"[6.2901 - 8.2357]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n"


def write(root, turns, seconds=0.0):
    """Write the evaluation files and the wavs (empty, or noise of some seconds) of the turns."""
    texts, noise = {}, np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds))
    for turn, emotion in turns.items():
        session, dialogue = root / f"Session{turn[4]}", turn.rpartition("_")[0]
        file = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        texts[file] = texts.get(file, HEADER) + line(turn, emotion) + RATERS
        wav = session / "sentences" / "wav" / dialogue / f"{turn}.wav"
        wav.parent.mkdir(parents=True, exist_ok=True)
        if seconds:
            soundfile.write(wav, noise, 16_000)
        else:
            wav.touch()
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="latin-1")
    return root


def few():
    """One impro and one script turn of each class and actor, 80 in all."""
    return {
        f"Ses0{session}{prefix}_{part}_{who}00{number}": emotion
        for session in range(1, 6)
        for prefix, part in (("F", "impro05a"), ("M", "script01_1b"))
        for who in "FM"
        for number, emotion in enumerate(("neu", "exc", "sad", "ang"))
    }


def published():
    """As many turns as the release has, in the four classes, and some of other emotions."""
    turns = {}
    for part, counts in IEMOCAP_COUNTS.items():
        emotions = [e for e, n in {**counts, **OTHERS[part]}.items() for _ in range(n)]
        for i, emotion in enumerate(emotions):
            dialogue = f"Ses0{1 + i % 5}{'FM'[i // 5 % 2]}_{part}01"
            turns[f"{dialogue}_{'FM'[i // 10 % 2]}{i // 20:03}"] = emotion
    return turns


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A whole release with empty wavs; the loader reads no audio."""
    return write(tmp_path_factory.mktemp("iemocap") / "IEMOCAP_full_release", published()).parent


@pytest.fixture
def small(tmp_path):
    return write(tmp_path, few())


def without_counts(corpus):
    """The problems but for the counts, which no small tree has right."""
    assert corpus.problems[0].startswith("expected the published turns, got ")
    return corpus.problems[1:]


@pytest.mark.parametrize(
    ("options", "name", "counts"),
    [
        ({}, "iemocap", (1708, 1636, 1084, 1103)),
        ({"part": "impro"}, "iemocap-impro", (1099, 284 + 663, 608, 289)),
        ({"part": "impro", "happy": "happiness"}, "iemocap-impro-happiness", (1099, 284, 608, 289)),
        ({"happy": "excitement"}, "iemocap-excitement", (1708, 1041, 1084, 1103)),
        ({"part": "script"}, "iemocap-script", (609, 689, 476, 814)),
    ],
)
def test_part_and_happy_choose_the_published_turns(release, options, name, counts):
    corpus = load_iemocap(release, **options)
    assert (corpus.name, corpus.problems) == (name, ())
    assert Counter(u.label for u in corpus.utterances) == dict(
        zip(IEMOCAP_LABELS, counts, strict=True)
    )
    assert len(corpus.speakers) == 10
    assert load_iemocap(release / "IEMOCAP_full_release", **options) == corpus


def test_what_is_left_out_is_a_note(release):
    assert load_iemocap(release).notes == (
        "one fold per session",
        "turns of other emotions left out: fea 1, fru 5, oth 1, xxx 5",
    )
    alone = load_iemocap(release, part="script", happy="happiness")
    assert alone.notes[1] == "turns of other emotions left out: exc 378, fru 2, oth 1"


def test_the_speaker_is_the_last_field_and_not_the_dialogue(small):
    corpus = load_iemocap(small)
    clips = {u.id: u for u in corpus.utterances}
    turn = "Ses02F_impro05a_M001"
    assert clips[turn] == Utterance(
        id=turn,
        path=small / "Session2" / "sentences" / "wav" / "Ses02F_impro05a" / f"{turn}.wav",
        label="happy",
        speaker="Session2_M",
        gender="male",
        session="Session2",
        fold=1,
    )
    assert clips["Ses02M_script01_1b_F003"].speaker == "Session2_F"
    assert clips["Ses02M_script01_1b_F003"].gender == "female"
    assert corpus.labels == IEMOCAP_LABELS
    assert set(Counter(u.speaker for u in corpus.utterances).values()) == {8}


def test_each_session_tests_one_woman_and_one_man_and_the_audio_is_read(tmp_path):
    turns = {turn: emotion for turn, emotion in few().items() if turn[-1] == "0"}
    corpus = load_iemocap(write(tmp_path / "data", turns, seconds=0.6))
    corpus, frames = load_frames(corpus, tmp_path / "cache", skip_bad=True, progress=False)
    assert frames.keys() == turns.keys()
    for fold in range(5):
        sides = split(corpus, fold, validation=True)
        people = {(u.speaker, u.gender) for u in sides.test}
        session = f"Session{fold + 1}"
        assert people == {(f"{session}_F", "female"), (f"{session}_M", "male")}
        assert {u.session for u in sides.test} == {session}
        assert {u.fold for u in sides.validation} == {(fold + 1) % 5}


def test_macos_junk_is_ignored(small):
    clean = load_iemocap(small)
    folder = small / "Session1" / "dialog" / "EmoEvaluation"
    (folder / "._Ses01F_impro05a.txt").write_bytes(b"\x00\x05\x16\x07[\xff\n[junk\n")
    wavs = small / "Session1" / "sentences" / "wav" / "Ses01F_impro05a"
    (wavs / "._Ses01F_impro05a_F000.wav").write_bytes(b"\x00\x05\x16\x07")
    assert load_iemocap(small) == clean


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[1.0 - 2.0]\tSes01F_impro05a_F009\tneu\n",
            r"expected \[start - end\], turn, .* got another line",
        ),
        (
            "[1.0 - 2.0] Ses01F_impro05a_F009 neu [2.5, 2.5, 2.5]\n",
            "got another line; unpack",
        ),
        (
            line("Ses01F_impro05a_F009", "joy"),
            "Ses01F_impro05a_F009: expected an emotion of ang, .*, got 'joy'",
        ),
        (line("Ses01F_impro05a_F000", "neu"), "duplicate turn Ses01F_impro05a_F000; remove one"),
        (
            line("Ses01F_impro05b_F000", "neu"),
            "expected turns of this dialogue, got Ses01F_impro05b",
        ),
        (line("Ses01F_impro05a_X000", "neu"), "dialogue, got Ses01F_impro05a_X000 of another"),
    ],
)
def test_a_bad_line_is_a_problem_with_file_line_and_hint(small, text, message):
    file = small / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro05a.txt"
    lines = file.read_text(encoding="latin-1")
    file.write_text(lines + text, encoding="latin-1")
    corpus = load_iemocap(small)
    (problem,) = corpus.problems[:-1]
    assert problem.startswith(f"{file}, line {lines.count(chr(10)) + 1}: ")
    assert len(corpus.utterances) == 80
    with pytest.raises(CorpusError, match=message):
        split(corpus, 0)


def test_a_dialogue_in_another_session_is_a_problem(small):
    name = "Ses01F_impro05a.txt"
    here, there = (small / f"Session{n}" / "dialog" / "EmoEvaluation" / name for n in (1, 2))
    here.rename(there)
    problems = load_iemocap(small).problems
    assert sum("expected turns of this dialogue" in problem for problem in problems) == 8


def test_missing_wavs_are_counted_by_dialogue(small):
    folder = small / "Session4" / "sentences" / "wav" / "Ses04M_script01_1b"
    for wav in sorted(folder.iterdir())[:5]:
        wav.unlink()
    corpus = load_iemocap(small)
    (problem,) = without_counts(corpus)
    assert problem.startswith(
        f"{folder}: expected 8 wavs, got 3, missing Ses04M_script01_1b_F000, "
    )
    assert problem.endswith("Ses04M_script01_1b_F003 and 1 more; unpack again")
    settled = corpus.raise_or_skip([], [], skip_bad=True)
    assert len(settled.utterances) == 75
    assert f"skipped: {problem}" in settled.notes


def test_a_missing_session_is_a_problem(small):
    folder = small / "Session3" / "dialog" / "EmoEvaluation"
    for file in folder.iterdir():
        file.unlink()
    corpus = load_iemocap(small)
    assert corpus.problems[0] == f"{folder}: expected *.txt, got no evaluation file; unpack again"
    assert corpus.folds == (0, 1, 3, 4)


def test_counts_other_than_published_are_one_problem(tmp_path):
    turns = published()
    for emotion in ("hap", "ang"):
        turns[next(turn for turn in turns if turns[turn] == emotion)] = "fru"
    corpus = load_iemocap(write(tmp_path, turns))
    assert len(corpus.utterances) == 5529
    hint = "unpack the archive again, or do not compare with published scores"
    assert corpus.problems == (
        f"expected the published turns, got ang 1102 of 1103, hap 594 of 595; {hint}",
    )


def test_options_and_roots_that_hold_nothing_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="expected part among all, impro, script, got 'improv'"):
        load_iemocap(small, part="improv")
    with pytest.raises(
        ValueError, match="expected happy among both, happiness, excitement, got 'exc'"
    ):
        load_iemocap(small, happy="exc")
    with pytest.raises(CorpusError, match="nowhere: expected a folder, got none; unpack"):
        load_iemocap(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"(?s)no evaluation file.*got no turn to use; check"):
        load_iemocap(small / "Session1")
