"""From an architecture to its evaluation: build, count, time alone, train the proxy, keep."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import platform
from collections.abc import Sequence

import timm
import torch
from torch import nn

from nas import attention, placement, proxy
from nas.architecture import Architecture
from nas.attention.options import OptionValue, options_text
from nas.complexity import count, nominal_ms
from nas.data import SearchData
from nas.evaluation import Evaluation, EvaluationError, Latency, wilson_interval
from nas.latency import lock_name, measure
from nas.locks import DeviceLock
from nas.protocol import Protocol
from nas.space import ResolvedSpace, Site
from nas.store import Store

_META = torch.device("meta")
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
        weights: placement.Weights | None = None,
    ) -> None:
        """Bring the data to the device.

        Args:
            data: Training and validation images. There is no test split in here, so none can be touched.
            protocol: What the evaluations are bound to.
            store: The cache.
            device: The device that ``protocol.device`` names.
            weights: The trained weights that ``protocol.weights`` names.

        Raises:
            ValueError: If the weights are not those of the protocol.
        """
        if (weights.words if weights is not None else "") != protocol.weights:
            raise ValueError(f"the protocol needs the weights {protocol.weights!r}")
        self._data = data.to(device)
        self._protocol = protocol
        self._store = store
        self._device = device
        self._weights = weights
        self._plans: dict[str, placement.Plan] = {}
        self._lock = DeviceLock(lock_name(device))
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.benchmark = True  # shapes do not change between steps: the quickest kernels are found

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Return what was measured on an architecture; measure it if that was never done under the protocol.

        Raises:
            EvaluationError: If it cannot be evaluated: no memory left, a loss that is not finite, an impossible shape.
        """
        evaluation = self._store.get(architecture, self._protocol.hash)
        if evaluation is not None:
            return evaluation
        try:
            evaluation = self._measure(architecture)
        except RuntimeError as error:
            if not proxy.is_out_of_memory(error):
                raise
        if evaluation is None:
            # Outside the handler: the caught error kept the frames alive that held the tensors.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            raise EvaluationError(f"out of memory on {self._protocol.device}")
        self._store.put(architecture, self._protocol.hash, evaluation)
        return evaluation

    def _measure(self, architecture: Architecture) -> Evaluation:
        protocol = self._protocol
        model = build(architecture, protocol, self._device, self._weights, self._plan(architecture.backbone))
        complexity = count(model, (protocol.channels, protocol.resolution, protocol.resolution))
        latency = self._time(model, architecture)
        reference_ms = self._store.reference_ms(architecture.backbone, protocol.hash, latency.bare_ms)
        blocks = placement.blocks(model)
        if protocol.freeze_backbone:
            _freeze(model, blocks)
        curve = proxy.train(model, self._data, protocol, device=self._device, blocks=blocks, turn=self._lock.training)
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

    def _plan(self, backbone: str) -> placement.Plan:
        if backbone not in self._plans:
            self._plans[backbone] = placement.plan_of(build(Architecture(backbone=backbone), self._protocol, _META))
        return self._plans[backbone]

    def _time(self, model: nn.Module, architecture: Architecture) -> Latency:
        protocol = self._protocol
        # A copy, because a module may keep tensors of its forward pass, and those of inference cannot be trained.
        candidate = copy.deepcopy(model)
        bare = build(Architecture(backbone=architecture.backbone), protocol, self._device)
        batch = batch_of(protocol, self._device)
        with self._lock.timing():
            latency = measure(
                candidate,
                bare,
                batch=batch,
                device_words=protocol.device,
                target=LATENCY_TARGET,
                max_seconds=protocol.latency_seconds,
                precision=protocol.precision,
            )
        return latency if architecture.placements else _of_itself(latency)


def _of_itself(latency: Latency) -> Latency:
    """Return the latency of the bare backbone: its ratio to itself is 1, whatever the clock said.

    What the clock said stays in the interval, where it tells how far other ratios may be wrong. Left as the ratio, it
    would move the one point that all others are compared with.
    """
    return dataclasses.replace(
        latency, ratio=1.0, ratio_low=min(1.0, latency.ratio_low), ratio_high=max(1.0, latency.ratio_high)
    )


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
    return model.to(device=device, memory_format=proxy.memory_format(protocol))  # type: ignore[call-overload,no-any-return]


def _freeze(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Leave only the blocks and the classifier to be trained."""
    model.requires_grad_(False)
    for module in (*blocks, *placement.classifiers(model)):
        module.requires_grad_(True)


def batch_of(protocol: Protocol, device: torch.device) -> torch.Tensor:
    """Return the batch that is timed, (B, C, H, W): noise, the same for every architecture."""
    generator = torch.Generator().manual_seed(protocol.seed)
    shape = (protocol.latency_batch_size, protocol.channels, protocol.resolution, protocol.resolution)
    return torch.randn(shape, generator=generator).to(device, memory_format=proxy.memory_format(protocol))


def preflight(space: ResolvedSpace, protocol: Protocol, device: torch.device) -> None:
    """Run every backbone, and every block with each of its option values at every site, on one batch of two images.

    Forward and backward, in the protocol's precision and memory format, on every shape of a map that a site has.

    Raises:
        EvaluationError: At the first combination that fails, with block, stage, shape and cause.
    """
    for backbone, sites in space.sites.items():
        bare = build(Architecture(backbone=backbone), protocol, device)
        try:
            batch = batch_of(dataclasses.replace(protocol, latency_batch_size=2), device)
            shapes = placement.map_shapes(bare, batch)
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
                bare.train()(batch)  # what drops at random runs in training alone
        except (RuntimeError, ValueError) as error:
            size = f"{protocol.channels}x{protocol.resolution}x{protocol.resolution}"
            raise EvaluationError(f"{backbone} cannot run on a {size} image: {_first_line(error)}") from error
        for site in sites:
            distinct = dict.fromkeys(shapes[site.stage.index, site.position])
            for shape, (block, options) in itertools.product(distinct, _one_of_each(site)):
                call = f"{block}({options_text(options)})"
                try:
                    module = attention.build(block, shape[1], init=space.space.init, **options)
                    _try(module, shape, protocol, device)
                except (RuntimeError, ValueError) as error:
                    where = f"stage {site.stage.index} of {backbone} on a map of {tuple(shape)}, {site.position}"
                    raise EvaluationError(f"{call} cannot run at {where}: {_first_line(error)}") from error


def _one_of_each(site: Site) -> list[tuple[str, dict[str, OptionValue]]]:
    """Return variants in which every value of every option takes part at least once."""
    found = []
    covered: set[tuple[str, str | None, OptionValue]] = set()
    for block, options in site.variants():
        parts = {(block, None, None), *((block, option, value) for option, value in options.items())}
        if not parts <= covered:
            covered |= parts
            found.append((block, options))
    return found


def _try(block: nn.Module, shape: torch.Size, protocol: Protocol, device: torch.device) -> None:
    """Run a block forward and backward on noise.

    Raises:
        RuntimeError: If it fails, changes the shape, or puts out values that are not finite.
    """
    block.to(device=device)
    image = torch.randn(shape, device=device).contiguous(memory_format=proxy.memory_format(protocol)).requires_grad_()
    with proxy.autocast(protocol, device):
        output = block(image)
    if output.shape != shape:
        raise RuntimeError(f"the shape must stay {tuple(shape)}, but became {tuple(output.shape)}")
    (gradient,) = torch.autograd.grad(output.float().sum(), image)
    if not bool(output.isfinite().all()) or not bool(gradient.isfinite().all()):
        raise RuntimeError("output and gradient must be finite, but are not")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def software() -> str:
    """Return the versions of the libraries that compute: another version may give other figures."""
    return f"torch {torch.__version__}, timm {timm.__version__}"


def versions() -> dict[str, str]:
    """Return the versions that a figure may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
