"""AAM inside DataLoader workers: difficulties and the on-off switch live in shared memory."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from icasa._check import check_positive_int
from icasa.augment.aam import AAM


class DifficultyBank:
    r"""The last loss of every training sample, in memory shared with DataLoader workers.

    A collate function has no model. So the training loop writes the loss of each sample here, and
    the workers read it as the difficulty d of Eq. 2. Before the first update, d is the loss of an
    untrained model:

    .. math:: d_i = -\log \frac{1}{K} = \log K

    Args:
        num_samples: the length of the data set; sample i is row i.
        num_classes: number of classes, :math:`K`.

    Shape:
        index (B,) integers, loss (B,) floats, on any device.

    Raises:
        ValueError: if an index is not that of a sample, if the loss has another shape than the
            index, or if a state has another length.

    Reference:
        Li et al. 2026, section 2.1, Eq. 2.

    >>> import torch
    >>> from icasa import DifficultyBank
    >>> bank = DifficultyBank(4, num_classes=2)
    >>> bank.update(torch.tensor([3, 0]), torch.tensor([0.5, 2.0]))
    >>> bank.lookup(torch.arange(4))
    tensor([2.0000, 0.6931, 0.6931, 0.5000])
    """

    # DIFF: Eq. 2 asks for predictions "at the current training epoch"; these are the sample's last
    # ones, one epoch old where the loader runs ahead, and cost no forward of their own.
    def __init__(self, num_samples: int, num_classes: int) -> None:
        start = math.log(check_positive_int("num_classes", num_classes))
        size = check_positive_int("num_samples", num_samples)
        self._loss = torch.full((size,), start, dtype=torch.float32)
        self._loss.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._loss)

    def update(self, index: Tensor, loss: Tensor) -> None:
        """Store the loss of each sample; one that is not finite leaves the former value."""
        index = self._rows(index)
        is_tensor = isinstance(loss, Tensor)
        if not is_tensor or loss.shape != index.shape or not loss.is_floating_point():
            got = f"{loss.dtype} {tuple(loss.shape)}" if is_tensor else type(loss).__name__
            raise ValueError(
                f"expected floating point loss of shape {tuple(index.shape)}, one per index, "
                f"got {got}; compute it with reduction='none'"
            )
        new = loss.detach().to(self._loss)
        self._loss[index] = torch.where(new.isfinite(), new, self._loss[index])

    def lookup(self, index: Tensor) -> Tensor:
        """Return the stored losses as float32, on the device of ``index``."""
        return self._loss[self._rows(index)].to(index.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the losses, for a checkpoint."""
        return {"loss": self._loss.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the losses in place, so that running workers see them."""
        if "loss" not in state or state["loss"].shape != self._loss.shape:
            got = tuple(state["loss"].shape) if "loss" in state else f"keys {list(state)}"
            raise ValueError(
                f"DifficultyBank expected a state with 'loss' of shape ({len(self)},), got {got}; "
                f"build it with the num_samples of the data set that was saved"
            )
        self._loss.copy_(state["loss"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the memory again after a plain pickle or a deepcopy (no-op in a worker)."""
        self.__dict__.update(state)
        self._loss.share_memory_()  # type: ignore[no-untyped-call]

    def _rows(self, index: Tensor) -> Tensor:
        """Return ``index`` on the CPU if each entry is a sample."""
        if not isinstance(index, Tensor):
            raise ValueError(
                f"expected index to be a tensor of integers, got {type(index).__name__} "
                f"{str(index)[:40]}; return each sample's number in the dataset, not its name"
            )
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(
                f"expected integer index of shape (B,), got {index.dtype} {tuple(index.shape)}; "
                f"return each sample's number from the dataset"
            )
        index = index.detach().cpu().long()
        bad = index[(index < 0) | (index >= len(self))]
        if len(bad):
            raise ValueError(
                f"expected index in 0..{len(self) - 1}, got {bad[0].item()}; "
                f"build DifficultyBank with num_samples=len(dataset)"
            )
        return index


class AAMCollate:
    """A ``collate_fn`` that mixes each batch by AAM inside the DataLoader's workers.

    Samples are tuples ``(x, y, index, *extra)`` or mappings with these keys. The batch is a tuple
    or a dict: x and y are augmented (:class:`AAM`), index and extra are those of the N originals.
    With ``fixed_size`` the weights are the last entry of the tuple, or have the key ``"weight"``.
    Random numbers come from the worker's default generator, which DataLoader seeds from torch's.

    :meth:`train`, :meth:`eval` and updates of the bank also reach persistent workers. Only the
    batches that are already prefetched (``num_workers * prefetch_factor``) do not change.

    Args:
        aam: is copied, so later changes to it have no effect. The collate function starts in its
            mode.
        bank: the difficulties, looked up by index. May be None if ``aam.alpha`` is 0; then a
            sample needs no index.
        keys: the names of x, y and index in a mapping.
        utterance: position or key of the utterance id in a sample; two segments of one utterance
            are then never mixed.

    Raises:
        ValueError: if a bank is needed and missing, if samples are of another kind, or as
            :class:`AAM`.

    Reference:
        Li et al. 2026, section 2.1, Algorithm 1.

    >>> import torch
    >>> from icasa import AAM, AAMCollate, DifficultyBank
    >>> data = [(torch.randn(5), i % 2, i, f"clip{i}") for i in range(8)]
    >>> collate = AAMCollate(AAM(2, threshold=0.0), DifficultyBank(8, num_classes=2))
    >>> loader = torch.utils.data.DataLoader(data, batch_size=8, collate_fn=collate)
    >>> x, y, index, name = next(iter(loader))
    >>> len(x) >= 8, y.shape[1], len(index), name[0]
    (True, 2, 8, 'clip0')
    """

    def __init__(
        self,
        aam: AAM,
        bank: DifficultyBank | None = None,
        *,
        keys: tuple[str, str, str] = ("x", "y", "index"),
        utterance: str | int | None = None,
    ) -> None:
        if bank is None and aam.alpha != 0:
            raise ValueError(
                f"AAMCollate with alpha={aam.alpha} expected a DifficultyBank, got None; "
                f"pass DifficultyBank(len(dataset), {aam.num_classes}) or build AAM with alpha=0"
            )
        if len(keys) != 3:
            raise ValueError(f"expected keys to be the three names of x, y and index, got {keys!r}")
        self.aam = copy.deepcopy(aam)
        self.aam._watch.share_memory_()
        self.bank = bank
        self.keys = keys
        self.utterance = utterance
        self._training = torch.tensor(aam.training)
        self._training.share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate the samples and add their mixes."""
        fields, is_mapping = self._fields(samples)
        x, y, index = self.keys if is_mapping else (0, 1, 2)
        out = self.aam.train(bool(self._training))(
            fields[x],
            fields[y],
            None if self.bank is None else self.bank.lookup(fields[index]),
            utterance=None if self.utterance is None else fields[self.utterance],
        )
        fields[x], fields[y] = out[:2]
        if self.aam.fixed_size:
            fields["weight"] = out[2]
        return fields if is_mapping else tuple(fields.values())

    def train(self, mode: bool = True) -> "AAMCollate":
        """Switch the mixing on or off, in the workers too."""
        self._training.fill_(mode)
        return self

    def eval(self) -> "AAMCollate":
        """Switch the mixing off, in the workers too; labels are still returned as floats."""
        return self.train(False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the memory again after a plain pickle or a deepcopy (no-op in a worker)."""
        self.__dict__.update(state)
        self.aam._watch.share_memory_()
        self._training.share_memory_()  # type: ignore[no-untyped-call]

    def _fields(self, samples: Sequence[Any]) -> tuple[dict[Any, Any], bool]:
        """Return the collated fields by key or position, and whether they had keys."""
        first = samples[0]
        is_mapping = isinstance(first, Mapping)
        if not is_mapping and not isinstance(first, (tuple, list)):
            raise ValueError(
                f"AAMCollate expected samples (x, y, index, ...) or mappings with {self.keys}, "
                f"got {type(first).__name__}; return one of these from the dataset"
            )
        expected: list[Any] = list(self.keys if is_mapping else range(3))
        expected = expected[: 2 if self.bank is None else 3]
        expected += [] if self.utterance is None else [self.utterance]
        has = _names(first)
        if not set(expected) <= set(has):
            raise ValueError(
                f"AAMCollate expected {expected} in a sample, got {has}; "
                f"return them from the dataset, or name them by keys= and utterance="
            )
        if self.aam.fixed_size and "weight" in has:
            raise ValueError(
                f"AAMCollate with fixed_size=True expected samples without the key 'weight', "
                f"got {has}; rename that field in the dataset"
            )
        _check_alike(samples, has)
        batch = default_collate(list(samples))
        return (dict(batch) if is_mapping else dict(enumerate(batch))), is_mapping


def _names(sample: Any) -> list[Any]:
    return list(sample) if isinstance(sample, Mapping) else list(range(len(sample)))


def _check_alike(samples: Sequence[Any], names: list[Any]) -> None:
    """Raise unless all samples have the fields ``names``, each with arrays of one shape."""
    for sample in samples:
        if not set(names) <= set(_names(sample)):
            raise ValueError(
                f"AAMCollate expected {names} in every sample, got {_names(sample)}; "
                f"return the same fields for each"
            )
    for name in names:
        values = [s[name] for s in samples if isinstance(s[name], (Tensor, np.ndarray))]
        shapes = list(dict.fromkeys(tuple(value.shape) for value in values))
        if len(shapes) > 1:
            raise ValueError(
                f"AAMCollate expected field {name!r} of one shape in all samples, got {shapes[0]} "
                f"and {shapes[1]}; pad or crop it in the dataset"
            )
