"""From the flags of a run to its corpus, split by a protocol, as standardised segments."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.feature_cache import Frames, load_frames
from examples.ser.data.features import FEATURES, MFCC_39, FeatureSet
from examples.ser.data.iemocap import load_iemocap
from examples.ser.data.manifest import load_manifest
from examples.ser.data.pack import unpack
from examples.ser.data.ravdess import load_ravdess
from examples.ser.data.segments import Segments, make_segments, segment_starts
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
    if len(corpus.labels) < 2:
        only = ", ".join(corpus.labels) or "none"
        faults.append(f"expected two classes or more, got {only}; list clips of another class")
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
    whole = corpus
    corpus, sides = split_by_protocol(corpus, frames, args)
    standardizer = Standardizer(args.normalize, FEATURES[args.features])
    if args.protocol == "leaky-segment":
        return corpus, _segments_apart(whole, corpus, frames, standardizer, args)
    standardizer.fit(sides["train"], frames)
    data = {
        name: make_segments(
            corpus, utterances, frames, standardizer,
            stride_s=args.train_stride if name == "train" else args.test_stride,
            tail=args.tail, held_out=name != "train",
        )
        for name, utterances in sides.items()
    }  # fmt: skip
    return replace(corpus, notes=corpus.notes + describe(sides, corpus.labels)), data


def split_by_protocol(
    corpus: Corpus, frames: Frames, args: argparse.Namespace
) -> tuple[Corpus, dict[str, tuple[Utterance, ...]]]:
    """Return the corpus with the folds of the protocol, and the clips of each side.

    With "leaky-segment" each segment is an utterance of the corpus returned, and is scored alone.
    """
    if args.protocol == "leaky-segment":
        window = FEATURES[args.features].window
        owners = [
            clip for clip in corpus.utterances for _ in segment_starts(
                frames[clip.id].shape[1], args.train_stride, args.tail, window
            )
        ]  # fmt: skip
        segments = tuple(replace(clip, id=f"{clip.id}#{i}") for i, clip in enumerate(owners))
        corpus = replace(corpus, utterances=segments)
    leaky = args.protocol != "speaker"
    if leaky:
        corpus = replace(corpus, utterances=random_folds(corpus))
    return corpus, split(corpus, args.fold, args.validation, leaky=leaky).sides()


def _segments_apart(
    whole: Corpus, corpus: Corpus, frames: Frames, standardizer: Standardizer,
    args: argparse.Namespace,
) -> dict[str, Segments]:  # fmt: skip
    """Cut the clips of `whole`; overlapping segments, the utterances of `corpus`, are apart."""
    clips = whole.utterances
    segments = make_segments(
        whole, clips, frames, standardizer.fit(clips, frames),
        stride_s=args.train_stride, tail=args.tail, held_out=False,
    )  # fmt: skip
    segments = replace(segments, utterance=torch.arange(len(segments)))
    test = torch.tensor([u.fold == args.fold for u in corpus.utterances])
    return {
        name: Segments(**{key: value[index] for key, value in vars(segments).items()})
        for name, index in (("train", ~test), ("test", test))
    }


def unwritable(out: Path) -> str:
    """Create the folder of the run; return what is wrong if it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return ""
    except OSError as error:
        return f"expected a writable folder, got --out {out} ({error}); give another"
