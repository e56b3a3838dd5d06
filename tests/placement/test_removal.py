"""Removal: the backbone is afterwards the same object with the same parts, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from placed import bare, everywhere, put
from torch import nn

import nas
from nas import placement
from nas.architecture import NONE

BACKBONES = ("test_resnet", "seresnet18", "regnety_002", "test_byobnet", "test_convnext", "test_mambaout", "test_vit")


@pytest.mark.parametrize("block", ["se", pytest.param("cbam", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_remove_leaves_the_backbone_as_it_was(backbone: str, block: str) -> None:
    model = bare(backbone)
    images = torch.randn(1, 3, 160, 160)
    images = images if backbone != "seresnet18" else images[..., :64, :64]
    modules, keys = dict(model.named_modules()), list(model.state_dict())
    kinds = {path: type(module) for path, module in modules.items()}
    attributes = {path: set(vars(module)) for path, module in modules.items()}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        expected = model(images)
        changed = put(model, block)
        assert not torch.equal(model(images), expected)
        assert placement.remove(model) == len(changed)
        assert torch.equal(model(images), expected)
    assert list(model.state_dict()) == keys
    found = dict(model.named_modules())
    assert list(found) == list(modules)
    assert all(found[path] is module for path, module in modules.items())
    assert {path: type(module) for path, module in found.items()} == kinds
    assert {path: set(vars(module)) for path, module in found.items()} == attributes
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert no_hooks(model)
    assert placement.blocks(model) == []
    assert placement.remove(model) == 0


def no_hooks(model: nn.Module) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "seresnet18"])
def test_hosts_keep_their_kind_and_take_no_hooks(backbone: str) -> None:
    """What timm asks of a module's class must still be true, and a hook would cost time in every pass."""
    model = bare(backbone)
    kinds = {path: type(module) for path, module in model.named_modules()}
    put(model, "se")
    assert no_hooks(model)
    for path, module in model.named_modules():
        if path in kinds and not isinstance(module, placement.Slot):
            assert isinstance(module, kinds[path])
            assert type(module).__name__ == kinds[path].__name__
            assert type(copy.deepcopy(module)) is type(module)


def test_they_can_be_reached_from_the_package() -> None:
    model = bare()
    assert nas.insert(model, everywhere(model, "se"))
    assert nas.remove(model) == 9
    assert "insert" in nas.__all__
    assert "remove" in nas.__all__


@pytest.mark.parametrize("block", ["se", NONE])
def test_what_was_replaced_comes_back_where_the_model_is_now(block: str) -> None:
    model = bare("seresnet18")
    original = model.layer1[0].se
    put(model, block, "replace")
    assert not any("fc1" in name for name in model.state_dict())
    model.double().train()
    placement.remove(model)
    assert model.layer1[0].se is original
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    model.train()(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    put(model, block, "replace")
    placement.remove(model.to("meta"))
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_the_mode_of_what_is_replaced_stays() -> None:
    model = bare("seresnet18").train()
    model.layer1[0].se.eval()
    put(model, "cbam", "replace")
    assert not any(module.training for module in model.layer1[0].se.modules())
    assert all(module.training for module in model.layer1[1].se.modules())
    placement.remove(model)
    assert [model.layer1[i].se.fc1.training for i in (0, 1)] == [False, True]


def test_hooks_of_others_stay() -> None:
    model = bare("test_convnext")
    mine = [
        model.stages[0].blocks[0].drop_path.register_forward_pre_hook(lambda *_: None),
        model.stages[0].register_forward_hook(lambda *_: None),
    ]
    put(model, "se")
    placement.remove(model)
    assert mine[0].id in model.stages[0].blocks[0].drop_path._forward_pre_hooks
    assert mine[1].id in model.stages[0]._forward_hooks


@pytest.mark.parametrize("backbone", ["test_resnet", "seresnet18", "test_convnext", "test_vit"])
def test_remove_from_a_copy_leaves_the_other_alone(backbone: str) -> None:
    model = bare(backbone)
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        plain = model(images)
        changed = put(model, "se")
        expected = model(images)
        twin = copy.deepcopy(model)
        assert placement.remove(twin) == len(changed)
        assert torch.equal(twin(images), plain)
        assert torch.equal(model(images), expected)
        assert placement.remove(model) == len(changed)
        assert torch.equal(model(images), plain)
    assert {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in twin.parameters())


@pytest.mark.parametrize(
    ("backbone", "position", "block"),
    [
        ("test_resnet", "after_stage", "se"),
        ("test_convnext", "in_residual", "se"),
        ("seresnet18", "replace", "se"),
        ("seresnet18", "replace", NONE),
    ],
)
def test_a_second_insertion_is_refused(backbone: str, position: str, block: str) -> None:
    model = bare(backbone, device="meta")
    architecture = everywhere(model, block, positions=(position,))
    placement.insert(model, architecture)
    with pytest.raises(ValueError, match=r"the model has blocks already; nas.placement.remove\(model\) takes them out"):
        placement.insert(model, architecture)
    placement.remove(model)
    placement.insert(model, architecture)


def test_trained_weights_survive_insertion_and_removal() -> None:
    model = bare("seresnet18")
    changed = put(model, "eca", "replace")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
    gradients = [parameter.grad for parameter in model.get_submodule(changed[0].path).parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    optimizer.step()
    trained = model.conv1.weight.clone()
    placement.remove(model)
    assert torch.equal(model.conv1.weight, trained)
