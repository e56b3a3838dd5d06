"""The images of a study as timm's loaders want them: one PIL image at a time, augmented by timm's transforms.

What is not augmented reaches the network exactly as in the search: the same bytes, normalised alike.
Shapes: N images, C channels, H = W = resolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from timm.data import Mixup, create_loader
from torch import Tensor
from torch.utils.data import Dataset

from nas.data import Split, Splits
from nas.train.parallel import Crew
from nas.train.settings import Recipe


class Pictures(Dataset[tuple[Any, int]]):
    """The images of some splits as PIL images, with their labels; timm's loader sets the transform."""

    def __init__(self, *splits: Split) -> None:
        self.images = torch.cat([split.images for split in splits])  # (N, C, H, W), uint8
        self.labels = torch.cat([split.labels for split in splits])  # (N,)
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = self.images[index]
        image = Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])


class Feed:
    """The batches of one split, on the device: augmented for training, as they are for testing."""

    def __init__(self, loader: Any, count: int) -> None:
        self._loader = loader
        self.count = count
        """Number of images."""

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, order: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the images (B, C, H, W), float32, and labels (B,) of an epoch; the loader's processes start here.

        Args:
            order: Seed of the order where several processes share the images; alone it is torch's own random state.
        """
        if hasattr(self._loader.sampler, "set_epoch"):
            self._loader.sampler.set_epoch(order)
        batches = iter(self._loader)
        first = next(batches)  # what is forked is forked now, before the device is locked
        return itertools.chain([first], batches)


def training_feed(data: Splits, recipe: Recipe, crew: Crew) -> Feed:
    """Return the training images, augmented as the recipe says.

    Raises:
        ValueError: If timm does not know the augmentation, or a step has no image for each process.
    """
    pictures = Pictures(data.train, data.val) if recipe.with_val else Pictures(data.train)
    if recipe.aa is not None and data.channels == 1:
        raise ValueError("timm's automatic augmentation needs images of 3 channels, but these have 1; leave out aa")
    if recipe.batch % crew.size:
        raise ValueError(f"batch must be a multiple of the {crew.size} processes, but got {recipe.batch}")
    batch = min(recipe.batch // crew.size, len(pictures) // crew.size)
    batch -= batch % 2 if recipe.mixes else 0
    if batch < 2:
        raise ValueError(
            f"batch normalisation needs 2 images in each process, but {len(pictures)} images in batches of "
            f"{recipe.batch} give {crew.size} processes {batch}"
        )
    augmentation = {
        "re_prob": recipe.reprob,
        "re_mode": "pixel",
        "scale": (recipe.crop, 1.0),
        "ratio": (3 / 4, 4 / 3) if recipe.crop < 1 else (1.0, 1.0),
        "hflip": recipe.hflip,
        "color_jitter": recipe.color_jitter or None,
        "auto_augment": recipe.aa,
    }
    try:
        loader = _loader(pictures, data, batch, crew, is_training=True, num_workers=recipe.workers, **augmentation)
    except (AssertionError, KeyError, ValueError) as error:
        if recipe.aa is None:
            raise
        raise ValueError(f"aa must be timm's words such as rand-m9-mstd0.5-inc1, but got {recipe.aa!r}") from error
    return Feed(loader, len(pictures))


def plain_feed(split: Split, data: Splits, recipe: Recipe, crew: Crew) -> Feed:
    """Return the images of a split as they are, in their order."""
    # Without a graph to keep, four batches need no more memory than one in training.
    loader = _loader(Pictures(split), data, 4 * max(1, recipe.batch // crew.size), crew, num_workers=0)
    return Feed(loader, len(split))


def _loader(pictures: Pictures, data: Splits, batch: int, crew: Crew, **arguments: Any) -> Any:
    return create_loader(
        pictures,
        input_size=(data.channels, data.resolution, data.resolution),
        batch_size=batch,
        mean=data.mean,
        std=data.std,
        interpolation="bilinear",
        crop_pct=1.0,
        distributed=not crew.is_alone,
        device=crew.device,
        pin_memory=crew.device.type == "cuda",
        persistent_workers=False,  # those that stay are not seeded again, and an epoch would depend on those before it
        **arguments,
    )


def mixer(recipe: Recipe, classes: int) -> Mixup | None:
    """Return what mixes the images and labels of a batch, or None."""
    if not recipe.mixes:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=classes
    )
