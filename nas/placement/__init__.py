"""Put attention blocks into timm backbones, and take them out again.

A backbone is run once on the meta device, where it computes shapes and no numbers, and its structure is read off that
run: :mod:`trace` writes it down, :mod:`probe` finds the stages in it, :mod:`sites` the ends of residual branches and
the attention that the backbone brings along, :mod:`reach` what would have no effect. :mod:`insertion` builds the
blocks, and :mod:`hosting` lets modules run them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture, Stage
from nas.placement.backbones import Weights, check_name, classifiers, create, fit_kwargs, pretrained
from nas.placement.hosting import Slot, Wire, wires
from nas.placement.insertion import CHILD_PREFIX, Insertion, blocks, insert, remove
from nas.placement.layout import Layout
from nas.placement.plan import Plan, plan_of
from nas.placement.probe import BackboneError, name_of

__all__ = [
    "CHILD_PREFIX",
    "BackboneError",
    "Insertion",
    "Plan",
    "Slot",
    "Weights",
    "Wire",
    "blocks",
    "build",
    "check_name",
    "classifiers",
    "create",
    "fit_kwargs",
    "insert",
    "map_shapes",
    "name_of",
    "plan_of",
    "pretrained",
    "remove",
    "stages",
    "wires",
]


def stages(model: nn.Module) -> tuple[Stage, ...]:
    """Return the stages of a timm backbone, numbered as its ``feature_info`` numbers them.

    Raises:
        BackboneError: If the model is not a timm classifier with ``feature_info``, or a stage cannot be found in it.
    """
    return plan_of(model).stages


def build(
    architecture: Architecture,
    *,
    num_classes: int,
    in_channels: int = 3,
    model_kwargs: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
    plan: Plan | None = None,
) -> nn.Module:
    """Build an architecture: its backbone, and its blocks inserted.

    The backbone's weights are drawn first, so that under one seed every architecture starts from the same backbone.

    Args:
        architecture: What to build.
        num_classes: Classes of the head.
        in_channels: Channels of the images.
        model_kwargs: Further arguments of timm's factory.
        weights: Trained weights for the backbone; what they do not cover stays as it was drawn.
        plan: As for :func:`insert`.

    Raises:
        BackboneError: As :func:`create`, :func:`stages` and :meth:`Weights.load`.
        ValueError: As :func:`insert`.
    """
    model = create(architecture.backbone, num_classes=num_classes, in_channels=in_channels, model_kwargs=model_kwargs)
    if weights is not None:
        weights.load(model)
    insert(model, architecture, plan=plan)
    return model


def map_shapes(
    model: nn.Module, images: torch.Tensor, *, plan: Plan | None = None
) -> dict[tuple[int, str], tuple[torch.Size, ...]]:
    """Run a bare backbone on a batch and return the shapes (B, C, H, W) of the maps that blocks would see.

    Args:
        model: A timm backbone without blocks.
        images: (B, C, H, W), on the model's device.
        plan: As for :func:`insert`.

    Returns:
        For each stage and position the shapes at its points, in their order.

    Raises:
        BackboneError: As :func:`stages`, and if the backbone cannot run on images of that size.
    """
    plan = plan or plan_of(model)
    found: dict[tuple[int, str, int], torch.Size] = {}
    handles = []
    for (stage, position), points in plan.points.items():
        for number, point in enumerate(points):

            def see(
                _module: nn.Module,
                _inputs: Any,
                output: Any,
                key: tuple[int, str, int] = (stage, position, number),
                layout: Layout = point.layout,
            ) -> None:
                found[key] = layout.map_shape(output)

            handles.append(model.get_submodule(point.path).register_forward_hook(see))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    except Exception as error:  # a model may raise anything on a size that it was not made for
        size = " x ".join(str(number) for number in images.shape)
        raise BackboneError(f"{name_of(model)} does not run on {size}: {type(error).__name__}: {error}") from error
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return {
        (stage, position): tuple(found[stage, position, number] for number in range(len(points)))
        for (stage, position), points in plan.points.items()
    }
