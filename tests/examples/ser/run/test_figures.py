"""Pictures of runs: each shows the numbers that it is given, is written and closed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from examples.ser.run import figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn; they are closed only after the test."""
    kept, close = [], plt.close
    monkeypatch.setattr(plt, "close", kept.append)
    yield kept
    for figure in kept:
        close(figure)


def history(shift=0.0):
    return [
        {"epoch": n, "train_loss": 1 / n, "train_WA": 10.0 * n, "test_loss": 2 / n,
         "test_WA": 9 * n, "beta_conv2": 0.5 + shift * n}
        for n in (1, 2, 3)
    ]  # fmt: skip


def test_a_confusion_is_in_percent_of_the_actual_class(tmp_path, drawn):
    figures.draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], "title", tmp_path / "a.png")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == ["75\n(3)", "25\n(1)", "0\n(0)", "0\n(0)"]  # a class without clips has zeros
    assert (tmp_path / "a.png").stat().st_size > 1000
    # On a scale from 0 to 100, white is legible on the dark half alone.
    colors = [text.get_color() for text in drawn[0].axes[0].texts]
    assert colors == ["white", "black", "black", "black"]


def test_curves_are_those_of_the_parts_that_were_evaluated(tmp_path, drawn):
    figures.draw_curves(history(), "title", tmp_path / "a.png")
    loss, wa = drawn[0].axes
    assert [line.get_label() for line in loss.lines] == ["train", "test"]
    assert [list(line.get_ydata()) for line in wa.lines] == [[10, 20, 30], [9, 18, 27]]


def test_beta_is_drawn_where_there_is_one(tmp_path, drawn):
    figures.draw_beta(history(0.1), "title", tmp_path / "a.png")
    assert list(drawn[0].axes[0].lines[0].get_ydata()) == pytest.approx([0.6, 0.7, 0.8])
    figures.draw_beta([{"epoch": 1}], "title", tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_betas_of_runs_have_their_mean_and_range(tmp_path, drawn):
    figures.draw_betas([history(0.1), history(-0.1)], "title", tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.5, 0.5, 0.5])
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.2, 0.8))


def test_boxes_have_a_point_per_run(tmp_path, drawn):
    figures.draw_boxes({"none": [40.0, 42.0], "icasa": [41.0]}, "title", tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "icasa"]
    points = [list(line.get_xdata()) for line in axes.lines if line.get_color() == "k"]
    assert points == [[40, 42], [41]]


def test_protocols_have_a_mark_per_row_and_the_papers_numbers_once(tmp_path, drawn):
    rows = [
        {"model": "none", "leak": "none", "WA": "42.0", "WA SD": "1.0", "WA (paper)": "80.24"},
        {"model": "none", "leak": "leaky-segment", "WA": "90.0", "WA SD": "2.0"},
        {"model": "svm", "leak": "none", "WA": "47.0", "WA SD": "0.5", "WA (paper)": "80.24"},
    ]
    figures.draw_protocols(rows, 13.3, tmp_path / "a.png")
    (axes,) = drawn[0].axes
    marks = [mark for drawn in axes.containers for mark in drawn.lines[0].get_xdata()]
    assert sorted(marks) == [42, 47, 90]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["no attention", "svm"]
    verticals = [line.get_xdata()[0] for line in axes.lines if len({*line.get_ydata()}) == 2]
    assert {13.3, 80.24} <= {*verticals}
    assert verticals.count(80.24) == 1


def test_similarity_is_drawn_over_the_thresholds_with_chance(tmp_path, drawn):
    rows = [
        {"normalisation": n, "representation": "mean", "T": t, "label match": 10 * t,
         "speaker match": 20 * t, "label chance": 13, "speaker chance": 4}
        for n in ("all", "speaker") for t in (0.1, 0.9)
    ]  # fmt: skip
    figures.draw_similarity(rows, tmp_path / "a.png")
    for axes, factor, chance in zip(drawn[0].axes, (10, 20), (13, 4), strict=True):
        values = [list(line.get_ydata()) for line in axes.lines]
        assert values[:2] == [pytest.approx([0.1 * factor, 0.9 * factor])] * 2
        assert values[2] == [chance, chance]


def test_embeddings_have_a_panel_per_space_and_a_colour_per_class(tmp_path, drawn):
    points = np.arange(8.0).reshape(4, 2)
    panels = {"input": points, "icasa": -points}
    figures.draw_embeddings(panels, ["a", "b", "a", "b"], tmp_path / "a.png")
    for axes, (title, wanted) in zip(drawn[0].axes, panels.items(), strict=True):
        assert axes.get_title() == title
        offsets = [scatter.get_offsets() for scatter in axes.collections]
        np.testing.assert_array_equal(offsets[0], wanted[::2])
        np.testing.assert_array_equal(offsets[1], wanted[1::2])


def test_a_picture_is_closed(tmp_path):
    figures.draw_boxes({"none": [1.0]}, "title", tmp_path / "a.png")
    assert plt.get_fignums() == []


def test_labels_of_another_script_have_a_font_or_a_note(tmp_path, capsys):
    figures.draw_confusion(np.eye(2, dtype=int), ["Ärger", "שמח"], "title", tmp_path / "a.png")
    assert capsys.readouterr().out == ""  # matplotlib's own font has both
    with pytest.warns(UserWarning, match="missing from font"):
        figures.draw_confusion(np.eye(2, dtype=int), ["a", "\u0378"], "title", tmp_path / "b.png")
    assert "note: no installed font has \u0378: pictures show boxes" in capsys.readouterr().out
