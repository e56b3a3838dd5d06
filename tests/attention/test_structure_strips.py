"""Facts that the papers of ELA, strip pooling and gather-excite imply, beyond the values of their formulas."""

from __future__ import annotations

import pytest
import torch

from nas.attention import BLOCKS, build
from nas.complexity import count

LOCAL = [
    {"extent": extent, "gather": gather, "excite": excite}
    for extent in (2, 4, 8, 16, 32)
    for gather in ("mean", "conv")
    for excite in ("none", "mlp")
]


def random_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def changed(block, x, channel, row, column):
    """Return which gates one pixel of one channel reaches, itself left out: (C, H, W)."""
    moved = x.clone()
    moved[:, channel, row, column] += 1
    return ((block(moved) / moved - block(x) / x).abs() > 1e-9)[0]


@pytest.mark.parametrize("group_width", [1, 8])
def test_ela_gate_is_a_product_of_a_row_and_a_column(group_width, randomise):
    block = randomise(build("ela", 8, group_width=group_width)).double()
    x = random_map(2, 8, 5, 6).double()
    gate = (block(x) / x).detach()
    assert ((gate > 0) & (gate < 1)).all()
    assert (torch.linalg.matrix_rank(gate, rtol=1e-9) == 1).all()


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_ela_treats_rows_as_it_treats_columns(kernel_size, randomise):
    block = randomise(build("ela", 8, kernel_size=kernel_size)).double()
    x = random_map(2, 8, 5, 9).double()
    torch.testing.assert_close(block(x.transpose(2, 3)), block(x).transpose(2, 3))


@pytest.mark.parametrize(("group_width", "norm_groups"), [(1, 4), (4, None), (2, 4)])
def test_ela_mixes_channels_of_a_group_alone(group_width, norm_groups, randomise):
    block = randomise(build("ela", 16, group_width=group_width, norm_groups=norm_groups)).double()
    reached = changed(block, random_map(1, 16, 9, 9).double(), 9, 4, 4).any(2).any(1)
    assert reached.nonzero().flatten().tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 7), (17, 1), (20, 10), (24, 12), (64, 16), (512, 16)])
def test_ela_normalises_in_as_many_groups_as_fit(channels, groups):
    assert build("ela", channels).norm.num_groups == groups


def test_ela_normalises_a_lone_value_to_nothing(randomise):
    block = randomise(build("ela", 8)).double().train()
    x = random_map(1, 8, 1, 1).double()
    torch.testing.assert_close(block(x) / x, torch.sigmoid(block.norm.bias)[None, :, None, None] ** 2)


@pytest.mark.parametrize("convolution", ["dense", "depthwise"])
def test_strip_gate_lies_between_0_and_1_and_starts_near_a_half(convolution):
    torch.manual_seed(0)
    x = random_map(2, 64, 12, 9)
    gate = build("strip", 64, convolution=convolution).eval()(x) / x
    assert ((gate > 0) & (gate < 1)).all()
    assert abs(gate.mean() - 0.5) < 0.05


@pytest.mark.parametrize(("convolution", "channels"), [("dense", 6), ("depthwise", 1)])
def test_strip_sees_a_cross(convolution, channels, randomise):
    # no ReLU may hide a change: in the dense form everything is above 0
    block = randomise(build("strip", 6, convolution=convolution, kernel_size=5)).double().eval()
    if convolution == "dense":
        torch.nn.init.constant_(block.row_norm.bias, 50.0)
        torch.nn.init.normal_(block.mix.weight, std=1e-2, generator=torch.Generator().manual_seed(0))
    reached = changed(block, random_map(1, 6, 9, 10).double(), 2, 4, 6)
    cross = torch.zeros(9, 10, dtype=torch.bool)
    cross[2:7] = True
    cross[:, 4:9] = True
    assert reached.any(2).any(1).sum() == channels
    assert torch.equal(reached[2], cross)


def test_strip_light_form_has_two_filters_per_channel():
    block = build("strip", 16, convolution="depthwise")
    assert [tuple(parameter.shape) for parameter in block.parameters()] == [(16, 1, 3, 1), (16, 1, 1, 3)]


def test_ge_gates_a_channel_by_its_own_mean_without_parameters():
    block = build("ge", 8)
    assert not list(block.parameters())
    x = random_map(2, 8, 5, 7)
    torch.testing.assert_close(block(x), x * torch.sigmoid(x.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize("options", LOCAL, ids=str)
def test_ge_works_at_every_size(options, randomise):
    block = randomise(build("ge", 8, **options))
    for height, width in ((1, 1), (1, 2), (3, 2), (7, 7), (8, 9), (15, 33), (16, 31)):
        x = random_map(1, 8, height, width)
        y = block.train()(x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        gate = block.eval()(x) / x
        assert ((gate >= 0) & (gate <= 1)).all()


@pytest.mark.parametrize("options", LOCAL, ids=str)
def test_ge_counts_are_those_of_the_table(options):
    for channels, height, width in ((3, 5, 7), (32, 17, 64)):
        counted = count(build("ge", channels, **options), (channels, height, width))
        assert BLOCKS["ge"].count(options, channels, height, width) == (counted.parameters, counted.macs)


@pytest.mark.parametrize("options", [options for options in LOCAL if options["extent"] <= 8], ids=str)
def test_ge_gates_are_constant_in_cells_of_the_extent(options, randomise):
    extent = options["extent"]
    block = randomise(build("ge", 8, **options)).double().eval()
    x = random_map(2, 8, 2 * extent, 3 * extent).double()
    gate = (block(x) / x).unflatten(3, (3, extent)).unflatten(2, (2, extent))
    torch.testing.assert_close(gate, gate[:, :, :, :1, :, :1].expand_as(gate))
    assert gate[..., 0].std((2, 4)).max() > 0  # some channels are off behind their ReLU everywhere


@pytest.mark.parametrize("extent", [2, 4, 8])
def test_ge_means_leave_the_padding_out(extent):
    x = torch.full((1, 4, 11, 9), -2.0)
    torch.testing.assert_close(build("ge", 4, extent=extent)(x), x * torch.sigmoid(x))


def test_ge_means_overlap_by_all_but_one_pixel(randomise):
    # at every 4th pixel, over 7 pixels around it: pixel 5 belongs to the windows around 4 and 8
    reached = changed(build("ge", 4, extent=4), random_map(1, 4, 16, 16).double(), 1, 5, 4)
    assert not reached[[0, 2, 3]].any()
    assert reached[1].any(1).nonzero().flatten().tolist() == list(range(4, 12))
    assert reached[1].any(0).nonzero().flatten().tolist() == list(range(4, 8))


def test_ge_with_an_extent_beyond_the_map_is_global():
    x = random_map(2, 8, 5, 7)
    torch.testing.assert_close(build("ge", 8, extent=8)(x), build("ge", 8)(x))


@pytest.mark.parametrize("extent", [2, 8])
def test_ge_convolutions_can_close_a_gate(extent, randomise):
    x = random_map(2, 8, 16, 16)
    gate = randomise(build("ge", 8, extent=extent, gather="conv")).eval()(x) / x
    assert gate.min() < 0.4  # a ReLU behind the last convolution would keep it above 0.5
    assert gate.max() > 0.5


def test_ge_offers_each_network_once():
    spec = BLOCKS["ge"]
    assert spec.canonical({"extent": 0, "gather": "conv", "excite": "mlp"}, 64) == spec.canonical({}, 64)
    assert not list(build("ge", 64, gather="conv", excite="mlp").parameters())


@pytest.mark.parametrize("extent", [None, 1, 3, 64, 2.0, True, "4", -2])
def test_ge_refuses_other_extents(extent):
    with pytest.raises(ValueError, match=r"ge: extent must be 0 \(global\) or one of 2, 4, 8, 16, 32, but got"):
        build("ge", 64, extent=extent)


@pytest.mark.parametrize("group_width", [0, 3, True, 2.0])
def test_ela_refuses_widths_that_do_not_divide(group_width):
    with pytest.raises(ValueError, match="ela: group_width must be an integer >= 1 that divides the channels, but got"):
        build("ela", 64, group_width=group_width)
