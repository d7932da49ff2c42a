"""Where a loss that is not finite comes from: clips, weights or a layer."""

import torch
from torch import Tensor, nn

from examples.errors import UserError
from examples.ser.data.corpora import Corpus, few
from examples.ser.data.segments import Segments


class NonFiniteLossError(UserError):
    """The loss of some segments is NaN or infinite: those of a batch, or of a held-out side."""

    def __init__(self, where: str, index: Tensor) -> None:
        self.where = where
        self.index = index
        super().__init__(f"expected a finite loss, got another in {where}; lower --lr")


def explain(
    error: NonFiniteLossError, net: nn.Module, data: Segments, corpus: Corpus, epoch: int, lr: float
) -> str:
    """Return a message that names the batch, and the clips, weights or layer at fault."""
    found = f"expected a finite loss, got NaN or infinity in epoch {epoch}, {error.where}"
    owners = [corpus.utterances[i] for i in data.utterance[error.index].tolist()]
    x = data.x[error.index]
    finite = x.isfinite().flatten(1).all(1).tolist()
    if bad := sorted({u.id for u, good in zip(owners, finite, strict=True) if not good}):
        return f"{found}: the features of {few(bad)} are not finite; correct or remove these clips"
    weights = [name for name, value in net.state_dict().items() if not value.isfinite().all()]
    if weights:
        return f"{found}: the step before left {few(weights)} not finite; lower --lr {lr}"
    clips = few(sorted({u.id for u in owners}))
    if layer := first_overflow(net, x):
        return f"{found}: layer {layer} overflows on clips {clips}; lower --lr {lr}"
    return f"{found}: the loss itself overflows on clips {clips}; lower --lr {lr}"


@torch.no_grad()
def first_overflow(net: nn.Module, x: Tensor) -> str:
    """Return the name of the first layer whose output is not finite; empty if there is none."""
    names: list[str] = []
    hooks = [
        module.register_forward_hook(
            lambda _module, _args, out, name=name: (
                names.append(name) if isinstance(out, Tensor) and not out.isfinite().all() else None
            )
        )
        for name, module in net.named_modules()
        if name and not [*module.children()]
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return names[0] if names else ""
