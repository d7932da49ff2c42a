"""Train MACNN with any attention, with or without AAM, on one fold of a corpus.

    python -m examples.ser.train --ravdess path/to/ravdess --attention icasa --aam --out runs/a

Reads from top to bottom: flags, data, model, optimiser, loop, rows and pictures. A stopped run is
resumed by the same command. ``torchrun --nproc-per-node 2 -m examples.ser.train ...`` distributes
each batch over the processes.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from inspect import signature
from typing import Any

# Deterministic matrix products on CUDA need this before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from examples.errors import UserError, room_for, user_errors
from examples.provenance import git_commit, provenance
from examples.ser.data.corpora import grouped
from examples.ser.data.digests import digests
from examples.ser.data.features import FEATURES
from examples.ser.data.load import cut, read, unwritable
from examples.ser.data.segments import Segments
from examples.ser.run import flags
from examples.ser.run.attention_figure import draw_attention
from examples.ser.run.checkpoint import CHECKPOINT, only_training, resume, save
from examples.ser.run.evaluate import scores, utterance_posteriors
from examples.ser.run.flags import network, parse
from examples.ser.run.mixing import make_aam, report_pairs
from examples.ser.run.nonfinite import NonFiniteLossError, explain
from examples.ser.run.record import write_results
from icasa import (
    AAM,
    MixUp,
    RandomCrop,
    SpecAugment,
    aam_loss,
    attention_maps,
    backend,
    parameter_groups,
    soft_cross_entropy,
)

KEPT = "--out has every finished epoch; the same command goes on after the last one"


def batch_count(data: Segments, args: argparse.Namespace) -> int:
    """Return the number of batches in an epoch."""
    return -(-len(data) // args.batch_size)


def jitter(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Add noise of 0.1 standard deviations, and set a tenth of the rows to their mean, zero."""
    drawn = {"generator": generator, "device": x.device}
    return (x + 0.1 * torch.randn(x.shape, **drawn)) * (torch.rand(*x.shape[:3], 1, **drawn) > 0.1)


def make_augment(args: argparse.Namespace, classes: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the methods of --augment, jitter first and MixUp last, as a function of a batch."""
    crop, mask, mixup = RandomCrop(), SpecAugment(), MixUp(classes)

    def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if "jitter" in args.augment:
            x = jitter(x, generator=generator)
        if "crop" in args.augment:
            x = crop(x, generator=generator)
        if "spec-augment" in args.augment:
            x = mask(x, generator=generator)
        return mixup(x, y, generator=generator) if "mixup" in args.augment else (x, y)

    return augment


def train_epoch(
    fabric: Fabric, model: nn.Module, optimizer: Any, scheduler: Any, aam: AAM | None,
    augment: Callable[..., tuple[Tensor, Tensor]], weight: Tensor | None, data: Segments,
    epoch: int, args: argparse.Namespace,
) -> dict[str, float]:  # fmt: skip
    """Train one epoch; its random numbers depend on seed and epoch alone."""
    model.train()
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + epoch)
    order = torch.randperm(len(data), generator=generator).to(fabric.device)
    pairing = torch.Generator(fabric.device)
    pairing.manual_seed(args.seed * 1_000_003 + epoch * 1_009 + fabric.global_rank)
    # Dropout draws from the global generator, whose state no checkpoint keeps.
    torch.manual_seed(args.seed * 1_000_003 + 500_000 + epoch * 1_009 + fabric.global_rank)
    # Of nearly equal size, so that no process gets an empty batch.
    batches = order.tensor_split(batch_count(data, args))
    criterion = partial(soft_cross_entropy, weight=weight, label_smoothing=args.label_smoothing)
    sums = torch.zeros(4, device=fabric.device)  # loss, correct, seen, mixed
    bar = tqdm(batches, desc=f"epoch {epoch}", leave=False, disable=args.quiet or None)
    for number, batch in enumerate(bar if fabric.is_global_zero else batches, 1):
        index = batch[fabric.global_rank :: fabric.world_size]
        y = data.y[index]
        x, target = augment(data.x[index], y, pairing)
        optimizer.zero_grad()
        if aam:
            apart = data.speaker[index] if args.across_speakers else None
            apart = data.utterance[index] if args.across_utterances else apart
            step = aam_loss(
                model, aam, x, target, criterion=criterion, utterance=apart, generator=pairing
            )
            loss, logits, mixed = step.loss, step.logits, step.pairs.weight().sum()
        else:
            logits = model(x)
            loss, mixed = criterion(logits, target), sums.new_zeros(())
        if not loss.isfinite():
            raise NonFiniteLossError(f"batch {number}", index)
        fabric.backward(loss)
        optimizer.step()
        scheduler.step()
        correct, seen = (logits.argmax(1) == y).sum(), sums.new_tensor(len(y))
        sums += torch.stack((loss.detach() * seen, correct, seen, mixed))
    loss_sum, correct, seen, mixed = fabric.all_reduce(sums, reduce_op="sum").tolist()
    row = {"train_loss": loss_sum / seen, "train_WA": 100 * correct / seen}
    return row | ({"partner_rate": mixed / seen} if aam else {})


def class_weights(data: Segments, classes: int, mode: str) -> Tensor | None:
    """Return the weight of each class in the loss: n / (K n_k) of its n_k segments if balanced."""
    if mode == "none":
        return None
    count = data.y.bincount(minlength=classes)
    return torch.where(count > 0, len(data) / (classes * count.clamp_min(1)), 0.0)


def make_schedule(optimizer: Any, args: argparse.Namespace, steps: int) -> Any:
    """Return the schedule: constant, half a cosine, or one cycle (Smith and Topin 2019)."""
    if args.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if args.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def average_buffers(fabric: Fabric, net: nn.Module) -> None:
    """Average the BatchNorm statistics of the processes."""
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.copy_(fabric.all_reduce(buffer, reduce_op="mean"))


def evaluate(net: nn.Module, segments: Segments, labels: Sequence[str]) -> dict[str, Any]:
    """Return posteriors (U, K), loss and scores on a held-out part.

    Raises:
        NonFiniteLossError: a posterior is not finite.
    """
    y, posterior = utterance_posteriors(net, segments, len(labels))
    if not posterior.isfinite().all():
        raise NonFiniteLossError("the evaluation", torch.arange(len(segments)))
    loss = F.nll_loss(posterior.clamp_min(1e-12).log(), y).item()
    return {"posterior": posterior, "loss": loss} | scores(posterior.numpy(), y.numpy(), labels)


def record_best(
    kept: dict[str, Any], held_out: dict[str, dict[str, Any]], epoch: int, scored: str = "test"
) -> None:
    """Record the posteriors of the last epoch and of the best by validation and by test.

    Validation clips that are scored in place of test clips select no epoch.
    """
    posterior = held_out[scored]["posterior"]
    kept["last"] = {"epoch": epoch, "posterior": posterior}
    if scored != "test":
        return
    for name, part in (("validation-best", "validation"), ("test-best (oracle)", "test")):
        if part in held_out:
            ua = held_out[part]["UA"]
            if name not in kept or ua > kept[name]["UA"]:
                kept[name] = {"epoch": epoch, "posterior": posterior, "UA": ua}


def without_broadcasts() -> dict[str, Any]:
    """Return the option of DDP that keeps buffers as they are in a forward, as torch names it."""
    known = signature(DistributedDataParallel).parameters
    new, old = "forward_sync_buffers", "broadcast_buffers"  # torch 2.13 warns of the old name
    return {new if new in known else old: False}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train or resume one run, and return its rows."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a GPU for --device cuda, got none that torch finds; leave it out")
    many = "WORLD_SIZE" in os.environ  # set by torchrun
    fabric = Fabric(
        accelerator=args.device,
        devices=int(os.environ["LOCAL_WORLD_SIZE"]) if many else 1,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        precision=args.precision,
        strategy=DDPStrategy(**without_broadcasts()) if many else "auto",
    )
    fabric.launch()
    fault = unwritable(args.out)
    with nullcontext() if fault or not fabric.is_global_zero else only_training(args.out):
        return run(fabric, args, argv, fault)


def run(
    fabric: Fabric, args: argparse.Namespace, argv: Sequence[str], fault: str
) -> list[dict[str, Any]]:
    """Train or resume one run in its folder, and return its rows."""
    many = fabric.world_size > 1

    # Data
    with fabric.rank_zero_first():
        corpus, frames = read(args, fault, FEATURES[args.features])
        corpus, data = cut(corpus, frames, args)
    identity = digests(corpus, frames, {side: part.clips(corpus) for side, part in data.items()})
    for note in grouped(corpus.notes):
        fabric.print(f"note: {note}")
    data = {part: segments.to(fabric.device) for part, segments in data.items()}
    train = data.pop("train")
    data = data if args.score == "test" else {"validation": data["validation"]}
    scored = data[args.score]

    # Model
    seed_everything(args.seed, verbose=False)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    net = network(args, len(corpus.labels))
    if fabric.device.type == "cuda" and many:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    aam, pairs = None, None
    if args.aam:
        # Several processes must call the model equally often: hence the fixed size.
        aam = make_aam(args, net, len(corpus.labels), fixed_size=many)
        # An untrained network's pairs say nothing; history.csv has the rate of partners.
        if args.representation != "embedding":
            pairs = report_pairs(aam, train, args.seed, across_speakers=args.across_speakers)
            fabric.print(f"AAM on the training segments: {pairs}")

    augment = make_augment(args, len(corpus.labels))

    # Optimiser
    if args.optimizer == "adamw":
        groups = parameter_groups(net, args.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=args.lr)
    else:
        optimizer = torch.optim.Adam(net.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    model, optimizer = fabric.setup(net, optimizer)
    scheduler = make_schedule(optimizer, args, args.epochs * batch_count(train, args))
    parts = {"model": net, "optimizer": optimizer, "scheduler": scheduler}
    config = flags.config(args)
    config |= {"train segments": str(len(train)), "labels": str(corpus.labels)}
    state: dict[str, Any] = {"history": [], "kept": {}}
    checkpoint = args.out / CHECKPOINT
    if checkpoint.exists():
        defaults = flags.default_config(args.preset)
        state |= resume(checkpoint, config, identity, parts, defaults=defaults, note=fabric.print)
    state |= {"config": config, "data": identity, "pairs": pairs}
    if len(state["history"]) < args.epochs:
        for name, now in (("commits", git_commit()), ("threads", str(torch.get_num_threads()))):
            state[name] = list(dict.fromkeys([*state.get(name, []), now]))

    # Loop
    weight = class_weights(train, len(corpus.labels), args.class_weights)
    fabric.print(
        f"training on {len(train)} segments: {args.epochs} epochs of "
        f"{batch_count(train, args)} batches, {len(state['history'])} done", flush=True,
    )  # fmt: skip
    for epoch in range(len(state["history"]) + 1, args.epochs + 1):
        start = time.perf_counter()
        row = {"epoch": epoch, "lr": scheduler.get_last_lr()[0]}
        try:
            row |= train_epoch(
                fabric, model, optimizer, scheduler, aam, augment, weight, train, epoch, args
            )
        except NonFiniteLossError as error:
            raise UserError(explain(error, net, train, corpus, epoch, args.lr)) from None
        average_buffers(fabric, net)
        if fabric.is_global_zero:
            held_out = {}
            for part, side in data.items():
                try:
                    with fabric.autocast():
                        held_out[part] = evaluate(net, side, corpus.labels)
                except NonFiniteLossError as error:
                    raise UserError(explain(error, net, side, corpus, epoch, args.lr)) from None
            for part, result in held_out.items():
                row |= {f"{part}_{measure}": result[measure] for measure in ("loss", "WA", "UA")}
            row |= {f"beta_{place}": beta for place, beta in net.betas().items()}
            row["seconds"] = time.perf_counter() - start
            state["history"].append(row)
            record_best(state["kept"], held_out, epoch, args.score)
            save(checkpoint, state | {name: part.state_dict() for name, part in parts.items()})
            print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
        fabric.barrier()
    if not fabric.is_global_zero:
        return []

    # Rows and pictures
    facts = {
        "corpus": corpus.name, "fold": args.fold, "attention": args.attention,
        "augmentation": " + ".join([*args.augment, *["aam"] * args.aam]) or "none",
        "preset": args.preset,
        "protocol": args.protocol, "scored": args.score,
        "precision": args.precision, "epochs": args.epochs,
        "parameters": sum(p.numel() for p in net.parameters()),
        "backend": backend() if fabric.device.type == "cpu" else "torch",  # as `fused` defaults to
        # Several if they changed between two resumes; early checkpoints have no threads.
        "commit": " ".join(state["commits"]), "threads": " ".join(state.get("threads", [])),
    }  # fmt: skip
    facts |= provenance("examples.ser.train", argv, args.seed, fabric.device, fabric.world_size)
    if maps := attention_maps(net.eval(), scored.x[:1]):
        groups = FEATURES[args.features].row_groups
        draw_attention(scored.x[0, 0].cpu(), maps, args.out / "attention.png", groups)
    with room_for(args.out / "predictions.json"):
        rows = write_results(corpus, scored, state, facts, args.out)
    for row in rows:
        cells = "  ".join(f"{k} {row[k]:6.2f}" for k in ("WA", "UA", "F1", "ECE"))
        print(f"{row['selection']:<18}  epoch {row['epoch']:3}  {cells}")
    return rows


if __name__ == "__main__":
    with user_errors(KEPT):
        main()
