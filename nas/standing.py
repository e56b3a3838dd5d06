"""Where a training stands after an epoch: taken up where one like it was cut off, and handed out to be kept.

That makes no difference to what comes out of it: on the CPU it ends, bit for bit, as if it had never been cut off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nas.optimizer import Average
from nas.pauses import Pause
from nas.rungs import StoppedError


@dataclass
class Standing:
    """What changes in a training from epoch to epoch, who is told of it, and where it is kept."""

    model: nn.Module
    stepper: torch.optim.Optimizer
    average: Average
    generator: torch.Generator
    device: torch.device
    turn: Callable[[], AbstractContextManager[object]]
    on_epoch: Callable[[int, float], None] | None
    pause: Pause | None
    epochs: int
    """Epochs of the whole training."""
    accuracies: list[float] = field(default_factory=list)
    """Share of the val images classified correctly after each epoch so far."""
    losses: list[float] = field(default_factory=list)
    """Mean training loss of each epoch so far."""
    seconds: float = 0.0
    """Wall time of these epochs, without the waits for a turn."""

    def take_up(self) -> int:
        """Go on from where an equal training was kept, if it was and that is of this model; return after which epoch.

        Of the epochs until there ``on_epoch`` is told once more: whoever looks at them may have judged by them and been
        killed as it wrote that down, or knows more now.
        """
        saved = self.pause.load() if self.pause is not None else None
        if saved is None or not self._take_up(saved):
            return 0
        assert self.pause is not None
        self.pause.kept_at = self.seconds
        if self.on_epoch is not None:
            # If that stops it before its last epoch, what is kept stays as it is: it goes on from there all the same.
            for epoch, accuracy in enumerate(self.accuracies[:-1], 1):
                self.on_epoch(epoch, accuracy)
        self._tell()
        return len(self.accuracies)

    def end_epoch(self) -> None:
        """Tell that an epoch has ended and, if that stops the training or it is time, keep where it stands."""
        self._tell()
        if self.pause is None or len(self.accuracies) == self.epochs:
            return
        if self.pause.is_time(self.seconds) and self.pause.is_worth(state := self._state(), self.seconds):
            with self.turn():
                self.pause.keep(state)
            self.pause.kept_at = self.seconds

    def _tell(self) -> None:
        if self.on_epoch is None:
            return
        try:
            self.on_epoch(len(self.accuracies), self.accuracies[-1])
        except StoppedError:
            if self.pause is not None and self.pause.keeps_stopped:
                with self.turn():
                    self.pause.keep(self._state())
            raise

    def _take_up(self, saved: Mapping[str, Any]) -> bool:
        """Load what was kept, and tell whether that could be done; otherwise all is as it was."""
        with self.turn():
            before = copy.deepcopy(self._state())
            try:
                if self._fits(saved):
                    self._load(saved)
                    return True
            except Exception:  # what another version wrote, or who knows what, may hold anything
                self._load(before)
        return False

    def _fits(self, saved: Mapping[str, Any]) -> bool:
        """Tell whether a state is that of a model like this: another version may have built another one."""
        mine = self._state()
        return (
            saved.keys() == mine.keys()
            and _shapes(saved["model"]) == _shapes(mine["model"])
            and 0 < len(saved["accuracies"]) == len(saved["losses"]) <= self.epochs
        )

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.stepper.load_state_dict(state["optimizer"])
        self.average.load(state["average"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.accuracies, self.losses = list(state["accuracies"]), list(state["losses"])
        self.seconds = float(state["seconds"])

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.stepper.state_dict(),
            "average": self.average.state(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "accuracies": self.accuracies,
            "losses": self.losses,
            "seconds": self.seconds,
        }


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
