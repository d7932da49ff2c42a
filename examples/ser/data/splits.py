"""Splits of a corpus into train, validation and test, and the guard that keeps them apart.

The protocols differ in what the folds keep apart. Only "speaker" measures what a user of the model
would meet; the others are here because published numbers rest on them, and each of their rows is
labelled "leaky".
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sklearn.model_selection import StratifiedKFold

from examples.ser.data.corpora import Corpus, CorpusError, Utterance

PROTOCOLS = ("speaker", "leaky-utterance", "leaky-segment")
SPLIT_SEED = 0  # of the random folds, the same for every model and seed


@dataclass(frozen=True)
class Split:
    """Train, validation (may be empty) and test.

    Raises:
        ValueError: an utterance is on two sides, or a speaker is and the split is not `leaky`; or
            train or test is empty.
    """

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    leaky: bool = False

    def __post_init__(self) -> None:
        """Check the sides."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        for (a, first), (b, second) in itertools.combinations(sides.items(), 2):
            for what, key in (("utterance", "id"), ("speaker", "speaker"))[: 2 - self.leaky]:
                both = {getattr(u, key) for u in first} & {getattr(u, key) for u in second}
                if both:
                    names = ", ".join(sorted(both))
                    raise ValueError(
                        f"expected each {what} on one side, got {names} in {a} and {b}; "
                        "correct the folds"
                    )
        if empty := [side for side in ("train", "test") if not sides[side]]:
            raise ValueError(
                f"expected utterances on each side, got none in {', '.join(empty)}; "
                "use more speakers or folds"
            )


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
