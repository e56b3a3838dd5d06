"""Insertion: where blocks go, that the backbone stays what it was, that identity blocks change nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from nas import placement
from nas.architecture import Architecture, Placement
from nas.attention import BLOCKS
from nas.placement import BackboneError

FAMILIES = ("test_resnet", "test_efficientnet", "test_convnext")
"""Three backbones of different families: residual, inverted residual, ConvNeXt."""


def bare(backbone: str = "test_resnet", in_channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return placement.create(backbone, num_classes=7, in_channels=in_channels).eval()


def everywhere(model: nn.Module, backbone: str, block: str, init: str = "identity") -> Architecture:
    """The block at every stage that is wide enough for it."""
    possible = [stage for stage in placement.stages(model) if BLOCKS[block].possible(stage.channels) is None]
    return Architecture(
        backbone=backbone, placements=tuple(Placement(stage=s.index, block=block, init=init) for s in possible)
    )


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("backbone", FAMILIES)
def test_identity_blocks_leave_the_logits_bit_for_bit(backbone: str, block: str) -> None:
    model = bare(backbone)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        changed = placement.insert(model, everywhere(model, backbone, block))
        assert torch.equal(model(images), expected)
    assert len(changed) >= 4


@pytest.mark.parametrize("backbone", FAMILIES)
def test_each_single_stage_is_the_identity_too(backbone: str) -> None:
    model = bare(backbone)
    images = torch.randn(1, 3, 32, 32)
    whole = everywhere(model, backbone, "cbam")
    with torch.no_grad():
        expected = model(images)
        for single in whole.placements:
            placement.insert(model, Architecture(backbone=backbone, placements=(single,)))
            assert torch.equal(model(images), expected)
            placement.remove(model)


@pytest.mark.parametrize("backbone", [*FAMILIES, "regnetx_002", "densenet121", "vgg11_bn"])
def test_every_block_runs_once_and_counts(backbone: str) -> None:
    model = bare(backbone)
    changed = placement.insert(model, everywhere(model, backbone, "se", init="paper"))
    calls: list[str] = []
    for insertion in changed:
        model.get_submodule(insertion.path).register_forward_hook(
            lambda _module, inputs, _output, path=insertion.path: calls.append(f"{path} {inputs[0].shape[1]}")
        )
    model(torch.randn(1, 3, 64, 64))
    assert calls == [f"{insertion.path} {insertion.stage.channels}" for insertion in changed]


def test_stages_are_numbered_as_feature_info_numbers_them() -> None:
    found = placement.stages(bare("resnet18"))
    assert [(stage.index, stage.name, stage.channels, stage.reduction) for stage in found] == [
        (0, "act1", 64, 2),
        (1, "layer1", 64, 4),
        (2, "layer2", 128, 8),
        (3, "layer3", 256, 16),
        (4, "layer4", 512, 32),
    ]


def test_insert_says_what_it_changed() -> None:
    model = bare("resnet18")
    before = sum(parameter.numel() for parameter in model.parameters())
    architecture = Architecture(backbone="resnet18", placements=(Placement(stage=2, block="se"),))
    (changed,) = placement.insert(model, architecture)
    assert (changed.stage.index, changed.path) == (2, "layer2.1.attention_2")
    assert changed.placement.options == {"reduction": 16}
    assert changed.parameters == sum(parameter.numel() for parameter in model.parameters()) - before > 0


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_backbones_checkpoint_loads(backbone: str) -> None:
    checkpoint = bare(backbone).state_dict()
    model = bare(backbone)
    changed = placement.insert(model, everywhere(model, backbone, "cbam"))
    result = model.load_state_dict(checkpoint, strict=False)
    assert result.unexpected_keys == []
    of_blocks = tuple(f"{insertion.path}." for insertion in changed)
    assert result.missing_keys
    assert all(key.startswith(of_blocks) for key in result.missing_keys)


@pytest.mark.parametrize("backbone", [*FAMILIES, "regnetx_002"])
def test_remove_leaves_the_backbone_as_it_was(backbone: str) -> None:
    model = bare(backbone)
    keys, images = list(model.state_dict()), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        placement.insert(model, everywhere(model, backbone, "se", init="paper"))
        assert not torch.equal(model(images), expected)
        assert placement.remove(model) == len(placement.stages(bare(backbone)))
        assert torch.equal(model(images), expected)
    assert list(model.state_dict()) == keys
    assert placement.remove(model) == 0
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_runs_its_own_blocks(copied: object) -> None:
    model = bare()
    placement.insert(model, everywhere(model, "test_resnet", "se", init="paper"))
    twin = copied(model)  # type: ignore[operator]
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model(images), expected)
        assert not torch.equal(twin(images), expected)


@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint. the use_reentrant parameter")  # older timm's own call
def test_gradient_checkpointing_runs_the_blocks() -> None:
    model = bare("resnet18")
    changed = placement.insert(model, everywhere(model, "resnet18", "se", init="paper"))
    images = torch.randn(2, 3, 64, 64)
    expected = model(images).detach()
    model.set_grad_checkpointing()
    output = model.train(False)(images)
    output.sum().backward()
    assert torch.equal(output, expected)
    for insertion in changed:
        assert all(parameter.grad is not None for parameter in model.get_submodule(insertion.path).parameters())


def test_the_backbones_weights_do_not_depend_on_the_blocks() -> None:
    states = []
    for placements in ((), (Placement(stage=1, block="cbam"),)):
        torch.manual_seed(5)
        architecture = Architecture(backbone="test_resnet", placements=placements)
        states.append(placement.build(architecture, num_classes=3, in_channels=1).state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])


def test_blocks_follow_type_and_mode() -> None:
    model = bare().double()
    placement.insert(model, everywhere(model, "test_resnet", "cbam"))
    assert model(torch.randn(1, 3, 32, 32).double()).dtype == torch.float64
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_blocks_follow_the_memory_format(memory_format: torch.memory_format) -> None:
    model = bare().to(memory_format=memory_format)
    placement.insert(model, everywhere(model, "test_resnet", "gam"))
    wide = [weight for name, weight in model.named_parameters() if "attention_" in name and weight.dim() == 4]
    assert wide
    assert all(weight.is_contiguous(memory_format=memory_format) for weight in wide)


def test_probing_does_not_touch_the_model() -> None:
    model = bare().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    placement.stages(model)
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_grey_images() -> None:
    assert len(placement.stages(bare(in_channels=1))) == 5


def test_map_shapes() -> None:
    shapes = placement.map_shapes(bare(), torch.randn(2, 3, 64, 64))
    assert {index: tuple(shape) for index, shape in shapes.items()}[4] == (2, 96, 2, 2)


def test_an_unknown_backbone_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(BackboneError, match="timm knows no backbone 'resnet81'; the nearest: .*resnet"):
        placement.check_name("resnet81")
    with pytest.raises(BackboneError, match="timm knows no backbone 'resnet18.nothing'; the nearest: .*resnet18"):
        placement.check_name("resnet18.nothing")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("test_vit", r"stage 0 \(blocks.0\) must return an NCHW map of 64 channels, but returned"),
        ("test_mambaout", "must return an NCHW map"),
    ],
)
def test_a_backbone_without_nchw_maps_is_refused(backbone: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        placement.stages(bare(backbone))


def test_a_model_that_is_not_timms_is_refused() -> None:
    with pytest.raises(BackboneError, match="must be a timm classifier with feature_info, but got Sequential"):
        placement.stages(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_a_second_insertion_and_another_backbone_are_refused() -> None:
    model = bare()
    architecture = everywhere(model, "test_resnet", "se")
    placement.insert(model, architecture)
    with pytest.raises(ValueError, match="the model has blocks already"):
        placement.insert(model, architecture)
    with pytest.raises(ValueError, match="the architecture is for resnet18, but the model is test_resnet"):
        placement.insert(bare(), Architecture(backbone="resnet18"))
