"""What a run leaves behind: rows with their provenance, predictions and pictures."""

import csv
import json
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.ser.data.corpora import Corpus
from examples.ser.data.features import Segments
from examples.ser.run.evaluate import confusion, scores
from examples.ser.run.figures import draw_beta, draw_confusion, draw_curves


def git_commit(folder: Path = Path(__file__).parent) -> str:
    """Commit of the code in `folder`, "-dirty" if it was changed since, or "not a checkout".

    Results do not count as code: else the first script that writes some would taint the others.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    code = (":/", ":(top,exclude)*/results/*")
    return head + ("-dirty" if git("status", "--porcelain", "-uno", "--", *code) else "")


def provenance(
    module: str, argv: Sequence[str], seed: int, device: torch.device, processes: int = 1
) -> dict[str, Any]:
    """Return what a row says about where it came from."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu {platform.machine()}",
        "processes": processes,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seed": seed,
        "command": shlex.join(["python", "-m", f"examples.ser.{module}", *argv]),
    }


def write_results(
    corpus: Corpus, test: Segments, state: dict[str, Any], facts: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Write result.csv, history.csv, predictions.json and the pictures; return the rows."""
    clips = [corpus.utterances[i] for i in test.utterance.unique().tolist()]
    y = np.array([corpus.labels.index(clip.label) for clip in clips])
    title = "{corpus}, fold {fold}: attention {attention}, augmentation {augmentation}".format(
        **facts
    )
    rows, posteriors = [], {}
    for selection, kept in state["kept"].items():
        posteriors[selection] = posterior = kept["posterior"].numpy()
        result = {k: round(v, 4) for k, v in scores(posterior, y, corpus.labels).items()}
        rows.append(facts | {"selection": selection, "epoch": kept["epoch"]} | result)
        picture = out / f"confusion-{selection.split()[0]}.png"
        subtitle = f"{title}\n{selection}, epoch {kept['epoch']}: WA {result['WA']:.1f} %"
        draw_confusion(confusion(posterior, y, corpus.labels), corpus.labels, subtitle, picture)
    write_csv(out / "result.csv", rows)
    write_csv(out / "history.csv", state["history"])
    draw_curves(state["history"], title, out / "curves.png")
    draw_beta(state["history"], title, out / "beta.png")
    utterances = [
        {"id": clip.id, "label": clip.label, "speaker": clip.speaker, "gender": clip.gender}
        | {name: posterior[i].round(5).tolist() for name, posterior in posteriors.items()}
        for i, clip in enumerate(clips)
    ]
    record = {
        "labels": corpus.labels, "notes": corpus.notes, "run": facts, "pairs": state["pairs"],
        "rows": rows, "history": state["history"], "utterances": utterances,
    }  # fmt: skip
    text = json.dumps(record, indent=0)
    (out / "predictions.json").write_text(text + "\n")
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows that share their columns."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
