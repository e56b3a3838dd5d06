"""Which of timm's backbones can hold blocks, and do identity blocks leave them bit for bit as they were?

    python benchmarks/coverage.py                        # a small architecture of every file of timm, real weights
    python benchmarks/coverage.py --all                  # all of timm.list_models(), without data; takes about an hour
    python benchmarks/coverage.py --all 'vit_*' resnet18 # some of them
    python benchmarks/coverage.py --all --part 1/2       # the first of two parts, for two processes

For each architecture and position (after every stage, in every residual branch, in place of all attention that the
backbone brings along) SE is inserted with ``init="identity"`` everywhere. Without data it is checked that every block
runs once, in a copy too, that no tensor of the backbone changes its name, and that removal leaves nothing. With real
float32 weights also that the logits are bit for bit those of the bare backbone, that its checkpoint loads with no key
missing, and that every block has an effect. The last line counts: supported, refused with a reason, failed.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "placement"))
import every_backbone

from nas import backbones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="architectures (default: see above)")
    parser.add_argument("--all", action="store_true", help="without data, on every architecture that matches")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="the K-th of N parts")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # timm's own, on many architectures

    if arguments.patterns or arguments.all:
        names = list(dict.fromkeys(name for each in arguments.patterns or ["*"] for name in backbones.names(each)))
    else:
        names = every_backbone.small_of_each_file()
    part, parts = (int(number) for number in arguments.part.split("/"))
    check = every_backbone.structure if arguments.all else every_backbone.numbers
    verdicts: collections.Counter[str] = collections.Counter()
    blocks: collections.Counter[str] = collections.Counter()
    for name in names[part - 1 :: parts]:
        started = time.perf_counter()
        try:
            report = check(name)
        except Exception as error:  # whatever an architecture raises: the next ones are checked all the same
            lines = str(error).splitlines()
            report = every_backbone.Report(
                backbone=name, faults=[f"{type(error).__name__}: {lines[0] if lines else ''}"]
            )
        verdicts[report.verdict] += 1
        blocks.update(report.points.keys())
        points = ", ".join(f"{count} {position}" for position, count in report.points.items())
        reason = "; ".join([*report.faults, *([report.refusal] if report.refusal else [])])
        seconds = time.perf_counter() - started
        print(f"{report.verdict:<10}{name}: {points}{'; ' if reason else ''}{reason} ({seconds:.1f} s)", flush=True)
    total = sum(verdicts.values())
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("supported", "refused", "failed"))
    positions = ", ".join(f"{position} in {count}" for position, count in blocks.items())
    print(f"\n{total} architectures: {counts}; {positions}")


if __name__ == "__main__":
    main()
