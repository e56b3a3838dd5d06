"""Measure what each block adds at each stage of a backbone."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from nas import flags
from nas.verbs.common import DONE, end_on_sigterm


def add(verbs: Any, plain: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("costs", parents=[plain], help="measure what each block adds at each stage")
    parser.add_argument("--backbone", metavar="NAME", required=True, help="timm model")
    parser.add_argument(
        "--resolution", type=int, required=True, metavar="PIXELS", help="height and width of the images, in pixels"
    )
    parser.add_argument("--blocks", metavar="A,B,...", help="names of blocks (default: all)")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images in one pass (default: 1)")
    parser.add_argument("--precision", default="float32", metavar="NAME", help="float32 or bfloat16 (default: float32)")
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=40.0,
        metavar="S",
        help="sampling of the whole table, in seconds; slow cells still get six samples each (default: 40)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: studies/costs/BACKBONE-RESOLUTION...)")


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nas import cost_table, costs, files, heatmap

    out = Path(arguments.out if arguments.out is not None else Path("studies", "costs", _costs_name(arguments)))
    end_on_sigterm()
    bar: Any = None

    def start(cells: int) -> None:
        nonlocal bar
        files.check_folder(out)
        for name in ("costs.csv", "costs.html"):
            if (out / name).exists() and not (out / name).is_file():
                raise ValueError(f"{out / name} must be a file; give another --out")
        bar = tqdm(total=cells, unit="cell")

    try:
        measured = costs.measure(
            arguments.backbone,
            resolution=arguments.resolution,
            blocks=None if arguments.blocks is None else flags.names(arguments.blocks),
            device=arguments.device,
            batch_size=arguments.batch,
            precision=arguments.precision,
            budget_seconds=arguments.budget_seconds,
            on_start=start,
            on_cell=lambda cell: bar.update(),
        )
    finally:
        if bar is not None:
            bar.close()
    print(cost_table.table(measured), flush=True)
    cost_table.write_csv(measured, out / "costs.csv")
    heatmap.write_heatmap(measured, out / "costs.html")
    print(f"\nnext:\n  open {out / 'costs.html'}")
    return DONE


def _costs_name(arguments: argparse.Namespace) -> str:
    """Return a folder's name that says what was asked for beyond the defaults, so that tables do not mix."""
    parts = [arguments.backbone, str(arguments.resolution)]
    parts += [f"batch{arguments.batch}"] if arguments.batch != 1 else []
    parts += [part for part in (arguments.device, arguments.precision) if part not in ("auto", "float32")]
    parts += [arguments.blocks] if arguments.blocks is not None else []
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))[:200]
