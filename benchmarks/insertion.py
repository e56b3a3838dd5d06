"""What does putting a block in cost, beyond the block itself?

    python benchmarks/insertion.py

For each backbone three ratios of CPU time are printed. Equal networks differ by up to a percent from copy to copy, as
their tensors lie elsewhere in memory, and a pair of copies keeps its difference however long it is timed. Each ratio is
therefore the median over several pairs of fresh copies, with the range over these: of six pairs, that is the median's
95 % interval.

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
import statistics
import time

import torch
from torch import nn

from nas import placement
from nas.architecture import Architecture, Placement
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="longest sampling of one pair of copies (default: 3)"
    )
    parser.add_argument("--copies", type=int, default=6, help="pairs of copies for each ratio (default: 6)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    clock = time.process_time_ns if device.type == "cpu" else time.perf_counter_ns

    def compare(candidate: nn.Module, reference: nn.Module) -> str:
        ratios, kept = [], []
        for number in range(arguments.copies):
            if number % 2:  # on test_vit the copy that is made first is 0.3 % slower than its equal
                mine, other = copy.deepcopy(candidate), copy.deepcopy(reference)
            else:
                other, mine = copy.deepcopy(reference), copy.deepcopy(candidate)
            kept.append((mine, other))  # or the next copies would take the same memory
            found = measure(
                mine,
                other,
                batch=batch,
                device_words=device_words(device),
                target=0.002,
                max_seconds=arguments.seconds,
                clock=clock,
            )
            ratios.append(found.ratio)
        return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"

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
