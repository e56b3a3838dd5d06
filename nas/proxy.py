"""The proxy: the short training that estimates an architecture's accuracy.

The data are bytes on the device; a batch is cropped, mirrored and normalised there by one gather, nothing in the loop
waits for the device, and each epoch ends with one transfer of its loss and one of its accuracy.

Shapes: B images in a batch, C channels, H = W = resolution, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nas.data import SearchData, Split
from nas.evaluation import EvaluationError
from nas.protocol import Protocol

MOMENTUM = 0.9
WARM_UP = 0.2  # share of the steps in which the learning rate rises


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
) -> Curve:
    """Train a model on the training split, in place, and validate it after each epoch.

    On the CPU, equal arguments and equal initial weights give bit-equal curves. The global random state is kept.
    Parameters that need no gradient stay as they are, and so do the statistics of the batch normalisation around them.

    Args:
        model: Maps (B, C, H, W) to logits (B, K). It is moved to the device, and ends there in evaluation mode.
        data: Train and val; they are moved to the device if they are not there.
        protocol: Epochs, batch size, optimiser and so on. A batch holds at most the training split.
        device: Where to train.
        blocks: Modules of the model whose learning rate is ``block_lr_factor`` times that of the rest.
        on_epoch: Called after each epoch with its number, from 1, and the val accuracy. What it raises ends the run.
        turn: Makes the context that each epoch runs in, so that others get the device between epochs.

    Raises:
        EvaluationError: If the loss or the outputs become infinite or NaN, or the memory does not suffice.
    """
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(protocol.seed)  # dropout and stochastic depth
            return _train(model, data.to(device), protocol, device, list(blocks), on_epoch, turn)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler, because the caught error keeps the frames alive that hold the tensors.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    size = f"batch size {protocol.batch_size} at {protocol.resolution}x{protocol.resolution}"
    raise EvaluationError(f"out of memory on {device} while training with {size}")


def _train(
    model: nn.Module,
    data: SearchData,
    protocol: Protocol,
    device: torch.device,
    blocks: list[nn.Module],
    on_epoch: Callable[[int, float], None] | None,
    turn: Callable[[], AbstractContextManager[object]],
) -> Curve:
    model.to(device).to(memory_format=memory_format(protocol))
    optimizer = _optimizer(model, protocol, blocks)
    generator = torch.Generator().manual_seed(protocol.seed)  # on the CPU, so that every device sees the same batches
    norm = _normalisation(data, device)
    count = len(data.train)
    batch_size = min(protocol.batch_size, count)
    steps = count // batch_size  # the last, incomplete batch is dropped: other images are in it each epoch
    accuracies: list[float] = []
    losses: list[float] = []
    seconds = 0.0

    for epoch in range(1, protocol.epochs + 1):
        with turn():
            started = time.perf_counter()
            model.train()
            for norm_layer in _norms(model, frozen=True):
                norm_layer.eval()
            order = torch.randperm(count, generator=generator).to(device)
            crops = _draw_crops(count, protocol, generator).to(device)
            total_loss = torch.zeros((), device=device)
            for step in range(steps):
                rows = slice(step * batch_size, (step + 1) * batch_size)
                images = _inputs(data.train.images[order[rows]], norm, protocol, crops[:, rows])
                labels = data.train.labels[order[rows]]
                with autocast(protocol, device):
                    loss = F.cross_entropy(model(images), labels, label_smoothing=protocol.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                for group in optimizer.param_groups:
                    share = one_cycle((epoch - 1) * steps + step, steps * protocol.epochs)
                    group["lr"] = protocol.learning_rate * group["factor"] * share
                optimizer.step()
                total_loss += loss.detach()
            losses.append(float(total_loss) / steps)  # the one wait for the device, and so the one look at the loss
            if not math.isfinite(losses[-1]):
                raise EvaluationError(f"non-finite loss in epoch {epoch}")
            calibrate(model, data.train.images[order[: protocol.calibration_images]], data, protocol)
            accuracies.append(accuracy(model, data.val, data, protocol))
            seconds += time.perf_counter() - started
        if on_epoch is not None:
            on_epoch(epoch, accuracies[-1])

    return Curve(accuracies=tuple(accuracies), losses=tuple(losses), seconds=seconds)


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor, data: SearchData, protocol: Protocol) -> None:
    """Re-estimate the running statistics of batch normalisation with the present weights.

    Running averages lag behind weights that change as fast as in a short training. Validation then judges the lag: on
    digits after five epochs, CBAM on four stages scored 0.59 with lagging statistics and 0.97 with these. Source:
    Y. Wu and J. Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3.

    Args:
        model: Left in evaluation mode; a model without batch normalisation is left alone.
        images: (N, C, H, W), uint8, in random order; an incomplete last batch is dropped.
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
        module.momentum = None  # torch's word for a plain average over all batches
        module.train()
    factors = _normalisation(data, images.device)
    for start in range(0, len(images) - size + 1, size):
        with autocast(protocol, images.device):
            model(_inputs(images[start : start + size], factors, protocol))
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
        module.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, data: SearchData, protocol: Protocol) -> float:
    """Return the share of a split that the model classifies correctly; leaves the model in evaluation mode.

    Args:
        model: Maps (B, C, H, W) to logits (B, K); on the device of the split.
        split: The images to classify: val, or in ``verify`` test.
        data: The search data, whose channel statistics normalise the images.
        protocol: Precision, memory format and batch size.

    Raises:
        EvaluationError: If a logit is infinite or NaN.
    """
    model.eval()
    device = split.images.device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    norm = _normalisation(data, device)
    size = 4 * protocol.batch_size  # without a graph to keep, four batches need no more memory than one in training
    for images, labels in zip(torch.split(split.images, size), torch.split(split.labels, size), strict=True):
        with autocast(protocol, device):
            logits = model(_inputs(images, norm, protocol))
        correct += (logits.argmax(1) == labels).sum()
        finite &= logits.isfinite().all()
    if not finite:
        raise EvaluationError("non-finite output in evaluation mode")
    return int(correct) / len(split)


def one_cycle(step: int, total: int) -> float:
    """Return the learning rate of a step, from 0, as a share of the peak: a straight rise, then a straight fall.

    Source: L. N. Smith and N. Topin, "Super-Convergence", arXiv 1708.07120; without its last, flatter phase.
    """
    peak = max(1.0, WARM_UP * total)
    return min((step + 1) / peak, (total - step) / max(1.0, total + 1 - peak))


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
    # Only CUDA has a class for it; the CPU and MPS allocators raise RuntimeError.
    texts = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def _norms(model: nn.Module, *, frozen: bool) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch normalisations whose parameters are trained, or those whose parameters are frozen."""
    found = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [module for module in found if (module.weight is not None and not module.weight.requires_grad) == frozen]


def _optimizer(model: nn.Module, protocol: Protocol, blocks: list[nn.Module]) -> torch.optim.Optimizer:
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


def _is_matrix(parameter: torch.Tensor) -> bool:
    """Tell weights from scales and biases, some of which are stored with further sides of length 1."""
    return sum(side > 1 for side in parameter.shape) >= 2


def _draw_crops(count: int, protocol: Protocol, generator: torch.Generator) -> torch.Tensor:
    """Draw an epoch's shift down, shift right (pixels) and mirroring (0 or 1) of each image: (3, count)."""
    reach = 0 if protocol.augmentation == "none" else max(1, protocol.resolution // 8)
    shifts = torch.randint(-reach, reach + 1, (2, count), generator=generator)
    flips = torch.randint(0, 2 if protocol.augmentation == "shift+flip" else 1, (1, count), generator=generator)
    return torch.cat([shifts, flips])


def _normalisation(data: SearchData, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what to subtract from bytes and what to multiply them by, each (C, 1, 1)."""
    mean, std = torch.tensor([data.mean, data.std], device=device)[:, :, None, None] * 255
    return mean, 1 / std


def _inputs(
    images: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor],
    protocol: Protocol,
    crops: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turn bytes into what the model sees: crop and mirror if asked, then normalise, (B, C, H, W)."""
    if crops is not None and protocol.augmentation != "none":
        images = _crop(images, crops)
    mean, factor = norm
    # Not contiguous(): it passes one-channel images through in whatever format the crop has left them.
    return images.to(torch.float32, memory_format=memory_format(protocol)).sub_(mean).mul_(factor)


def _crop(images: torch.Tensor, crops: torch.Tensor) -> torch.Tensor:
    """Shift each image by its own pixels, reflecting at the edges, and flip it if so drawn: one gather, no padding."""
    size = images.shape[-1]
    down, right, flip = crops.unbind()
    pixels = torch.arange(size, device=images.device)
    rows = _reflect(pixels + down[:, None], size)  # (B, H): the row that each row is read from
    columns = torch.where(flip[:, None] == 1, size - 1 - pixels, pixels)
    columns = _reflect(columns + right[:, None], size)
    picture = torch.arange(len(images), device=images.device)
    # Indices around a slice put the slice last: (B, H, W, C).
    return images[picture[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflect(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Fold positions beyond either edge back inside, without repeating the edge: -1 -> 1, size -> size - 2."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def autocast(protocol: Protocol, device: torch.device) -> torch.autocast:
    """Return the context in which a protocol's models run."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=protocol.precision == "bfloat16")


def memory_format(protocol: Protocol) -> torch.memory_format:
    """Return the order in memory of a protocol's images, maps and kernels."""
    return torch.channels_last if protocol.channels_last else torch.contiguous_format
