"""Every block against its paper's formula: output, gradients of the input and of every parameter, in double precision.

The formulas are in tests/attention/formulas, in plain torch. What is compared here to nine digits in double precision
needs no finite differences: autograd derives the formula as well.
"""

from __future__ import annotations

import pytest
import torch
from formulas import CASES, FORMULAS

from nas.attention import BLOCKS, build

SHAPE = (2, 8, 5, 3)
STARTS = [
    (block, options, strength)
    for block, options in CASES
    for strength in (None, 0.3)
    if strength is None or not BLOCKS[block].starts_as_identity(options)
]
"""Every case as published, and with a strength where there is one."""


def test_every_block_has_a_formula():
    assert set(FORMULAS) == set(BLOCKS)


@pytest.mark.parametrize(("block", "options", "strength"), STARTS, ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_block_is_its_formula(block, options, training, strength, randomise):
    module = build(block, SHAPE[1], init="paper" if strength is None else "identity", **options)
    module = randomise(module, strength=strength).double().train(training)
    generator = torch.Generator().manual_seed(1)
    x, weights = torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator).unbind()
    x.requires_grad_()
    s = 1.0 if strength is None else module.strength
    inputs = (x, *module.parameters())
    expected = FORMULAS[block](module, x, s)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    output = module(x)
    gradients = torch.autograd.grad((output * weights).sum(), inputs)
    for actual, wanted in zip((output, *gradients), (expected, *expected_gradients), strict=True):
        scale = wanted.abs().max().item()
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9 * scale)
