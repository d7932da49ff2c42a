"""AAM as the flags of a run describe it, and what it admits among the training segments."""

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor

from examples.ser.data.segments import Segments
from icasa import AAM


@torch.no_grad()
def centred_embedding(net: Any, x: Tensor) -> Tensor:
    """Return a network's embedding of a batch, less its mean over the batch: (N, D).

    Centred, as Eq. 1 compares standardised features: what follows a ReLU points one way, whatever
    is said. The network runs in eval mode, so that neither its BatchNorms nor dropout's generator
    notice, and is left in the mode that it was in.
    """
    mode = net.training
    r = net.eval().embed(x)
    net.train(mode)
    return r - r.mean(0)


def make_aam(args: argparse.Namespace, net: Any, classes: int, *, fixed_size: bool) -> AAM:
    """Return the AAM that the flags describe; Eq. 1 may compare embeddings of ``net``."""
    embeds = args.representation == "embedding"
    return AAM(
        classes, threshold=args.threshold, alpha=args.alpha, pairing=args.pairing,
        representation=partial(centred_embedding, net) if embeds else args.representation,
        fixed_size=fixed_size,
    )  # fmt: skip


def report_pairs(
    aam: AAM, data: Segments, seed: int, most: int = 4096, *, across_speakers: bool = False
) -> dict[str, float]:
    """Return `AAM.report` on the training segments, or on `most` of them at random.

    It counts pairs of two clips, of two speakers with ``across_speakers``.
    """
    index = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:most]
    some = Segments(**{name: value[index.to(value.device)] for name, value in vars(data).items()})
    apart = some.speaker if across_speakers else some.utterance
    report = aam.report(some.x, some.y, speaker=some.speaker, utterance=apart)
    return {name: round(share, 4) for name, share in report._asdict().items() if share is not None}
