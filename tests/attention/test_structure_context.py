"""Facts that the papers of NAM, GC and SOCA imply, beyond the values of their formulas."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.attention import build

CHANNEL_GATES = [("gc", {"fusion": "scale"}), ("gc", {"fusion": "add"}), ("soca", {})]


def random_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def root_of_covariance(x):
    """Return the exact root (B, C, C), from eigenvalues."""
    centred = x.flatten(2) - x.flatten(2).mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2) / centred.shape[2])
    return vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.transpose(1, 2)


@pytest.mark.parametrize(("name", "options"), CHANNEL_GATES, ids=str)
def test_what_a_channel_gets_ignores_where_a_pixel_is(name, options, randomise):
    block = randomise(build(name, 16, **options))
    x = random_map(2, 16, 6, 7)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(3))

    def permuted(maps):
        return maps.flatten(2)[:, :, order].unflatten(2, (6, 7))

    torch.testing.assert_close(block(permuted(x)), permuted(block(x)))


def test_nam_gates_start_near_a_half_and_follow_the_sign():
    x = random_map(4, 64, 8, 8)
    gate = build("nam", 64)(x) / x
    assert (gate - 0.5).abs().max() < 0.03
    above = x > x.mean((0, 2, 3), keepdim=True)
    assert torch.equal(gate > 0.5, above)


def test_nam_halves_a_channel_whose_scale_is_0(randomise):
    block = randomise(build("nam", 8))
    with torch.no_grad():
        block.norm.weight[3] = 0
    x = random_map(2, 8, 5, 4)
    gate = block(x) / x
    torch.testing.assert_close(gate[:, 3], torch.full((2, 5, 4), 0.5))
    assert not torch.allclose(gate[:, 4], torch.full((2, 5, 4), 0.5), atol=1e-3)


@pytest.mark.parametrize("layout", ["channel", "sequential"])
@pytest.mark.parametrize("weights", ["learned", "detached"])
def test_nam_survives_scales_that_are_all_0(layout, weights):
    block = build("nam", 8, layout=layout, weights=weights)
    torch.nn.init.zeros_(block.norm.weight)
    if layout == "sequential":
        torch.nn.init.zeros_(block.pixels)
    x = random_map(2, 8, 5, 4).requires_grad_()
    y = block(x)
    y.sum().backward()
    torch.testing.assert_close(y, x * (0.5 if layout == "channel" else 0.25))
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


def test_nam_weights_differ_in_the_gradient_alone(randomise):
    x = random_map(2, 8, 5, 4)
    blocks = [randomise(build("nam", 8, weights=weights)) for weights in ("learned", "detached")]
    outputs = [block(x) for block in blocks]
    assert torch.equal(*outputs)
    for output in outputs:
        (output * x).sum().backward()
    assert not torch.allclose(blocks[0].norm.weight.grad, blocks[1].norm.weight.grad, rtol=1e-2)
    torch.testing.assert_close(blocks[0].norm.bias.grad, blocks[1].norm.bias.grad)


def test_nam_channel_gate_sees_only_its_own_value_in_eval_mode(randomise):
    block = randomise(build("nam", 8)).eval()
    x = random_map(1, 8, 5, 4)
    moved = x.clone()
    moved[0, 2, 1, 3] += 1
    assert (block(moved) != block(x)).nonzero().tolist() == [[0, 2, 1, 3]]


def test_nam_counts_batches_as_its_normalisation_would(randomise):
    block = randomise(build("nam", 8))
    reference = torch.nn.BatchNorm2d(8)
    reference.load_state_dict(block.norm.state_dict())
    for seed in range(3):
        x = torch.randn(4, 8, 5, 4, generator=torch.Generator().manual_seed(seed))
        block(x)
        reference(x)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(block.norm.get_buffer(name), buffer)


def test_nam_second_gate_normalises_each_image_and_each_pixel_by_itself(randomise):
    block = randomise(build("nam", 8, layout="sequential"))
    x = random_map(3, 8, 9, 11)
    gate = block.spatial_gate(x, block.pixels)
    torch.testing.assert_close(block.spatial_gate(x[:1], block.pixels), gate[:1])
    moved = x.clone()
    moved[0, 2, 1, 3] += 1
    changed = (block.spatial_gate(moved, block.pixels) - gate).abs().amax(1) > 0
    assert changed.nonzero().tolist() == [[0, 1, 3]]


def test_nam_second_gate_shares_out_one_over_all_pixels(randomise):
    block = randomise(build("nam", 8, layout="sequential"))
    assert block.share(block.pixels[0]).sum().item() == pytest.approx(1)
    assert sum(parameter.numel() for parameter in block.parameters()) == 2 * 8 + 2 * 49
    for size in ((1, 1), (2, 9), (7, 7), (56, 3)):
        assert block(random_map(1, 8, *size)).shape == (1, 8, *size)


def test_gc_adds_one_vector_to_all_pixels(randomise):
    block = randomise(build("gc", 16))
    x = random_map(2, 16, 5, 4)
    added = block(x) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), rtol=1e-4, atol=1e-5)
    assert added.abs().amax((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_gc_sum_starts_as_the_identity_and_learns(init):
    block = build("gc", 16, init=init)
    x = random_map(2, 16, 5, 4)
    assert block.strength is None
    assert torch.equal(block(x), x)
    (block(x) * x).sum().backward()
    assert block.expand.weight.grad.abs().max() > 0
    assert block.expand.bias.grad.abs().max() > 0


def test_gc_product_starts_at_gates_of_a_half_between_0_and_1(randomise):
    x = random_map(2, 16, 5, 4)
    block = build("gc", 16, fusion="scale")
    torch.testing.assert_close(block(x), x / 2)
    gate = randomise(block).double()(x.double()) / x.double()
    assert ((gate > 0) & (gate < 1)).all()


def test_gc_context_goes_from_the_mean_to_one_pixel():
    block = build("gc", 4)
    x = random_map(2, 4, 5, 6)
    torch.nn.init.zeros_(block.key.weight)
    torch.testing.assert_close(block.context(x), x.mean((2, 3)))
    with torch.no_grad():
        block.key.weight[0, 1] = 1e4
    best = x[:, 1].flatten(1).argmax(1)
    torch.testing.assert_close(block.context(x), x.flatten(2)[torch.arange(2), :, best])


def test_gc_key_starts_from_hes_normal_distribution_without_a_bias():
    torch.manual_seed(0)
    block = build("gc", 4096)
    assert block.key.bias is None
    assert block.key.weight.std().item() == pytest.approx((2 / 4096) ** 0.5, rel=0.1)


def test_gc_needs_two_channels():
    with pytest.raises(ValueError, match="gc: channels must be at least 2, but got 1"):
        build("gc", 1)


def test_soca_gates_ignore_the_mean_and_the_sign_of_the_map(randomise):
    block = randomise(build("soca", 16)).double()
    x = random_map(2, 16, 6, 5).double()
    gate = block(x) / x
    assert ((gate > 0) & (gate < 1)).all()
    shifted = x + 3 * torch.arange(16.0).view(-1, 1, 1)
    torch.testing.assert_close(block(shifted) / shifted, gate)
    torch.testing.assert_close(block(-x), -block(x))


@pytest.mark.parametrize("shape", [(2, 16, 9, 8), (2, 16, 3, 4), (2, 16, 4, 4), (2, 16, 1, 2)])
def test_soca_steps_lead_to_the_root_of_the_covariance(shape):
    x = random_map(*shape).double()
    exact = root_of_covariance(x).mean(2)
    errors = [
        (build("soca", shape[1], iterations=steps).root_mean(x) - exact).abs().max() for steps in (1, 3, 5, 8, 16)
    ]
    assert errors[-1] < 1e-6
    # the eigenvalues that are 0 leave their rounding under the root in what is compared with
    assert all(after < before for before, after in itertools.pairwise(errors) if before > 1e-7)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 7])
def test_soca_pixels_and_channels_lead_to_the_same_root(iterations, monkeypatch):
    block = build("soca", 32, iterations=iterations)
    x = random_map(2, 32, 3, 5).double()
    from_pixels = block.root_mean(x)
    monkeypatch.setattr("nas.attention.second_order._known_fewer", lambda pixels, channels: False)
    torch.testing.assert_close(block.root_mean(x), from_pixels, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("condition", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("shape", [(2, 32, 12, 12), (2, 64, 4, 4)])
def test_soca_root_keeps_single_precision(condition, shape):
    basis = torch.linalg.qr(random_map(shape[1], shape[1]).double()).Q
    scales = torch.logspace(0, torch.log10(torch.tensor(condition)).item(), shape[1], dtype=torch.float64)
    x = torch.einsum("dc,bchw->bdhw", basis * scales, random_map(*shape).double()) + 10
    block = build("soca", shape[1])
    exact = block.root_mean(x)
    error = block.root_mean(x.float()).double() - exact
    assert error.norm() < 1e-5 * exact.norm()


def test_soca_keeps_single_precision_under_autocast():
    block = build("soca", 16)
    seen = []
    original = block.root_mean
    block.root_mean = lambda x: seen.append(original(x)) or seen[-1]
    x = 1e4 * random_map(2, 16, 6, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.isfinite().all()
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], original(x.float()))


def test_soca_cost_is_linear_in_the_pixels():
    block = build("soca", 8)
    work = []
    for side in (16, 32):
        with FlopCounterMode(display=False) as flops:
            block(random_map(1, 8, side, side))
        work.append(flops.get_total_flops())
    assert work[1] - work[0] == 2 * 8 * 8 * (32**2 - 16**2)


@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (2, 8, 6, 5)])
def test_soca_gives_constant_maps_the_gates_of_its_biases(shape, randomise):
    block = randomise(build("soca", 8))
    x = torch.full(shape, 2.0)
    gate = torch.sigmoid(block.expand(torch.relu(block.reduce.bias)))
    torch.testing.assert_close(block(x), (x * gate.view(-1, 1, 1)))
