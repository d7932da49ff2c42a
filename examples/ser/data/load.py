"""From the flags of a run to its corpus, split by a protocol, as standardised segments."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from examples.ser.data.corpora import Corpus, CorpusError
from examples.ser.data.features import FEATURES, MFCC_39, FeatureSet
from examples.ser.data.frames import Frames, load_frames
from examples.ser.data.iemocap import load_iemocap
from examples.ser.data.manifest import load_manifest
from examples.ser.data.pack import unpack
from examples.ser.data.ravdess import load_ravdess
from examples.ser.data.segments import Segments, make_segments
from examples.ser.data.splits import (
    describe,
    random_folds,
    refold,
    separate_copies,
    spelling_faults,
    split,
)
from examples.ser.data.standardize import Standardizer


def load(args: argparse.Namespace) -> tuple[Corpus, dict[str, Segments]]:
    """Return the corpus and its segments: "train", "test" and, on --validation, "validation"."""
    return cut(*read(args, unwritable(args.out), FEATURES[args.features]), args)


def read_corpus(args: argparse.Namespace) -> Corpus:
    """Read the names and tables of the corpus that the flags give, with its labels and folds."""
    if args.ravdess:
        corpus = load_ravdess(args.ravdess)
    elif args.iemocap:
        corpus = load_iemocap(args.iemocap, part=args.part, happy=args.happy)
    else:
        corpus = load_manifest(args.manifest)
    return choose(corpus, args)


def choose(corpus: Corpus, args: argparse.Namespace) -> Corpus:
    """Return the corpus with the classes of --labels and the folds of --folds."""
    if args.labels:
        corpus = corpus.select_labels(args.labels)
    return refold(corpus, args.folds) if args.folds else corpus


def read(
    args: argparse.Namespace, fault: str = "", features: FeatureSet = MFCC_39
) -> tuple[Corpus, Frames]:
    """Read the corpus that the flags give and its frames.

    Raises:
        CorpusError: all problems. A `fault` of the run and names that differ in spelling alone
            cannot be skipped; recordings of two speakers are listed once nothing else is wrong.
    """
    if args.packed:
        corpus, frames = unpack(args.packed, features.name)
        corpus = choose(corpus, args)
    else:
        corpus = read_corpus(args)
    faults = [*[fault] * bool(fault), *spelling_faults(corpus)]
    if faults and (args.packed or args.skip_bad):
        raise CorpusError(corpus.name, faults)
    if not args.packed:
        corpus, frames = load_frames(
            replace(corpus, problems=(*corpus.problems, *faults)), args.cache,
            skip_bad=args.skip_bad, progress=not args.quiet, features=features,
            telephone=args.telephone,
        )  # fmt: skip
    corpus = separate_copies(corpus, frames, skip_bad=args.skip_bad)
    return corpus, {clip.id: frames[clip.id] for clip in corpus.utterances}


def cut(
    corpus: Corpus, frames: Frames, args: argparse.Namespace
) -> tuple[Corpus, dict[str, Segments]]:
    """Split by the protocol and cut the segments of each side."""
    standardizer = Standardizer(args.normalize, FEATURES[args.features])
    if args.protocol == "leaky-segment":
        return _segment_folds(corpus, frames, standardizer, args)
    if args.protocol == "leaky-utterance":
        corpus = replace(corpus, utterances=random_folds(corpus))
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
    return replace(corpus, notes=corpus.notes + describe(parts, corpus.labels)), data


def _segment_folds(
    corpus: Corpus, frames: Frames, standardizer: Standardizer, args: argparse.Namespace
) -> tuple[Corpus, dict[str, Segments]]:
    """Cut segments and assign them random folds: overlapping segments are on both sides.

    Each segment is an utterance of the corpus returned, and is scored alone.
    """
    clips = corpus.utterances
    whole = make_segments(
        corpus, clips, frames, standardizer.fit(clips, frames),
        stride_s=args.train_stride, tail=args.tail, held_out=False,
    )  # fmt: skip
    owners = [clips[i] for i in whole.utterance.tolist()]
    segments = tuple(replace(u, id=f"{u.id}#{i}") for i, u in enumerate(owners))
    corpus = replace(corpus, utterances=segments)
    segments = random_folds(corpus)
    test = torch.tensor([u.fold == args.fold for u in segments])
    whole = replace(whole, utterance=torch.arange(len(whole)))
    data = {
        name: Segments(**{key: value[index] for key, value in vars(whole).items()})
        for name, index in (("train", ~test), ("test", test))
    }
    return replace(corpus, utterances=segments), data


def unwritable(out: Path) -> str:
    """Create the folder of the run; return what is wrong if it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return ""
    except OSError as error:
        return f"expected a writable folder, got --out {out} ({error}); give another"
