"""The demo trains both models and says that its numbers are no result."""

import sys

from examples.ser import demo, train


def test_both_models_are_trained_on_synthetic_speech_and_compared(tmp_path, monkeypatch, capsys):
    calls = []

    def stand_in(argv):
        calls.append(argv)
        row = {"selection": "last", "epoch": 10, "WA": 25.0, "UA": 26.0, "F1": 27.0, "ECE": 0.1}
        return [row]

    monkeypatch.setattr(train, "main", stand_in)
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path)])
    demo.main()
    assert [train.parse(argv).attention for argv in calls] == ["none", "icasa"]
    assert [train.parse(argv).aam for argv in calls] == [False, True]
    assert all(train.parse(argv).manifest.is_file() for argv in calls)
    out = capsys.readouterr().out
    assert "SYNTHETIC speech (no person spoke it)" in out
    assert "not a result" in out
    assert out.count("25.00   26.00   27.00    0.10") == 2


def test_ravdess_takes_the_place_of_synthetic_speech(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(train, "main", lambda argv: calls.append(argv) or [])
    monkeypatch.setattr(sys, "argv", ["demo", "--ravdess", "root", "--out", str(tmp_path)])
    demo.main()
    assert {str(train.parse(argv).ravdess) for argv in calls} == {"root"}
    assert "RAVDESS, one fold" in capsys.readouterr().out
