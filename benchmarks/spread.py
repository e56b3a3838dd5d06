"""Does the proxy tell architectures apart? Spread between architectures against the spread between seeds.

    python benchmarks/spread.py                  # the embedded default: digits, the default space
    python benchmarks/spread.py --epochs 5 --architectures 8 --seeds 2

Trains the controls and random architectures of a space, each with several seeds, and prints the standard deviation of
their mean accuracies, the standard deviation between seeds of one architecture, and the ratio of the two. Below 1 a
single trial says little about its architecture. The first spread still contains the share of the second that averaging
over the seeds leaves; the corrected figure is without it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from nas import data, proxy, space
from nas.architecture import Architecture
from nas.latency import device_words
from nas.settings import Settings, declared_space, made_for_data, make_protocol
from nas.trainer import Trainer


def draw(resolved: space.ResolvedSpace, count: int) -> list[Architecture]:
    """Return the controls and random architectures."""
    generator = random.Random(1)
    found = {control.architecture.id: control.architecture for control in resolved.controls()}
    while len(found) < count:
        architecture = resolved.sample(lambda _, options: generator.choice(list(options)))
        found[architecture.id] = architecture
    return list(found.values())[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--init", choices=("identity", "paper"))
    parser.add_argument("--data", default="digits")
    parser.add_argument("--limit", type=int, help="largest number of images to use")
    parser.add_argument("--resolution", type=int, help="height and width of the images in pixels")
    parser.add_argument("--backbone", help="timm name (default: that of the default space)")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    names = ("data", "epochs", "init", "limit", "resolution", "backbone", "optimizer")
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    device = proxy.select_device(arguments.device)
    splits = data.load(settings.data, limit=settings.limit, resolution=settings.resolution)
    declared = declared_space(settings)
    made_for = made_for_data(settings, declared.backbones[0], splits)
    protocol = make_protocol(settings, splits, device, model_kwargs=made_for["model_kwargs"])
    trainer = Trainer(splits.search(), protocol, device)
    resolved = declared.resolve({backbone: trainer.plan(backbone).stages for backbone in declared.backbones})

    results: list[list[float]] = []
    started = time.perf_counter()
    for architecture in draw(resolved, arguments.architectures):
        results.append([])
        for seed in range(arguments.seeds):
            seeded = trainer.under(seed=seed)
            results[-1].append(seeded.train(seeded.build(architecture)).accuracies[-1])
        shown = " ".join(f"{accuracy:.3f}" for accuracy in results[-1])
        print(f"{statistics.mean(results[-1]):.3f}  {shown}  {architecture.describe()}", flush=True)

    within = statistics.mean(statistics.variance(row) for row in results) ** 0.5
    between = statistics.stdev(statistics.mean(row) for row in results)
    corrected = max(0.0, between**2 - within**2 / arguments.seeds) ** 0.5
    seconds = (time.perf_counter() - started) / (arguments.seeds * len(results))
    print(
        f"\n{settings.data}, {declared.backbones[0]}, init {declared.init}, {protocol.epochs} epochs, "
        f"{len(splits.val)} validation images, {device_words(device)}, {seconds:.1f} s a training\n"
        f"between {len(results)} architectures: {between:.4f} (corrected {corrected:.4f}); "
        f"between {arguments.seeds} seeds: {within:.4f}; "
        f"ratio {between / within:.2f} (corrected {corrected / within:.2f})"
    )


if __name__ == "__main__":
    main()
