"""From an architecture to its evaluation: build, count, time alone, train the proxy, keep."""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping

import timm
import torch
from torch import nn

from nas import attention, placement, proxy
from nas.architecture import Architecture
from nas.attention.options import OptionValue
from nas.complexity import count, nominal_ms
from nas.data import SearchData
from nas.evaluation import Evaluation, EvaluationError, Latency, wilson_interval
from nas.latency import lock_name, measure
from nas.locks import DeviceLock
from nas.protocol import Protocol
from nas.space import ResolvedSpace
from nas.store import Store

LATENCY_TARGET = 0.005
"""Half width of the interval of the latency ratio at which sampling stops."""


class Evaluator:
    """Evaluates architectures under one protocol, through the cache."""

    def __init__(
        self,
        data: SearchData,
        protocol: Protocol,
        store: Store,
        device: torch.device,
        *,
        latency_seconds: float = 2.0,
    ) -> None:
        """Bring the data to the device.

        Args:
            data: Training and validation images. There is no test split in here, so none can be touched.
            protocol: What the evaluations are bound to.
            store: The cache.
            device: The device that ``protocol.device`` names.
            latency_seconds: Longest sampling of one latency, in seconds; the longer, the narrower its interval.
        """
        self._data = data.to(device)
        self._protocol = protocol
        self._store = store
        self._device = device
        self._latency_seconds = latency_seconds
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # shapes do not change between steps: the quickest kernels are found
        self._lock = DeviceLock(lock_name(device))

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Return what was measured on an architecture; measure it if that was never done under the protocol.

        Raises:
            EvaluationError: If it cannot be evaluated: no memory left, a loss that is not finite, an impossible shape.
        """
        cached = self._store.get(architecture, self._protocol.hash)
        if cached is not None:
            return cached
        try:
            evaluation = self._measure(architecture)
        except RuntimeError as error:
            if not proxy.is_out_of_memory(error):
                raise
            raise EvaluationError(f"out of memory on {self._protocol.device}: {_first_line(error)}") from None
        finally:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()  # what the failed or finished model held must not starve the next one
        self._store.put(architecture, self._protocol.hash, evaluation)
        return evaluation

    def _measure(self, architecture: Architecture) -> Evaluation:
        protocol = self._protocol
        model = build(architecture, protocol, self._device)
        complexity = count(model, (protocol.channels, protocol.resolution, protocol.resolution))
        latency = self._time(model, architecture.backbone)
        reference_ms = self._store.reference_ms(architecture.backbone, protocol.hash, latency.bare_ms)
        curve = proxy.train(model, self._data, protocol, device=self._device, turn=self._lock.training)
        accuracy = curve.accuracies[-1]
        low, high = wilson_interval(accuracy, len(self._data.val))
        return Evaluation(
            accuracy=accuracy,
            accuracy_low=low,
            accuracy_high=high,
            curve=curve.accuracies,
            latency=latency,
            reference_ms=reference_ms,
            parameters=complexity.parameters,
            macs=complexity.macs,
            nominal_ms=nominal_ms(complexity, self._device.type, protocol.latency_batch_size),
            train_seconds=curve.seconds,
            versions=versions(),
        )

    def _time(self, model: nn.Module, backbone: str) -> Latency:
        protocol = self._protocol
        # A copy, because a module may keep tensors of its forward pass, and those of inference cannot be trained.
        candidate = copy.deepcopy(model)
        bare = build(Architecture(backbone=backbone), protocol, self._device)
        batch = batch_of(protocol, self._device)
        with self._lock.timing():
            return measure(
                candidate,
                bare,
                batch=batch,
                device_words=protocol.device,
                target=LATENCY_TARGET,
                max_seconds=self._latency_seconds,
                precision=protocol.precision,
            )


def build(architecture: Architecture, protocol: Protocol, device: torch.device) -> nn.Module:
    """Build an architecture with the weights that the protocol's seed draws, on a device and in its memory format."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(protocol.seed)
        model = placement.build(architecture, num_classes=protocol.num_classes, in_channels=protocol.channels)
    memory_format = torch.channels_last if protocol.channels_last else torch.contiguous_format
    return model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload,no-any-return]


def batch_of(protocol: Protocol, device: torch.device) -> torch.Tensor:
    """Return the batch that is timed, (B, C, H, W): noise, the same for every architecture."""
    generator = torch.Generator().manual_seed(protocol.seed)
    shape = (protocol.latency_batch_size, protocol.channels, protocol.resolution, protocol.resolution)
    memory_format = torch.channels_last if protocol.channels_last else torch.contiguous_format
    return torch.randn(shape, generator=generator).to(device, memory_format=memory_format)


def preflight(space: ResolvedSpace, protocol: Protocol, device: torch.device) -> None:
    """Run every backbone, and every block with each of its option values at every stage, on one batch.

    Raises:
        EvaluationError: At the first combination that fails, with block, stage, shape and cause.
    """
    for backbone, sites in space.sites.items():
        bare = build(Architecture(backbone=backbone), protocol, device)
        try:
            shapes = placement.map_shapes(bare, batch_of(protocol, device))
        except (RuntimeError, ValueError) as error:
            size = f"{protocol.channels}x{protocol.resolution}x{protocol.resolution}"
            raise EvaluationError(f"{backbone} cannot run on a {size} image: {_first_line(error)}") from error
        for site in sites:
            for block, options in _one_of_each(dict(site.blocks)):
                _try_block(block, options, shapes[site.stage.index], f"stage {site.stage.index} of {backbone}", device)


def _one_of_each(
    blocks: Mapping[str, Mapping[str, tuple[OptionValue, ...]]],
) -> list[tuple[str, dict[str, OptionValue]]]:
    """Return every block with every option value at least once, the other options at their first."""
    found = []
    for block, values in blocks.items():
        first = {option: choices[0] for option, choices in values.items()}
        variants = [first] + [{**first, option: value} for option in values for value in values[option][1:]]
        found += [(block, options) for options in variants]
    return found


def _try_block(
    block: str, options: Mapping[str, OptionValue], shape: torch.Size, where: str, device: torch.device
) -> None:
    call = f"{block}({', '.join(f'{name}={value}' for name, value in options.items())})"
    image = torch.randn(shape, device=device)
    try:
        with torch.no_grad():
            output = attention.build(block, shape[1], init="paper", **options).to(device)(image)
    except (RuntimeError, ValueError) as error:
        message = f"{call} cannot run at {where} on a map of {tuple(shape)}: {_first_line(error)}"
        raise EvaluationError(message) from error
    if output.shape != shape:
        raise EvaluationError(
            f"{call} at {where} must keep the shape {tuple(shape)}, but returned {tuple(output.shape)}"
        )
    if not bool(output.isfinite().all()):
        raise EvaluationError(f"{call} at {where} on a map of {tuple(shape)} returned values that are not finite")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def versions() -> dict[str, str]:
    """Return the versions that a figure may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
