"""Every script end to end on the smallest shapes: rows, provenance, pictures, and a refusal."""

import contextlib
import csv
import io

import pytest
import torch

from benchmarks import aam_step, cells, complexity, layers, mixup, training
from benchmarks.baselines import OFFICIAL
from benchmarks.harness import WrongVariantError, configure, parser
from examples.ser.model.macnn import ATTENTION

SMALL = (2, 8, 3, 5)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(layers, "QUICK", dict.fromkeys(("layer", "batch", "size"), (SMALL,)))
    monkeypatch.setattr(layers, "BLOCK", (2, 16, 3, 5))
    monkeypatch.setattr(layers, "SEGMENTS", (2, 1, 9, 12))
    monkeypatch.setattr(complexity, "QUICK_CHANNELS", (8, 16))
    monkeypatch.setattr(complexity, "QUICK_SIZES", ((3, 5),))
    for script in (mixup, training, aam_step):
        monkeypatch.setattr(script, "BATCHES", (8,))
    for script in (training, aam_step, cells):
        monkeypatch.setattr(script, "SEGMENT", (1, 9, 12))


def run(script, out, *flags):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        script.main(["--quick", "--rounds", "1", "--out", str(out), *flags])
    tables = {path.name: path for path in out.glob("*.csv")}
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    with tables[getattr(script, "FILE", "complexity.csv")].open(newline="") as file:
        rows = list(csv.DictReader(file))
    for path in tables.values():
        assert f"rows in {path}\n" in shown.getvalue()
    assert all(row["commit"] and row["command"] and row["seed"] for row in rows)
    return rows, {path.name for path in out.glob("*.png")}


def test_layers(tmp_path):
    rows, pictures = run(layers, tmp_path, "--no-compile")
    assert pictures == {"layers.png", "layers-sweep.png", "layers-inside.png"}
    seen = {(r["layer"], r["variant"], r["pass"]) for r in rows if r["experiment"] == "layer"}
    fast = {(n, v) for n in layers.LAYERS for v in ("fused", "default")} | {
        (n, "official style") for n in OFFICIAL
    }
    expected = fast | {(n, v) for n in layers.LAYERS for v in ("eager", "floor")}
    assert seen == {(*w, which) for w in expected for which in layers.PASSES}
    keys = [tuple(r[k] for k in layers.KEYS) for r in rows]
    assert len(set(keys)) == len(keys)
    saved = {r["variant"]: r["saved / x"] for r in rows if r["layer"] == "ICASA" and r["saved / x"]}
    assert float(saved["fused"]) < float(saved["eager"])


def test_layers_with_a_variant_that_computes_something_else(tmp_path, monkeypatch):
    def without_shuffle(layer, x):
        return layer.gates(x)[0] * x

    monkeypatch.setitem(OFFICIAL, "SA", without_shuffle)
    with pytest.raises(WrongVariantError, match="official style, tensor 0"):
        run(layers, tmp_path, "--no-compile")
    with (tmp_path / layers.FILE).open(newline="") as file:
        assert {row["layer"] for row in csv.DictReader(file)} == {"ICA"}  # all before it


def test_mixup(tmp_path):
    rows, pictures = run(mixup, tmp_path)
    assert [r["variant"] for r in rows] == ["AAM", "MixUp", "Algorithm 1 loop"]
    assert pictures == {"mixup.png"}


def test_mixup_draws_no_threshold_near_a_pair():
    x = torch.randn(16, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    similarity = torch.nn.functional.cosine_similarity(
        x.mean(-1).flatten(1).unsqueeze(1), x.mean(-1).flatten(1), dim=2
    )
    assert (similarity - mixup.clear_threshold(x)).abs().min() > 1e-3


def test_training(tmp_path):
    rows, pictures = run(training, tmp_path)
    assert [r["variant"] for r in rows] == 2 * ["no attention", "eager", "fused"]
    assert pictures == {"training.png"}


def test_cells(tmp_path, monkeypatch):
    timed = [cells.Variant(cells.PLAIN, 1, 1), *(cells.Variant(cells.GRID, n, 1) for n in (1, 2))]
    monkeypatch.setattr(cells, "variants", lambda settings, compiles: timed)
    rows, pictures = run(cells, tmp_path, "--no-compile")
    assert [(r["loop"], r["cells"]) for r in rows] == [
        (cells.PLAIN, "1"), (cells.GRID, "1"), (cells.GRID, "2"),
    ]  # fmt: skip
    assert all(float(r["segments/s"]) > 0 for r in rows)
    assert pictures == {"cells.png"}


def test_several_cells_are_as_many_as_threads_and_alone_each_has_all(tmp_path):
    args = parser("").parse_args(["--out", str(tmp_path)])
    settings = configure(args, "cells", [])
    four, one = ({**settings.provenance, "threads": n} for n in (4, 1))
    timed = cells.variants(settings._replace(provenance=four), compiles=True)
    assert [(v.cells, v.threads) for v in timed] == [(1, 4), (1, 4), (1, 4), (4, 1)]
    assert len(cells.variants(settings._replace(provenance=one), compiles=False)) == 2


def test_a_loop_that_learns_otherwise_is_refused():
    losses = {cells.PLAIN: [2.0, 1.5], cells.GRID: [2.0, 1.6]}
    assert cells.check(losses, 0.2)[cells.GRID] == pytest.approx(0.1)
    with pytest.raises(WrongVariantError, match=r"grid's loop: losses \[2.0, 1.6\]"):
        cells.check(losses, 0.05)


def test_aam_step(tmp_path):
    rows, pictures = run(aam_step, tmp_path)
    assert [r["attention"] for r in rows] == ["none", "icasa"]
    assert pictures == {"aam_step.png"}


def test_complexity(tmp_path):
    rows, pictures = run(complexity, tmp_path, "--no-latency")
    assert [r["head"] for r in rows] == 4 * ["fusion"] + 4 * ["flatten"]
    assert rows[3]["paper parameters (M)"] == "2.15"
    assert "latency (ms)" not in rows[0]
    pages = ("ica", "sa", "icasa", "ca", "se", "eca", "cbam", "conv", "layers")
    assert pictures == {"complexity.png", *(f"complexity-{page}.png" for page in pages)}


def test_latency_is_timed_for_each_model(tmp_path):
    settings = configure(
        parser("").parse_args(["--quick", "--rounds", "1", "--out", str(tmp_path)]), "", []
    )
    models = {a: complexity.build(a, "fusion", 0) for a in ("none", "eca")}
    times = complexity.latencies(models, settings)
    assert all(times[a]["latency (ms)"] > 0 for a in models)
    assert set(models) <= set(ATTENTION)
