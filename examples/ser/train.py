"""Train MACNN with any attention, with or without AAM, on one fold of a corpus.

    python -m examples.ser.train --ravdess path/to/ravdess --attention icasa --aam --out runs/a

Reads from top to bottom: flags, data, model, optimiser, loop, rows and pictures. A run that was
stopped goes on where it was when the same command is given again. Under
``torchrun --nproc-per-node 2 -m examples.ser.train ...`` the same batches are shared out.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Deterministic matrix products on CUDA want this before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.strategies import DDPStrategy
from torch import nn
from tqdm import tqdm

from examples.ser.attention_figure import draw_attention
from examples.ser.corpora import Corpus, CorpusError, load_manifest, load_ravdess, split
from examples.ser.evaluate import scores, utterance_posteriors
from examples.ser.features import Segments, Standardizer, load_frames, make_segments
from examples.ser.macnn import ATTENTION, CHANNELS, HEADS, MACNN, PADDING
from examples.ser.report import git_commit, provenance, write_results
from icasa import AAM, aam_loss, attention_maps, soft_cross_entropy

PRESETS: dict[str, dict[str, Any]] = {
    # Section 3.2 to the letter: constant rate, no validation, the last epoch counts.
    "paper": {"schedule": "constant", "validation": False},
    # What the paper leaves out: a schedule that settles, and speakers to select by.
    "recommended": {"schedule": "cosine", "validation": True},
}
# What does not change the numbers, and so may differ when a run is resumed.
FREE = ("out", "ravdess", "manifest", "cache", "device", "threads", "quiet")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags; a preset sets the schedule and the validation."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    group = parser.add_argument_group("corpus")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT", help="folder with Actor_01..24")
    which.add_argument("--manifest", type=Path, metavar="CSV", help="path,label,speaker[,fold...]")
    group.add_argument("--fold", type=int, default=0, help="the fold to test on")
    group.add_argument("--skip-bad", action="store_true", help="leave bad clips out, and say so")
    group.add_argument("--cache", type=Path, default=Path("runs/cache"), help="features go here")
    group = parser.add_argument_group("features")
    group.add_argument("--normalize", choices=Standardizer.MODES, default="train")
    group.add_argument("--tail", choices=("pad", "drop"), default="pad", help="last window")
    group.add_argument("--train-stride", type=float, default=1.0, help="seconds")
    group.add_argument("--test-stride", type=float, default=0.4, help="seconds")
    group = parser.add_argument_group("model")
    group.add_argument("--attention", choices=ATTENTION, default="icasa")
    group.add_argument("--places", nargs="+", choices=CHANNELS, default=list(CHANNELS))
    group.add_argument("--head", choices=HEADS, default="fusion")
    group.add_argument("--padding", choices=PADDING, default="macnn")
    group = parser.add_argument_group("AAM")
    group.add_argument("--aam", action="store_true", help="train with Adaptive Acoustic Mixup")
    group.add_argument("--threshold", type=float, default=0.7, help="T of Eq. 1")
    group.add_argument("--alpha", type=float, default=2.0, help="alpha of Eq. 3; 0: no weighting")
    group.add_argument("--representation", choices=("mean", "flat"), default="mean")
    group.add_argument("--pairing", choices=("similar", "balanced", "random"), default="similar")
    group.add_argument("--across-utterances", action="store_true", help="no pair within a clip")
    group = parser.add_argument_group("optimisation")
    preset = group.add_mutually_exclusive_group()
    for name, values in PRESETS.items():
        preset.add_argument(
            f"--{name}", dest="preset", action="store_const", const=name, default="recommended",
            help=", ".join(f"{key}={value}" for key, value in values.items()),
        )  # fmt: skip
    group.add_argument("--epochs", type=int, default=60)
    group.add_argument("--batch-size", type=int, default=32, help="over all processes")
    group.add_argument("--lr", type=float, default=1e-3)
    group.add_argument("--weight-decay", type=float, default=1e-6)
    group.add_argument("--schedule", choices=("constant", "cosine"), help="of the rate, by epoch")
    group.add_argument("--validation", action=argparse.BooleanOptionalAction, help="speaker pair")
    group.add_argument("--seed", type=int, default=987654)
    group = parser.add_argument_group("run")
    group.add_argument("--out", type=Path, required=True, help="folder of this run")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--threads", type=int, help="CPU threads; torch's default when not given")
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    for key, value in PRESETS[args.preset].items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    for key in ("epochs", "batch_size", "lr"):
        if not getattr(args, key) > 0:
            parser.error(f"--{key.replace('_', '-')} must be above 0, got {getattr(args, key)}")
    return args


def load(args: argparse.Namespace) -> tuple[Corpus, dict[str, Segments]]:
    """Corpus and its segments: "train", "test" and, if wanted, "validation"."""
    corpus = load_ravdess(args.ravdess) if args.ravdess else load_manifest(args.manifest)
    if fault := unwritable(args.out):
        if args.skip_bad:
            raise CorpusError(corpus.name, [fault])  # nothing that could be skipped
        corpus = replace(corpus, problems=(*corpus.problems, fault))
    corpus, frames = load_frames(
        corpus, args.cache, skip_bad=args.skip_bad, progress=not args.quiet
    )
    parts = split(corpus, args.fold, args.validation)
    standardizer = Standardizer(args.normalize).fit(parts.train, frames)
    data = {}
    for name, utterances in vars(parts).items():
        if utterances:
            data[name] = make_segments(
                corpus, utterances, frames, standardizer,
                stride_s=args.train_stride if name == "train" else args.test_stride,
                tail=args.tail, held_out=name != "train",
            )  # fmt: skip
    return corpus, data


def train_epoch(
    fabric: Fabric, model: nn.Module, optimizer: Any, aam: AAM | None, data: Segments, epoch: int,
    args: argparse.Namespace,
) -> dict[str, float]:  # fmt: skip
    """One pass over the segments; the draws follow from seed and epoch alone."""
    model.train()
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + epoch)
    order = torch.randperm(len(data), generator=generator).to(fabric.device)
    pairing = torch.Generator(fabric.device)
    pairing.manual_seed(args.seed * 1_000_003 + epoch * 1_009 + fabric.global_rank)
    # As many batches as a plain split gives, of equal size: no process is left with an empty one.
    batches = order.tensor_split(-(-len(order) // args.batch_size))
    sums = torch.zeros(4, device=fabric.device)  # loss, correct, seen, mixed
    bar = tqdm(batches, desc=f"epoch {epoch}", leave=False, disable=args.quiet or None)
    for batch in bar if fabric.is_global_zero else batches:
        index = batch[fabric.global_rank :: fabric.world_size]
        x, y = data.x[index], data.y[index]
        optimizer.zero_grad()
        if aam:
            apart = data.utterance[index] if args.across_utterances else None
            step = aam_loss(model, aam, x, y, utterance=apart, generator=pairing)
            loss, logits, mixed = step.loss, step.logits, step.pairs.weight().sum()
        else:
            logits = model(x)
            loss, mixed = soft_cross_entropy(logits, y), sums.new_zeros(())
        fabric.backward(loss)
        optimizer.step()
        correct, seen = (logits.argmax(1) == y).sum(), sums.new_tensor(len(y))
        sums += torch.stack((loss.detach() * seen, correct, seen, mixed))
    loss_sum, correct, seen, mixed = fabric.all_reduce(sums, reduce_op="sum").tolist()
    if not np.isfinite(loss_sum):
        raise FloatingPointError(f"loss is not finite in epoch {epoch}; lower --lr {args.lr}")
    row = {"train_loss": loss_sum / seen, "train_WA": 100 * correct / seen}
    return row | ({"partner_rate": mixed / seen} if aam else {})


def report_pairs(aam: AAM, data: Segments, seed: int, most: int = 4096) -> dict[str, float]:
    """Shares of `AAM.report` on the training segments, or on a draw of `most` of them."""
    index = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:most]
    some = Segments(**{name: value[index.to(value.device)] for name, value in vars(data).items()})
    report = aam.report(some.x, some.y, speaker=some.speaker, utterance=some.utterance)
    return {name: round(share, 4) for name, share in report._asdict().items() if share is not None}


def rate(args: argparse.Namespace, epoch: int) -> float:
    """Factor on the learning rate in `epoch`, counted from 0: constant, or half a cosine."""
    if args.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * epoch / args.epochs))


def average_buffers(fabric: Fabric, net: nn.Module) -> None:
    """Give every process the mean of the BatchNorm statistics that each gathered by itself."""
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.copy_(fabric.all_reduce(buffer, reduce_op="mean"))


def evaluate(net: nn.Module, segments: Segments, labels: Sequence[str]) -> dict[str, Any]:
    """Posteriors (U, K) and scores of a held-out part."""
    y, posterior = utterance_posteriors(net, segments, len(labels))
    loss = F.nll_loss(posterior.clamp_min(1e-12).log(), y).item()
    return {"posterior": posterior, "loss": loss} | scores(posterior.numpy(), y.numpy(), labels)


def keep(kept: dict[str, Any], held_out: dict[str, dict[str, Any]], epoch: int) -> None:
    """Keep the test posteriors of the last epoch, of validation's best and of the test's own."""
    posterior = held_out["test"]["posterior"]
    kept["last"] = {"epoch": epoch, "posterior": posterior}
    for name, part in (("validation-best", "validation"), ("test-best (oracle)", "test")):
        if part in held_out:
            ua = held_out[part]["UA"]
            if name not in kept or ua > kept[name]["UA"]:
                kept[name] = {"epoch": epoch, "posterior": posterior, "UA": ua}


def unwritable(out: Path) -> str:
    """Make the folder of the run; say what is wrong if it cannot be written, else nothing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return ""
    except OSError as error:
        return f"--out {out} cannot be written ({error}); name another folder"


def save(path: Path, value: Any) -> None:
    """Write beside and rename: a stop in between loses nothing."""
    partial = path.with_suffix(".tmp")
    torch.save(value, partial)
    partial.replace(path)


def resume(path: Path, config: dict[str, str], parts: dict[str, Any]) -> dict[str, Any]:
    """Load the checkpoint into `parts` if it is of this very run, and return what it holds."""
    state = torch.load(path, weights_only=True)
    if other := [k for k in config if state["config"].get(k) != config[k]]:
        said = ", ".join(f"{k}: {state['config'].get(k)} there, {config[k]} now" for k in other)
        raise SystemExit(f"{path} is of another run ({said}); name another --out or remove it")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train one run, or go on with it, and return its rows."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    many = "WORLD_SIZE" in os.environ  # as torchrun says
    fabric = Fabric(
        accelerator=args.device,
        devices=int(os.environ["LOCAL_WORLD_SIZE"]) if many else 1,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        strategy=DDPStrategy(broadcast_buffers=False) if many else "auto",
    )
    fabric.launch()

    # Data
    with fabric.rank_zero_first():
        corpus, data = load(args)
    for note in corpus.notes:
        fabric.print(f"note: {note}")
    data = {part: segments.to(fabric.device) for part, segments in data.items()}
    train = data.pop("train")

    # Model
    seed_everything(args.seed, verbose=False)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    net = MACNN(
        len(corpus.labels), attention=args.attention, places=args.places, head=args.head,
        padding=args.padding,
    )  # fmt: skip
    if fabric.device.type == "cuda" and many:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    aam, pairs = None, None
    if args.aam:
        # With several processes each must call the model as often: hence the fixed size.
        aam = AAM(
            len(corpus.labels), threshold=args.threshold, alpha=args.alpha, pairing=args.pairing,
            representation=args.representation, fixed_size=many,
        )  # fmt: skip
        pairs = report_pairs(aam, train, args.seed)
        fabric.print(f"AAM on the training segments: {pairs}")

    # Optimiser
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    model, optimizer = fabric.setup(net, optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate(args, epoch))
    parts = {"model": net, "optimizer": optimizer, "scheduler": scheduler}
    config = {k: str(v) for k, v in vars(args).items() if k not in FREE}
    config |= {"train segments": str(len(train)), "labels": str(corpus.labels)}
    state: dict[str, Any] = {"config": config, "history": [], "kept": {}}
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state |= resume(checkpoint, config, parts)
    state["pairs"] = pairs
    if len(state["history"]) < args.epochs:
        state["commits"] = list(dict.fromkeys([*state.get("commits", []), git_commit()]))

    # Loop
    for epoch in range(len(state["history"]) + 1, args.epochs + 1):
        start = time.perf_counter()
        row = {"epoch": epoch, "lr": scheduler.get_last_lr()[0]}
        row |= train_epoch(fabric, model, optimizer, aam, train, epoch, args)
        scheduler.step()
        average_buffers(fabric, net)
        if fabric.is_global_zero:
            held_out = {part: evaluate(net, data[part], corpus.labels) for part in data}
            for part, result in held_out.items():
                row |= {f"{part}_{measure}": result[measure] for measure in ("loss", "WA", "UA")}
            row |= {f"beta_{place}": beta for place, beta in net.betas().items()}
            row["seconds"] = time.perf_counter() - start
            state["history"].append(row)
            keep(state["kept"], held_out, epoch)
            save(checkpoint, state | {name: part.state_dict() for name, part in parts.items()})
            print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
        fabric.barrier()
    if not fabric.is_global_zero:
        return []

    # Rows and pictures
    facts = {
        "corpus": corpus.name, "fold": args.fold, "attention": args.attention,
        "augmentation": "aam" if args.aam else "none", "preset": args.preset,
        "epochs": args.epochs,
        "commit": " ".join(state["commits"]),  # several if the code changed between two resumes
    } | provenance(argv, args.seed, fabric)  # fmt: skip
    if maps := attention_maps(net.eval(), data["test"].x[:1]):
        draw_attention(data["test"].x[0, 0].cpu(), maps, args.out / "attention.png")
    rows = write_results(corpus, data["test"], state, facts, args.out)
    for row in rows:
        cells = "  ".join(f"{k} {row[k]:6.2f}" for k in ("WA", "UA", "F1", "ECE"))
        print(f"{row['selection']:<18}  epoch {row['epoch']:3}  {cells}")
    return rows


if __name__ == "__main__":
    try:
        main()
    except CorpusError as error:
        raise SystemExit(str(error)) from None
