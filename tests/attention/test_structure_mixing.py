"""Facts that the papers of the mixing blocks imply, beyond the values of their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas.attention import build
from nas.attention.mixing import DIRECTIONS


def random_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("branches", [2, 3, 4])
def test_sk_stays_between_its_branches(branches, randomise):
    block = randomise(build("sk", 16, branches=branches)).double().eval()
    x = random_map(2, 16, 6, 5).double()
    maps = torch.stack([branch(x) for branch in block.branches])
    y = block(x)
    assert (y >= maps.amin(0) - 1e-12).all()
    assert (y <= maps.amax(0) + 1e-12).all()
    weights = block.weights(list(maps))
    assert weights.shape == (2, branches, 16, 1, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


@pytest.mark.parametrize("branches", [2, 4])
def test_sk_branch_m_sees_pixels_at_steps_of_m(branches, randomise):
    block = randomise(build("sk", 4, branches=branches)).eval()
    x = torch.zeros(1, 4, 11, 11)
    moved = x.clone()
    moved[:, :, 5, 5] = 1
    for step, branch in enumerate(block.branches, start=1):
        rows, columns = (branch[0](moved) != branch[0](x)).any(1)[0].nonzero().unbind(1)
        assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [5 - step, 5, 5 + step]


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 7), (37, 1), (64, 32), (100, 25), (512, 32)])
def test_sk_takes_as_many_groups_as_fit_up_to_32(channels, groups):
    block = build("sk", channels)
    assert block.groups == groups
    assert all(branch[0].groups == groups for branch in block.branches)


def test_sk_has_biases_in_its_normalisations_alone():
    block = build("sk", 64)
    biased = {name for name, parameter in block.named_parameters() if name.endswith("bias")}
    normalised = {name for name, module in block.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert biased == {f"{name}.bias" for name in normalised}


def test_sk_keeps_32_hidden_units_on_narrow_maps():
    assert [build("sk", channels).reduce.out_features for channels in (8, 64, 256, 1024)] == [8, 32, 32, 64]


def test_sk_trains_on_a_single_image():
    block = build("sk", 16).train()
    before = block.norm.running_mean.clone()
    block(random_map(1, 16, 6, 5)).sum().backward()
    assert torch.equal(block.norm.running_mean, before)
    assert all(branch[1].running_mean.abs().max() > 0 for branch in block.branches)


def evenly_weighed(channels, **options):
    """Return the block with weights of 1/3 whatever the map, so that nothing but the shifts moves a pixel's values."""
    torch.manual_seed(0)
    block = build("s2mlp", channels, **options)
    nn.init.zeros_(block.weigh.weight)
    return block.double()


@pytest.mark.parametrize("residual", ["pre_norm", "none"])
@pytest.mark.parametrize("place", [(3, 4), (0, 0), (6, 8), (0, 4), (3, 0)])
def test_s2mlp_brings_a_pixel_to_its_four_neighbours_alone(residual, place):
    block = evenly_weighed(8, residual=residual)
    x = random_map(1, 8, 7, 9).double()
    moved = x.clone()
    moved[0, :, place[0], place[1]] = random_map(8).double()
    changed = {(row, column) for row, column in (block(moved) != block(x)).any(1)[0].nonzero().tolist()}
    around = {(place[0] + rows, place[1] + columns) for rows, columns in (*DIRECTIONS, (0, 0))}
    assert changed == {(row, column) for row, column in around if 0 <= row < 7 and 0 <= column < 9}


@pytest.mark.parametrize("channels", [4, 6, 8])
@pytest.mark.parametrize("part", [0, 1])
def test_s2mlp_moves_a_quarter_each_way_and_keeps_the_border(channels, part):
    block = evenly_weighed(channels, residual="none")
    for layer in (block.expand, block.project):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        everywhere = torch.eye(channels)
        block.expand.weight[part * channels : (part + 1) * channels] = 3 * everywhere
        block.project.weight.copy_(everywhere)
    x = random_map(1, channels, 3, 4).double()
    down = torch.cat((x[:, :, :1], x[:, :, :-1]), 2)
    up = torch.cat((x[:, :, 1:], x[:, :, -1:]), 2)
    right = torch.cat((x[..., :1], x[..., :-1]), 3)
    left = torch.cat((x[..., 1:], x[..., -1:]), 3)
    y = block(x)
    start = 0
    for moved, end in zip(((down, up, right, left), (right, left, down, up))[part], (1, 2, 3, 4), strict=True):
        stop = end * channels // 4
        torch.testing.assert_close(y[:, start:stop], moved[:, start:stop])
        start = stop
    assert start == channels


def test_s2mlp_shifts_leave_a_constant_map_constant(randomise):
    block = randomise(build("s2mlp", 8, residual="none")).double()
    y = block(random_map(2, 8, 1, 1).double().expand(2, 8, 4, 5))
    torch.testing.assert_close(y, y[:, :, :1, :1].expand_as(y))


def test_s2mlp_pools_by_the_sum_as_its_paper(randomise):
    block = randomise(build("s2mlp", 8, residual="none")).double()
    x = 0.1 * random_map(1, 8, 1, 1).double()
    # a mean would weigh the parts alike, and the shifts do nothing on either map
    assert not torch.allclose(block(x.expand(1, 8, 3, 3))[..., :1, :1], block(x), rtol=1e-3)


def test_s2mlp_adds_a_term_that_ignores_scale_and_offset_of_a_pixel(randomise):
    block = randomise(build("s2mlp", 8)).double()
    x = random_map(2, 8, 5, 4).double()
    scale = 1 + random_map(2, 1, 5, 4).double().abs()
    changed = scale * x + 2
    # up to the epsilon inside the root
    torch.testing.assert_close(block(changed) - changed, block(x) - x, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize(("block", "options"), [("s2mlp", {"residual": "none"}), ("sk", {"branches": 3})], ids=str)
def test_memory_layout_is_kept_off_the_default_path_too(block, options, init):
    module = build(block, 8, init=init, **options)
    x = random_map(2, 8, 5, 4)
    assert module(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
