"""What moves the weights of a training: the optimiser, its learning rate step by step, the mean of late weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nas.protocol import Protocol

MOMENTUM = 0.9
WARM_UP = 0.2  # share of the steps in which the learning rate rises


def create(model: nn.Module, protocol: Protocol, blocks: Sequence[nn.Module] = ()) -> torch.optim.Optimizer:
    """Return the optimiser; only matrices and kernels decay, so neither norms nor biases nor scales."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    of_blocks = {id(parameter) for block in blocks for parameter in block.parameters()}
    groups = [
        {
            "params": [p for p in trained if _is_matrix(p) == decays and (id(p) in of_blocks) == in_block],
            "weight_decay": protocol.weight_decay if decays else 0.0,
            "factor": protocol.block_lr_factor if in_block else 1.0,
        }
        for in_block in (False, True)
        for decays in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=protocol.learning_rate, fused=fused)
    return torch.optim.SGD(groups, lr=protocol.learning_rate, momentum=MOMENTUM, nesterov=True, fused=fused)


def one_cycle(step: int, total: int) -> float:
    """Return the learning rate of a step, from 0, as a share of the peak: a straight rise, then a straight fall.

    Source: L. N. Smith and N. Topin, "Super-Convergence", arXiv 1708.07120; without its last, flatter phase.
    """
    peak = max(1.0, WARM_UP * total)
    return min((step + 1) / peak, (total - step) / max(1.0, total + 1 - peak))


class Average:
    """The mean of the weights that a model has at the ends of the last epochs.

    Source: P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", arXiv 1803.05407,
    here under the schedule that there is.
    """

    def __init__(self, model: nn.Module, protocol: Protocol) -> None:
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._epochs, self._count = protocol.epochs, protocol.average_epochs
        self._mean: list[torch.Tensor] = []

    def state(self) -> list[torch.Tensor]:
        """Return what :meth:`load` needs to go on from here."""
        return self._mean

    def load(self, state: list[torch.Tensor]) -> None:
        """Go on from a state."""
        self._mean = [mean.to(weight.device) for mean, weight in zip(state, self._trained, strict=False)]

    @torch.no_grad()
    def after(self, epoch: int) -> None:
        """Take in the weights at the end of an epoch, if it is one of the last; after the very last, load the mean."""
        number = epoch - (self._epochs - self._count)
        if self._count == 1 or number < 1:
            return
        if number == 1:
            self._mean = [weight.clone() for weight in self._trained]
        for mean, weight in zip(self._mean, self._trained, strict=True):
            mean.lerp_(weight, 1 / number)
            if number == self._count:
                weight.copy_(mean)


def _is_matrix(parameter: torch.Tensor) -> bool:
    """Tell weights from scales and biases, some of which are stored with further sides of length 1."""
    return sum(side > 1 for side in parameter.shape) >= 2
