"""What does putting a block in cost, beyond the block itself?

    python benchmarks/insertion.py

For each backbone three ratios of CPU time are printed, each with its 95 % interval:

* nothing / bare: the backbone after an architecture without placements was inserted, over the backbone;
* placed / bare: the backbone with a module that does nothing (nn.Identity) at every point of a position, over the
  backbone: all that the mechanism costs, the cutting and joining of class tokens included;
* placed / by hand: the same modules in a backbone that was rewritten to run them, in an nn.Sequential behind each
  stage, where stages return maps; below 1, ours is quicker.

With one thread the clock is the process's CPU time, which a busy machine disturbs least. Single passes of one image.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from torch import nn

from nas import placement
from nas.architecture import Architecture, Placement
from nas.evaluation import Latency
from nas.latency import device_words, measure

BACKBONES = (
    ("test_resnet", 32),
    ("resnet18", 64),
    ("mobilenetv3_small_050", 64),
    ("test_mambaout", 64),
    ("test_vit", 32),
)


def placed(backbone: str, bare: nn.Module, position: str) -> tuple[nn.Module, int] | None:
    """Return a copy with modules that do nothing at a position, and their number."""
    model = copy.deepcopy(bare)
    stages = [stage for stage in placement.stages(model) if stage.widths(position)]
    if not stages:
        return None
    placements = tuple(Placement(stage=stage.index, block="se", position=position) for stage in stages)
    changed = placement.insert(model, Architecture(backbone=backbone, placements=placements))
    for change in changed:
        parent, _, name = change.path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity())
    return model, len(changed)


def by_hand(bare: nn.Module) -> nn.Module | None:
    """Return a copy with an nn.Sequential for each stage, or None where stages return no plain maps."""
    model = copy.deepcopy(bare)
    for stage in placement.stages(bare):
        if stage.layout != "NCHW":
            return None
        parent, _, name = stage.name.rpartition(".")
        host = model.get_submodule(parent)
        setattr(host, name, nn.Sequential(host.get_submodule(name), nn.Identity()))
    return model


def text(latency: Latency) -> str:
    return f"{latency.ratio:.3f} ({latency.ratio_low:.3f} to {latency.ratio_high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="longest sampling of one ratio (default: 10)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    clock = time.process_time_ns if device.type == "cpu" else time.perf_counter_ns

    def compare(candidate: nn.Module, reference: nn.Module) -> str:
        words = device_words(device)
        found = measure(
            candidate,
            reference,
            batch=batch,
            device_words=words,
            target=0.002,
            max_seconds=arguments.seconds,
            clock=clock,
        )
        return text(found)

    print(f"{device_words(device)}; torch {torch.__version__}\n")
    print("| backbone | blocks | nothing / bare | placed / bare | placed / by hand |\n|---|---|---|---|---|")
    for backbone, size in BACKBONES:
        kwargs = placement.fit_kwargs(backbone, num_classes=10, in_channels=3, resolution=size)
        bare = placement.create(backbone, num_classes=10, model_kwargs=kwargs).eval().to(device)
        batch = torch.randn(1, 3, size, size, device=device)
        nothing = copy.deepcopy(bare)
        placement.insert(nothing, Architecture(backbone=backbone))
        for position in ("after_stage", "in_residual"):
            found = placed(backbone, bare, position)
            if found is None:
                continue
            candidate, count = found
            hand = by_hand(bare) if position == "after_stage" else None
            cells = [
                f"{backbone}, {size} px",
                f"{count} {position}",
                compare(nothing, bare) if position == "after_stage" else "",
                compare(candidate, bare),
                compare(candidate, hand) if hand is not None else "",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
