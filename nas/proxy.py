"""The proxy: the short training that estimates an architecture's accuracy.

Nothing in the loop waits for the device, and each epoch ends with one transfer of its loss and one of its accuracy.

Shapes: B images in a batch, C channels, H = W = resolution, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from nas import batches, optimizer
from nas.data import SearchData, Split
from nas.evaluation import OUT_OF_MEMORY, EvaluationError, first_line
from nas.pauses import Pause
from nas.protocol import Protocol
from nas.standing import Standing


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a proxy training yields."""

    accuracies: tuple[float, ...]
    """Share of the val images classified correctly after each epoch, 0 to 1."""
    losses: tuple[float, ...]
    """Mean training loss of each epoch (cross-entropy with label smoothing, in nats)."""
    seconds: float
    """Wall time of training and validation, without the waits for a turn."""


def train(
    model: nn.Module,
    data: SearchData,
    protocol: Protocol,
    *,
    device: torch.device,
    blocks: Iterable[nn.Module] = (),
    on_epoch: Callable[[int, float], None] | None = None,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    pause: Pause | None = None,
) -> Curve:
    """Train a model on the training split, in place, and validate it after each epoch.

    On the CPU, equal arguments and equal initial weights give bit-equal curves. The global random state is kept.
    Parameters that need no gradient stay as they are, and so do the statistics of the batch normalisation around them.

    Args:
        model: Maps (B, C, H, W) to logits (B, K). It is moved to the device, and ends there in evaluation mode.
        data: Train and val, where :func:`nas.batches.place` has put them; what is not on the device is streamed to it.
        protocol: Epochs, batch size, optimiser and so on. A batch holds at most the training split.
        device: Where to train.
        blocks: Modules of the model whose learning rate is ``block_lr_factor`` times that of the rest.
        on_epoch: Called after each epoch with its number, from 1, and the val accuracy. What it raises ends the run.
        turn: Makes the context that each epoch runs in, so that others get the device between epochs.
        pause: Where the training is kept from time to time, and where :class:`nas.rungs.StoppedError` stops it. If an
            equal one was kept there it goes on from that, as if it had never been cut off; of its epochs ``on_epoch``
            is told once more. What is not of this model is left alone.

    Raises:
        EvaluationError: If the loss or the outputs become infinite or NaN, the memory does not suffice, or the model is
            to be compiled and cannot be.
    """
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(protocol.seed)  # dropout and stochastic depth
            return _train(model, data, protocol, device, list(blocks), on_epoch, turn, pause)
    except RuntimeError as error:
        if is_out_of_memory(error):
            size = f"batch size {protocol.batch_size} at {protocol.resolution}x{protocol.resolution}"
            reason = f"{OUT_OF_MEMORY} on {device} while training with {size}"
        elif _is_of_the_compiler(error):
            reason = f"torch.compile cannot compile the training: {first_line(error)}"
        else:
            raise
    # Outside the handler, because the caught error keeps the frames alive that hold the tensors.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise EvaluationError(reason)


def _train(
    model: nn.Module,
    data: SearchData,
    protocol: Protocol,
    device: torch.device,
    blocks: list[nn.Module],
    on_epoch: Callable[[int, float], None] | None,
    turn: Callable[[], AbstractContextManager[object]],
    pause: Pause | None,
) -> Curve:
    model.to(device).to(memory_format=batches.memory_format(protocol))
    forward = _compiled(model) if protocol.compile else model
    stepper = optimizer.create(model, protocol, blocks)
    generator = torch.Generator().manual_seed(protocol.seed)  # on the CPU, so that every device sees the same batches
    norm = batches.normalisation(data, device)
    average = optimizer.Average(model, protocol)
    count = len(data.train)
    batch_size = min(protocol.batch_size, count)
    steps = count // batch_size  # the last, incomplete batch is dropped: other images are in it each epoch
    standing = Standing(model, stepper, average, generator, device, turn, on_epoch, pause, protocol.epochs)

    for epoch in range(standing.take_up() + 1, protocol.epochs + 1):
        with turn():
            started = time.perf_counter()
            model.train()
            for norm_layer in _norms(model, frozen=True):
                norm_layer.eval()
            order = torch.randperm(count, generator=generator).to(data.train.images.device)
            draws = batches.draw(count, protocol, generator).to(device)
            total_loss = torch.zeros((), device=device)
            rows = torch.split(order[: steps * batch_size], batch_size)
            for step, (images, labels) in enumerate(batches.batches(data.train, rows, device)):
                drawn = draws[:, step * batch_size : (step + 1) * batch_size]
                prepared = batches.inputs(images, norm, protocol, drawn)
                with autocast(protocol, device):
                    loss = F.cross_entropy(forward(prepared), labels, label_smoothing=protocol.label_smoothing)
                stepper.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                for group in stepper.param_groups:
                    share = optimizer.one_cycle((epoch - 1) * steps + step, steps * protocol.epochs)
                    group["lr"] = protocol.learning_rate * group["factor"] * share
                stepper.step()
                total_loss += loss.detach()
            standing.losses.append(
                float(total_loss) / steps
            )  # the one wait for the device, and so the one look at the loss
            if not math.isfinite(standing.losses[-1]):
                raise EvaluationError(f"non-finite loss in epoch {epoch}")
            average.after(epoch)
            calibrate(model, data.train.images[order[: protocol.calibration_images]], data, protocol)
            standing.accuracies.append(accuracy(model, data.val, data, protocol))
            standing.seconds += time.perf_counter() - started
        standing.end_epoch()

    return Curve(accuracies=tuple(standing.accuracies), losses=tuple(standing.losses), seconds=standing.seconds)


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor, data: SearchData, protocol: Protocol) -> None:
    """Re-estimate the running statistics of batch normalisation with the present weights.

    Running averages lag behind weights that change as fast as in a short training. Validation then judges the lag: on
    digits after five epochs, CBAM on four stages scored 0.59 with lagging statistics and 0.97 with these. Source:
    Y. Wu and J. Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3.

    Args:
        model: Left in evaluation mode; a model without batch normalisation is left alone.
        images: (N, C, H, W), uint8, in random order, on any device; an incomplete last batch is dropped.
        data: The search data, whose channel statistics normalise the images.
        protocol: Batch size, precision and memory format, as in training.
    """
    norms = [module for module in _norms(model, frozen=False) if module.track_running_stats]
    size = min(protocol.batch_size, len(images))
    if not norms or not size:
        return
    momenta = [module.momentum for module in norms]
    model.eval()  # dropout and stochastic depth stay off: the statistics are for evaluation
    for module in norms:
        module.reset_running_stats()
        module.train()
    device = _device(model)
    factors = batches.normalisation(data, device)
    for number, start in enumerate(range(0, len(images) - size + 1, size), 1):
        for module in norms:
            module.momentum = 1 / number  # the plain average; for None torch would ask the device for the number
        with autocast(protocol, device):
            model(batches.inputs(images[start : start + size].to(device), factors, protocol))
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
        module.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, data: SearchData, protocol: Protocol) -> float:
    """Return the share of a split that the model classifies correctly; leaves the model in evaluation mode.

    Args:
        model: Maps (B, C, H, W) to logits (B, K).
        split: The images to classify: val, or in ``verify`` test. What is not on the model's device is streamed to it.
        data: The search data, whose channel statistics normalise the images.
        protocol: Precision, memory format, batch size, and whether mirror images are asked too.

    Raises:
        EvaluationError: If a logit is infinite or NaN.
    """
    model.eval()
    device = _device(model)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    norm = batches.normalisation(data, device)
    size = 4 * protocol.batch_size  # without a graph to keep, four batches need no more memory than one in training
    for images, labels in batches.batches(split, batches.in_order(split, size), device):
        prepared = batches.inputs(images, norm, protocol)
        with autocast(protocol, device):
            logits = model(prepared)
            if protocol.mirror_validation:
                logits = logits.float() + model(prepared.flip(-1)).float()
        correct += (logits.argmax(1) == labels).sum()
        finite &= logits.isfinite().all()
    if not finite:
        raise EvaluationError("non-finite output in evaluation mode")
    return int(correct) / len(split)


def select_device(name: str = "auto") -> torch.device:
    """Return the device of this name; ``auto`` is the first of cuda, mps and cpu that is there.

    Raises:
        ValueError: If the name is no device, or the device is not there.
    """
    choices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    choices += ["mps"] if torch.backends.mps.is_available() else []
    choices += ["cpu"]
    full_name = {"auto": choices[0], "cuda": "cuda:0"}.get(name, name)
    if full_name not in choices:
        raise ValueError(f"device must be one of auto, {', '.join(choices)}, but got {name!r}")
    return torch.device(full_name)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is torch's way of saying, on any device, that memory does not suffice."""
    # Only CUDA has a class for it; the CPU and MPS allocators raise RuntimeError. cuDNN tries one way of convolving
    # after the other and then says that it found none; libraries that start on a full device cannot initialise.
    texts = (
        *("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED"),
        *("unable to find an engine", "CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_NOT_INITIALIZED"),
    )
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


@cache
def check_compiler(device: torch.device) -> None:
    """Compile a sum, to find out before anything is trained whether compiling works here.

    Raises:
        ValueError: If it does not, for lack of a C++ compiler or of Triton, mostly.
    """
    try:
        torch.compile(lambda x: (x * x).sum(), dynamic=False)(torch.ones(8, device=device))
    except RuntimeError as error:
        if not _is_of_the_compiler(error):
            raise
        raise ValueError(f"torch.compile does not work on this machine: {first_line(error)}") from error


def _compiled(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the model's forward pass, to be compiled when it first runs; the model itself stays as it is."""
    torch.compiler.reset()  # models share their classes' code, which is recompiled for a few of them only
    forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model, dynamic=False)
    return forward


def _is_of_the_compiler(error: BaseException) -> bool:
    """Tell whether an error comes from torch.compile; its classes have no common, public base."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _norms(model: nn.Module, *, frozen: bool) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch normalisations whose parameters are trained, or those whose parameters are frozen."""
    found = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [module for module in found if (module.weight is not None and not module.weight.requires_grad) == frozen]


def autocast(protocol: Protocol, device: torch.device) -> torch.autocast:
    """Return the context in which a protocol's models run."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=protocol.precision == "bfloat16")
