"""What the rows' variants, models and leaks are called in tables and pictures: words."""

import re

WORDS = {
    "none": "no attention", "sa": "SA", "ica": "ICA", "icasa": "ICASA", "se": "SE", "eca": "ECA",
    "cbam": "CBAM", "ca": "CA", "aam": "AAM", "aam-random": "AAM, random partners",
    "aam-unweighted": "AAM, equal weights", "aam-across-speakers": "AAM across speakers",
    "aam-harder": "AAM, more weight to the harder sample",
    "aam-embedding": "AAM by the network's embedding",
    "aam-same-class": "AAM across speakers, within classes",
    "icasa-faded": "ICASA faded in", "icasa-bounded": "ICASA with beta in (0, 1)",
    "icasa-last": "ICASA after the last block", "chosen": "ICASA or AAM, as each half chooses",
    "mixup": "MixUp", "spec-augment": "SpecAugment", "crop": "RandomCrop",
    "icasa-aligned": "ICASA without shuffle", "sa-aligned": "SA without shuffle",
    "none-stride0.4": "no attention, segments every 0.4 s",
    "svm, mfcc by train": "SVM, MFCC",
    "svm, mfcc by train, every 0.4 s": "SVM, MFCC, segments every 0.4 s",
    "svm, mfcc by speaker": "SVM, MFCC by speaker",
    "svm, prosody by train": "SVM, prosody",
    "svm, prosody by speaker": "SVM, prosody by speaker",
}  # fmt: skip
LEAKS = {
    "none": "nothing", "leaky-epoch": "the choice of the epoch",
    "leaky-utterance": "the speakers (random utterances)",
    "leaky-segment": "the speech (random segments)",
}  # fmt: skip


def name(variant: str) -> str:
    """Return a variant or model in words: "none+aam, 10 epochs" is "AAM, 10 epochs"."""
    epochs = re.search(r"(, \d+ epochs)?$", variant)
    tail = epochs[0] if epochs else ""
    head = variant.removesuffix(tail)
    if head in WORDS:
        return WORDS[head] + tail
    parts = [part.strip() for part in head.split("+")]
    shown = [WORDS.get(part, part) for part in parts if part != "none" or len(parts) == 1]
    return " + ".join(shown) + tail


def leak(found: str) -> str:
    """Return in words what training shares with the test fold."""
    return " and ".join(LEAKS.get(part, part) for part in found.split(" + "))
