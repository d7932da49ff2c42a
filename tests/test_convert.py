"""Weights of the peers, which are written here from their formulas under the peers' names."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from icasa import CA, CBAM, ECA, ICA, ICASA, SA, SE
from icasa.convert import PEERS, from_peer, load_peer, to_peer
from tests.strategies import randomise


class Shuffle(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.half = channels // groups // 2
        for name in ("cweight", "cbias", "sweight", "sbias"):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, self.half, 1, 1)))
        self.gn = nn.GroupNorm(self.half, self.half)

    def forward(self, x):
        blocks = []
        for i, v in enumerate(x.split(self.half, dim=1)):
            mean = v.mean((2, 3), keepdim=True)
            if i % 2 == 0:
                gate = self.cweight * mean + self.cbias
            else:
                var = v.var((2, 3), keepdim=True, unbiased=False)
                normed = (v - mean) / (var + 1e-5).sqrt()
                normed = normed * self.gn.weight[:, None, None] + self.gn.bias[:, None, None]
                gate = self.sweight * normed + self.sbias
            blocks.append(v * gate.sigmoid())
        joined, middle = torch.cat(blocks, dim=1), x.shape[1] // 2
        return joined[:, [c for j in range(middle) for c in (j, middle + j)]]


class Coordinate(nn.Module):
    def __init__(self, channels, width, bias=True, names=("conv_h", "conv_w")):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.names = names
        for name in names:
            self.add_module(name, nn.Conv2d(width, channels, 1, bias=bias))

    def forward(self, x):
        z = torch.cat((x.mean(3, keepdim=True), x.mean(2, keepdim=True).mT), dim=2)
        u = self.bn1(self.conv1(z))
        f = u * (u + 3).clamp(0, 6) / 6
        to_h, to_w = (getattr(self, name) for name in self.names)
        return x * to_h(f[:, :, : x.shape[2]]).sigmoid() * to_w(f[:, :, x.shape[2] :]).sigmoid().mT


class Block(nn.Module):
    """CBAM as its authors' (maximum before mean) or as timm's (mean before maximum)."""

    def __init__(self, channels, width, timm, bias=True, kernel=7):
        super().__init__()
        self.timm = timm
        conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        bn = nn.BatchNorm2d(1, momentum=0.1 if timm else 0.01)
        both = nn.ModuleDict({"conv": conv, "bn": bn})
        if timm:
            first = nn.Conv2d(channels, width, 1, bias=bias)
            second = nn.Conv2d(width, channels, 1, bias=bias)
            self.channel = nn.ModuleDict({"fc1": first, "fc2": second})
            self.spatial = nn.ModuleDict({"conv": both})
        else:
            first, second = nn.Linear(channels, width), nn.Linear(width, channels)
            mlp = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)
            self.ChannelGate = nn.ModuleDict({"mlp": mlp})
            self.SpatialGate = nn.ModuleDict({"spatial": both})
        self.parts = [first, second, conv, bn]  # a plain list: no keys of its own

    def forward(self, x):
        first, second, conv, bn = self.parts
        logits = 0
        for pooled in (x.mean((2, 3)), x.flatten(2).max(2).values):
            hidden = F.linear(pooled, first.weight.flatten(1), first.bias).relu()
            logits = logits + F.linear(hidden, second.weight.flatten(1), second.bias)
        y = x * logits.sigmoid()[:, :, None, None]
        maps = [y.max(1, keepdim=True).values, y.mean(1, keepdim=True)]
        return y * bn(conv(torch.cat(maps[::-1] if self.timm else maps, dim=1))).sigmoid()


class Neighbour(nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, bias=False)

    def forward(self, x):
        taps = self.conv.weight.flatten()
        mean = F.pad(x.mean((2, 3)), (len(taps) // 2, len(taps) // 2))
        logits = sum(w * mean[:, t : t + x.shape[1]] for t, w in enumerate(taps))
        return x * logits.sigmoid()[:, :, None, None]


class Squeeze(nn.Module):
    def __init__(self, channels, width, bias=True):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, width, 1, bias=bias)
        self.fc2 = nn.Conv2d(width, channels, 1, bias=bias)

    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


# Our layer, source, channels, to_peer's bias, the peer; a comment where our width would differ.
CASES = [
    (SA, "official", 16, None, lambda: Shuffle(16, 4)),
    (SA, "official", 12, None, lambda: Shuffle(12, 1)),
    (SA, "official", 256, None, lambda: Shuffle(256, 64)),
    (CA, "official", 320, None, lambda: Coordinate(320, 10)),
    (CA, "official_mbv2", 64, None, lambda: Coordinate(64, 8, names=("conv2", "conv3"))),
    (CA, "timm", 64, None, lambda: Coordinate(64, 8, bias=False)),
    (CA, "timm", 320, None, lambda: Coordinate(320, 16, bias=False)),  # ours 10
    (CA, "timm", 64, True, lambda: Coordinate(64, 16)),  # ours 8
    (CBAM, "official", 100, None, lambda: Block(100, 6, timm=False)),
    (CBAM, "timm", 64, None, lambda: Block(64, 4, timm=True, bias=False)),
    (CBAM, "timm", 24, True, lambda: Block(24, 2, timm=True, kernel=3)),  # ours 1
    (ECA, "official", 16, None, lambda: Neighbour(5)),  # ours 3
    (ECA, "timm", 2, None, lambda: Neighbour(3)),  # ours 1
    (SE, "timm", 8, None, lambda: Squeeze(8, 8)),  # ours 1
    (SE, "timm", 200, None, lambda: Squeeze(200, 16)),  # ours 12
    (SE, "timm", 32, False, lambda: Squeeze(32, 4, bias=False)),  # ours 2
]
IDS = [f"{cls.__name__}-{source}-{channels}-{bias}" for cls, source, channels, bias, _ in CASES]
every_case = pytest.mark.parametrize(("cls", "source", "channels", "bias", "build"), CASES, ids=IDS)
precisions = pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["single", "double"]
)


def convert(cls, weights, source, channels):
    return from_peer(cls, weights, source=source, channels=channels if cls in (SA, ECA) else None)


def assert_same(got, expected, most=0.0):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert got[key].dtype == value.dtype, key
        assert got[key].shape == value.shape, key
        torch.testing.assert_close(got[key], value, rtol=0, atol=most, msg=key)


def test_every_peer_of_the_table_has_a_case():
    listed = {(cls, source) for source, peers in PEERS.items() for cls in peers}
    assert listed == {case[:2] for case in CASES}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@precisions
@every_case
def test_equals_the_peer(cls, source, channels, bias, build, dtype, most, training):
    peer = randomise(build()).to(dtype).train(training)
    layer = convert(cls, peer.state_dict(), source, channels).train(training)
    x = torch.rand(3, channels, 5, 7, dtype=dtype) - 0.5
    torch.testing.assert_close(layer(x), peer(x), rtol=0, atol=most)
    # In training the statistics have moved alike, so the momentum is the peer's.
    assert_same(to_peer(layer, source=source, bias=bias), peer.state_dict(), most)


@precisions
@every_case
def test_comes_back_bit_for_bit(cls, source, channels, bias, build, dtype, most):
    weights = randomise(build()).to(dtype).state_dict()
    layer = convert(cls, weights, source, channels)
    back = to_peer(layer, source=source, bias=bias)
    assert_same(back, weights)
    build().to(dtype).load_state_dict(back)
    for tensor in back.values():
        tensor.zero_()  # a copy: neither side moves
    assert_same(to_peer(layer, source=source, bias=bias), weights)


@every_case
def test_a_model_is_converted_around_its_layers(cls, source, channels, bias, build):
    theirs = randomise(nn.Sequential(nn.Conv2d(3, channels, 1), nn.Sequential(build())))
    layer = convert(cls, theirs[1][0].state_dict(), source, channels)
    ours = nn.Sequential(nn.Conv2d(3, channels, 1), nn.Sequential(randomise(layer, seed=1)))
    load_peer(ours, theirs.state_dict(), source=source)
    assert_same(to_peer(ours, source=source, bias=bias), theirs.state_dict())
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64) - 0.5
    ours, theirs = ours.double().eval(), theirs.double().eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_a_layer_in_two_places_has_both_names():
    ours, theirs = SE(64, reduction=8), Squeeze(64, 8)
    weights = nn.Sequential(theirs, theirs).state_dict()
    load_peer(nn.Sequential(ours, ours), weights, source="timm")
    assert_same(to_peer(nn.Sequential(ours, ours), source="timm"), weights)


def test_an_absent_counter_keeps_its_value():
    layer, weights = CA(64), Coordinate(64, 8).state_dict()
    layer(torch.randn(2, 64, 3, 3))
    del weights["bn1.num_batches_tracked"]
    load_peer(layer, weights, source="official")
    assert layer.norm.num_batches_tracked == 1
    assert from_peer(CA, weights, source="official").norm.num_batches_tracked == 0


@pytest.mark.parametrize(("channels", "width"), [(12, 8), (64, 8), (320, 10), (1024, 32)])
def test_the_official_width_gives_the_default_reduction(channels, width):
    assert convert(CA, Coordinate(channels, width).state_dict(), "official", 0).reduction == 32


def test_an_integer_tensor_in_front_does_not_decide_the_dtype():
    weights = {"bn1.num_batches_tracked": None} | Coordinate(64, 8).double().state_dict()
    assert from_peer(CA, weights, source="official").reduce.weight.dtype == torch.float64


@pytest.mark.parametrize("layer", [CA(64), CBAM(64)], ids=["CA", "CBAM"])
def test_a_bias_is_left_out_only_if_it_is_zero(layer):
    with pytest.raises(ValueError, match=r"bias to be zero, as \w+ has no bias.*pass bias=True"):
        to_peer(layer, source="timm")
    with pytest.raises(ValueError, match="expected bias=None for source 'official', got True"):
        to_peer(layer, source="official", bias=True)


def coordinate(drop=None, **extra):
    weights = Coordinate(64, 8).state_dict() | extra
    return {key: value for key, value in weights.items() if key != drop}


LINEAR = nn.ModuleDict({"fc1": nn.Linear(64, 4), "fc2": nn.Linear(4, 64)}).state_dict()
REFUSED = [
    (CA, "keras", {}, "one of ['official', 'official_mbv2', 'timm'], got 'keras'"),
    (ICA, "timm", {}, "one of SE, ECA, CBAM, CA, got ICA; sources that have it: []"),
    (SE, "official", {}, "one of SA, CA, CBAM, ECA, got SE; sources that have it: ['timm']"),
    (CA, "official_mbv2", coordinate(), "got ['conv2.weight', 'conv2.bias', 'conv3.weight',"),
    (CA, "official", coordinate("bn1.bias"), "['bn1.bias'] missing and [] unexpected; check"),
    (CA, "timm", coordinate("conv1.bias"), "got ['conv1.bias'] missing and [] unexpected"),
    (CA, "timm", {"state_dict": coordinate()}, "missing and ['state_dict'] unexpected"),
    (CA, "timm", coordinate(**{"bn1.bias": 1}), "expected bn1.bias with 1 axes, got int"),
    (SE, "timm", LINEAR, "expected fc1.weight with 4 axes, got (4, 64); check the source"),
    (
        CA,
        "timm",
        Coordinate(2048, 88).state_dict(),
        "that CA(2048) has for some reduction, got 88; keep",
    ),
    (
        CA,
        "timm",
        coordinate(**{"conv1.weight": torch.ones(0, 64, 1, 1)}),
        "that CA(64) has for some reduction, got 0; keep",
    ),
    (SE, "timm", Squeeze(4, 8).state_dict(), "that SE(4) has for some reduction, got 8; keep"),
    (CA, "timm", coordinate(**{"conv_h.bias": torch.ones(1)}), "of shape (64,), got (1,)"),
    (ECA, "official", Neighbour(3).state_dict(), "channels for eca_layer, got None; pass"),
]


@pytest.mark.parametrize(("cls", "source", "weights", "message"), REFUSED)
def test_refuses_what_does_not_fit(cls, source, weights, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_peer(cls, weights, source=source)


def test_load_peer_itself_refuses_missing_and_surplus_keys():
    layer, extra = CA(64), {"extra": torch.ones(1)}
    with pytest.raises(ValueError, match=r"got \['bn1.bias'\] missing and \[\] unexpected"):
        load_peer(layer, coordinate("bn1.bias"), source="official")
    with pytest.raises(ValueError, match=r"got \[\] missing and \['extra'\] unexpected"):
        load_peer(layer, coordinate(**extra), source="official")


def test_refuses_channels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected channels divisible by 2 \* 2 .*, got 6"):
        from_peer(SA, Shuffle(16, 4).state_dict(), source="official", channels=6)
    with pytest.raises(ValueError, match=r"expected conv1.weight of shape \(8, 32, 1, 1\), got"):
        from_peer(CA, Coordinate(64, 8).state_dict(), source="official", channels=32)


NORMED = ECA(64)
nn.utils.parametrizations.weight_norm(NORMED.conv)


ALONE = [
    (SA(64, shuffle=False), "sa_layer expected shuffle=True, got shuffle=False; build SA with"),
    (CA(64, ndim=1), "CoordAtt expected ndim=2, got ndim=1; build CA with ndim=2"),
    (ICASA(64), "source 'official' expected one of SA, CA, CBAM, ECA, got ICASA"),
    (nn.Sequential(SA(64), ICA(64)), "got ICA"),
    (NORMED, "eca_layer expected the keys of a plain layer, got conv.parametrizations.weight.orig"),
    (nn.Linear(2, 2), "expected a model with a layer of icasa, got Linear"),
]


@pytest.mark.parametrize(("model", "message"), ALONE)
def test_refuses_layers_that_no_peer_has(model, message):
    for call in (to_peer, partial(load_peer, state_dict={})):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(model, source="official")


def test_a_refused_load_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), SE(64))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    theirs = randomise(nn.Sequential(nn.Linear(2, 2), Squeeze(64, 8))).state_dict()
    with pytest.raises(ValueError, match=r"expected 1.fc1.weight of shape \(4, .*, got \(8, 64, "):
        load_peer(model, theirs, source="timm")
    assert_same(model.state_dict(), before)
    with pytest.raises(ValueError, match=r"0.weight of shape \(2, 2\), got .*load it separately"):
        load_peer(model, theirs | {"0.weight": torch.ones(3, 2)}, source="timm")


@pytest.mark.parametrize("channels", [8, 64, 320])
def test_equals_the_real_timm(channels):
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    for name, cls in (("se", SE), ("eca", ECA), ("cbam", CBAM), ("coord", CA)):
        peer = randomise(layers.get_attn(name)(channels)).eval()
        layer = convert(cls, peer.state_dict(), "timm", channels).eval()
        x = torch.rand(2, channels, 5, 7) - 0.5
        torch.testing.assert_close(layer(x), peer(x), rtol=0, atol=1e-6, msg=name)
