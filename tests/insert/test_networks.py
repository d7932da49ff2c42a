"""Residual places in real networks, where their libraries are installed; none is a dependency."""

import importlib

import pytest
import torch

from icasa import SE
from icasa.insert import insert_attention, remove_attention

TORCHVISION = "nms qnms roi_align qroi_align _roi_align_backward roi_pool _roi_pool_backward"
TORCHVISION += " ps_roi_align _ps_roi_align_backward ps_roi_pool _ps_roi_pool_backward"
TORCHVISION += " deform_conv2d _deform_conv2d_backward"
# Library -> (how a network is made, size of its input), networks, and their residual additions.
# The number without an example is None where insert_attention asks for one.
NETWORKS = [
    ("timm", "resnet18", 8, 8),
    ("timm", "resnet50d", 16, 16),
    ("timm", "resnetv2_50", 16, 16),
    ("timm", "res2net50_26w_4s", 16, 16),
    ("timm", "mobilenetv2_100", 10, 10),
    ("timm", "efficientnet_b0", 9, 9),
    ("timm", "convnext_atto", 12, 12),
    ("timm", "convnext_tiny", 18, None),
    ("timm", "convnextv2_atto", 12, 12),
    ("timm", "poolformer_s12", 24, None),
    ("timm", "densenet121", 0, None),
    ("timm", "vgg11_bn", 0, None),
    ("timm", "repvgg_a0", 0, None),
    ("timm", "swin_tiny_patch4_window7_224", 0, None),
    ("timm", "vit_tiny_patch16_224", 0, None),
    ("timm", "mixer_s16_224", 0, None),
    ("torchvision", "resnet18", 8, 8),
    ("torchvision", "mobilenet_v2", 10, 10),
    ("torchvision", "mobilenet_v3_small", 6, 6),
    ("torchvision", "efficientnet_b0", 9, 9),
    ("torchvision", "convnext_tiny", 18, None),
    ("torchvision", "densenet121", 0, None),
    ("torchvision", "swin_t", 0, None),
    ("segmentation_models_pytorch", "Unet", 8, 8),
    ("segmentation_models_pytorch", "FPN", 8, 8),
    ("segmentation_models_pytorch", "Linknet", 8, 8),
    ("monai", "UNet", 5, 5),
    ("monai", "SegResNet", 12, 12),
    ("monai", "DynUNet", 3, 3),
    ("monai", "AttentionUnet", 0, None),
    ("ultralytics", "yolov8n", 6, 6),
    ("ultralytics", "yolo11n", 13, 12),
]
MONAI = {
    "UNet": (2, 1, 2, (8, 16, 32), (2, 2), 3, 3, 2),
    "SegResNet": (2, 8, 1, 2),
    "DynUNet": (2, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2)),
    "AttentionUnet": (2, 1, 2, (8, 16, 32), (2, 2)),
}


@pytest.fixture(scope="module", autouse=True)
def operators():
    """Let torchvision for CUDA be imported where torch is for the CPU."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in TORCHVISION.split():
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor a) -> Tensor")
    yield
    library._destroy()


def make(library, name):
    """A network without weights, and an input."""
    pytest.importorskip(library, reason=f"{library} is no dependency; its blocks are written out")
    if library == "timm":
        return importlib.import_module("timm").create_model(name), torch.zeros(1, 3, 224, 224)
    if library == "torchvision":
        return importlib.import_module("torchvision.models").get_model(name), torch.zeros(
            1, 3, 224, 224
        )
    if library == "segmentation_models_pytorch":
        network = getattr(importlib.import_module(library), name)
        return network("resnet18", encoder_weights=None), torch.zeros(1, 3, 64, 64)
    if library == "monai":
        network = getattr(importlib.import_module("monai.networks.nets"), name)
        options = {"res_block": True} if name == "DynUNet" else {}
        return network(*MONAI[name], **options), torch.zeros(1, 1, 32, 32)
    return importlib.import_module(library).YOLO(f"{name}.yaml").model, torch.zeros(1, 3, 64, 64)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("library", "name", "traced", "declared"), NETWORKS)
def test_residual_places(library, name, traced, declared):
    model, x = make(library, name)
    for example, count in ((x, traced), (None, declared)):
        if count:
            done = insert_attention(model, SE, where="residual", example=example)
            assert {type(place.layer) for place in done} == {SE}
            assert len(done) == count == len(remove_attention(model))
        else:
            with pytest.raises(ValueError, match=r"^expected .*, got .*; .*where="):
                insert_attention(model, SE, where="residual", example=example)


def test_timm_takes_every_layer():
    timm = pytest.importorskip("timm", reason="timm is no dependency")
    assert (
        timm.create_model("resnet18", block_args={"attn_layer": SE})(torch.zeros(1, 3, 64, 64)).ndim
        == 2
    )


@pytest.mark.filterwarnings("default")
def test_ultralytics_fuse_keeps_the_layers():
    model, _ = make("ultralytics", "yolov8n")
    done = insert_attention(model.eval(), SE, where="residual")
    x = torch.rand(1, 3, 64, 64)
    y = model(x)[0]
    torch.testing.assert_close(model.fuse(verbose=False)(x)[0], y, rtol=1e-4, atol=1e-4)
    assert len(remove_attention(model)) == len(done)
