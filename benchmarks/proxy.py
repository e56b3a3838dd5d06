"""How fast is the proxy training, beside the least that a step can cost and beside the loop that one would write?

    python benchmarks/proxy.py                                   # resnet18, 32 px, batch 128, one CPU thread
    python benchmarks/proxy.py --device cuda --images 20000 --workers 8 --backbone resnet50 --resolution 128

Three things take turns, epoch by epoch, in one process:

* ours: nas.proxy.train, with augmentation, optimiser and everything; the figure is for the training steps alone, and
  what re-estimating the batch statistics and validating take is shown as a share of the epoch;
* the limit: forward and backward of the same model, in the same precision and memory format, on one batch that lies
  normalised on the device, over and over; no optimiser, no data;
* the plain loop: the same model, optimiser and schedule in float32, fed by timm's create_loader from a folder of JPEG
  files, asking for the loss at every step.

An epoch of ours is compared with the mean of the others before and after it, so that a steady drift cancels. Printed
are medians over the epochs after the first, with their 95 % intervals (order statistics). On the CPU the clock is the
CPU time of the process, which other programs disturb least; --clock wall is for quiet machines and for GPUs.

Then both train afresh, on images that can be learnt, and the time to the accuracy that both reach is compared.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_dataset, create_loader
from torch import nn

from nas import batches, optimizer, proxy
from nas.architecture import Architecture
from nas.data import SearchData, Split
from nas.latency import device_words, median_interval
from nas.protocol import Protocol
from nas.trainer import Trainer

CLASSES = 10
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def images(count: int, resolution: int, seed: int, folder: Path) -> Split:
    """Write images that can be learnt as JPEG files in class folders, and return what is decoded from them.

    Each class is a smooth pattern, shifted, under another smooth pattern that means nothing and a little noise.
    """
    shapes = torch.Generator().manual_seed(0)
    patterns = _smooth(torch.randn(CLASSES, 3, 5, 5, generator=shapes), resolution)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    reach = resolution // 8
    shifts = torch.randint(-reach, reach + 1, (count, 2), generator=generator).tolist()
    meant = torch.stack([patterns[label].roll(shift, (1, 2)) for label, shift in zip(labels, shifts, strict=True)])
    other = _smooth(torch.randn(count, 3, 5, 5, generator=generator), resolution)
    noise = 0.1 * torch.randn(meant.shape, generator=generator)
    pixels = ((meant + 0.7 * other + noise) * 32 + 128).clamp(0, 255).to(torch.uint8)
    decoded = []
    for index, (each, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        path = folder / str(label) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each.permute(1, 2, 0).numpy()).save(path, quality=95)
        decoded.append(torch.from_numpy(numpy.array(Image.open(path))).permute(2, 0, 1))
    return Split(images=torch.stack(decoded).contiguous(), labels=labels, indices=tuple(range(count)))


def _smooth(coarse: torch.Tensor, resolution: int) -> torch.Tensor:
    return F.interpolate(coarse, size=resolution, mode="bicubic")


class Plain:
    """The loop that one would write: timm's loader over JPEG files, float32."""

    def __init__(self, protocol: Protocol, model: nn.Module, folder: Path, workers: int) -> None:
        device = next(model.parameters()).device
        self._model, self._protocol, self._device = model, protocol, device
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            lr=protocol.learning_rate,
            momentum=optimizer.MOMENTUM,
            nesterov=True,
            weight_decay=protocol.weight_decay,
        )
        self._loss = nn.CrossEntropyLoss(label_smoothing=protocol.label_smoothing)
        common: dict[str, Any] = {
            "input_size": (3, protocol.resolution, protocol.resolution),
            "mean": MEAN,
            "std": STD,
            "num_workers": workers,
            "use_prefetcher": device.type == "cuda",
            "device": device,
        }
        self._train, self._val = (
            create_loader(
                create_dataset("", root=str(folder / name)),
                batch_size=size,
                is_training=trains,
                **({"scale": (0.6, 1.0), "color_jitter": None} if trains else {"crop_pct": 1.0}),
                **common,
            )
            for name, size, trains in (("train", protocol.batch_size, True), ("val", 4 * protocol.batch_size, False))
        )
        self._step, self._steps = 0, len(self._train) * protocol.epochs

    def epoch(self) -> int:
        """Train for an epoch and return the number of images seen."""
        self._model.train()
        seen = 0
        total = 0.0
        for given, wanted in self._train:
            x, y = given.to(self._device), wanted.to(self._device)
            for group in self._optimizer.param_groups:
                group["lr"] = self._protocol.learning_rate * optimizer.one_cycle(self._step % self._steps, self._steps)
            self._optimizer.zero_grad()
            loss = self._loss(self._model(x), y)
            loss.backward()
            self._optimizer.step()
            total += loss.item()
            seen += len(y)
            self._step += 1
        return seen

    def accuracy(self) -> float:
        """Validate."""
        self._model.eval()
        correct = seen = 0
        with torch.no_grad():
            for given, wanted in self._val:
                x, y = given.to(self._device), wanted.to(self._device)
                correct += int((self._model(x).argmax(1) == y).sum())
                seen += len(y)
        return correct / seen


class Clock:
    """Seconds of wall time, or of the CPU time of this process; it waits for the device first."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._read = time.process_time if name == "cpu" else time.perf_counter
        self._device = device

    def __call__(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._read()


def timed(function: Callable[..., Any], seconds: list[float], clock: Clock) -> Callable[..., Any]:
    """Return a function that also notes how long it took."""

    def run(*arguments: Any) -> Any:
        began = clock()
        result = function(*arguments)
        seconds.append(clock() - began)
        return result

    return run


def limit(model: nn.Module, data: SearchData, protocol: Protocol, steps: int) -> Callable[[], None]:
    """Return what runs forward and backward so many times on one batch."""
    device = next(model.parameters()).device
    norm = batches.normalisation(data, device)
    x = batches.inputs(data.train.images[: protocol.batch_size].to(device), norm, protocol)
    y = data.train.labels[: protocol.batch_size].to(device)
    model.train()

    def run() -> None:
        for _ in range(steps):
            model.zero_grad(set_to_none=True)
            with proxy.autocast(protocol, device):
                loss = F.cross_entropy(model(x), y, label_smoothing=protocol.label_smoothing)
            loss.backward()

    return run


def interval(values: Sequence[float], form: str) -> str:
    """Return the median and its interval."""
    low, high = median_interval(values)
    return f"{statistics.median(values):{form}} [{low:{form}}, {high:{form}}]"


def between(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and the one before it."""
    return [(first + second) / 2 for first, second in itertools.pairwise(values)]


def throughput(trainer: Trainer, architecture: Architecture, plain: Plain, clock: Clock) -> None:
    """Compare the three, epoch by epoch, and print what was found."""
    protocol = trainer.protocol
    steps = len(trainer.data.train) // protocol.batch_size
    bare = limit(trainer.build(architecture), trainer.data, protocol, steps)
    limits: list[float] = []
    plains: list[float] = []

    def others(*_: object) -> None:
        began = clock()
        bare()
        middle = clock()
        seen = plain.epoch()
        limits.append((middle - began) / (steps * protocol.batch_size))
        plains.append((clock() - middle) / seen)

    epochs: list[float] = []
    calibration: list[float] = []
    validation: list[float] = []

    @contextmanager
    def turn() -> Iterator[None]:
        began = clock()
        yield
        epochs.append(clock() - began)

    with (
        mock.patch.object(proxy, "calibrate", timed(proxy.calibrate, calibration, clock)),
        mock.patch.object(proxy, "accuracy", timed(proxy.accuracy, validation, clock)),
    ):
        trainer.train(trainer.build(architecture), turn=turn, on_epoch=others)
    rest = [sum(parts) for parts in zip(calibration, validation, strict=True)]
    ours = [(e - r) / (steps * protocol.batch_size) for e, r in zip(epochs, rest, strict=True)][1:]
    print(f"\nn = {len(ours)} epochs of {steps} steps; median [95 % interval]")
    for name, seconds in (("ours", ours), ("limit", limits), ("plain loop", plains)):
        print(f"{name:18} {interval([1 / each for each in seconds], '.0f')} images/s")
    for name, seconds in (("limit", limits), ("plain loop", plains)):
        ratios = [theirs / mine for mine, theirs in zip(ours, between(seconds), strict=True)]
        print(f"{'ours / ' + name:18} {interval(ratios, '.3f')}")
    for name, seconds in (("calibration", calibration), ("validation", validation)):
        shares = [part / epoch for part, epoch in zip(seconds[1:], epochs[1:], strict=True)]
        print(f"{name:18} {interval(shares, '.1%')} of an epoch")


def time_to_accuracy(trainer: Trainer, architecture: Architecture, folder: Path, workers: int, clock: Clock) -> float:
    """Train both from one seed, print their curves, and return how many times sooner ours has what both reach."""
    protocol = trainer.protocol
    curves: dict[str, list[tuple[float, float]]] = {"ours": [], "plain loop": []}
    began = clock()
    trainer.train(
        trainer.build(architecture), on_epoch=lambda _, found: curves["ours"].append((clock() - began, found))
    )
    model = trainer.under(channels_last=False).build(architecture)
    plain = Plain(protocol, model, folder, workers)
    restarted = clock()
    for _ in range(protocol.epochs):
        plain.epoch()
        curves["plain loop"].append((clock() - restarted, plain.accuracy()))
    target = min(max(found for _, found in curve) for curve in curves.values())
    needed = {name: next(s for s, found in curve if found >= target) for name, curve in curves.items()}
    for name, curve in curves.items():
        shown = " ".join(f"{found:.3f}" for _, found in curve)
        print(f"seed {protocol.seed}, {name}: {shown}; {target:.3f} after {needed[name]:.2f} s")
    return needed["plain loop"] / needed["ours"]


def data_of(arguments: argparse.Namespace, folder: Path) -> SearchData:
    """Return images, four to learn from for each to judge by, which also lie in a folder."""
    return SearchData(
        train=images(arguments.images, arguments.resolution, 1, folder / "train"),
        val=images(arguments.images // 4, arguments.resolution, 2, folder / "val"),
        classes=tuple(str(label) for label in range(CLASSES)),
        mean=MEAN,
        std=STD,
        channels=3,
        resolution=arguments.resolution,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--resolution", type=int, default=32, help="pixels (default: 32)")
    parser.add_argument("--batch-size", type=int, default=128, help="images in one step (default: 128)")
    parser.add_argument("--images", type=int, default=1024, help="training images (default: 1024)")
    parser.add_argument("--rounds", type=int, default=10, help="epochs that are compared (default: 10)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each training to an accuracy (default: 5)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings to an accuracy; 0 for none (default: 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default=None, help="float32 or bfloat16 (default: bfloat16 on a GPU)")
    parser.add_argument("--compile", action="store_true", help="compile ours; the limit stays as it is")
    parser.add_argument("--stream", action="store_true", help="leave the images on the host (of a GPU)")
    parser.add_argument("--workers", type=int, default=0, help="processes of the plain loop's loader (default: 0)")
    parser.add_argument("--clock", choices=("cpu", "wall"), help="default: cpu on the CPU, else wall")
    arguments = parser.parse_args()
    device = proxy.select_device(arguments.device)
    if arguments.rounds < 6:
        parser.error(f"a 95 % interval of a median takes at least 6 rounds, but got {arguments.rounds}")
    clock_name = arguments.clock or ("cpu" if device.type == "cpu" and not arguments.workers else "wall")
    if clock_name == "cpu" and (arguments.workers or device.type != "cpu"):
        parser.error("the CPU time of this process says nothing of workers and of other devices: give --clock wall")
    if arguments.images < arguments.batch_size:
        parser.error(f"there must be an image for each place of a batch: --images {arguments.batch_size} or more")
    if arguments.stream:
        batches.RESIDENT_SHARE = 0.0
    torch.set_num_threads(1 if clock_name == "cpu" else torch.get_num_threads())
    clock = Clock(clock_name, device)
    protocol = Protocol(
        data="patterns",
        data_hash="",
        split_seed=0,
        num_classes=CLASSES,
        channels=3,
        resolution=arguments.resolution,
        epochs=arguments.rounds + 1,
        batch_size=arguments.batch_size,
        learning_rate=0.05,
        augmentation="shift+flip",
        precision=arguments.precision or ("bfloat16" if device.type == "cuda" else "float32"),
        channels_last=True,
        compile=arguments.compile,
    )
    architecture = Architecture(backbone=arguments.backbone)
    print(
        f"{arguments.backbone}, {arguments.resolution} px, batch {arguments.batch_size}, {protocol.precision}, "
        f"{arguments.images} images, {arguments.workers} workers; {clock_name} time; {device_words(device)}; "
        f"torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = Trainer(data_of(arguments, folder), protocol, device)
        model = trainer.under(channels_last=False).build(architecture)
        plain = Plain(protocol, model, folder, arguments.workers)
        throughput(trainer, architecture, plain, clock)
        ratios = []
        for seed in range(arguments.seeds):
            seeded = trainer.under(seed=seed, epochs=arguments.epochs)
            ratios.append(time_to_accuracy(seeded, architecture, folder, arguments.workers, clock))
    if ratios:
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{'time to accuracy':18} {shown} times that of ours (n = {len(ratios)} seeds)")


if __name__ == "__main__":
    main()
