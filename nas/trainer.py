"""Build architectures under one protocol and train them: what an evaluation and its repetitions have in common."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from nas import batches, placement, proxy
from nas.architecture import Architecture
from nas.data import SearchData
from nas.evaluation import OUT_OF_MEMORY, EvaluationError
from nas.pauses import Pause
from nas.protocol import Protocol
from nas.threads import threads_of_torch

T = TypeVar("T")

_META = torch.device("meta")


class Builder:
    """Builds architectures under one protocol, on one device."""

    def __init__(self, protocol: Protocol, device: torch.device, weights: placement.Weights | None = None) -> None:
        """Say how to build, and where.

        Args:
            protocol: How to build.
            device: The device that ``protocol.device`` names.
            weights: The trained weights that ``protocol.weights`` names.

        Raises:
            ValueError: If the weights are not those of the protocol.
        """
        self.device = device
        self._plans: dict[str, placement.Plan] = {}
        self._bind(protocol, weights)

    def _bind(self, protocol: Protocol, weights: placement.Weights | None) -> None:
        if (weights.words if weights is not None else "") != protocol.weights:
            raise ValueError(f"the protocol needs the weights {protocol.weights!r}")
        self.protocol = protocol
        self.weights = weights

    def plan(self, backbone: str) -> placement.Plan:
        """Return all that is known of a backbone; it is looked at once."""
        if backbone not in self._plans:
            self._plans[backbone] = placement.plan_of(build(Architecture(backbone=backbone), self.protocol, _META))
        return self._plans[backbone]

    def build(self, architecture: Architecture) -> nn.Module:
        """Build an architecture on the device, from the protocol's weights and seed."""
        return build(architecture, self.protocol, self.device, self.weights, self.plan(architecture.backbone))


class Trainer(Builder):
    """Builds and trains architectures under one protocol, on one device."""

    def __init__(
        self,
        data: SearchData,
        protocol: Protocol,
        device: torch.device,
        weights: placement.Weights | None = None,
        threads: int | None = None,
        workers: int = 1,
    ) -> None:
        """Bring the data to the device, if they leave it room to train.

        Args:
            data: Training and validation images. There is no test split in here, so none can be touched.
            protocol: How to build and train.
            device: The device that ``protocol.device`` names.
            weights: The trained weights that ``protocol.weights`` names.
            threads: Threads of the CPU that a training may take; None for torch's own number.
            workers: Processes that train on the device at once, this one among them.

        Raises:
            ValueError: If the weights are not those of the protocol, or the protocol asks for torch.compile and it does
                not work here.
        """
        super().__init__(protocol, device, weights)
        self.threads = threads
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.benchmark = True  # shapes do not change between steps: the quickest kernels are found
        self.data = batches.place(data, device, workers)

    def _bind(self, protocol: Protocol, weights: placement.Weights | None) -> None:
        super()._bind(protocol, weights)
        if protocol.compile:
            proxy.check_compiler(self.device)

    def under(self, **changes: Any) -> Trainer:
        """Return a trainer whose protocol differs in some fields; it shares the data and what is known of backbones."""
        return self._other(self.weights, changes)

    def starting_from(self, weights: placement.Weights, **changes: Any) -> Trainer:
        """Return a trainer as :meth:`under`, which starts from other weights; its protocol names them."""
        return self._other(weights, {"weights": weights.words, **changes})

    def _other(self, weights: placement.Weights | None, changes: dict[str, Any]) -> Trainer:
        other = copy.copy(self)
        other._bind(dataclasses.replace(self.protocol, **changes), weights)
        return other

    def train(
        self,
        model: nn.Module,
        *,
        on_epoch: Callable[[int, float], None] | None = None,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
        pause: Pause | None = None,
    ) -> proxy.Curve:
        """Train a model that :meth:`build` made, in place; see :func:`nas.proxy.train`.

        Raises:
            EvaluationError: As :func:`nas.proxy.train`.
        """
        blocks = placement.blocks(model)
        if self.protocol.freeze_backbone:
            _freeze(model, blocks)
        with threads_of_torch(self.threads):
            return proxy.train(
                model,
                self.data,
                self.protocol,
                device=self.device,
                blocks=blocks,
                on_epoch=on_epoch,
                turn=turn,
                pause=pause,
            )


def within_memory(work: Callable[[], T], builder: Builder) -> T:
    """Return what work returns; what it held on the device is free again if the memory did not suffice.

    Raises:
        EvaluationError: If the memory did not suffice.
    """
    try:
        return work()
    except RuntimeError as error:
        if not proxy.is_out_of_memory(error):
            raise
    # Outside the handler: the caught error kept the frames alive that held the tensors.
    if builder.device.type == "cuda":
        torch.cuda.empty_cache()
    raise EvaluationError(f"{OUT_OF_MEMORY} on {builder.protocol.device}")


def build(
    architecture: Architecture,
    protocol: Protocol,
    device: torch.device,
    weights: placement.Weights | None = None,
    plan: placement.Plan | None = None,
) -> nn.Module:
    """Build an architecture on a device and in its memory format.

    What the trained weights, if any, do not cover is drawn with the protocol's seed.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(protocol.seed)
        model = placement.build(
            architecture,
            num_classes=protocol.num_classes,
            in_channels=protocol.channels,
            model_kwargs=protocol.model_kwargs,
            weights=weights,
            plan=plan,
        )
    return model.to(device=device, memory_format=batches.memory_format(protocol))  # type: ignore[call-overload,no-any-return]


def _freeze(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Leave only the blocks and the classifier to be trained."""
    model.requires_grad_(False)
    for module in (*blocks, *placement.classifiers(model)):
        module.requires_grad_(True)


def batch_of(protocol: Protocol, device: torch.device, size: int) -> torch.Tensor:
    """Return a batch to time or to try, (size, C, H, W): noise, the same for every architecture."""
    generator = torch.Generator().manual_seed(protocol.seed)
    shape = (size, protocol.channels, protocol.resolution, protocol.resolution)
    return torch.randn(shape, generator=generator).to(device, memory_format=batches.memory_format(protocol))
