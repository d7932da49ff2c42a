"""The data of a run: the corpus, split by a protocol, as standardised segments.

The protocols say what the folds keep apart. Only "speaker" measures what a user of the model would
meet; the others are here because published numbers rest on them, and say "leaky" in every row.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.model_selection import StratifiedKFold

from examples.ser.corpora import (
    Corpus,
    CorpusError,
    Utterance,
    load_manifest,
    load_ravdess,
    split,
)
from examples.ser.features import Frames, Segments, Standardizer, load_frames, make_segments
from examples.ser.iemocap import load_iemocap
from examples.ser.packed import unpack

PROTOCOLS = ("speaker", "leaky-utterance", "leaky-segment")
SPLIT_SEED = 0  # of the leaky protocols' random folds, the same for every model and seed


def load(args: argparse.Namespace) -> tuple[Corpus, dict[str, Segments]]:
    """Corpus and its segments: "train", "test" and, if wanted, "validation"."""
    corpus = None if args.packed else read_corpus(args)
    if fault := unwritable(args.out):
        if args.skip_bad or corpus is None:
            raise CorpusError(args.out.name, [fault])  # nothing that could be skipped
        corpus = replace(corpus, problems=(*corpus.problems, fault))
    if corpus is None:
        return cut(*unpack(args.packed), args)
    corpus, frames = load_frames(
        corpus, args.cache, skip_bad=args.skip_bad, progress=not args.quiet
    )
    return cut(corpus, frames, args)


def read_corpus(args: argparse.Namespace) -> Corpus:
    """Read the corpus that the flags name."""
    if args.ravdess:
        return load_ravdess(args.ravdess)
    if args.iemocap:
        return load_iemocap(args.iemocap, part=args.part)
    return load_manifest(args.manifest)


def cut(
    corpus: Corpus, frames: Frames, args: argparse.Namespace
) -> tuple[Corpus, dict[str, Segments]]:
    """Split by the protocol and cut segments."""
    standardizer = Standardizer(args.normalize)
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
