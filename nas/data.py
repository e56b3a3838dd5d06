"""Image data sets: decoded once into tensors of bytes, cut once into train, val and test.

The search is handed :class:`SearchData`, which has no test split; :class:`Splits` has it, for ``verify`` and ``train``.
Shapes: N images, C channels, H = W = resolution.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nas.datasets import TIMM_PREFIXES, TORCH_NAMES, DataError, Listing, decode, list_digits, list_timm
from nas.image_folder import list_folder

__all__ = ["DataError", "SearchData", "Split", "Splits", "load"]

SMALLEST_RESOLUTION = 8

# What is cut out of what: delivered parts -> part -> split -> share of each class. A delivered split stays what it is,
# and what is missing is cut from the training images. Digits are few: a larger val makes their accuracies less coarse.
CUTS: Mapping[frozenset[str], Mapping[str, Mapping[str, float]]] = {
    frozenset({""}): {"": {"train": 0.7, "val": 0.15, "test": 0.15}},
    frozenset({"train"}): {"train": {"train": 0.7, "val": 0.15, "test": 0.15}},
    frozenset({"train", "test"}): {"train": {"train": 0.8, "val": 0.2}, "test": {"test": 1.0}},
    frozenset({"train", "val"}): {"train": {"train": 0.85, "test": 0.15}, "val": {"val": 1.0}},
    frozenset({"train", "val", "test"}): {"train": {"train": 1.0}, "val": {"val": 1.0}, "test": {"test": 1.0}},
}
DIGITS_CUT: Mapping[str, Mapping[str, float]] = {"": {"train": 0.6, "val": 0.2, "test": 0.2}}


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split."""

    images: torch.Tensor
    """(N, C, H, W), uint8."""
    labels: torch.Tensor
    """(N,), int64."""
    indices: tuple[int, ...]
    """Position of each image in the source's own order."""

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, rows: Sequence[int]) -> Split:
        """Return the split's images of these rows."""
        return Split(
            images=self.images[list(rows)], labels=self.labels[list(rows)], indices=tuple(self.indices[i] for i in rows)
        )

    def to(self, device: torch.device | str) -> Split:
        """Return the split with its tensors on a device; the split itself if they are there."""
        if self.images.device == torch.device(device):
            return self
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchData:
    """All that a search may see: there is no test split in here."""

    train: Split
    val: Split
    classes: tuple[str, ...]
    """Name of each class, in the order of the labels."""
    mean: tuple[float, ...]
    """Mean of each channel over the training images, in units of the full range (0 to 1)."""
    std: tuple[float, ...]
    """Standard deviation of each channel over the training images, in the same units."""
    channels: int
    resolution: int
    """Height and width of an image, in pixels."""

    def to(self, device: torch.device | str) -> SearchData:
        """Return the data with its tensors on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """A data set, cut once into train, val and test."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    """Name of each class, in the order of the labels."""
    source: str
    """The data as they were asked for."""
    origins: Mapping[str, str]
    """For each split, where it comes from: ``as delivered``, or ``15 % of train/``."""
    names: tuple[str, ...]
    """File of each image in the source's own order, below the source's folder; empty where images are no files."""
    seed: int
    """Seed of the cut (and of the limit)."""
    mean: tuple[float, ...]
    """Mean of each channel over the training images, in units of the full range (0 to 1)."""
    std: tuple[float, ...]
    """Standard deviation of each channel over the training images, in the same units."""
    channels: int
    resolution: int
    """Height and width of an image, in pixels."""
    hash: str
    """Sixteen hexadecimal digits over the decoded images, labels and indices of the three splits."""

    def search(self) -> SearchData:
        """Return what a search may see: everything but the test split."""
        return SearchData(
            train=self.train,
            val=self.val,
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            channels=self.channels,
            resolution=self.resolution,
        )

    def record(self) -> dict[str, Any]:
        """Return what split.json holds: how the data were cut, and which image (index, file) is in which split."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        fields = ("source", "seed", "hash", "classes", "channels", "resolution", "mean", "std")
        record: dict[str, Any] = {name: getattr(self, name) for name in fields}
        record["sizes"] = {name: len(split) for name, split in splits.items()}
        record["origins"] = dict(self.origins)
        record["indices"] = {name: list(split.indices) for name, split in splits.items()}
        if self.names:
            record["files"] = {name: [self.names[i] for i in split.indices] for name, split in splits.items()}
        return record


def load(
    source: str = "digits",
    *,
    resolution: int | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    download: bool = False,
    limit: int | None = None,
) -> Splits:
    """Load a data set: decode it once, cut it once.

    Args:
        source: ``digits``, an image folder (see :func:`nas.image_folder.list_folder`), or a timm dataset name
            (see :func:`nas.datasets.list_timm`).
        resolution: Height and width of the decoded images, in pixels; None for 32 (digits), or what the images have.
        seed: Seed of the cut and of the limit.
        data_dir: Folder that holds, or receives, a timm dataset.
        download: Whether timm may download it.
        limit: Most images to use, over all splits; None for all. A random subset that keeps the shares of the classes.

    Raises:
        DataError: If the data cannot be used; the text says what is wrong, what was given and what would be right.
    """
    for name, value, least in (("resolution", resolution, SMALLEST_RESOLUTION), ("limit", limit, 1), ("seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise DataError(f"{name} must be an integer of at least {least}, but got {value!r}")
    listing = _list(source, resolution, data_dir, download)
    shares = DIGITS_CUT if source == "digits" else CUTS[frozenset(listing.parts)]
    chosen = cut(listing, shares, seed=seed, limit=limit)
    splits = {name: _split(listing, indices) for name, indices in chosen.items()}
    mean, std = _statistics(splits["train"].images)
    return Splits(
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        classes=listing.classes,
        source=source,
        origins=_origins(shares),
        names=listing.names,
        seed=seed,
        mean=mean,
        std=std,
        channels=listing.channels,
        resolution=listing.resolution,
        hash=_hash(splits),
    )


def _list(source: str, resolution: int | None, data_dir: str | None, download: bool) -> Listing:
    try:
        folder = Path(source).expanduser()
        exists = folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # no permission, no such user, a null character
        raise DataError(f"cannot look for the data {source!r}: {error}") from error
    prefix, slash, _ = source.partition("/")
    by_timm = bool(slash) and prefix.lower() in TIMM_PREFIXES and not exists
    if by_timm:
        return list_timm(source, resolution, data_dir, download)
    if data_dir is not None or download:
        given = f"data_dir={data_dir!r}" if data_dir is not None else "download"
        raise DataError(f"{given} is for timm dataset names such as torch/cifar10, but the data are {source!r}")
    if source == "digits":
        return list_digits(resolution)
    if source and folder.is_dir():
        return list_folder(folder, resolution)
    if folder.is_file():
        raise DataError(f"{source} is a file; the data must be a folder of images (unpack an archive first)")
    forms = ", ".join(f"{prefix}/..." for prefix in TIMM_PREFIXES)
    raise DataError(
        f"there is no data {source!r}; give digits, an image folder, or a timm name ({forms}){_nearest(source)}"
    )


def _nearest(source: str) -> str:
    """Return "; nearest: ..." for a source that is probably misspelt, or ""."""
    known = ["digits", *(f"torch/{name}" for name in TORCH_NAMES)]
    path = Path(source).expanduser()
    parent = next((folder for folder in path.parents if folder.is_dir()), Path())
    missing = path.parts[len(parent.parts)] if len(path.parts) > len(parent.parts) else ""
    siblings = [entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    close = difflib.get_close_matches(source, known, n=1)
    close += [str(parent / name) for name in difflib.get_close_matches(missing, siblings, n=1)]
    return f"; nearest: {close[0]}" if close else ""


def cut(
    listing: Listing, shares: Mapping[str, Mapping[str, float]], *, seed: int, limit: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Choose the images of each split, stratified by class: split -> ascending indices into the listing.

    Args:
        listing: The images to choose from.
        shares: Delivered part -> split -> share of each class that goes there.
        seed: Seed of the choice.
        limit: Most images to choose, or None.

    Raises:
        DataError: If a class has too few images for one in each split, or the limit allows fewer.
    """
    if len(listing.classes) < 2:
        raise DataError(f"the data have one class only, {listing.classes[0]!r}; at least 2 classes are needed")
    members: dict[tuple[str, int], list[int]] = {
        (part, label): [] for part in shares for label in range(len(listing.classes))
    }
    for index, key in enumerate(zip(listing.parts, listing.labels, strict=True)):
        members[key].append(index)
    least = [len(shares[part]) for part, _ in members]
    for ((part, label), indices), count in zip(members.items(), least, strict=True):
        if len(indices) < count:
            where = f" in {part}/" if part else ""
            into = f"one for each of {', '.join(shares[part])}"
            raise DataError(
                f"class {listing.classes[label]!r} has {len(indices)} images{where}; it needs {count}, {into}"
            )
    sizes = [len(indices) for indices in members.values()]
    if limit is not None and limit < sum(sizes):
        if limit < sum(least):
            raise DataError(
                f"limit must be at least {sum(least)} (one image of each class in each split), but got {limit}"
            )
        sizes = apportion(limit, sizes, least)
    rng = random.Random(seed)  # the same on every platform and with every torch
    chosen: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for ((part, _), indices), size in zip(members.items(), sizes, strict=True):
        drawn = iter(rng.sample(indices, size))
        for name, count in zip(
            shares[part], apportion(size, list(shares[part].values()), [1] * len(shares[part])), strict=True
        ):
            chosen[name] += [next(drawn) for _ in range(count)]
    return {name: tuple(sorted(indices)) for name, indices in chosen.items()}


def apportion(total: int, weights: Sequence[float], least: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to weights (largest remainders), giving each at least its least.

    The sum of ``least`` must not exceed ``total``.
    """
    ideal = [total * weight / sum(weights) for weight in weights]
    counts = [max(int(share + 1e-9), low) for share, low in zip(ideal, least, strict=True)]
    places = range(len(counts))
    while sum(counts) < total:
        counts[max(places, key=lambda i: ideal[i] - counts[i])] += 1
    while sum(counts) > total:
        counts[min((i for i in places if counts[i] > least[i]), key=lambda i: ideal[i] - counts[i])] -= 1
    return counts


def _origins(shares: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    return {
        name: "as delivered" if share == 1 else f"{share:.0%} of {part + '/' if part else 'all images'}"
        for part, shares_of in shares.items()
        for name, share in shares_of.items()
    }


def _split(listing: Listing, indices: tuple[int, ...]) -> Split:
    return Split(
        images=torch.from_numpy(decode(listing, indices)),
        labels=torch.tensor([listing.labels[i] for i in indices], dtype=torch.int64),
        indices=indices,
    )


def _statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, 0 to 1; exact, from the counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].flatten(), minlength=256).double() / images[:, channel].numel()
        mean = float((share * values).sum())
        means.append(mean)
        # Constant images have no deviation to divide by; one grey level is the least that can be told apart.
        deviations.append(max(float((share * (values - mean) ** 2).sum()) ** 0.5, 1 / 255))
    return tuple(means), tuple(deviations)


def _hash(splits: Mapping[str, Split]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {tuple(split.images.shape)} {split.indices} {split.labels.tolist()}".encode())
        digest.update(split.images.numpy().data)
    return digest.hexdigest()[:16]
