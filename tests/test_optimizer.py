"""The optimiser: what decays, at which rates it steps, and the mean of late weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import CPU, PROTOCOL, few, small_net
from torch import nn

from nas import optimizer, proxy
from nas.data import SearchData
from nas.optimizer import one_cycle
from nas.proxy import accuracy


@pytest.fixture(name="few")
def fixture_few() -> SearchData:
    return few()


class TestOptimizer:
    @pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
    def test_only_weights_decay(self, name: str, kind: type) -> None:
        model = small_net()
        model[0].weight.requires_grad_(False)
        made = optimizer.create(model, replace(PROTOCOL, optimizer=name, weight_decay=0.01), [])
        assert isinstance(made, kind)
        decayed, others = made.param_groups
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
        assert [id(p) for p in decayed["params"]] == [id(model[3].weight), id(model[8].weight)]
        assert {p.ndim for p in others["params"]} == {1}
        assert len(others["params"]) == 5

    def test_blocks_have_groups_of_their_own(self) -> None:
        model = small_net()
        protocol = replace(PROTOCOL, weight_decay=0.01, block_lr_factor=0.25)
        groups = optimizer.create(model, protocol, [model[3], model[4]]).param_groups
        assert [(group["factor"], group["weight_decay"]) for group in groups] == [
            (1.0, 0.01),
            (1.0, 0.0),
            (0.25, 0.01),
            (0.25, 0.0),
        ]
        assert [id(p) for group in groups[2:] for p in group["params"]] == [
            id(model[3].weight),
            id(model[4].weight),
            id(model[4].bias),
        ]
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))

    @pytest.mark.parametrize(("shape", "decays"), [((8, 1, 1, 1), False), ((1, 8, 1), False), ((2, 1, 3), True)])
    def test_scales_do_not_decay_whatever_their_shape(self, shape: tuple[int, ...], decays: bool) -> None:
        model = nn.Module()
        model.scale = nn.Parameter(torch.ones(shape))
        (group,) = optimizer.create(model, replace(PROTOCOL, weight_decay=0.01), []).param_groups
        assert group["weight_decay"] == (0.01 if decays else 0.0)

    def test_the_rate_of_blocks_is_their_factor_times_that_of_the_rest(
        self, few: SearchData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rates: list[tuple[float, ...]] = []
        make: Callable[..., torch.optim.Optimizer] = optimizer.create

        def watched(*arguments: Any) -> torch.optim.Optimizer:
            made = make(*arguments)
            made.register_step_pre_hook(lambda given, *_: rates.append(tuple(g["lr"] for g in given.param_groups)))
            return made

        monkeypatch.setattr(optimizer, "create", watched)
        model = small_net()
        protocol = replace(PROTOCOL, batch_size=50, epochs=1, block_lr_factor=0.25)
        proxy.train(model, few, protocol, device=CPU, blocks=[model[3]])
        assert rates == [(0.1 * share, 0.1 * share, 0.025 * share) for share in (one_cycle(0, 2), one_cycle(1, 2))]

    def test_one_cycle_rises_to_the_peak_and_falls(self) -> None:
        rates = [one_cycle(step, 100) for step in range(100)]
        assert max(rates) == rates[19] == 1.0
        assert rates[:20] == sorted(rates[:20])
        assert rates[19:] == sorted(rates[19:], reverse=True)
        assert 0 < rates[-1] < 0.02

    @pytest.mark.parametrize("total", range(1, 12))
    def test_one_cycle_of_few_steps(self, total: int) -> None:
        rates = [one_cycle(step, total) for step in range(total)]
        assert all(0 < rate <= 1 for rate in rates)
        assert max(rates) > 0.8

    def test_the_optimiser_steps_at_the_rates_of_the_cycle(
        self, few: SearchData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rates: list[float] = []
        make: Callable[..., torch.optim.Optimizer] = optimizer.create

        def watched(*arguments: Any) -> torch.optim.Optimizer:
            made = make(*arguments)
            made.register_step_pre_hook(lambda given, *_: rates.append(given.param_groups[0]["lr"]))
            return made

        monkeypatch.setattr(optimizer, "create", watched)
        proxy.train(small_net(), few, replace(PROTOCOL, batch_size=20, learning_rate=0.05), device=CPU)
        assert rates == [0.05 * one_cycle(step, 10) for step in range(10)]


class TestAverage:
    def test_the_last_weights_are_averaged_and_judged(self, few: SearchData) -> None:
        protocol = replace(PROTOCOL, epochs=4, average_epochs=3)
        ends: list[list[torch.Tensor]] = []
        model = small_net()
        plain = proxy.train(
            model,
            few,
            replace(protocol, average_epochs=1),
            device=CPU,
            on_epoch=lambda *_: ends.append([parameter.detach().clone() for parameter in model.parameters()]),
        )
        averaged = small_net()
        curve = proxy.train(averaged, few, protocol, device=CPU)
        for parameter, *late in zip(averaged.parameters(), *ends[1:], strict=True):
            torch.testing.assert_close(parameter.detach(), torch.stack(late).mean(0))
        assert curve.losses == plain.losses  # the training itself is not changed
        assert curve.accuracies[:-1] == plain.accuracies[:-1]
        assert accuracy(averaged, few.val, few, protocol) == curve.accuracies[-1]

    def test_statistics_are_those_of_the_mean(self, few: SearchData) -> None:
        protocol = replace(PROTOCOL, epochs=2, average_epochs=2, augmentation="none", calibration_images=10_000)
        model = small_net()
        proxy.train(model, few, replace(protocol, batch_size=100), device=CPU)
        calibrated = copy.deepcopy(model)
        proxy.calibrate(calibrated, few.train.images, few, replace(protocol, batch_size=100))
        for ours, theirs in zip(model.buffers(), calibrated.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("count", [0, 3])
    def test_no_more_epochs_than_there_are(self, count: int) -> None:
        with pytest.raises(ValueError, match=f"average_epochs must be 1 to epochs, 2, but got {count}"):
            replace(PROTOCOL, average_epochs=count)
