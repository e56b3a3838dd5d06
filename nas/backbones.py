"""Which of timm's backbones can hold blocks, and where: what the verb ``backbones`` prints. Nothing is downloaded."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

import timm

from nas import placement
from nas.answer import count_text
from nas.architecture import POSITIONS, Stage
from nas.placement import BackboneError


@dataclass(frozen=True, kw_only=True)
class Support:
    """What is known of one backbone."""

    backbone: str
    """timm name."""
    parameters: int = 0
    """Parameters with timm's own number of classes."""
    image: tuple[int, ...] = ()
    """(C, H, W) of the images with which it was probed."""
    stages: tuple[Stage, ...] = ()
    """Its stages; none if it is refused."""
    refusal: str = ""
    """Why no block can be placed in it; empty if one can."""


def names(pattern: str = "*") -> list[str]:
    """Return timm's architectures whose name matches a pattern of ``*`` and ``?``, or else contains the word.

    Raises:
        BackboneError: If there is none, with the nearest names.
    """
    known = timm.list_models()
    wanted = pattern.split(".")[0]  # a tag names weights, and all weights of an architecture have the same places
    found = [name for name in known if fnmatch.fnmatchcase(name, wanted)]
    found = found or [name for name in known if wanted and wanted in name]
    if not found:
        placement.check_name(pattern)
        raise BackboneError(f"no backbone of timm matches {pattern!r}")
    return found


def survey(backbone: str) -> Support:
    """Find out where blocks can be placed in a backbone; no weights are made for that.

    Raises:
        BackboneError: If timm does not know it or cannot build it.
    """
    model = placement.create(backbone, num_classes=None, device="meta")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        found = placement.plan_of(model)
    except BackboneError as error:
        return Support(backbone=backbone, parameters=parameters, refusal=str(error))
    return Support(backbone=backbone, parameters=parameters, image=found.image, stages=found.stages)


def families() -> str:
    """Return timm's architectures in a few words each: the families, and how many belong to them."""
    lines = []
    for family in timm.list_modules():
        members = sorted(timm.list_models(module=family))
        if members:
            shown = ", ".join(members[:4]) + (", ..." if len(members) > 4 else "")
            lines.append(f"{family:<26}{len(members):>4}  {shown}")
    return "\n".join(lines)


def table(support: Support) -> str:
    """Return a backbone's stages as plain text, one line each, with the places that each position means."""
    head = f"{support.backbone}: {count_text(support.parameters)} parameters"
    if support.refusal:
        return f"{head}\n  refused: {support.refusal}"
    head += f", probed with {' x '.join(str(side) for side in support.image)}"
    rows: list[tuple[str, ...]] = [("stage", "module", "channels", "1/", "layout", *POSITIONS)]
    rows += [_row(stage) for stage in support.stages]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    reasons = {stage.refusal: stage.index for stage in support.stages if stage.refusal}
    notes = [f"  nothing after stage {index}: {reason}" for reason, index in reasons.items()]
    return "\n".join([head, *lines, *notes])


def _row(stage: Stage) -> tuple[str, ...]:
    places = {"after_stage": () if stage.refusal else (stage.channels,), "in_residual": stage.branches}
    cells = [_places(places.get(position, stage.slots)) for position in POSITIONS]
    return (str(stage.index), stage.name, str(stage.channels), str(stage.reduction), stage.layout, *cells)


def _places(channels: tuple[int, ...]) -> str:
    """Return how many places there are and how wide, such as ``2 x 64``."""
    counts = {width: channels.count(width) for width in dict.fromkeys(channels)}
    return ", ".join(f"{count} x {width}" for width, count in counts.items()) or "-"


def listing(pattern: str) -> Iterator[str]:
    """Yield one text after the other for every backbone that matches a pattern."""
    for name in names(pattern):
        yield table(survey(name))
