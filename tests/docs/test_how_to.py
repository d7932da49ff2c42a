"""The how-to pages run: with their library where it is installed, else with blocks after it."""

import importlib.util
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from icasa import ICASA, insert_attention
from tests.docs import stand_ins
from tests.docs.test_blocks import run

PAGES = Path(__file__).parent.parent.parent / "docs" / "how-to"
LIBRARIES = {
    "torchvision.md": ["torchvision", "timm"],
    "yolo.md": ["ultralytics"],
    "lightning.md": ["lightning"],
    "accelerate.md": ["accelerate"],
    "segmentation.md": ["segmentation_models_pytorch"],
    "speech.md": ["speechbrain"],
    "monai.md": ["monai"],
    "openvino.md": ["openvino"],
}


def corpus(folder):
    """Four images with one box each, and ultralytics' data.yaml."""
    for part in ("images", "labels"):
        (folder / part).mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    for n, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
        (folder / "labels" / f"{n}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    text = f"path: {folder}\ntrain: images\nval: images\nnames:\n  0: thing\n"
    (folder / "data.yaml").write_text(text)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", LIBRARIES)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for library in LIBRARIES[page]:
        if not importlib.util.find_spec(library) and not stand_ins.install(library, monkeypatch):
            pytest.skip(f"{library} is not installed, and no block stands in for it")
    if page == "yolo.md":
        corpus(tmp_path)
        monkeypatch.setenv("YOLO_VERBOSE", "false")  # its log would stand between the outputs
    torch.manual_seed(0)
    run(PAGES / page)


@pytest.mark.parametrize("page", LIBRARIES)
def test_page_says_which_versions_it_was_run_with(page):
    head = (PAGES / page).read_text().split("```")[0].replace("\n", " ")
    for library in LIBRARIES[page]:
        assert re.search(rf"Tested with .*\b{library} \d+\.\d+\.\d+", head), library


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_page_opens_with_what_the_reader_can_do(page):
    lines = (PAGES / page).read_text().splitlines()
    assert lines[2].startswith("After this page you can ")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.shortcut = True

    def forward(self, x):
        return x + self.norm(self.conv(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = nn.Sequential(Residual(), nn.AdaptiveAvgPool2d(1)).eval()
    (place,) = insert_attention(made, partial(ICASA, shuffle=False), where="residual")
    assert place.name == "0.norm"
    return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_prepare_fx_loses_a_layer_after_a_norm(model):  # as quantisation.md says
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    x = torch.randn(2, 16, 8, 8)
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    assert not any(isinstance(module, ICASA) for module in convert_fx(prepared).modules())


@pytest.mark.filterwarnings("default")
def test_prepare_pt2e_of_torchao_keeps_it(model):  # as quantisation.md says
    quantize = "torchao.quantization.pt2e.quantize_pt2e"
    pt2e = pytest.importorskip(quantize, reason="torchao is not installed")
    x86 = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    x = torch.randn(2, 16, 8, 8)
    config = x86.get_default_x86_inductor_quantization_config()
    prepared = pt2e.prepare_pt2e(
        torch.export.export(model, (x,)).module(), x86.X86InductorQuantizer().set_global(config)
    )
    prepared(x)
    y, expected = pt2e.convert_pt2e(prepared)(x), model(x)
    assert (y - expected).norm() < 0.05 * expected.norm()


def test_sync_batchnorm_loses_the_hook_of_a_layer(model):  # as lightning.md says
    before = model(x := torch.randn(2, 16, 8, 8))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, ICASA) for module in converted.modules())
    assert not torch.allclose(converted(x), before)


@pytest.mark.parametrize("target", ["block", "norm", "layer"])
@pytest.mark.filterwarnings("default")
def test_grad_cam_takes_the_layer(target, model):  # as grad-cam.md says
    cam = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    net = nn.Sequential(*model, nn.Flatten(), nn.Linear(16, 4)).eval()
    block = net[0]
    layer = {"block": block, "norm": block.norm, "layer": block.norm.attention}[target]
    x = torch.randn(2, 16, 8, 8)
    maps = cam.GradCAM(model=net, target_layers=[layer])(x, [targets.ClassifierOutputTarget(1)] * 2)
    assert maps.shape == (2, 8, 8)
    assert maps.max() > 0
