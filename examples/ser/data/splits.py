"""Splits of a corpus into train, validation and test, and the guard that keeps them apart.

The protocols differ in what the folds keep apart. Only "speaker" measures what a user of the model
would meet; the others are here because published numbers rest on them, and each of their rows is
labelled "leaky".
"""

import hashlib
import itertools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sklearn.model_selection import StratifiedKFold

from examples.errors import UserError
from examples.ser.data.corpora import Corpus, CorpusError, Utterance, few
from examples.ser.data.feature_cache import Frames

PROTOCOLS = ("speaker", "leaky-utterance", "leaky-segment")
SPLIT_SEED = 0  # of the random folds, the same for every model and seed


@dataclass(frozen=True)
class Split:
    """Train, validation (may be empty) and test.

    Raises:
        UserError: an utterance is on two sides, or a speaker is (by whatever spelling) and the
            split is not `leaky`; or train or test is empty.
    """

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    leaky: bool = False

    def __post_init__(self) -> None:
        """Check the sides."""
        sides = self.sides()
        for (a, first), (b, second) in itertools.combinations(sides.items(), 2):
            both = {"utterance": {u.id for u in first} & {u.id for u in second}}
            if not self.leaky:
                others = {_bare(u.speaker) for u in second}
                both["speaker"] = {u.speaker for u in first if _bare(u.speaker) in others}
            for what, crossing in both.items():
                if crossing:
                    names = few(sorted(crossing))
                    raise UserError(
                        f"expected each {what} on one side, got {names} in {a} and {b}; "
                        "correct the folds"
                    )
        if empty := [side for side in ("train", "test") if side not in sides]:
            raise UserError(
                f"expected utterances on each side, got none in {', '.join(empty)}; "
                "use more speakers or folds"
            )

    def sides(self) -> dict[str, tuple[Utterance, ...]]:
        """Return the sides that have clips, by name."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: clips for name, clips in sides.items() if clips}


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
    counted from the fold after `fold` who together have every class, or the first two speakers
    where genders are unknown; more speakers where no two have every class.
    """
    if corpus.problems:
        raise CorpusError(corpus.name, corpus.problems)
    if fold not in corpus.folds:
        known = ", ".join(str(known) for known in corpus.folds)
        first = corpus.folds[0] if corpus.folds else 0
        hint = "give --fold one of them"
        if fold < first:
            hint = f"its folds are numbered from {first}: give --fold {first}"
        raise UserError(f"expected a fold of corpus {corpus.name}, {known}, got {fold}; {hint}")
    rest = tuple(u for u in corpus.utterances if u.fold != fold)
    chosen = _validation_speakers(rest, fold) if validation else ()
    return Split(
        train=tuple(u for u in rest if u.speaker not in chosen),
        validation=tuple(u for u in rest if u.speaker in chosen),
        test=tuple(u for u in corpus.utterances if u.fold == fold),
        leaky=leaky,
    )


def _validation_speakers(rest: Sequence[Utterance], fold: int) -> tuple[str, ...]:
    """Return the validation speakers out of the training folds `rest`."""
    after = sorted(rest, key=lambda u: (u.fold <= fold, u.fold, u.speaker))
    genders = {u.speaker: u.gender for u in after}  # in the order of the folds after `fold`
    if len(genders) < 3:
        raise UserError(
            f"expected 3 training speakers or more to take a validation pair from, got "
            f"{len(genders)} with fold {fold}; use more speakers, or --no-validation"
        )
    classes = defaultdict(set)
    for u in after:
        classes[u.speaker].add(u.label)
    men, women = ([w for w in genders if genders[w] == g] for g in ("male", "female"))
    every_two = itertools.combinations(genders, 2)
    pairs = [*(itertools.product(men, women) if men and women else every_two)]
    every = {u.label for u in after}

    def covered(speakers: Iterable[str]) -> set[str]:
        return set().union(*(classes[who] for who in speakers))

    # Training keeps every class where it can; then validation has every class where it can.
    holders = Counter(label for mine in classes.values() for label in mine)
    whole = [
        (a, b) for a, b in pairs
        if all(n > (label in classes[a]) + (label in classes[b]) for label, n in holders.items())
    ] or pairs  # fmt: skip
    if pair := next((p for p in whole if covered(p) == every), None):
        return pair
    chosen = [*whole[0]]
    for who in genders:
        gained = classes[who] - covered(chosen)
        trained = covered(other for other in genders if other not in {*chosen, who})
        if gained and gained <= trained:
            chosen.append(who)
    return tuple(chosen)


def spread_speakers(clips: Sequence[Utterance], folds: int | str) -> tuple[Utterance, ...]:
    """Spread the speakers over so many folds, or ("speaker") give each a fold of their own.

    Each gender is spread evenly where it is given, then the clips.
    """
    clips_of = Counter(u.speaker for u in clips)
    gender = {u.speaker: u.gender for u in clips}
    if folds == "speaker":
        fold_of = {who: fold for fold, who in enumerate(sorted(clips_of))}
    else:
        fold_of, of_gender, of_clips = {}, Counter[tuple[int, str]](), Counter[int]()
        for who in sorted(clips_of, key=lambda who: (gender[who], -clips_of[who], who)):
            fold = min(
                range(int(folds)),
                key=lambda k: (bool(gender[who]) and of_gender[k, gender[who]], of_clips[k], k),
            )
            fold_of[who] = fold
            of_gender[fold, gender[who]] += 1
            of_clips[fold] += clips_of[who]
    return tuple(replace(u, fold=fold_of[u.speaker]) for u in clips)


def refold(corpus: Corpus, folds: int | str) -> Corpus:
    """Return the corpus with new folds in place of its own.

    Raises:
        UserError: it has fewer speakers than folds.
    """
    number = len(corpus.speakers) if folds == "speaker" else int(folds)
    if not 2 <= number <= len(corpus.speakers):
        raise UserError(
            f"expected --folds from 2 to the number of speakers, {len(corpus.speakers)}, got "
            f"{folds}; give fewer, or 'speaker' for one fold per speaker"
        )
    note = f"{len(corpus.speakers)} speakers spread over {number} folds by --folds"
    clips = spread_speakers(corpus.utterances, folds)
    return replace(corpus, utterances=clips, notes=(*corpus.notes, note))


def describe(sides: Mapping[str, Sequence[Utterance]], labels: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each side: its clips, its speakers by gender, the classes it lacks."""
    lines = []
    for side, clips in sides.items():
        genders = Counter(dict(sorted((u.speaker, u.gender or "unknown") for u in clips)).values())
        who = few(sorted({u.speaker for u in clips}), most=6)
        by = ", ".join(f"{n} {gender}" for gender, n in sorted(genders.items()))
        missing = [label for label in labels if label not in {u.label for u in clips}]
        lacks = f"; no clip of {', '.join(missing)}" if missing else ""
        lines.append(
            f"{side}: {len(clips)} clips of {genders.total()} speakers ({by}): {who}{lacks}"
        )
    return tuple(lines)


def random_folds(corpus: Corpus) -> tuple[Utterance, ...]:
    """Assign random folds, stratified by label: a speaker is on both sides."""
    labels = [u.label for u in corpus.utterances]
    folds = StratifiedKFold(len(corpus.folds), shuffle=True, random_state=SPLIT_SEED)
    fold_of = {i: k for k, (_, test) in enumerate(folds.split(labels, labels)) for i in test}
    return tuple(replace(u, fold=fold_of[i]) for i, u in enumerate(corpus.utterances))
