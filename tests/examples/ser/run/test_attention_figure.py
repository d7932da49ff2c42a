"""The picture of the attention maps: written, one row a layer, each gate in its place."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("matplotlib", reason="the examples' extra")

import matplotlib.pyplot as plt

from examples.ser.model.macnn import MACNN
from examples.ser.model.tdnn import TDNN
from examples.ser.run.attention_figure import LEAST_SPAN, draw_attention
from icasa.maps import attention_maps
from tests.strategies import seeded

X = torch.randn(1, 1, 39, 200, generator=seeded(0))


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn; they are closed only after the test."""
    kept, close = [], plt.close
    monkeypatch.setattr(plt, "close", kept.append)
    yield kept
    for figure in kept:
        close(figure)


def layer(*gates, beta=None):
    return SimpleNamespace(gates=gates, beta=beta)


def curves(figure):
    return [line for ax in figure.axes for line in ax.lines]


@pytest.mark.parametrize("attention", ["icasa", "ca", "se", "eca", "cbam"])
def test_every_layer_s_maps_are_drawn(attention, tmp_path, figures):
    maps = attention_maps(MACNN(4, attention=attention).eval(), X)
    draw_attention(X[0, 0], maps, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 10_000
    titles = [ax.get_title() for ax in figures[0].axes]
    for name, shown in maps.items():
        assert name + (": β = 0.500" if shown.beta is not None else "") in titles
    images = [image for ax in figures[0].axes for image in ax.images]
    planes = 4 * (attention in ("icasa", "ca", "cbam"))
    assert len(images) == 1 + planes  # the input once
    assert len({image.get_clim() for image in images[1:]}) == bool(planes)  # one scale of colours
    assert len(curves(figures[0])) == {"icasa": 8, "ca": 8, "se": 4, "eca": 4, "cbam": 4}[attention]


@pytest.mark.parametrize("attention", ["icasa", "ca", "se"])
def test_no_panel_is_blank_on_a_map_of_one_row(attention, tmp_path, figures):
    maps = attention_maps(TDNN(4, 39, attention=attention).eval(), X)
    groups = {"13 MFCC": 13, "deltas": 26}
    draw_attention(X[0, 0], maps, tmp_path / "attention.png", groups)
    assert len(figures[0].axes) == 1 + 3
    assert all(ax.images or ax.lines for ax in figures[0].axes)
    assert [t.get_text() for t in figures[0].axes[0].get_yticklabels()] == [*groups]


def test_curves_lie_where_the_gates_are_and_are_means_over_channels(tmp_path, figures):
    rows = torch.tensor([0.2, 0.4, 0.9]).view(1, 1, 3, 1).repeat(2, 4, 1, 1)
    rows[0, :2] += 0.1  # two of four channels of the first sample
    columns = torch.linspace(0.3, 0.6, 5).view(1, 1, 1, 5).expand(2, 4, 1, 5)
    maps = {"a": layer(rows, columns, beta=torch.tensor([0.25]))}
    draw_attention(X[0, 0, :6, :20].numpy(), maps, tmp_path / "attention.svg")
    across, along = curves(figures[0])
    torch.testing.assert_close(torch.tensor(along.get_xdata()), rows[1, 0, :, 0] + 0.05)
    assert along.get_ydata().tolist() == [1, 3, 5]  # of 6 bins
    assert across.get_xdata().tolist() == [2, 6, 10, 14, 18]  # of 20 frames
    assert "a: β = 0.250" in [ax.get_title() for ax in figures[0].axes]


def test_a_flat_gate_and_a_flat_spectrogram_draw_without_a_warning(tmp_path, figures):
    gates = torch.full((1, 2, 4, 1), 0.5), torch.full((1, 2, 4, 6), 0.5)
    draw_attention(torch.zeros(4, 6), {"a": layer(*gates)}, tmp_path / "attention.png")
    (curve,) = curves(figures[0])
    low, high = curve.axes.get_xlim()
    assert high - low == pytest.approx(LEAST_SPAN)
    assert (low + high) / 2 == pytest.approx(0.5)


def test_on_a_map_of_one_row_both_curves_are_seen(tmp_path, figures):
    maps = attention_maps(TDNN(4, 39, attention="icasa").eval(), X)
    draw_attention(X[0, 0], maps, tmp_path / "attention.png")
    tops = [ax for ax in figures[0].axes if len(ax.lines) == 2]
    assert len(tops) == 3
    for ax in tops:
        low, high = ax.get_ylim()
        assert all(
            low <= min(line.get_ydata()) <= max(line.get_ydata()) <= high for line in ax.lines
        )
        assert [text.get_text() for text in ax.get_legend().texts] == ["$g_w$", "by position"]


def test_it_closes_what_it_opened(tmp_path):
    draw_attention(X[0, 0], {"a": layer(torch.rand(1, 2, 39, 1))}, tmp_path / "attention.png")
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("picture", "maps"), [(X[0, 0], {}), (X, {"a": layer()})], ids=["no layer", "four axes"]
)
def test_what_cannot_be_drawn_is_refused(picture, maps, tmp_path):
    with pytest.raises(ValueError, match=r"expected a spectrogram .* got \(.*\) and \d layers;"):
        draw_attention(picture, maps, tmp_path / "attention.png")
    assert not list(tmp_path.iterdir())
