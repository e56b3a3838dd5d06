"""Insertion and removal leave a model whole, whatever others have done to it."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from nas import placement
from nas.architecture import Architecture, Placement


def test_somebodys_hooks_are_kept_and_not_run_while_probing() -> None:
    model = placement.create("test_resnet", num_classes=7).eval()
    seen: list[float] = []
    model.layer1.register_forward_hook(lambda _module, _inputs, output: seen.append(output.mean().item()))
    placement.insert(model, Architecture(backbone="test_resnet", placements=(Placement(stage=1, block="se"),)))
    assert seen == []
    model(torch.randn(1, 3, 32, 32))
    assert len(seen) == 1


def test_what_cannot_be_inserted_leaves_the_model_as_it_was() -> None:
    model = placement.create("test_resnet", num_classes=7).eval()
    names = list(model.state_dict())
    other = placement.plan_of(placement.create("test_convnext", num_classes=7))
    placements = (Placement(stage=0, block="se"), Placement(stage=1, block="se"))
    architecture = Architecture(backbone="test_resnet", placements=placements)
    with pytest.raises(ValueError, match=r"the plan is for test_convnext, but the model is test_resnet"):
        placement.insert(model, architecture, plan=other)
    plan = placement.plan_of(model)
    host = model.get_submodule(plan.hosts[plan.points[1, "after_stage"][0].path].path)
    host.forward = type(host).forward.__get__(host)
    with pytest.raises(ValueError, match="forward of its own instance"):
        placement.insert(model, architecture, plan=plan)
    assert list(model.state_dict()) == names
    assert placement.blocks(model) == []


def test_remove_refuses_a_host_that_was_given_another_class() -> None:
    model = placement.create("test_resnet", num_classes=7).eval()
    (changed,) = placement.insert(
        model,
        Architecture(backbone="test_resnet", placements=(Placement(stage=1, block="se", position="in_residual"),)),
    )
    host = model.get_submodule(changed.path.rpartition(".")[0])
    nn.utils.parametrize.register_parametrization(host, "weight", nn.Identity())
    with pytest.raises(ValueError, match="another class"):
        placement.remove(model)
    nn.utils.parametrize.remove_parametrizations(host, "weight")
    assert placement.remove(model) == 1


def test_a_backbone_that_looks_at_numbers_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    # as the transformers of timm 1.0.12 do
    made = timm.create_model

    def create(name: str, **arguments: object) -> nn.Module:
        assert torch.linspace(0, 0.1, 3)[1].item() > 0
        model: nn.Module = made(name, **arguments)
        return model

    monkeypatch.setattr("timm.create_model", create)
    model = placement.create("test_vit", num_classes=7, device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert placement.fit_kwargs("test_vit", num_classes=7, in_channels=1, resolution=32) is not None
