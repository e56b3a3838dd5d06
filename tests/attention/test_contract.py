"""What every block promises, whatever it computes."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from formulas import CASES

from nas.attention import BLOCKS, INITS, build

every_block = pytest.mark.parametrize("block", BLOCKS)
every_init = pytest.mark.parametrize("init", INITS)
WIDTHS = (1, 3, 8, 20, 64, 512)
every_width = pytest.mark.parametrize(
    ("block", "channels"), [(b, c) for b in BLOCKS for c in WIDTHS if BLOCKS[b].possible(c) is None]
)
OTHER_STARTS = [block for block in BLOCKS if not BLOCKS[block].starts_as_identity({})]
"""Blocks whose published start is no identity: ``init`` decides what they are."""
either_mode = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def built(block, channels, **arguments):
    """Return the block; its start is always the same."""
    torch.manual_seed(0)
    return build(block, channels, **arguments)


@pytest.mark.parametrize("channels", WIDTHS)
@every_block
def test_every_width_works_or_is_refused_with_the_rule(block, channels):
    if BLOCKS[block].possible(channels) is None:
        build(block, channels)
    else:
        with pytest.raises(ValueError, match=r"channels.* must be|must be .*channels"):
            build(block, channels)


@every_width
@every_init
@either_mode
def test_keeps_shape_on_any_map(block, init, channels, training):
    module = built(block, channels, init=init).train(training)
    shapes = [(1, 1, 1), (2, 1, 1), (1, 5, 9), (3, 4, 1), (2, 7, 7)]
    if channels in (8, 20):  # wider ones would take seconds each
        shapes.append((1, 56, 56))
    for batch, height, width in [(1, 1, 1), (1, 5, 9), (2, 7, 7)] if channels == 512 else shapes:
        x = torch.randn(batch, channels, height, width)
        before = x.clone()
        y = module(x)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert y.isfinite().all()
        assert torch.equal(x, before)


@every_width
@either_mode
def test_identity_init_passes_the_map_through_exactly(block, channels, training):
    module = built(block, channels, init="identity").train(training)
    for shape in ((2, channels, 5, 9), (1, channels, 1, 1)):
        x = 3 * torch.randn(shape)
        assert torch.equal(module(x), x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(x), x)
            assert torch.equal(module(x.bfloat16()), x.bfloat16())


@every_block
@either_mode
def test_published_start_is_an_identity_where_the_table_says_so(block, training):
    module = built(block, 16).train(training)
    x = 3 * torch.randn(2, 16, 5, 9)
    assert torch.equal(module(x), x) == BLOCKS[block].starts_as_identity({})


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in OTHER_STARTS])
def test_both_inits_are_one_network_where_the_published_start_is_an_identity(block):
    paper, identity = built(block, 16), built(block, 16, init="identity")
    assert [name for name, _ in paper.named_parameters()] == [name for name, _ in identity.named_parameters()]
    assert all(torch.equal(one, other) for one, other in zip(paper.parameters(), identity.parameters(), strict=True))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in OTHER_STARTS])
def test_a_published_identity_trains(block):
    module = built(block, 16)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    x, target = torch.randn(2, 8, 16, 5, 4)
    for _ in range(2):  # the first step moves gamma alone
        optimiser.zero_grad()
        ((module(x) - target) ** 2).mean().backward()
        optimiser.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("block", OTHER_STARTS)
def test_identity_init_adds_one_scalar_to_the_papers_parameters(block):
    paper, identity = built(block, 16), built(block, 16, init="identity")
    assert set(identity.state_dict()) - set(paper.state_dict()) == {"strength"}
    assert identity.strength.shape == ()
    assert paper.strength is None
    identity.load_state_dict(paper.state_dict(), strict=False)
    with torch.no_grad():
        identity.strength.fill_(1)
    x = torch.randn(2, 16, 5, 4)
    torch.testing.assert_close(identity.eval()(x), paper.eval()(x))


@pytest.mark.parametrize("block", OTHER_STARTS)
def test_identity_init_trains(block, randomise):
    module = built(block, 16, init="identity")
    module = randomise(module, strength=0.0)
    x, target = torch.randn(2, 2, 16, 5, 4)
    ((module(x) - target) ** 2).mean().backward()
    assert module.strength.grad.abs() > 0
    torch.optim.SGD([module.strength], lr=1.0).step()
    module.zero_grad()
    ((module(x) - target) ** 2).mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


@every_block
@every_init
@pytest.mark.parametrize("channels", [6, 16])
def test_a_gradient_reaches_every_parameter(block, init, channels, randomise):
    # random weights: at the paper's start SGE and shuffle attention hide some behind a factor of 0
    module = built(block, channels, init=init)
    module = randomise(module, strength=0.5 if module.strength is not None else None)
    # many images: a hidden unit that is on in all of them moves nothing once a batch normalisation follows
    x = torch.randn(32, channels, 5, 4, requires_grad=True)
    (module(x) * torch.randn(x.shape)).sum().backward()
    assert x.grad.abs().max() > 0
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        # above what rounding leaves of a gradient that is 0 in exact arithmetic
        assert parameter.grad.abs().max() > 1e-5, name


@every_block
@every_init
@either_mode
@pytest.mark.parametrize("value", [0.0, 1.0, -300.0])
@pytest.mark.parametrize("shape", [(2, 8, 4, 5), (2, 8, 1, 1), (1, 8, 1, 1)])
def test_constant_maps_give_finite_outputs_and_gradients(block, init, training, value, shape):
    module = built(block, 8, init=init).train(training)
    x = torch.full(shape, value, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def assert_finite(module, x, *, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = module(x)
    y.float().mean().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize(("block", "options"), CASES, ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16 module", "autocast"])
@pytest.mark.parametrize("start", ["paper", "random"])
def test_large_maps_in_half_precision_give_finite_outputs_and_gradients(block, options, autocast, start, randomise):
    for channels in (16, 64):
        module = built(block, channels, **options)
        if start == "random":
            module = randomise(module)
        x = (1e4 * torch.randn(2, channels, 6, 5)).bfloat16().requires_grad_()
        assert_finite(module.to(torch.float32 if autocast else torch.bfloat16), x, autocast=autocast)


@pytest.mark.parametrize(
    ("block", "options"), [case for case in CASES if case[0] in ("mhsa", "nonlocal", "danet")], ids=str
)
def test_large_maps_give_gradients_of_a_sane_size(block, options):
    # where a kernel rounds its scores differently in the backward pass, these grow without bounds
    module = built(block, 64, **options)
    for parameter in module.parameters():
        if parameter.dim() < 2:
            torch.nn.init.ones_(parameter)  # gammas that start at 0
    x = (1e4 * torch.randn(2, 64, 14, 14)).requires_grad_()
    module(x).mean().backward()
    assert x.grad.abs().max() * x.numel() < 1e5


@every_block
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_dead_channels_in_float16_give_finite_outputs_and_gradients(block, value, randomise):
    module = randomise(built(block, 16)).half()
    x = torch.randn(2, 16, 6, 5)
    x[:, 3] = value
    assert_finite(module, x.half().requires_grad_(), autocast=False)


@every_block
@every_init
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_maps_type(block, init, dtype):
    module = built(block, 16, init=init)
    x = torch.randn(2, 16, 6, 5, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.float().sum().backward()
    assert y.dtype == dtype
    assert x.grad.isfinite().all()
    expected = module.eval()(x.detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(x.detach()).float(), expected, rtol=0.1, atol=0.05)


@every_block
@every_init
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_runs_in_other_types(block, init, dtype):
    module = built(block, 16, init=init).to(dtype)
    y = module(torch.randn(2, 16, 6, 5, dtype=dtype))
    assert y.dtype == dtype
    assert y.isfinite().all()


@every_block
@every_init
def test_memory_layout_does_not_matter(block, init):
    module = built(block, 16, init=init).eval()
    x = torch.randn(2, 16, 6, 5)
    expected = module(x)
    last = module(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected)
    if (block, init) != ("shuffle", "paper"):  # the shuffle copies the map, see its docstring
        assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(x.transpose(2, 3).contiguous().transpose(2, 3)), expected)
    wide = torch.randn(2, 32, 6, 5)
    torch.testing.assert_close(module(wide[:, ::2]), module(wide[:, ::2].contiguous()))


@every_block
@every_init
def test_images_do_not_meet_in_eval_mode(block, init, randomise):
    module = randomise(built(block, 16, init=init)).double().eval()
    x = torch.randn(3, 16, 6, 5, dtype=torch.float64)
    for index in range(3):
        torch.testing.assert_close(module(x)[index], module(x[index : index + 1])[0])


@every_block
@every_init
def test_copies_pickles_and_checkpoints(block, init, randomise):
    module = randomise(built(block, 16, init=init)).eval()
    x = torch.randn(2, 16, 5, 4)
    expected = module(x)
    assert torch.equal(copy.deepcopy(module)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), expected)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = build(block, 16, init=init).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), expected)


@every_block
def test_the_start_depends_on_the_seed_alone(block):
    first, second = built(block, 16), built(block, 16)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


@every_block
def test_a_lone_value_per_channel_leaves_running_statistics_alone(block):
    module = built(block, 16).train()
    before = copy.deepcopy(dict(module.named_buffers()))
    module(torch.randn(1, 16, 1, 1))
    lone = {name for name, buffer in module.named_buffers() if torch.equal(buffer, before[name])}
    # coordinate attention normalises rows and columns together: two positions even on a 1x1 map
    assert lone == (set() if block == "coord" else set(before))
