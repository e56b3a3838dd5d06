"""Facts that the papers of criss-cross, dual, non-local and multi-head attention imply, beyond their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from nas.attention import build
from nas.attention.pairs import _attend_aligned, attend
from nas.attention.position import Learned, sincos2d

PAIRS = [
    ("danet", {"branch": "position"}),
    ("danet", {"branch": "channel"}),
    ("nonlocal", {"kv_stride": 1}),
    ("mhsa", {}),
]
"""Blocks that know no order of the pixels."""


def random_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def influenced(block, shape, pixel):
    """Return the pixels of the output that change when one pixel of the input does."""
    x = random_map(*shape)
    moved = x.clone()
    moved[..., pixel[0], pixel[1]] += 1
    changed = (block(moved) - block(x)).abs().amax((0, 1)) > 1e-9
    return {tuple(place) for place in changed.nonzero().tolist()}


@pytest.fixture
def criss_cross(randomise):
    """A function that builds a block whose weights are all well above zero."""

    def make(recurrence):
        block = randomise(build("ccnet", 8, recurrence=recurrence)).double().eval()
        with torch.no_grad():
            block.query_key.weight.mul_(0.1)
        return block

    return make


@pytest.mark.parametrize("pixel", [(0, 0), (2, 3), (4, 5)])
def test_one_round_of_criss_cross_reaches_exactly_a_row_and_a_column(pixel, criss_cross):
    block = criss_cross(1)
    cross = {(i, j) for i in range(5) for j in range(6) if i == pixel[0] or j == pixel[1]}
    assert influenced(block, (1, 8, 5, 6), pixel) == cross


@pytest.mark.parametrize("recurrence", [2, 3])
def test_two_rounds_of_criss_cross_reach_every_pixel(recurrence, criss_cross):
    assert len(influenced(criss_cross(recurrence), (1, 8, 5, 6), (0, 0))) == 30


def test_criss_cross_counts_a_pixel_itself_once(randomise):
    block = randomise(build("ccnet", 4, recurrence=1)).double().eval()
    with torch.no_grad():
        block.query_key.weight.zero_()  # equal scores: the mean over H + W - 1 pixels
        block.value.weight.copy_(torch.eye(4))
        block.gamma.fill_(1)
    x = random_map(1, 4, 3, 5)
    cross = x.sum(2, keepdim=True) + x.sum(3, keepdim=True) - x
    torch.testing.assert_close(block(x), x + cross / (3 + 5 - 1))


@pytest.mark.parametrize(("block", "options"), PAIRS, ids=str)
def test_without_positions_pixels_have_no_order(block, options, randomise):
    module = randomise(build(block, 16, **options)).double().eval()
    order = torch.randperm(42, generator=torch.Generator().manual_seed(3))

    def permuted(maps):
        return maps.flatten(2)[:, :, order].unflatten(2, (6, 7))

    x = random_map(2, 16, 6, 7)
    torch.testing.assert_close(module(permuted(x)), permuted(module(x)))


@pytest.mark.parametrize("position", ["sincos2d", "learned", "relative"])
def test_positions_give_pixels_an_order(position, randomise):
    module = randomise(build("mhsa", 16, position=position)).double().eval()
    x = random_map(2, 16, 6, 7)
    assert not torch.allclose(module(x.flip(3)), module(x).flip(3), rtol=1e-3)


def test_relative_positions_see_offsets_alone(randomise):
    module = randomise(build("mhsa", 16, position="relative", residual="none")).double().eval()
    # where an offset and its mirror image score the same, so do a map and its mirror image
    with torch.no_grad():
        module.offsets.rows.copy_(module.offsets.rows + module.offsets.rows.flip(1))
        module.offsets.columns.copy_(module.offsets.columns + module.offsets.columns.flip(1))
    x = random_map(1, 16, 5, 6)
    torch.testing.assert_close(module(x.flip(2)), module(x).flip(2))
    torch.testing.assert_close(module(x.flip(3)), module(x).flip(3))


@pytest.mark.parametrize("stored", [1, 7, 10**6])
def test_relative_attention_does_not_depend_on_how_many_scores_are_stored(stored, randomise, monkeypatch):
    module = randomise(build("mhsa", 16, heads=2, position="relative")).double()
    x = random_map(2, 16, 5, 4).requires_grad_()
    inputs = (x, *module.parameters())
    expected = module(x)
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    monkeypatch.setattr("nas.attention.multihead.SCORES", stored)
    torch.testing.assert_close(module(x), expected)
    for actual, wanted in zip(torch.autograd.grad(module(x).square().sum(), inputs), gradients, strict=True):
        torch.testing.assert_close(actual, wanted)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (30, 3), (40, 41)])
@pytest.mark.parametrize("position", ["learned", "relative"])
@pytest.mark.parametrize("kv_stride", [1, 2, 3])
def test_learned_positions_fit_every_map(position, kv_stride, height, width):
    module = build("mhsa", 8, position=position, kv_stride=kv_stride).double()
    x = random_map(1, 8, height, width)
    assert module(x).shape == x.shape


def test_learned_positions_are_their_own_table_at_its_size():
    encoding = Learned(4)
    expected = encoding.rows[:, :, None] + encoding.columns[:, None, :]
    torch.testing.assert_close(encoding(16, 16), expected)


def test_sines_start_at_zero_and_turn_slower_with_the_channel():
    encoding = sincos2d(8, 50, 60, torch.empty((), dtype=torch.float64))
    assert encoding.shape == (8, 50, 60)
    assert encoding[:, 0, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    torch.testing.assert_close(encoding[0, :, 5], torch.arange(50, dtype=torch.float64).sin())
    torch.testing.assert_close(encoding[5, 3], (torch.arange(60, dtype=torch.float64) / 100).sin())


def test_non_local_weights_are_a_mean():
    # with equal scores every pixel gathers the mean
    module = build("nonlocal", 8, kv_stride=1).double().eval()
    with torch.no_grad():
        module.query.weight.zero_()
        module.norm.weight.fill_(1)
    x = random_map(1, 8, 3, 4)
    added = module(x) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))


@pytest.mark.parametrize("affinity", ["sum", "dissimilar"])
def test_danet_channel_branch_picks_one_channel_on_a_large_map(affinity):
    module = build("danet", 8, branch="channel", affinity=affinity).double()
    with torch.no_grad():
        module.beta.fill_(1)
    x = random_map(1, 8, 20, 20)
    picked = (module(x) - x)[0].flatten(1)
    distances = torch.cdist(picked, x[0].flatten(1))
    assert (distances.amin(1) < 0.05 * math.sqrt(400)).sum() >= 6
    assert ((distances.argmin(1) == torch.arange(8)).all()) == (affinity == "sum")


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_do_not_meet_before_the_projection(heads, randomise):
    module = randomise(build("mhsa", 8, heads=heads)).double()
    x = random_map(1, 8, 3, 4)
    expected = module.gather(x)
    with torch.no_grad():
        module.query.weight[: 8 // heads] += 1  # the first head's
    changed = (module.gather(x) - expected).abs().amax((0, 1)) > 1e-9
    assert changed.tolist() == [True] * (8 // heads) + [False] * (8 - 8 // heads)


@pytest.mark.parametrize(("hidden", "wide"), [(4, 4), (4, 64), (8, 20), (40, 80), (3, 5)])
@pytest.mark.parametrize("pixels", [3, 150])
@pytest.mark.parametrize("function", [attend, _attend_aligned], ids=["cpu", "elsewhere"])
def test_fused_attention_is_the_plain_one(function, hidden, wide, pixels):
    query, key = random_map(2, 2, 1, pixels, hidden).requires_grad_().unbind()
    value = random_map(2, 1, pixels, wide)
    expected = (query @ key.transpose(2, 3)).softmax(3) @ value
    torch.testing.assert_close(function(query, key, value), expected)


def test_simam_touches_one_channel_and_se_touches_all(randomise):
    x = random_map(1, 8, 4, 5)
    moved = x.clone()
    moved[:, 3] *= 2
    for name, expected in (("simam", 1), ("se", 8)):
        block = randomise(build(name, 8)).double()
        changed = (block(moved) - block(x)).abs().amax((0, 2, 3)) > 1e-9
        assert changed.sum() == expected
