"""Splits of a corpus into train, validation and test, and the guard that keeps them apart.

The protocols differ in what the folds keep apart. Only "speaker" measures what a user of the model
would meet; the others are here because published numbers rest on them, and each of their rows is
labelled "leaky".
"""

import hashlib
import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sklearn.model_selection import StratifiedKFold

from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.frames import Frames

PROTOCOLS = ("speaker", "leaky-utterance", "leaky-segment")
SPLIT_SEED = 0  # of the random folds, the same for every model and seed


@dataclass(frozen=True)
class Split:
    """Train, validation (may be empty) and test.

    Raises:
        ValueError: an utterance is on two sides, or a speaker is (by whatever spelling) and the
            split is not `leaky`; or train or test is empty.
    """

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    leaky: bool = False

    def __post_init__(self) -> None:
        """Check the sides."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        for (a, first), (b, second) in itertools.combinations(sides.items(), 2):
            both = {"utterance": {u.id for u in first} & {u.id for u in second}}
            if not self.leaky:
                others = {_bare(u.speaker) for u in second}
                both["speaker"] = {u.speaker for u in first if _bare(u.speaker) in others}
            for what, crossing in both.items():
                if crossing:
                    names = ", ".join(sorted(crossing))
                    raise ValueError(
                        f"expected each {what} on one side, got {names} in {a} and {b}; "
                        "correct the folds"
                    )
        if empty := [side for side in ("train", "test") if not sides[side]]:
            raise ValueError(
                f"expected utterances on each side, got none in {', '.join(empty)}; "
                "use more speakers or folds"
            )


def spelling_faults(corpus: Corpus) -> list[str]:
    """Return speakers and labels that differ in case, blanks or Unicode form alone, with a hint."""
    faults = []
    for what, names in (("speaker", corpus.speakers), ("label", corpus.labels)):
        spellings = defaultdict(list)
        for name in names:
            spellings[_bare(name)].append(name)
        faults += [
            f"expected one spelling of a {what}, got {', '.join(map(repr, group))}; "
            f"write them alike, or name two {what}s apart"
            for group in spellings.values()
            if len(group) > 1
        ]
    return faults


def separate_copies(corpus: Corpus, frames: Frames, *, skip_bad: bool = False) -> Corpus:
    """Refuse recordings that are listed under two speakers; note those listed twice under one.

    Equal frames tell a recording, so a hard link, a copy and a lossless re-encoding are found.

    Raises:
        CorpusError: a recording has two speakers (not with `skip_bad`, which leaves it out).
    """
    recordings = defaultdict(list)
    for clip in corpus.utterances:
        recordings[hashlib.sha256(frames[clip.id].tobytes()).digest()].append(clip)
    copies = [clips for clips in recordings.values() if len(clips) > 1]
    crossing = [clips for clips in copies if len({clip.speaker for clip in clips}) > 1]
    faults = [
        "expected one speaker of a recording, got "
        + ", ".join(f"{clip.speaker} ({clip.id})" for clip in clips)
        + "; keep the row of who speaks"
        for clips in crossing
    ]
    corpus = corpus.raise_or_skip(
        faults, (clip.id for clips in crossing for clip in clips), skip_bad=skip_bad
    )
    twice = [", ".join(clip.id for clip in clips) for clips in copies if clips not in crossing]
    note = f"{len(twice)} recordings are listed more than once: {'; '.join(twice)}"
    return replace(corpus, notes=(*corpus.notes, *[note] * bool(twice)))


def _bare(name: str) -> str:
    """Return a name without case, blanks and Unicode form."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def split(corpus: Corpus, fold: int, validation: bool = False, *, leaky: bool = False) -> Split:
    """Test on `fold`, train on the others, speaker-independent unless `leaky`.

    With `validation`, two speakers of the other folds validate: the first man and the first woman
    counted from the fold after `fold`, or the first two speakers where genders are unknown.
    """
    if corpus.problems:
        raise CorpusError(corpus.name, corpus.problems)
    if fold not in corpus.folds:
        known = ", ".join(str(known) for known in corpus.folds)
        raise ValueError(f"expected a fold of corpus {corpus.name}, {known}, got {fold}")
    rest = tuple(u for u in corpus.utterances if u.fold != fold)
    pair = _validation_pair(rest, fold) if validation else ()
    return Split(
        train=tuple(u for u in rest if u.speaker not in pair),
        validation=tuple(u for u in rest if u.speaker in pair),
        test=tuple(u for u in corpus.utterances if u.fold == fold),
        leaky=leaky,
    )


def _validation_pair(rest: Sequence[Utterance], fold: int) -> tuple[str, str]:
    """Return the two validation speakers out of the training folds `rest`."""
    after = sorted(rest, key=lambda u: (u.fold <= fold, u.fold, u.speaker))
    genders = {u.speaker: u.gender for u in after}  # in the order of the folds after `fold`
    if len(genders) < 3:
        raise ValueError(
            f"expected 3 training speakers or more to take a validation pair from, got "
            f"{len(genders)} with fold {fold}; use more speakers, or no validation"
        )
    first: dict[str, str] = {}  # gender -> its first speaker
    for who, gender in genders.items():
        first.setdefault(gender, who)
    known = "male" in first and "female" in first
    return (first["male"], first["female"]) if known else tuple(genders)[:2]


def random_folds(corpus: Corpus) -> tuple[Utterance, ...]:
    """Assign random folds, stratified by label: a speaker is on both sides."""
    labels = [u.label for u in corpus.utterances]
    folds = StratifiedKFold(len(corpus.folds), shuffle=True, random_state=SPLIT_SEED)
    fold_of = {i: k for k, (_, test) in enumerate(folds.split(labels, labels)) for i in test}
    return tuple(replace(u, fold=fold_of[i]) for i, u in enumerate(corpus.utterances))
