"""Parameter groups for an optimiser: weight decay for some parameters, none for the others."""

from typing import Any

from torch import nn

NORMS = (
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.SyncBatchNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def one_axis_parameters(module: nn.Module) -> set[str]:
    """Return the parameters that need no weight decay: norms, biases, scales of gates."""
    return {name for name, p in module.named_parameters() if p.ndim == 1}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters of ``model`` into groups with and without weight decay.

    Without decay ("spared") are gates, beta, norms and biases. These are: every parameter with at
    most one axis, every parameter of a norm, every name that ends in ``bias``, and every name that
    ``no_weight_decay()`` of a submodule returns (names without a parameter are ignored, as in
    timm). A shared parameter is listed once; it has no decay if any of its names has none. Call
    the function on the model itself, before a wrapper that flattens parameters.

    Args:
        model: any module.
        weight_decay: decay of the first group, at least 0.

    Returns:
        Two groups for ``torch.optim.AdamW`` and similar optimisers, with the keys ``params``,
        ``weight_decay`` and ``name``: "decayed", then "spared" with a decay of 0.

    Raises:
        ValueError: if ``weight_decay`` is negative or not a number.

    >>> import torch
    >>> from torch import nn
    >>> from icasa import ICASA, parameter_groups
    >>> model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), ICASA(16))
    >>> optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3)
    >>> [(g["name"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups]
    [('decayed', 0.05, 5), ('spared', 0.0, 16)]
    """
    if not weight_decay >= 0:
        raise ValueError(f"expected weight_decay >= 0, got {weight_decay}; 0 switches it off")
    spared = _spared(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {
            "params": [p for p in trained if p not in spared],
            "weight_decay": weight_decay,
            "name": "decayed",
        },
        {"params": [p for p in trained if p in spared], "weight_decay": 0.0, "name": "spared"},
    ]


def _spared(model: nn.Module) -> set[nn.Parameter]:
    spared = set()
    for module in model.modules():
        named = getattr(module, "no_weight_decay", None)
        names = set(named()) if callable(named) else set()
        for name, p in module.named_parameters(remove_duplicate=False):
            # A norm's own parameters: an inserted layer may be its child.
            in_norm = isinstance(module, NORMS) and "." not in name
            if p.ndim <= 1 or in_norm or name in names or name.endswith("bias"):
                spared.add(p)
    return spared
