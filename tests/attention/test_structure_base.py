"""Facts of what all blocks share."""

from __future__ import annotations

import pytest
import torch

from nas.attention.base import mean


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dims", [(2, 3), (3,), (1,)])
def test_mean_is_torchs_in_every_type(dtype, dims):
    x = torch.randn(2, 3, 16, 17, generator=torch.Generator().manual_seed(0)).to(dtype)
    for keepdim in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            actual = mean(x, dims, keepdim=keepdim)
        torch.testing.assert_close(actual, x.mean(dims, keepdim=keepdim), rtol=1e-2, atol=1e-3)
        assert actual.dtype == dtype


def test_mean_of_half_precision_does_not_overflow_on_the_way():
    # the sum of these 3136 values is beyond the greatest float16, 65504
    assert mean(torch.full((1, 1, 56, 56), 100.0, dtype=torch.float16)).item() == 100


def test_gradient_of_a_mean_is_a_view():
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(mean(x).sum(), x)
    assert gradient.untyped_storage().nbytes() < x.untyped_storage().nbytes()
    torch.testing.assert_close(gradient, torch.full_like(x, 1 / 20))
