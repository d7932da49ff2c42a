"""Train a small ResNet with any attention layer on images in class folders.

    python -m examples.vision.train --data path/to/images --attention icasa --out runs/a

``--data`` is a folder or a zip with ``train`` and ``test``, or with the class folders themselves.
Reads from top to bottom: flags, data, model, optimiser, loop, row and pictures. A run that was
stopped goes on where it was, to the same bits, when the same command is given again. The test
images are looked at once, after the last epoch; choose by the validation images.
"""

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Deterministic matrix products on CUDA need this before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor, nn

from examples.provenance import git_commit, provenance, write_csv
from examples.vision.figures import draw_confusion, draw_curves, draw_gates
from examples.vision.images import Dataset, ImageFolderError, Images, load, write_aside
from examples.vision.resnet import ATTENTION, DEPTHS, ResNet
from icasa import MixUp, attention_maps, parameter_groups, soft_cross_entropy

CROP = 4  # pixels of zeros on every side, out of which --augment crop cuts
# What does not change the numbers, and so may differ when a run is resumed.
NOT_IN_CONFIG = ("data", "out", "cache", "device", "name", "score")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.vision.train", description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    group = parser.add_argument_group("data")
    group.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder or zip")
    group.add_argument("--name", help="of the data, for the row; default: that of ROOT")
    group.add_argument("--size", type=int, help="pixels; default: what all images have")
    group.add_argument("--validation", type=float, default=0.1, help="share of the training images")
    group.add_argument(
        "--score",
        choices=("test", "validation"),
        default="test",
        help="what the row is on; validation: the test images stay unseen",
    )
    group.add_argument("--cache", type=Path, default=Path("runs/cache"), help="decoded images")
    group = parser.add_argument_group("model")
    group.add_argument("--depth", type=int, choices=DEPTHS, default=8, help="of the ResNet")
    group.add_argument("--attention", choices=ATTENTION, default="none", help="in every block")
    group = parser.add_argument_group("augmentation")
    group.add_argument("--augment", nargs="*", choices=("flip", "crop"), default=["flip", "crop"])
    group.add_argument("--mixup", type=float, default=0.0, metavar="ALPHA", help="0: no MixUp")
    group = parser.add_argument_group("optimisation: SGD, one cycle of the learning rate")
    group.add_argument("--epochs", type=int, default=15)
    group.add_argument("--batch-size", type=int, default=128)
    group.add_argument("--lr", type=float, default=0.2, help="the highest")
    group.add_argument("--weight-decay", type=float, default=5e-4)
    group.add_argument("--label-smoothing", type=float, default=0.0)
    group.add_argument("--seed", type=int, default=0)
    group = parser.add_argument_group("run")
    group.add_argument("--out", type=Path, required=True, help="folder of this run")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--threads", type=int, help="CPU threads; torch's default when not given")
    args = parser.parse_args(argv)
    for key in ("size", "epochs", "batch_size", "lr", "threads"):
        value = getattr(args, key)
        if value is not None and not value > 0:
            parser.error(f"--{key.replace('_', '-')}: expected a number above 0, got {value}")
    for key in ("validation", "label_smoothing", "weight_decay", "mixup"):
        high = 1000 if key == "mixup" else 1
        if not 0 <= (value := getattr(args, key)) < high:
            parser.error(f"--{key.replace('_', '-')}: expected 0 <= value < {high}, got {value}")
    if args.score == "validation" and not args.validation:
        parser.error("--score validation: expected validation images, got --validation 0")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: expected a CUDA device, got none; leave --device out")
    args.name = args.name or args.data.resolve().stem
    return args


def to_input(x: Tensor) -> Tensor:
    """Scale bytes (N, H, W, 3) to floats (N, 3, H, W) in [-1, 1]."""
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(x: Tensor, names: Sequence[str]) -> Tensor:
    """Flip half of the images, and cut each at its own place out of a frame of zeros."""
    count, _, height, width = x.shape
    if "flip" in names:
        x = torch.where(torch.rand(count, 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    if "crop" in names:
        top, left = torch.randint(2 * CROP + 1, (2, count, 1), device=x.device)
        rows = (top + torch.arange(height, device=x.device))[:, :, None]
        columns = (left + torch.arange(width, device=x.device))[:, None]
        image = torch.arange(count, device=x.device)[:, None, None]
        padded = F.pad(x, (CROP,) * 4).permute(0, 2, 3, 1)
        x = padded[image, rows, columns].permute(0, 3, 1, 2).contiguous()
    return x


def train_epoch(
    model: nn.Module, optimizer: Any, scheduler: Any, x: Tensor, y: Tensor, mixup: MixUp | None,
    epoch: int, args: argparse.Namespace,
) -> dict[str, float]:  # fmt: skip
    """One pass over the images; every draw follows from seed and epoch alone."""
    model.train()
    torch.manual_seed(args.seed * 1_000_003 + epoch)
    loss_sum, correct = torch.zeros(2, device=x.device)
    # Of nearly equal size: no BatchNorm sees a batch of a few images.
    for index in torch.randperm(len(y)).to(x.device).tensor_split(-(-len(y) // args.batch_size)):
        image, target = augment(to_input(x[index]), args.augment), y[index]
        if mixup:
            image, target = mixup(image, target)
        optimizer.zero_grad()
        logits = model(image)
        loss = soft_cross_entropy(logits, target, label_smoothing=args.label_smoothing)
        loss.backward()
        optimizer.step()
        scheduler.step()
        loss_sum += loss.detach() * len(index)
        correct += (logits.argmax(1) == y[index]).sum()
    if not loss_sum.isfinite():
        raise SystemExit(f"epoch {epoch}: expected a finite loss, got {loss_sum}; lower --lr")
    return {"train_loss": loss_sum.item() / len(y), "train_accuracy": 100 * correct.item() / len(y)}


@torch.no_grad()
def posteriors(model: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Posteriors (N, K) of images, on the CPU."""
    model.eval()
    return torch.cat([model(to_input(part)).softmax(1).cpu() for part in x.split(batch_size)])


def score(posterior: Tensor, y: Tensor) -> dict[str, float]:
    """Cross entropy in nats and accuracy in percent."""
    loss = F.nll_loss(posterior.clamp_min(1e-12).log(), y).item()
    return {"loss": loss, "accuracy": 100 * (posterior.argmax(1) == y).double().mean().item()}


def resume(path: Path, config: dict[str, str], parts: dict[str, Any]) -> dict[str, Any]:
    """Load the checkpoint into `parts` if it is of this very run, and return what it holds."""
    state = torch.load(path, weights_only=True)
    saved = state["config"]
    if other := [k for k in saved | config if saved.get(k) != config.get(k)]:
        text = ", ".join(f"{k}: {saved.get(k)} there, {config.get(k)} now" for k in other)
        raise SystemExit(f"{path} is of another run ({text}); name another --out or remove it")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


def run(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Train one run, or go on with it, and return its row."""
    # Data
    print(f"reading {args.data}", flush=True)
    data = load(args.data, args.cache, size=args.size, validation_share=args.validation)
    for note in data.notes:
        print(f"note: {note}")
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    print(f"{len(data.labels)} classes, {len(data.train)} images to train, {len(data.validation)} "
          f"to validate, {len(data.test)} to test; {device.type}", flush=True)  # fmt: skip
    on = partial(torch.as_tensor, device=device)
    x, y = on(data.train.x), on(data.train.y)

    # Model
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(args.seed)
    model = ResNet(len(data.labels), depth=args.depth, attention=args.attention).to(device)
    mixup = MixUp(len(data.labels), alpha=args.mixup) if args.mixup else None

    # Optimiser
    groups = parameter_groups(model, args.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    steps = args.epochs * -(-len(y) // args.batch_size)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, cycle_momentum=False)
    scheduler = schedule(optimizer, args.lr, steps)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    config = {k: str(v) for k, v in vars(args).items() if k not in NOT_IN_CONFIG}
    # Sums differ in their last bits with the threads and the device: neither may change.
    config |= {"threads": str(torch.get_num_threads()), "on": device.type, "images": data.digest}
    state: dict[str, Any] = {"config": config, "history": [], "commits": []}
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state |= resume(checkpoint, config, parts)
    history = state["history"]
    if len(history) < args.epochs:
        state["commits"] = list(dict.fromkeys([*state["commits"], git_commit()]))

    # Loop
    for epoch in range(len(history) + 1, args.epochs + 1):
        start = time.perf_counter()
        row = {"epoch": epoch, "lr": scheduler.get_last_lr()[0]}
        row |= train_epoch(model, optimizer, scheduler, x, y, mixup, epoch, args)
        if len(data.validation):
            held_out = posteriors(model, on(data.validation.x))
            scored = score(held_out, torch.as_tensor(data.validation.y))
            row |= {f"validation_{name}": value for name, value in scored.items()}
        row |= {f"beta_{place}": beta for place, beta in model.betas().items()}
        row["seconds"] = time.perf_counter() - start
        history.append(row)
        state |= {name: part.state_dict() for name, part in parts.items()}
        write_aside(checkpoint, partial(torch.save, state))
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)

    # Row and pictures
    facts = {
        "data": args.name, "images": data.digest, "trained_on": len(y), "depth": args.depth,
        "attention": args.attention,
        "augmentation": " ".join([*args.augment, *[f"mixup{args.mixup:g}"] * bool(args.mixup)]),
        "epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr,
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "commit": " ".join(state["commits"]),  # several if the code changed between two resumes
    } | provenance("examples.vision.train", argv, args.seed, device)  # fmt: skip
    scored = getattr(data, args.score)
    posterior = posteriors(model, on(scored.x))
    if maps := attention_maps(model, to_input(on(scored.x[:1]))):
        draw_gates(scored.x[0], maps, args.out / "gates.png")
    row = facts | {"part": args.score} | score(posterior, torch.as_tensor(scored.y))
    write_results(posterior, scored, data, history, row, args.out)
    return row


def write_results(
    posterior: Tensor, scored: Images, data: Dataset, history: list[dict[str, Any]],
    row: dict[str, Any], out: Path,
) -> None:  # fmt: skip
    """Write result.csv, history.csv, predictions.json.gz, curves and confusion."""
    confidence, predicted = posterior.max(1)
    record = {
        "labels": data.labels, "notes": data.notes, "run": row,
        "images": {
            "id": scored.names, "label": scored.y.tolist(), "predicted": predicted.tolist(),
            "confidence": [round(value, 4) for value in confidence.tolist()],
        },
    }  # fmt: skip
    content = gzip.compress(json.dumps(record).encode(), mtime=0)  # equal bytes if all is equal
    write_aside(out / "predictions.json.gz", lambda file: file.write(content))
    write_csv(out / "result.csv", [row])
    write_csv(out / "history.csv", history)
    title = f"{row['data']}: ResNet-{row['depth']}, attention {row['attention']}"
    draw_curves(history, title, out / "curves.png")
    accuracy = f"accuracy {row['accuracy']:.2f} % of {len(scored)} {row['part']} images"
    title = f"{title}\n{accuracy}"
    draw_confusion(scored.y, predicted.numpy(), data.labels, title, out / "confusion.png")
    print(f"{accuracy}; row, predictions and pictures in {out}")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run under a lock: two trainings in one folder would mix their checkpoints."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(args.out / "lock", timeout=0):
            return run(args, argv)
    except Timeout:
        raise SystemExit(f"{args.out}: another training runs here; name another --out") from None
    except ImageFolderError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
