"""Latency: fair turns, ratios round by round, fewer rounds of slow calls."""

import re
from functools import partial

import pytest
import torch

from icasa.cost import latency
from icasa.cost.latency import latencies


def test_models_take_turns_in_an_order_drawn_anew(monkeypatch):
    turns = []
    monkeypatch.setattr(latency, "_seconds", lambda run, device: turns.append(run) or 1.0)
    runs = {name: partial(str, name) for name in ("plain", "a", "b")}
    clock = partial(latencies, runs, "forward", device=torch.device("cpu"), warmup=1)
    clock(rounds=60, seed=0)
    names = ["".join(run.args[0][0] for run in turns[i : i + 3]) for i in range(0, 180, 3)]
    assert set(names) == {"pab", "pba", "apb", "abp", "bpa", "bap"}


def test_ratios_are_taken_round_by_round(monkeypatch):
    seconds = iter([1.0, 2.0, 10.0, 40.0, 100.0, 600.0])
    monkeypatch.setattr(latency, "_seconds", lambda run, device: next(seconds))
    monkeypatch.setattr(latency.random.Random, "sample", lambda self, names, k: names)
    runs = dict.fromkeys(("plain", "a"), int)
    times = latencies(runs, "forward", device=torch.device("cpu"), rounds=3, warmup=1, seed=0)
    assert times["a"].ms == pytest.approx(40e3)
    assert times["a"].ratio == 4
    assert times["a"].rounds == 3


@pytest.mark.parametrize(
    ("turn", "given", "expected", "reports"),
    [(0.5, None, 30, 1), (2, None, 16, 2), (100, None, 5, 4), (100, 7, 7, 6), (0.5, 40, 40, 1)],
)
def test_slow_models_have_fewer_rounds_unless_told_and_say_how_far_they_are(
    turn, given, expected, reports, monkeypatch, caplog
):
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    caplog.set_level("INFO", "icasa.cost")
    done = 0
    for _ in latency.ROUNDS.iterate(given, "step"):
        now[0] += turn
        done += 1
    assert done == expected
    assert len(caplog.messages) == reports
    assert all(re.fullmatch(r"  step: round \d+ after \d+ s", line) for line in caplog.messages)
