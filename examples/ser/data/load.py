"""The data of a run: the corpus, split by a protocol, as standardised segments.

The protocols say what the folds keep apart. Only "speaker" measures what a user of the model would
meet; the others are here because published numbers rest on them, and say "leaky" in every row.
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sklearn.model_selection import StratifiedKFold

from examples.ser.data.corpora import (
    Corpus,
    CorpusError,
    Utterance,
    load_manifest,
    load_ravdess,
)
from examples.ser.data.features import (
    MFCC_39,
    FeatureSet,
    Frames,
    Segments,
    Standardizer,
    load_frames,
    make_segments,
)
from examples.ser.data.iemocap import load_iemocap
from examples.ser.data.prosody import FEATURES
from examples.ser.packed import unpack

PROTOCOLS = ("speaker", "leaky-utterance", "leaky-segment")
SPLIT_SEED = 0  # of the leaky protocols' random folds, the same for every model and seed


@dataclass(frozen=True)
class Split:
    """Train, validation (may be empty) and test; ValueError if a speaker or clip is on two.

    Only a `leaky` split may have a speaker on two sides.
    """

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    leaky: bool = False

    def __post_init__(self) -> None:
        """Guard the sides."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        for (a, first), (b, second) in itertools.combinations(sides.items(), 2):
            for what, key in (("utterance", "id"), ("speaker", "speaker"))[: 2 - self.leaky]:
                both = {getattr(u, key) for u in first} & {getattr(u, key) for u in second}
                if both:
                    named = ", ".join(sorted(both))
                    raise ValueError(f"{what} {named} in {a} and {b}; keep each on one side")
        if empty := [side for side in ("train", "test") if not sides[side]]:
            raise ValueError(f"no utterance in {', '.join(empty)}; use more speakers or folds")


def split(corpus: Corpus, fold: int, validation: bool = False, *, leaky: bool = False) -> Split:
    """Test on `fold`, train on the others, speaker-independent unless `leaky`.

    With `validation`, two speakers leave the training side: the first man and the first woman
    counted from the fold after `fold`, or the first two speakers where genders are unknown.
    """
    if corpus.problems:
        raise CorpusError(corpus.name, corpus.problems)
    if fold not in corpus.folds:
        wanted = ", ".join(str(known) for known in corpus.folds)
        raise ValueError(f"fold {fold} of corpus {corpus.name}: wanted one of {wanted}")
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
            f"validation for fold {fold}: {len(genders)} training speakers, wanted 3 or more "
            "(two validate, one trains); go on without a validation pair"
        )
    first: dict[str, str] = {}  # gender -> its first speaker
    for who, gender in genders.items():
        first.setdefault(gender, who)
    known = "male" in first and "female" in first
    return (first["male"], first["female"]) if known else tuple(genders)[:2]


def load(args: argparse.Namespace) -> tuple[Corpus, dict[str, Segments]]:
    """Corpus and its segments: "train", "test" and, if wanted, "validation"."""
    return cut(*read(args, unwritable(args.out), FEATURES[args.features]), args)


def read_corpus(args: argparse.Namespace) -> Corpus:
    """Read the names and tables of the corpus that the flags name."""
    if args.ravdess:
        return load_ravdess(args.ravdess)
    if args.iemocap:
        return load_iemocap(args.iemocap, part=args.part, happy=args.happy)
    return load_manifest(args.manifest)


def read(
    args: argparse.Namespace, fault: str = "", features: FeatureSet = MFCC_39
) -> tuple[Corpus, Frames]:
    """Read the corpus that the flags name and its frames, or list all that is wrong.

    A `fault` found elsewhere heads the list; it is nothing that could be skipped.
    """
    if fault and (args.packed or args.skip_bad):
        raise CorpusError("this run", [fault])
    if args.packed:
        return unpack(args.packed, features.name)
    corpus = read_corpus(args)
    if fault:
        corpus = replace(corpus, problems=(*corpus.problems, fault))
    return load_frames(
        corpus, args.cache, skip_bad=args.skip_bad, progress=not args.quiet, features=features
    )


def cut(
    corpus: Corpus, frames: Frames, args: argparse.Namespace
) -> tuple[Corpus, dict[str, Segments]]:
    """Split by the protocol and cut segments."""
    standardizer = Standardizer(args.normalize, FEATURES[args.features])
    if args.protocol == "leaky-segment":
        return _segment_folds(corpus, frames, standardizer, args)
    if args.protocol == "leaky-utterance":
        corpus = replace(corpus, utterances=_utterance_folds(corpus))
    parts = split(corpus, args.fold, args.validation, leaky=args.protocol != "speaker")
    standardizer.fit(parts.train, frames)
    data = {}
    for name, utterances in vars(parts).items():
        if name != "leaky" and utterances:
            data[name] = make_segments(
                corpus, utterances, frames, standardizer,
                stride_s=args.train_stride if name == "train" else args.test_stride,
                tail=args.tail, held_out=name != "train",
            )  # fmt: skip
    return corpus, data


def _utterance_folds(corpus: Corpus) -> tuple[Utterance, ...]:
    """Give the clips random folds, stratified by emotion: one speaker is on both sides."""
    labels = [u.label for u in corpus.utterances]
    folds = StratifiedKFold(len(corpus.folds), shuffle=True, random_state=SPLIT_SEED)
    fold_of = {i: k for k, (_, test) in enumerate(folds.split(labels, labels)) for i in test}
    return tuple(replace(u, fold=fold_of[i]) for i, u in enumerate(corpus.utterances))


def _segment_folds(
    corpus: Corpus, frames: Frames, standardizer: Standardizer, args: argparse.Namespace
) -> tuple[Corpus, dict[str, Segments]]:
    """Cut segments and give them random folds: the same second of speech is on both sides.

    Each segment is an utterance of its own in the corpus returned, and is scored alone.
    """
    clips = corpus.utterances
    whole = make_segments(
        corpus, clips, frames, standardizer.fit(clips, frames),
        stride_s=args.train_stride, tail=args.tail, held_out=False,
    )  # fmt: skip
    owners = [clips[i] for i in whole.utterance.tolist()]
    segments = tuple(replace(u, id=f"{u.id}#{i}") for i, u in enumerate(owners))
    corpus = replace(corpus, utterances=segments)
    segments = _utterance_folds(corpus)
    test = torch.tensor([u.fold == args.fold for u in segments])
    whole = replace(whole, utterance=torch.arange(len(whole)))
    data = {
        name: Segments(**{key: value[index] for key, value in vars(whole).items()})
        for name, index in (("train", ~test), ("test", test))
    }
    return replace(corpus, utterances=segments), data


def unwritable(out: Path) -> str:
    """Make the folder of the run; say what is wrong if it cannot be written, else nothing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return ""
    except OSError as error:
        return f"--out {out} cannot be written ({error}); name another folder"
