"""Fail before anything is trained: every block of a space runs once at every place where it may stand."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from nas import attention, batches, placement, proxy
from nas.architecture import Architecture
from nas.attention.options import OptionValue, options_text
from nas.evaluation import EvaluationError, first_line
from nas.latency import DTYPES
from nas.protocol import Protocol
from nas.space import ResolvedSpace, Site
from nas.trainer import Trainer, batch_of


def preflight(space: ResolvedSpace, trainer: Trainer) -> None:
    """Run every backbone, and every block with each of its option values at every site, on one batch of two images.

    Forward and backward, in the protocol's precision and memory format, on every shape of a map that a site has.

    Raises:
        EvaluationError: At the first combination that fails, with block, stage, shape and cause.
    """
    # Each shape runs once or twice: to look for the quickest kernels would take longer than any saves.
    with torch.backends.cudnn.flags(benchmark=False):
        _run_all(space, trainer)


def _run_all(space: ResolvedSpace, trainer: Trainer) -> None:
    protocol, device = trainer.protocol, trainer.device
    for backbone, sites in space.sites.items():
        bare = trainer.build(Architecture(backbone=backbone))
        try:
            batch = batch_of(protocol, device, 2)
            shapes = placement.map_shapes(bare, batch, plan=trainer.plan(backbone))
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
                bare.train()(batch)  # what drops at random runs in training alone
        except (RuntimeError, ValueError) as error:
            size = f"{protocol.channels}x{protocol.resolution}x{protocol.resolution}"
            raise EvaluationError(f"{backbone} cannot run on a {size} image: {first_line(error)}") from error
        for site in sites:
            distinct = dict.fromkeys(shapes[site.stage.index, site.position])
            for shape, (block, options) in itertools.product(distinct, _one_of_each(site)):
                call = f"{block}({options_text(options)})"
                try:
                    module = attention.build(block, shape[1], init=space.space.init, **options)
                    _try(module, shape, protocol, device)
                except (RuntimeError, ValueError) as error:
                    where = f"stage {site.stage.index} of {backbone} on a map of {tuple(shape)}, {site.position}"
                    raise EvaluationError(f"{call} cannot run at {where}: {first_line(error)}") from error


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
    image = torch.randn(shape, device=device).contiguous(memory_format=batches.memory_format(protocol)).requires_grad_()
    with proxy.autocast(protocol, device):
        output = block(image)
    if output.shape != shape:
        raise RuntimeError(f"the shape must stay {tuple(shape)}, but became {tuple(output.shape)}")
    (gradient,) = torch.autograd.grad(output.float().sum(), image)
    if not bool(output.isfinite().all()) or not bool(gradient.isfinite().all()):
        raise RuntimeError("output and gradient must be finite, but are not")
    timed = DTYPES[protocol.latency_precision or protocol.precision]
    if timed != image.dtype:
        with torch.inference_mode():
            block.eval().to(timed)(image.detach().to(timed))
