"""From stored bytes to what a model sees: batches on the device, cropped, mirrored, normalised and cut out there.

Images stay bytes until their batch is due. Where they fit they lie on the device and a batch is one gather; where they
do not, batches are gathered on the host and copied ahead of their use. Either way the batches are the same.

Shapes: N images in a split, B in a batch, C channels, H = W = resolution.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice

import torch
from torch import Tensor

from nas.data import SearchData, Split
from nas.protocol import Protocol

RESIDENT_SHARE = 0.5
"""Share of a GPU's free memory that the images may take; the rest is for the training."""
AHEAD = 2
"""Batches that are on their way to the device while one is used."""


def place(data: SearchData, device: torch.device, workers: int = 1) -> SearchData:
    """Return the data where training on a device finds them: on it, or on the host if they would crowd a GPU.

    Args:
        data: The images, on the host or on the device.
        device: Where they are used.
        workers: Processes that train on the device at once; each brings its own images.
    """
    if device.type == "cuda" and data.train.images.device.type == "cpu":
        free, _ = torch.cuda.mem_get_info(device)
        if data.train.images.nbytes + data.val.images.nbytes > RESIDENT_SHARE * free / workers:
            return data
    return data.to(device)


def batches(split: Split, rows: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images (B, C, H, W), uint8, and the labels (B,) of one batch after the other, on the device.

    Args:
        split: The images, on the device or on the host.
        rows: For each batch the places of its images in the split, (B,), int64, on the device of the split.
        device: Where the batches are used.
    """
    if _is_resident(split, device):
        for chosen in rows:
            yield split.images[chosen], split.labels[chosen]
    else:
        yield from _streamed(split, rows, device)


def in_order(split: Split, size: int) -> Sequence[Tensor]:
    """Return the rows of all images of a split in batches of a size, the last one smaller."""
    return torch.split(torch.arange(len(split), device=split.images.device), size)


def _is_resident(split: Split, device: torch.device) -> bool:
    return device.type == "cpu" or split.images.device.type != "cpu"


def _streamed(split: Split, rows: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of a split that stays on the host; on CUDA the copies run beside the training."""
    side = _side_stream(device) if device.type == "cuda" else None

    def send(chosen: Tensor) -> tuple[list[Tensor], torch.cuda.Event | None]:
        # Only the batch is pinned: the split may be larger than what a system likes to lock. torch keeps a pinned
        # buffer until the copy out of it has ended, and then gives it to the next batch.
        sent = [_gather(source, chosen, pinned=side is not None) for source in (split.images, split.labels)]
        if side is None:
            return [source.to(device) for source in sent], None
        with torch.cuda.stream(side):
            return [source.to(device, non_blocking=True) for source in sent], side.record_event()

    upcoming = iter(rows)
    under_way = deque(send(chosen) for chosen in islice(upcoming, AHEAD))
    while under_way:
        under_way.extend(send(chosen) for chosen in islice(upcoming, 1))
        (images, labels), copied = under_way.popleft()
        if copied is not None:
            current = torch.cuda.current_stream(device)
            current.wait_event(copied)
            for tensor in (images, labels):  # or its memory would go to the next copy while it is still read
                tensor.record_stream(current)
        yield images, labels


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of a device's copies. One for all: what is freed serves later work of the same stream only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _gather(source: Tensor, rows: Tensor, *, pinned: bool) -> Tensor:
    """Return some rows of a tensor on the host, on request in memory that a GPU copies from by itself."""
    chosen = torch.empty((len(rows), *source.shape[1:]), dtype=source.dtype, pin_memory=pinned)
    return torch.index_select(source, 0, rows, out=chosen)


def draw(count: int, protocol: Protocol, generator: torch.Generator) -> Tensor:
    """Draw how each image of an epoch is augmented.

    Returns:
        (3, count): shift down and shift right in pixels, mirroring as 0 or 1; with cutout (5, count): also the row and
        the column of the centre of its square.
    """
    kinds = protocol.augmentations
    reach = max(1, protocol.resolution // 8) if "shift" in kinds else 0
    shifts = torch.randint(-reach, reach + 1, (2, count), generator=generator)
    flips = torch.randint(0, 2 if "flip" in kinds else 1, (1, count), generator=generator)
    if "cutout" not in kinds:
        return torch.cat([shifts, flips])
    return torch.cat([shifts, flips, torch.randint(0, protocol.resolution, (2, count), generator=generator)])


def normalisation(data: SearchData, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what to subtract from bytes and what to multiply them by, each (C, 1, 1)."""
    mean, std = torch.tensor([data.mean, data.std], device=device)[:, :, None, None] * 255
    return mean, 1 / std


def inputs(images: Tensor, norm: tuple[Tensor, Tensor], protocol: Protocol, draws: Tensor | None = None) -> Tensor:
    """Turn bytes into what the model sees: augment if asked, and normalise.

    Args:
        images: (B, C, H, W), uint8.
        norm: As :func:`normalisation` returns it.
        protocol: Augmentation and memory format.
        draws: As :func:`draw` returns them, of these images; None for images as they are.

    Returns:
        (B, C, H, W), float32.
    """
    if draws is not None and protocol.augmentations:
        images = _crop(images, draws[:3])
    mean, factor = norm
    # Not contiguous(): it passes one-channel images through in whatever format they have.
    prepared = images.to(torch.float32, memory_format=memory_format(protocol)).sub_(mean).mul_(factor)
    if draws is not None and "cutout" in protocol.augmentations:
        _cut_out(prepared, draws[3:])
    return prepared


def _crop(images: Tensor, draws: Tensor) -> Tensor:
    """Shift each image by its own pixels, reflecting at the edges, and flip it if so drawn: one gather, no padding."""
    size = images.shape[-1]
    down, right, flip = draws.unbind()
    pixels = torch.arange(size, device=images.device)
    rows = _reflect(pixels + down[:, None], size)  # (B, H): the row that each row is read from
    columns = torch.where(flip[:, None] == 1, size - 1 - pixels, pixels)
    columns = _reflect(columns + right[:, None], size)
    # One index for all channels; indexing by picture, row and column takes the CPU three to five times as long.
    places = (rows[:, :, None] * size + columns[:, None, :]).view(len(images), 1, -1)
    return images.flatten(2).gather(2, places.expand(-1, images.shape[1], -1)).view_as(images)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Fold positions beyond either edge back inside, without repeating the edge: -1 -> 1, size -> size - 2."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def _cut_out(images: Tensor, centres: Tensor) -> None:
    """Set a square of each image to 0, the mean, in place: a quarter of the image wide, clipped at the edges.

    Source: T. DeVries and G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv
    1708.04552, where the centre is drawn over the whole image too.
    """
    size = images.shape[-1]
    side = max(1, size // 4)
    first = centres - side // 2
    pixels = torch.arange(size, device=images.device)
    inside = (pixels >= first[:, :, None]) & (pixels < first[:, :, None] + side)  # (2, B, H): rows, columns
    images.masked_fill_(inside[0, :, None, :, None] & inside[1, :, None, None, :], 0.0)


def memory_format(protocol: Protocol) -> torch.memory_format:
    """Return the order in memory of a protocol's images, maps and kernels."""
    return torch.channels_last if protocol.channels_last else torch.contiguous_format
