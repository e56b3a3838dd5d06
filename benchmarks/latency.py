"""Do two calls of the clock agree on what a block costs, and does it say so when they cannot?

    python benchmarks/latency.py                 # ten architectures, two calls each; let nothing else run
    python benchmarks/latency.py --load 1        # the second call beside one busy process
    python benchmarks/latency.py --clock cpu     # CPU time, where the machine is shared
    python benchmarks/latency.py --device cuda --backbone resnet50 --resolution 64

Each call is a process of its own: models are built anew, in an order of its own, in memory of its own. Printed are the
two ratios to the bare backbone with their intervals; then, over all architectures, the median difference between the
calls, the Spearman correlation between them, how often the interval of the difference holds zero, and how many results
were unstable. The difference of two ratios a and b has the interval (a - b) +- sqrt(half(a)^2 + half(b)^2).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import statistics
import subprocess
import sys
import time

import torch
from scipy.stats import spearmanr

from nas import placement, proxy
from nas.architecture import Architecture, Placement
from nas.evaluation import Latency
from nas.latency import device_words, measure
from nas.protocol import PRECISIONS

PLACED = (
    (("se", 4),),
    (("eca", 2),),
    (("gc", 3),),
    (("cbam", 1),),
    (("coord", 3),),
    (("se", 2), ("se", 3)),
    (("sge", 1),),
    (("eca", 1), ("eca", 2), ("eca", 3), ("eca", 4)),
    (("cbam", 2), ("se", 4)),
    (("bam", 3),),
)
"""Ten architectures: blocks by stage."""
GIVEN = ("backbone", "resolution", "batch", "runtime", "precision", "device", "threads", "seconds", "clock")
"""What each of the processes is told."""
CLOCKS = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}
BUSY = "while True: sum(number * number for number in range(100_000))"


def calls(arguments: argparse.Namespace, device: torch.device, seed: int) -> list[Latency]:
    """Time all architectures once, in an order of its own; return them in the order of :data:`PLACED`."""
    kwargs = placement.fit_kwargs(arguments.backbone, num_classes=10, in_channels=3, resolution=arguments.resolution)
    batch = torch.randn(arguments.batch, 3, arguments.resolution, arguments.resolution)
    batch = batch.to(device, memory_format=torch.channels_last)
    order = list(range(len(PLACED)))
    random.Random(seed).shuffle(order)
    found: dict[int, Latency] = {}
    for number in order:
        placements = tuple(Placement(stage=stage, block=block) for block, stage in PLACED[number])
        models = [
            placement.build(
                Architecture(backbone=arguments.backbone, placements=placed), num_classes=10, model_kwargs=kwargs
            )
            for placed in (placements, ())
        ]
        candidate, bare = (model.to(device=device, memory_format=torch.channels_last) for model in models)
        found[number] = measure(
            candidate,
            bare,
            batch=batch,
            device_words=device_words(device),
            runtime=arguments.runtime,
            precision=arguments.precision,
            max_seconds=arguments.seconds,
            clock=CLOCKS[arguments.clock],
        )
    return [found[number] for number in range(len(PLACED))]


def call(arguments: argparse.Namespace, seed: int) -> list[Latency]:
    """Time all architectures in a process of its own."""
    given = [part for name in GIVEN for part in (f"--{name}", str(getattr(arguments, name)))]
    command = [sys.executable, __file__, *given, "--call", str(seed)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Latency(**figures) for figures in json.loads(printed)]


def half(latency: Latency) -> float:
    return (latency.ratio_high - latency.ratio_low) / 2


def text(latency: Latency) -> str:
    flag = " unstable" if latency.unstable else ""
    return f"{latency.ratio:.4f} +- {half(latency):.4f}{flag}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--resolution", type=int, default=64, help="pixels (default: 64)")
    parser.add_argument("--batch", type=int, default=1, help="images in a pass (default: 1)")
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: 1)")
    parser.add_argument("--seconds", type=float, default=2.0, help="longest sampling of one ratio (default: 2)")
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: CPU time of the process, one thread"
    )
    parser.add_argument("--load", type=int, default=0, help="busy processes beside the second call (default: 0)")
    parser.add_argument("--call", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = proxy.select_device(arguments.device)
    if arguments.call is not None:
        print(json.dumps([dataclasses.asdict(latency) for latency in calls(arguments, device, arguments.call)]))
        return
    shown = f"{arguments.backbone} at {arguments.resolution} px, batch {arguments.batch}, {arguments.runtime}"
    print(f"{shown}, {arguments.precision}, {device_words(device)}")

    started = time.perf_counter()
    first = call(arguments, 0)
    load = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(arguments.load)]
    try:
        second = call(arguments, 1)
    finally:
        for process in load:
            process.kill()
            process.wait()
    for placed, a, b in zip(PLACED, first, second, strict=True):
        words = "; ".join(f"{stage}: {block}" for block, stage in placed)
        print(f"{text(a):<28}{text(b):<28}{100 * (b.ratio - a.ratio):+.2f} points  {words}")
    both = [(a, b) for a, b in zip(first, second, strict=True) if not (a.unstable or b.unstable)]
    unstable = [sum(latency.unstable for latency in each) for each in (first, second)]
    print(f"\nunstable: {unstable[0]} of {len(first)} in the first call, {unstable[1]} of {len(second)} in the second")
    if len(both) < 3:
        print("too few stable pairs to compare")
        return
    differences = [abs(a.ratio - b.ratio) for a, b in both]
    covered = sum(abs(a.ratio - b.ratio) <= math.hypot(half(a), half(b)) for a, b in both)
    correlation = spearmanr([a.ratio for a, _ in both], [b.ratio for _, b in both]).statistic
    seconds = (time.perf_counter() - started) / 2 / len(PLACED)
    print(
        f"of {len(both)} stable pairs: median difference {statistics.median(differences):.2%}, largest "
        f"{max(differences):.2%}; Spearman {correlation:.3f}; the interval of the difference holds zero in "
        f"{covered} of {len(both)}; {seconds:.1f} s a measurement"
    )


if __name__ == "__main__":
    main()
