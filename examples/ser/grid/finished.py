"""Whether a finished cell is of the corpus and the flags that are asked for now."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from examples.ser.data.corpora import Corpus, few
from examples.ser.data.digests import differing, digests
from examples.ser.data.feature_cache import Frames
from examples.ser.data.features import FEATURES
from examples.ser.data.load import read, split_by_protocol
from examples.ser.run import flags


class Source:
    """The corpus that flags give, read when a finished cell is first compared with it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.known: dict[tuple[object, ...], dict[str, str]] = {}

    @cached_property
    def content(self) -> tuple[Corpus, Frames]:
        """The corpus, and its frames."""
        return read(self.args, features=FEATURES[self.args.features])

    def digests(self, args: argparse.Namespace) -> dict[str, str]:
        """Return the digests of the data that a training with these flags would have."""
        key = (args.protocol, args.fold, args.validation, args.train_stride, args.tail)
        if key not in self.known:
            corpus, frames = self.content
            corpus, sides = split_by_protocol(corpus, frames, args)
            self.known[key] = digests(corpus, frames, sides)
        return self.known[key]


def differences(record: Mapping[str, Any], argv: Sequence[str], source: Source) -> list[str]:
    """Return what differs between the record of a cell and a training by `argv`: flags, data.

    The data of a record of before records had their digests are taken to be the same.
    """
    _, _, _, *argv_there = shlex.split(record["run"]["command"])
    there, now = (flags.parse([*a, "--out", "-"]) for a in (argv_there, argv))
    ours, theirs = flags.config(now), flags.config(there)
    found = [f"{key} {theirs[key]} there, {ours[key]} now" for key in ours
             if ours[key] != theirs[key]]  # fmt: skip
    if "data" not in record:
        return found
    other = differing(record["data"], source.digests(now))
    corpus, _ = source.content
    before = {(clip["id"], clip["label"], clip["speaker"]) for clip in record["utterances"]}
    today = {(u.id, u.label, u.speaker) for u in corpus.utterances if u.fold == now.fold}
    clips = sorted({name for name, _, _ in before ^ today}) if now.protocol == "speaker" else []
    named = f", of {few(clips)}" if clips else ""
    return [*found, *[f"other data: {', '.join(other)}{named}"] * bool(other)]
