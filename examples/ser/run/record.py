"""Record of a run: predictions, rows and pictures; its trained network is loaded from it."""

import argparse
import io
import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.errors import UserError
from examples.provenance import write_csv
from examples.ser.data.corpora import Corpus
from examples.ser.data.digests import differing
from examples.ser.data.segments import Segments
from examples.ser.run import flags
from examples.ser.run.evaluate import confusion, scores
from examples.ser.run.figures import draw_beta, draw_confusion, draw_curves


def write_results(
    corpus: Corpus, test: Segments, state: dict[str, Any], facts: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Write result.csv, history.csv, predictions.json and the pictures; return the rows."""
    clips = test.clips(corpus)
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
        "labels": corpus.labels, "folds": corpus.folds, "notes": corpus.notes, "run": facts,
        "data": state["data"], "pairs": state["pairs"], "rows": rows, "history": state["history"],
        "utterances": utterances,
    }  # fmt: skip
    text = json.dumps(record, indent=0)
    (out / "predictions.json").write_text(text + "\n")
    return rows


def load_trained(record: Mapping[str, Any], folder: Path) -> tuple[argparse.Namespace, nn.Module]:
    """Return the flags and the trained network of a run, from its checkpoint in `folder`."""
    state = load_saved(folder / "checkpoint.pt", ("model",))["model"]
    return restore(record["run"]["command"], record["labels"], state)


def check_data(record: Mapping[str, Any], now: Mapping[str, str], folder: Path) -> None:
    """Raise UserError unless the data of a run are those of its record, if it has their digests."""
    if other := differing(record.get("data", now), now):
        raise UserError(
            f"{folder}: expected the data that trained it, got other ones ({', '.join(other)}); "
            "give its corpus and flags"
        )


def load_saved(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Load a file of torch that has these keys.

    Raises:
        UserError: it is damaged, or no file of this recipe. Torch's own message would advise to
            run the code in it.
    """
    content, state, cause = path.read_bytes(), None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how another program pickled it
            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # the unpickler raises nearly anything on bytes of another kind
        cause = error
    if not isinstance(state, dict) or not set(keys) <= state.keys():
        raise UserError(
            f"expected a checkpoint of this recipe with {', '.join(keys)}, got {path}, which is "
            "damaged or of another program; remove it, or give another folder"
        ) from cause
    return dict(state)


def restore(
    command: str, labels: Sequence[str], state: Mapping[str, Any]
) -> tuple[argparse.Namespace, nn.Module]:
    """Return the flags of a training command, and its network with the weights `state`."""
    _, _, _, *argv = shlex.split(command)  # python -m examples.ser.train ...
    args = flags.parse(argv)
    net = flags.network(args, len(labels))
    net.load_state_dict(state)
    return args, net.eval()
