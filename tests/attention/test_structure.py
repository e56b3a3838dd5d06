"""Facts that each block's paper implies, beyond the values of its formula."""

from __future__ import annotations

import math

import pytest
import torch

from nas.attention import build


def random_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def test_se_gates_ignore_where_a_pixel_is(randomise):
    block = randomise(build("se", 16))
    x = random_map(2, 16, 6, 7)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(3))

    def permuted(maps):
        return maps.flatten(2)[:, :, order].unflatten(2, (6, 7))

    torch.testing.assert_close(block(permuted(x)), permuted(block(x)))


def test_eca_gates_see_only_their_neighbours(randomise):
    block = randomise(build("eca", 16, kernel_size=5))
    x = random_map(1, 16, 3, 3)
    moved = x.clone()
    moved[:, 8] += 1
    changed = (block(moved) / moved - block(x) / x).abs().amax((0, 2, 3)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]


def test_coord_gate_is_a_product_of_a_row_and_a_column(randomise):
    block = randomise(build("coord", 4)).double().eval()
    x = random_map(2, 4, 5, 6).double()
    gate = (block(x) / x).detach()
    assert (torch.linalg.matrix_rank(gate, rtol=1e-9) == 1).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 14, 56])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_cbam_works_at_every_map_size(size, kernel_size):
    block = build("cbam", 8, kernel_size=kernel_size).eval()
    x = random_map(1, 8, size, size)
    assert block(x).shape == x.shape
    assert block.spatial_gate(x).shape == (1, 1, size, size)


def test_cbam_scales_down_without_a_residual(randomise):
    block = randomise(build("cbam", 8)).eval()
    x = random_map(2, 8, 6, 5)
    gate = block(x) / x
    assert ((gate > 0) & (gate < 1)).all()


def test_cbam_normalises_its_spatial_gate_as_the_authors_do():
    block = build("cbam", 8)
    assert (block.norm.num_features, block.norm.momentum) == (1, 0.01)


@pytest.mark.parametrize("combine", ["add", "mul"])
def test_bam_gate_lies_between_1_and_2(combine, randomise):
    block = randomise(build("bam", 8, combine=combine)).double().eval()
    x = random_map(2, 8, 5, 3).double()
    gate = block(x) / x
    assert ((gate > 1) & (gate < 2)).all()


def test_bam_pools_the_whole_of_a_map_that_is_not_square(randomise):
    block = randomise(build("bam", 8)).eval()
    x = random_map(1, 8, 5, 19)
    cut = x.clone()
    cut[..., 10:] = 0
    # beyond the reach of both dilated kernels, 2 * 4 columns, only the pooled branch can tell
    assert not torch.allclose(block(cut)[..., 0], block(x)[..., 0], rtol=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_shuffle_starts_as_a_scaled_channel_shuffle(groups):
    x = random_map(2, 16, 5, 4)
    expected = torch.nn.functional.channel_shuffle(x, 2) * torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(build("shuffle", 16, groups=groups)(x), expected)


@pytest.mark.parametrize("layout", ["parallel", "sequential"])
def test_psa_spatial_gate_varies_over_the_map(layout):
    torch.manual_seed(0)
    gate = build("psa", 64, layout=layout).spatial_gate(random_map(1, 64, 56, 56))
    assert gate.max() - gate.min() > 0.1


def test_psa_queries_and_values_start_from_kaimings_normal_by_fan_in():
    torch.manual_seed(0)
    block = build("psa", 512)
    for layer in (block.channel_value, block.spatial_query, block.spatial_value):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02)


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_sge_starts_at_a_constant_gate(groups):
    x = random_map(2, 16, 5, 4)
    torch.testing.assert_close(build("sge", 16, groups=groups)(x), x * torch.sigmoid(torch.tensor(1.0)))


def test_sge_gates_a_group_as_one(randomise):
    block = randomise(build("sge", 16, groups=4)).eval()
    x = random_map(2, 16, 5, 4)
    gate = (block(x) / x).unflatten(1, (4, 4))
    torch.testing.assert_close(gate, gate[:, :, :1].expand_as(gate), rtol=1e-4, atol=1e-5)


def test_gam_without_a_sigmoid_can_turn_values_negative():
    torch.manual_seed(0)
    x = random_map(2, 16, 5, 4)
    assert (build("gam", 16, gate="none").eval()(x) * x < 0).any()
    assert (build("gam", 16).eval()(x) * x >= 0).all()


@pytest.mark.parametrize("lambda_", [1e-12, 1e-4, 0.1, 1000])
def test_simam_gate_is_at_least_the_sigmoid_of_a_half(lambda_):
    x = random_map(2, 8, 6, 5).double()
    gate = build("simam", 8, lambda_=lambda_)(x) / x
    assert (gate >= 1 / (1 + math.exp(-0.5)) - 1e-12).all()
    assert (gate < 1).all()
