"""What must hold of every backbone of timm, for the tests and for ``benchmarks/coverage.py``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import timm
import torch
from torch import Tensor, nn

from nas import placement
from nas.architecture import NONE, Architecture, Placement
from nas.placement import BackboneError, Plan

POSITIONS = ("after_stage", "in_residual", "replace")
SIZES = (32, 64, 96, 128, 192, 224, 256)
"""Heights and widths in pixels, of which the least that a backbone runs on is used where numbers are compared."""


@dataclass
class Report:
    """What was found for one backbone."""

    backbone: str
    points: dict[str, int] = field(default_factory=dict)
    """How many blocks each position means."""
    refusal: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "failed" if self.faults else "refused" if self.refusal else "supported"


def everywhere(plan: Plan, backbone: str, position: str, block: str = "se") -> Architecture | None:
    """Return the block at a position of every stage that has it."""
    stages = [stage for stage in plan.stages if stage.widths(position)]
    if not stages:
        return None
    init = "paper" if block == NONE else "identity"
    placements = (Placement(stage=stage.index, block=block, position=position, init=init) for stage in stages)
    return Architecture(backbone=backbone, placements=tuple(placements))


def structure(backbone: str) -> Report:
    """Check on the meta device, with all positions at once: names of tensors, a copy that runs its blocks, removal."""
    report = Report(backbone=backbone)
    model = placement.create(backbone, num_classes=None, device="meta").eval()
    try:
        plan = placement.plan_of(model)
    except BackboneError as error:
        report.refusal = str(error)
        return report
    names = list(model.state_dict())
    architectures = [everywhere(plan, backbone, position) for position in POSITIONS]
    placements = tuple(each for found in architectures if found is not None for each in found.placements)
    with torch.device("meta"):
        changed = placement.insert(model, Architecture(backbone=backbone, placements=placements), plan=plan)
    for change in changed:
        position = change.placement.position
        report.points[position] = report.points.get(position, 0) + 1
    report.faults += _structural_faults(model, plan.image, [change.path for change in changed], names)
    placement.remove(model)
    if list(model.state_dict()) != names or placement.blocks(model):
        report.faults.append("something is left after removal")
    return report


def _structural_faults(model: nn.Module, image: tuple[int, ...], paths: list[str], names: list[str]) -> Iterator[str]:
    if len(set(paths)) != len(paths):
        yield "two blocks at one path"
    now = set(model.state_dict())
    replaced = tuple(f"{path.rpartition('.')[0]}." for path in paths if path.endswith("_replace"))
    lost = [name for name in names if name not in now and not (replaced and name.startswith(replaced))]
    if lost:
        yield f"the backbone lost {lost[0]}"
    strangers = [name for name in now - set(names) if not name.startswith(tuple(f"{path}." for path in paths))]
    if strangers:
        yield f"{strangers[0]} is new and in no block"
    twin = copy.deepcopy(model)
    if any(model.get_submodule(path) is twin.get_submodule(path) for path in paths):
        yield "a copy shares a block"
    runs = _runs(twin, torch.empty(2, *image, device="meta"), paths)
    wrong = [f"{path} ran {runs[path]} times" for path in paths if runs[path] != 1]
    if wrong:
        yield wrong[0]


def _runs(model: nn.Module, image: Tensor, paths: list[str]) -> dict[str, int]:
    count = dict.fromkeys(paths, 0)

    def counter(path: str) -> object:
        def hook(*_: object) -> None:
            count[path] += 1

        return hook

    handles = [model.get_submodule(path).register_forward_hook(counter(path)) for path in paths]  # type: ignore[arg-type]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return count


def numbers(backbone: str, least: int = 0) -> Report:
    """Check with real float32 weights, in evaluation mode: identity blocks change no bit, every block has an effect.

    Args:
        backbone: timm name.
        least: Least height and width of the images, in pixels.
    """
    report = Report(backbone=backbone)
    kwargs, size = _smallest(backbone, least)
    torch.manual_seed(0)
    model = placement.create(backbone, num_classes=7, model_kwargs=kwargs).eval()
    for parameter in model.parameters():
        if not parameter.any():  # timm starts the ends of some branches and some heads at 0: nothing would reach them
            nn.init.normal_(parameter, std=0.02)
    plan = placement.plan_of(model)
    images = torch.randn(1, plan.image[0], size, size)
    checkpoint = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = logits(model, images)
    for position in POSITIONS:
        architecture = everywhere(plan, backbone, position)
        if architecture is None:
            continue
        reference = expected
        if position == "replace":
            without = everywhere(plan, backbone, position, block=NONE)
            assert without is not None
            placement.insert(model, without, plan=plan)
            reference = logits(model, images)
            placement.remove(model)
        changed = placement.insert(model, architecture, plan=plan)
        report.points[position] = len(changed)
        got = logits(model, images)
        if not torch.equal(got, reference):
            report.faults.append(f"{position}: logits differ by {float((got - reference).abs().max()):.1e}")
        keys = model.load_state_dict(checkpoint, strict=False)
        inside = tuple(f"{change.path}." for change in changed)
        strangers = [name for name in keys.missing_keys if not name.startswith(inside)]
        if strangers or (position != "replace" and keys.unexpected_keys):
            report.faults.append(f"{position}: the bare checkpoint does not load: {strangers or keys.unexpected_keys}")
        idle = _without_effect(model, images, [change.path for change in changed])
        if idle and size < 64:  # windows of a single pixel leave attention without a choice
            return numbers(backbone, least=64)
        if idle:
            report.faults.append(f"{position}: {len(idle)} blocks without effect, such as {idle[0]}")
        placement.remove(model)
        if not torch.equal(logits(model, images), expected):
            report.faults.append(f"{position}: logits differ after removal")
    return report


def _smallest(backbone: str, least: int) -> tuple[dict[str, object], int]:
    for size in (size for size in SIZES if size >= least):
        try:
            return placement.fit_kwargs(backbone, num_classes=7, in_channels=3, resolution=size), size
        except BackboneError:
            continue
    raise AssertionError(f"{backbone} runs on none of {SIZES}")


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return what a model puts out, all tensors in one."""
    output = model(images)
    return torch.cat([part.flatten() for part in output]) if isinstance(output, (tuple, list)) else output.flatten()


def _without_effect(model: nn.Module, images: Tensor, paths: list[str]) -> list[str]:
    strengths = [model.get_submodule(path).strength for path in paths]
    output = model(images)
    parts = output if isinstance(output, (tuple, list)) else (output,)
    total = torch.stack([part.square().sum() for part in parts]).sum()
    gradients = torch.autograd.grad(total, strengths, allow_unused=True)
    pairs = zip(paths, gradients, strict=True)
    return [path for path, gradient in pairs if gradient is None or not gradient.any()]


_SMALL = (
    "test",
    "atto",
    "femto",
    "pico",
    "nano",
    "zepto",
    "xxs",
    "xx",
    "xs",
    "x",
    "tiny",
    "ti",
    "t",
    "mini",
    "small",
    "s",
)
"""Words in timm's names that say that an architecture is small, the smallest first."""


def small_of_each_file(modules: Sequence[str] | None = None) -> list[str]:
    """Return for every module file of timm, or these, one of its smallest architectures: of three likely ones."""
    found = []
    for module in timm.list_modules() if modules is None else modules:
        names = sorted(timm.list_models(module=module), key=_size_by_name)[:3]
        sizes = {}
        for name in names:
            with torch.device("meta"):
                sizes[name] = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        found += [min(sizes, key=lambda name: (sizes[name], name))] if sizes else []
    return found


def _size_by_name(name: str) -> tuple[int, int, str]:
    words = re.findall(r"[a-z]+|\d+", name)
    ranks = [_SMALL.index(word) for word in words if word in _SMALL]
    numbers = [int(word) for word in words if word.isdigit()]
    return min(ranks, default=len(_SMALL)), sum(numbers), name
