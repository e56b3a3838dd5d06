"""Images before they are split: the embedded digits, and the data sets that timm knows by name.

A source is listed first (labels and names), so that the images that are wanted, and only these, are decoded. Every
image becomes a square of unsigned bytes, (C, H, W). Folders have a module of their own, :mod:`nas.image_folder`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]

TIMM_PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")
TORCH_NAMES = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist", "imagenet", "places365")
DIGITS_RESOLUTION = 32
SMALLEST_DEFAULT, LARGEST_DEFAULT = 32, 224


class DataError(ValueError):
    """The data cannot be used; one or two lines: what is wrong, what was given, what would be right."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds, before the images are decoded."""

    classes: tuple[str, ...]
    """Name of each class; an image's label is an index into it."""
    labels: tuple[int, ...]
    """Label of each image."""
    parts: tuple[str, ...]
    """The split that each image was delivered in (``train``, ``val``, ``test``), or "" if the source has no splits."""
    names: tuple[str, ...]
    """What a person finds each image by, the path below the folder; empty where images have no names."""
    read: Callable[[int], Pixels]
    """Decode one image, (C, H, W); called from several threads."""
    channels: int
    """Channels of a decoded image: 1 or 3."""
    resolution: int
    """Height and width of a decoded image, in pixels."""


def decode(listing: Listing, chosen: Sequence[int]) -> Pixels:
    """Decode the chosen images in their order: (N, C, H, W).

    Raises:
        DataError: If an image cannot be decoded (the first one is named), or memory does not suffice.
    """
    shape = (len(chosen), listing.channels, listing.resolution, listing.resolution)
    try:
        images = np.empty(shape, np.uint8)
    except MemoryError as error:
        size = "x".join(str(length) for length in shape[1:])
        raise DataError(f"{shape[0]} images of {size} do not fit into memory; lower limit or resolution") from error

    def read_run(start: int) -> None:
        for row in range(start, min(start + 64, len(chosen))):
            images[row] = listing.read(chosen[row])

    # Pillow warns of odd metadata; whatever matters arrives as an error.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        for _ in pool.map(read_run, range(0, len(chosen), 64)):
            pass
    return images


def square(image: Any, mode: str, side: int) -> Pixels:
    """Return the centre square of a PIL image, scaled bilinearly (with antialiasing) to ``side`` pixels: (C, H, W).

    Raises:
        DataError: If the pixels are floating-point numbers, whose range is anyone's guess.
    """
    # A JPEG decoder scales large photographs down for next to nothing; twice the wanted side keeps the result faithful.
    image.draft(mode, (2 * side, 2 * side))
    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip rather than scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert(mode)
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), method=Image.Resampling.BILINEAR)
    pixels: Pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def default_resolution(short_side: int) -> int:
    """Return the resolution for images of this short side: rounded down to a multiple of 32, within 32 and 224."""
    return max(SMALLEST_DEFAULT, min(LARGEST_DEFAULT, short_side // 32 * 32))


def list_digits(resolution: int | None) -> Listing:
    """List scikit-learn's 1,797 scans of handwritten digits: 8x8 pixels of 17 grey levels, enlarged bilinearly.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998), the test part.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    side = resolution or DIGITS_RESOLUTION
    return Listing(
        classes=tuple(str(name) for name in digits.target_names),
        labels=tuple(int(label) for label in digits.target),
        parts=("",) * len(scans),
        names=(),
        read=lambda index: square(Image.fromarray(scans[index]), "L", side),
        channels=1,
        resolution=side,
    )


def list_timm(source: str, resolution: int | None, data_dir: str | None, download: bool) -> Listing:
    """List a data set that ``timm.data.create_dataset`` makes; it is decoded here, all of it, whatever the limit is.

    The evaluation part of a ``torch/`` set becomes the test split, because published accuracies refer to it. The other
    kinds deliver their own ``validation`` and ``test``, where they have them.

    Raises:
        DataError: If timm cannot make the data set (unknown name, nothing downloaded, package not installed).
    """
    torchvision = source.lower().startswith("torch/")
    wanted = (
        {"train": "train", "test": "validation"}
        if torchvision
        else {"train": "train", "val": "validation", "test": "test"}
    )
    datasets = {
        part: _create_timm(source, split, data_dir, download, required=torchvision or part == "train")
        for part, split in wanted.items()
    }
    images: list[Pixels] = []
    labels: list[int] = []
    parts: list[str] = []
    for part, dataset in datasets.items():
        for image, label in _pairs(dataset, source, wanted[part]):
            resolution = resolution or default_resolution(min(image.size))
            images.append(square(image, "RGB", resolution))
            labels.append(label)
            parts.append(part)
    if resolution is None or not images:
        raise DataError(f"{source} holds no labelled images")
    return Listing(
        classes=_timm_classes(datasets["train"], max(labels)),
        labels=tuple(labels),
        parts=tuple(parts) if len(set(parts)) > 1 else ("",) * len(parts),
        names=(),
        read=images.__getitem__,
        channels=3,
        resolution=resolution,
    )


def _create_timm(source: str, split: str, data_dir: str | None, download: bool, *, required: bool) -> Any:
    """Return timm's dataset of one split, or an empty one where an optional split does not exist."""
    from timm.data import create_dataset

    prefix, _, name = source.partition("/")
    if prefix.lower() == "torch" and name.lower() in ("folder", "image_folder"):
        raise DataError(
            f"{source} is a folder; give the folder itself as the data" + (f", {data_dir}" if data_dir else "")
        )
    if data_dir is None and prefix.lower() in ("torch", "wds"):
        raise DataError(f"{source} needs data_dir: the folder that holds it, or that it is to be downloaded to")
    try:
        return create_dataset(source, root=data_dir, split=split, download=download)
    except ImportError as error:
        raise DataError(f"{source} needs the package {error.name!r}, which is not installed") from error
    except Exception as error:  # each kind of data set raises errors of its own
        if not required and isinstance(error, (ValueError, LookupError, AssertionError, RuntimeError)):
            return ()
        if prefix.lower() == "torch" and name.lower() not in TORCH_NAMES:
            raise DataError(
                f"timm has no dataset {source!r}; known: {', '.join(TORCH_NAMES)} (as torch/NAME)"
            ) from error
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(
            f"cannot make the {split} split of {source} (data_dir={data_dir!r}, {download=}): {reason}"
        ) from error


def _pairs(dataset: Any, source: str, split: str) -> Iterator[tuple[Any, int]]:
    """Yield image and label; nothing if the labels of the split are withheld (-1, as in public competitions)."""
    # Datasets by index do not all end in IndexError, which plain iteration over them would rely on.
    items: Iterable[Any] = dataset if hasattr(dataset, "__iter__") else (dataset[i] for i in range(len(dataset)))
    for image, label in items:
        if not isinstance(image, Image.Image):
            raise DataError(f"{source}: {split} should yield PIL images, but yields {type(image).__name__}")
        try:
            number = int(label)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{source}: {split} should yield one integer label an image, but yields {label!r}"
            ) from error
        if number < 0:
            return
        yield image, number


def _timm_classes(dataset: Any, largest_label: int) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None) or ()
    if len(names) > largest_label:
        return tuple(str(name) for name in names)
    return tuple(str(label) for label in range(largest_label + 1))
