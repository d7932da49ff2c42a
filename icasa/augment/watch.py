"""Warn once of a threshold that admits no pair of samples, or every pair."""

import warnings

import torch
from torch import Tensor

PATIENCE = 50  # training batches in a row
NONE = "got none in {} training batches in a row, so AAM mixes nothing; lower it"
EVERY = "got every pair in {} training batches in a row, so AAM selects nothing; raise it"


class ThresholdWatch:
    """Counts the batches in a row of which a threshold admitted no pair, or every pair."""

    def __init__(self) -> None:
        self._counts = torch.zeros(3, dtype=torch.int64)  # none admitted, all admitted, warned
        self._unread: list[Tensor] = []

    def share_memory_(self) -> None:
        """Count together with the processes that this object is passed to."""
        self._counts.share_memory_()  # type: ignore[no-untyped-call]

    def update(self, admitted: Tensor, possible: Tensor, threshold: str) -> None:
        """Count a batch by its pairs (N, N), and warn of ``threshold`` the first time it is due."""
        if self._counts[2] or (admitted.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        none = ~admitted.any()
        self._unread.append(torch.stack([none, ~none & (admitted == possible).all()]))
        if admitted.device.type != "cpu" and len(self._unread) < PATIENCE:
            return  # reading them would wait for the device
        batches, self._unread = torch.stack(self._unread).cpu(), []
        for batch in batches:
            self._counts[:2] = (self._counts[:2] + 1) * batch
            if self._counts[:2].max() >= PATIENCE:
                self._counts[2] = 1
                warnings.warn(
                    f"expected {threshold} to admit some of the pairs, "
                    f"{(NONE if batch[0] else EVERY).format(PATIENCE)}, standardise the features, "
                    f"or let quantile choose it (AAM.report shows what a batch admits)",
                    stacklevel=2,
                )
                return
