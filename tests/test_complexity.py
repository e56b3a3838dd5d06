"""Complexity: counts against formulas by hand, on a copy; the nominal time follows from the counts alone."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.complexity import NOMINAL, Complexity, count, nominal_ms


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // 4)
        self.expand = nn.Linear(channels // 4, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


def network(*blocks: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(8 * 36, 10)
    )


def test_a_convolution_by_hand() -> None:
    got = count(nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 8, 10))
    assert got.macs == 6 * (4 // 2) * 3 * 3 * 8 * 10
    assert got.parameters == 6 * 2 * 9 + 6
    assert got.weight_bytes == 4 * got.parameters
    assert got.traffic_bytes == 4 * (4 + 6) * 8 * 10
    assert got.operations == 1


def test_a_strided_convolution_by_hand() -> None:
    assert count(nn.Conv2d(3, 5, 3, stride=2), (3, 9, 9)).macs == 5 * 3 * 9 * 4 * 4


def test_a_linear_layer_by_hand() -> None:
    got = count(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), (3, 4, 4))
    assert got.macs == 480
    assert got.weight_bytes == 4 * 490
    assert got.traffic_bytes == 4 * (48 + 10)
    assert got.operations == 1


def test_attention_by_hand() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
            weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)
            return weights @ tokens

    assert count(Attention(), (6, 5, 5)).macs == 2 * 25 * 25 * 6


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_as_many_multiply_accumulates_as_torch_counts(name: str) -> None:
    model, shape = timm.create_model(name).eval(), (3, 160, 160)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.zeros(1, *shape))
    assert count(model, shape).macs == flops.get_total_flops() // 2 > 0


def test_upsampling_is_one_operation() -> None:
    assert count(nn.Upsample(scale_factor=2), (3, 4, 4)).operations == 1


def test_a_shared_layer_counts_once_as_parameters_and_twice_as_work() -> None:
    layer = nn.Conv2d(4, 4, 1)
    once, twice = count(layer, (4, 5, 5)), count(nn.Sequential(layer, layer), (4, 5, 5))
    assert twice.parameters == once.parameters
    assert (twice.macs, twice.weight_bytes, twice.operations) == (2 * once.macs, 2 * once.weight_bytes, 2)


def test_views_and_allocations_are_no_operations() -> None:
    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, _ = x.detach().permute(0, 2, 3, 1).chunk(2, dim=1)
            torch.empty(3)
            return first.reshape(first.shape).unsqueeze(1).expand(-1, 4, -1, -1, -1)[:, :2]

    got = count(Views(), (4, 6, 6))
    assert (got.operations, got.traffic_bytes, got.weight_bytes, got.macs) == (0, 0, 0, 0)


def test_a_reshape_that_copies_is_an_operation() -> None:
    class Copies(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.transpose(1, 2).reshape(-1)

    got = count(Copies(), (4, 6, 6))
    assert (got.operations, got.traffic_bytes) == (1, 2 * 4 * 144)


def test_it_is_the_same_every_time_in_any_mode() -> None:
    model = network(SqueezeExcite(8))
    first = count(model, (3, 6, 6))
    assert count(model, (3, 6, 6)) == first
    assert count(model.eval(), (3, 6, 6)) == first
    with torch.inference_mode():
        assert count(model, (3, 6, 6)) == first


def test_the_model_is_left_as_it_was() -> None:
    model = network(SqueezeExcite(8))
    model[1].eval()
    before = [(module, dict(vars(module))) for module in model.modules()]
    tensors = [(tensor, tensor.clone(), tensor.requires_grad) for tensor in model.state_dict(keep_vars=True).values()]
    count(model, (3, 6, 6))
    assert [(module, dict(vars(module))) for module in model.modules()] == before
    assert [module.training for module in model.modules()] == [flags["training"] for _, flags in before]
    for tensor, clone, requires_grad in tensors:
        assert tensor.device.type == "cpu"
        assert tensor.requires_grad == requires_grad
        assert torch.equal(tensor, clone)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_tensors_that_are_no_buffers_are_followed() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid = torch.randn(4, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.grid + torch.arange(x.shape[-1])

    model = Plain()
    assert count(model, (4, 6, 6)).operations == 3
    assert model.grid.device.type == "cpu"


def test_a_block_adds_operations_and_nominal_time() -> None:
    bare, candidate = count(network(), (3, 6, 6)), count(network(SqueezeExcite(8)), (3, 6, 6))
    assert candidate.macs == bare.macs + 2 * 8 * 2
    assert candidate.parameters == bare.parameters + 8 * 2 * 2 + 2 + 8
    assert candidate.operations == bare.operations + 6  # mean, two products, relu, sigmoid, scaling
    for device_type in NOMINAL:
        for batch_size in (1, 64):
            assert nominal_ms(candidate, device_type, batch_size) > nominal_ms(bare, device_type, batch_size)


def test_the_nominal_time_is_linear_in_the_counts() -> None:
    nothing = {"parameters": 0, "macs": 0, "weight_bytes": 0, "traffic_bytes": 0, "operations": 0}
    cpu = NOMINAL["cpu"]
    assert nominal_ms(Complexity(**nothing), "cpu") == 0
    assert nominal_ms(Complexity(**{**nothing, "operations": 1000}), "cpu") == cpu.operation_us
    moved = Complexity(**{**nothing, "traffic_bytes": 10**6, "weight_bytes": 10**7})
    assert nominal_ms(moved, "cpu", 4) == pytest.approx(14 / cpu.gigabytes_per_second)
    computed = Complexity(**{**nothing, "macs": 10**6})
    assert nominal_ms(computed, "cpu", 4) == pytest.approx(8 / cpu.gigaflops)


def test_control_flow_on_values_is_reported_with_the_models_name() -> None:
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ValueError, match=r"Undecided cannot be counted on an image of shape \(3, 4, 4\)"):
        count(Undecided(), (3, 4, 4))


def test_an_input_that_does_not_fit_is_reported() -> None:
    with pytest.raises(ValueError, match=r"Conv2d cannot be counted on an image of shape \(4, 4, 4\)"):
        count(nn.Conv2d(3, 3, 1), (4, 4, 4))
    with pytest.raises(ValueError, match="input_shape must be three positive numbers"):
        count(nn.Conv2d(3, 3, 1), (3, 0, 4))


def test_bad_arguments_of_the_nominal_time_are_refused() -> None:
    got = count(nn.Conv2d(3, 3, 1), (3, 4, 4))
    with pytest.raises(ValueError, match="device_type must be one of cpu, cuda, mps, but got 'tpu'"):
        nominal_ms(got, "tpu")
    with pytest.raises(ValueError, match="batch_size must be at least 1, but got 0"):
        nominal_ms(got, "cpu", 0)
