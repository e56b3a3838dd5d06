"""Insertion: where blocks go, what they see, that the backbone stays, that identity blocks change nothing."""

from __future__ import annotations

import re

import pytest
import torch
from placed import bare, everywhere, listen, plan, put, sites, stages, total
from torch import nn

from nas import placement
from nas.architecture import NONE, POSITIONS, Architecture, Placement
from nas.attention import BLOCKS
from nas.placement import BackboneError

SLOW = pytest.mark.slow
FAMILIES = ("test_resnet", "test_efficientnet", "test_convnext", "test_mambaout", "test_vit", "test_byobnet")
"""Residual, inverted residual with gates, drop path, channels last, tokens with a class token, two kinds of gates."""


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "backbone", ["test_resnet", *(pytest.param(name, marks=SLOW) for name in ("test_efficientnet", "test_convnext"))]
)
def test_identity_blocks_leave_the_logits_bit_for_bit(backbone: str, block: str) -> None:
    model = bare(backbone)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        changed = put(model, block, "after_stage", "in_residual", init="identity")
        assert torch.equal(model(images), expected)
    assert len(changed) >= 4


@pytest.mark.parametrize("block", ["cbam", pytest.param("mhsa", marks=SLOW)])
@pytest.mark.parametrize(
    "backbone", ["test_mambaout", "test_vit", "test_nfnet", pytest.param("mobilenetv3_small_050", marks=SLOW)]
)
def test_so_they_do_in_every_layout(backbone: str, block: str) -> None:
    model = bare(backbone)
    images = torch.randn(2, 3, *plan(*model.asked).image[1:])
    with torch.no_grad():
        expected = model(images)
        assert put(model, block, "after_stage", "in_residual", init="identity")
        assert torch.equal(model(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES)
def test_each_single_place_is_the_identity_too(backbone: str) -> None:
    model = bare(backbone)
    images = torch.randn(1, 3, 160, 160)
    whole = everywhere(model, "cbam", positions=("after_stage", "in_residual"))
    with torch.no_grad():
        expected = model(images)
        for single in whole.placements:
            placement.insert(model, Architecture(backbone=backbone, placements=(single,)), plan=plan(*model.asked))
            assert torch.equal(model(images), expected), single.describe()
            placement.remove(model)


@pytest.mark.parametrize(
    "backbone",
    [
        *FAMILIES,
        *(pytest.param(name, marks=SLOW) for name in ("regnety_002", "densenet121", "seresnet18", "pit_ti_224")),
    ],
)
def test_every_block_runs_once_and_matters(backbone: str) -> None:
    model = bare(backbone)
    images = torch.randn(1, 3, *plan(*model.asked).image[1:])
    changed = put(model, "se")
    calls = listen(model, changed)
    with torch.no_grad():
        expected = model(images)
        ran = [(path, shape[1]) for path, shape in calls]
        assert sorted(ran) == sorted((insertion.path, insertion.channels) for insertion in changed)
        for insertion in changed[:: max(1, len(changed) // 8)]:
            block = model.get_submodule(insertion.path)
            bias = next(parameter for name, parameter in block.named_parameters() if name.endswith("bias"))
            bias.add_(3.0)
            assert not torch.equal(model(images), expected), insertion.path
            bias.sub_(3.0)


def test_a_block_in_a_stage_sees_the_map_of_that_stage() -> None:
    model = bare("resnet18")
    calls = listen(model, put(model, "se", "in_residual"))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 96))
    expected = []
    for stage, (channels, height) in enumerate([(64, 16), (128, 8), (256, 4), (512, 2)], start=1):
        for block in (0, 1):
            path = f"layer{stage}.{block}.bn2.attention_{stage}_in_residual"
            expected.append((path, torch.Size((1, channels, height, height * 3 // 2))))
    assert calls == expected


@pytest.mark.parametrize(
    ("backbone", "position", "places"),
    [
        ("seresnet18", "replace", [(stage, f"layer{stage}.{i}.se") for stage in (1, 2, 3, 4) for i in (0, 1)]),
        ("seresnet18", "in_residual", [(stage, f"layer{stage}.{i}.se") for stage in (1, 2, 3, 4) for i in (0, 1)]),
        ("test_efficientnet", "replace", [(3, "blocks.3.0.se"), (4, "blocks.4.0.se")]),
        ("test_vit", "in_residual", [(s, f"blocks.{s}.{name}") for s in range(5) for name in ("attn", "mlp")]),
        (
            "test_convnext",
            "in_residual",
            [(s, f"stages.{s}.blocks.{i}.drop_path") for s, depth in enumerate((1, 2, 4, 2)) for i in range(depth)],
        ),
        ("test_efficientnet", "in_residual", []),
        ("resnet18", "replace", []),
    ],
)
def test_where_the_positions_are(backbone: str, position: str, places: list[tuple[int, str]]) -> None:
    assert list(sites(bare(backbone, device="meta"), position)) == places


def test_a_block_stands_before_what_drops_its_branch() -> None:
    model = bare("test_convnext", drop_path_rate=0.6)
    changed = put(model, "se", "in_residual")
    dropped, seen = [], []
    for insertion in changed:
        host = model.get_submodule(insertion.path.rpartition(".")[0])
        host.register_forward_hook(lambda _module, _inputs, output: dropped.append(zeros(output)))
        model.get_submodule(insertion.path).register_forward_hook(lambda _m, given, _o: seen.append(zeros(given[0])))
    torch.manual_seed(0)
    model.train()(torch.randn(16, 3, 64, 64))
    assert sum(dropped) > 0  # otherwise this would say nothing
    assert sum(seen) == 0


def zeros(branch: torch.Tensor) -> int:
    """Count the samples of which nothing is left."""
    return sum(not bool(sample.any()) for sample in branch)


def test_stages_are_numbered_as_feature_info_numbers_them() -> None:
    found = placement.stages(bare("resnet18", device="meta"))
    assert [(stage.index, stage.name, stage.channels, stage.reduction) for stage in found] == [
        (0, "act1", 64, 2),
        (1, "layer1", 64, 4),
        (2, "layer2", 128, 8),
        (3, "layer3", 256, 16),
        (4, "layer4", 512, 32),
    ]


@pytest.mark.parametrize("backbone", ["resnet18", "seresnet18", "test_byobnet", "test_vit"])
def test_insert_says_what_it_changed(backbone: str) -> None:
    model = bare(backbone, device="meta")
    before = total(model)
    points = {key: len(found) for key, found in plan(*model.asked).points.items() if found}
    changed = put(model, "se")
    assert sum(insertion.parameters for insertion in changed) == total(model) - before
    counted: dict[tuple[int, str], int] = {}
    for insertion in changed:
        key = (insertion.placement.stage, insertion.placement.position)
        assert insertion.stage.index == key[0]
        counted[key] = counted.get(key, 0) + 1
        assert insertion.channels in insertion.stage.widths(key[1])
    assert counted == points
    assert len({insertion.path for insertion in changed}) == len(changed)
    assert len(placement.blocks(model)) == len({id(block) for block in placement.blocks(model)}) == len(changed)


def test_one_insertion_in_words() -> None:
    model = bare("resnet18", device="meta")
    (changed,) = placement.insert(
        model, Architecture(backbone="resnet18", placements=(Placement(stage=2, block="se"),))
    )
    assert (changed.stage.index, changed.path, changed.channels) == (2, "layer2.1.attention_2", 128)
    assert changed.placement.options == {"reduction": 16}
    assert changed.parameters == 128 * 8 * 2 + 128 + 8


def test_without_its_gates_seresnet18_is_resnet18() -> None:
    model = bare("seresnet18", device="meta")
    changed = put(model, NONE, "replace")
    assert total(model) == total(bare("resnet18", device="meta"))
    assert [insertion.path for insertion in changed] == [path for _, path in sites(bare("seresnet18"), "replace")]
    assert all(insertion.parameters < 0 for insertion in changed)
    assert placement.blocks(model) == []
    plain = bare("resnet18")
    gated = bare("seresnet18")
    put(gated, NONE, "replace")
    gated.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(gated(images), plain(images))


def test_none_before_and_behind_a_replaced_gate() -> None:
    """Branches of an SE-ResNet end in the gates that are replaced: both blocks stand there, the new gate first."""
    model = bare("seresnet18")
    placements = (
        Placement(stage=3, block="se", position="in_residual"),
        Placement(stage=3, block="eca", position="replace"),
        Placement(stage=4, block="se", position="in_residual"),
        Placement(stage=4, block=NONE, position="replace"),
    )
    changed = placement.insert(model, Architecture(backbone="seresnet18", placements=placements))
    calls = listen(model, changed)
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert [path for path, _ in calls] == [
        *(f"layer3.{i}.se.attention_3_{position}" for i in (0, 1) for position in ("replace", "in_residual")),
        *(f"layer4.{i}.se.attention_4_in_residual" for i in (0, 1)),
    ]


def test_in_residual_is_senets_own_position() -> None:
    """A resnet18 with SE at the ends of its branches computes what timm's seresnet18 computes."""
    ours, theirs = bare("resnet18"), bare("seresnet18")
    hidden = {1: 8, 2: 8, 3: 16, 4: 32}  # timm rounds to multiples of 8
    placements = [
        Placement(stage=stage, block="se", position="in_residual", options={"reduction": 2 ** (5 + stage) // units})
        for stage, units in hidden.items()
    ]
    placement.insert(ours, Architecture(backbone="resnet18", placements=tuple(placements)))
    state, renamed = theirs.state_dict(), {}
    for name, tensor in ours.state_dict().items():
        other = re.sub(r"bn2\.attention_\d_in_residual\.", "se.", name)
        other = other.replace("se.reduce", "se.fc1").replace("se.expand", "se.fc2")
        renamed[name] = state.pop(other).reshape(tensor.shape)
    assert state == {}
    ours.load_state_dict(renamed)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_backbones_checkpoint_loads(backbone: str) -> None:
    checkpoint = bare(backbone).state_dict()
    model = bare(backbone)
    changed = put(model, "cbam", "after_stage", "in_residual")
    result = model.load_state_dict(checkpoint, strict=False)
    assert result.unexpected_keys == []
    of_blocks = tuple(f"{insertion.path}." for insertion in changed)
    assert result.missing_keys
    assert all(key.startswith(of_blocks) for key in result.missing_keys)


def test_the_backbones_weights_do_not_depend_on_the_blocks() -> None:
    states = []
    for placements in ((), (Placement(stage=1, block="cbam"), Placement(stage=1, block="se", position="in_residual"))):
        torch.manual_seed(5)
        architecture = Architecture(backbone="test_resnet", placements=placements)
        states.append(placement.build(architecture, num_classes=3, in_channels=1).state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])


@pytest.mark.parametrize("backbone", ["test_resnet", "test_byobnet", "test_vit"])
def test_blocks_follow_type_and_mode(backbone: str) -> None:
    model = bare(backbone).double()
    placement.insert(model, everywhere(model, "cbam"))  # with a plan of a model in this type
    assert model(torch.randn(1, 3, 160, 160).double()).dtype == torch.float64
    assert not any(module.training for module in model.modules())
    placement.remove(model)
    put(model.train(), "cbam")
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_blocks_follow_the_memory_format(memory_format: torch.memory_format) -> None:
    model = bare().to(memory_format=memory_format)
    put(model, "gam")
    wide = [weight for name, weight in model.named_parameters() if "attention_" in name and weight.dim() == 4]
    assert wide
    assert all(weight.is_contiguous(memory_format=memory_format) for weight in wide)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_probing_does_not_touch_the_model(backbone: str) -> None:
    model = bare(backbone).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    random = torch.get_rng_state()
    placement.plan_of(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_grey_images() -> None:
    assert len(placement.stages(bare(in_channels=1))) == 5


@pytest.mark.parametrize("backbone", ["test_resnet", "test_mambaout", "test_convnext", "test_byobnet"])
def test_map_shapes_are_what_the_blocks_see(backbone: str) -> None:
    model = bare(backbone)
    images = torch.randn(2, 3, 64, 96)
    shapes = placement.map_shapes(model, images)
    assert {(stage.index, position) for stage in stages(*model.asked) for position in stage.positions} == {
        key for key, found in shapes.items() if found
    }
    for position in POSITIONS:
        changed = put(model, "se", position)
        heard = listen(model, changed)
        with torch.no_grad():
            model(images)
        calls = dict(heard)
        for stage in stages(*model.asked):
            paths = [insertion.path for insertion in changed if insertion.stage == stage]
            assert tuple(calls[path] for path in paths) == shapes[stage.index, position]
        placement.remove(model)


def test_map_shapes_name_the_size_that_does_not_run() -> None:
    model = bare("test_vit", dynamic_img_size=False).train()
    with pytest.raises(BackboneError, match="test_vit does not run on 1 x 3 x 64 x 64: AssertionError"):
        placement.map_shapes(model, torch.randn(1, 3, 64, 64))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_backbone_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(BackboneError, match="timm knows no backbone 'resnet81'; the nearest: .*resnet"):
        placement.check_name("resnet81")
    with pytest.raises(BackboneError, match="timm knows no backbone 'resnet18.nothing'; the nearest: .*resnet18"):
        placement.check_name("resnet18.nothing")


def test_a_model_that_is_not_timms_is_refused() -> None:
    with pytest.raises(BackboneError, match="must be a timm classifier with feature_info, but got Sequential"):
        placement.stages(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_a_backbone_that_timm_calls_by_anothers_name_takes_blocks() -> None:
    model = placement.create("vitamin_xlarge_336", num_classes=10, device="meta")
    assert placement.name_of(model) == "vitamin_xlarge_256"  # should timm mend it, this test and its cause may go
    (changed,) = placement.insert(
        model, Architecture(backbone="vitamin_xlarge_336", placements=(Placement(stage=0, block="se"),))
    )
    assert changed.placement.block == "se"


def test_another_backbone_and_an_impossible_place_are_refused() -> None:
    with pytest.raises(ValueError, match="the architecture is for resnet18, but the model is test_resnet"):
        placement.insert(bare(), Architecture(backbone="resnet18"))
    model = bare()
    wrong = (Placement(stage=0, block="se"), Placement(stage=4, block="se", position="replace"))
    with pytest.raises(ValueError, match="the stage has no position replace; its positions: after_stage, in_residual"):
        placement.insert(model, Architecture(backbone="test_resnet", placements=wrong))
    assert placement.remove(model) == 0  # nothing was inserted before the error was seen


def test_the_class_token_alone_is_read_from_the_last_block() -> None:
    refused = placement.stages(bare("test_vit", device="meta"))[5]
    assert (refused.refusal, refused.positions) == (placement.plan.CLASS_TOKEN, ())
    pooled = placement.stages(bare("test_vit", device="meta", global_pool="avg"))[5]
    assert (pooled.refusal, pooled.positions) == ("", ("after_stage", "in_residual"))
