"""The proxy training: what it learns, that it repeats, how it fails, and each of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import CPU, PROTOCOL, few, small_net, splits
from torch import nn

from nas import batches, proxy
from nas.data import SearchData
from nas.evaluation import EvaluationError
from nas.proxy import Curve, accuracy, select_device


@pytest.fixture(scope="module", name="data")
def fixture_data() -> SearchData:
    return splits().search()


@pytest.fixture(scope="module", name="few")
def fixture_few() -> SearchData:
    return few()


class TestTrain:
    @pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "learning_rate": 0.01, "augmentation": "none"}])
    def test_it_learns_digits(self, data: SearchData, changes: dict[str, Any]) -> None:
        model = small_net()
        before = accuracy(model, data.val, data, PROTOCOL)
        curve = proxy.train(model, data, replace(PROTOCOL, epochs=3, **changes), device=CPU)
        assert before < 0.3
        assert curve.accuracies[-1] > 0.85
        assert len(curve.accuracies) == len(curve.losses) == 3
        assert curve.losses[-1] < curve.losses[0]
        assert curve.seconds > 0
        assert not model.training
        assert accuracy(model, data.val, data, PROTOCOL) == curve.accuracies[-1]

    def test_equal_seeds_give_equal_curves_and_weights(self, few: SearchData) -> None:
        protocol = replace(PROTOCOL, augmentation="shift+flip")
        runs: list[tuple[Curve, nn.Module]] = []
        for number in range(2):
            model = small_net(dropout=0.3)
            torch.manual_seed(number)  # the global state before the call does not matter
            runs.append((proxy.train(model, few, protocol, device=CPU), model))
        (first, model), (second, again) = runs
        assert (first.accuracies, first.losses) == (second.accuracies, second.losses)
        for ours, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)

    def test_another_seed_gives_another_curve(self, few: SearchData) -> None:
        losses = {proxy.train(small_net(), few, replace(PROTOCOL, seed=s), device=CPU).losses for s in range(2)}
        assert len(losses) == 2

    def test_the_global_random_state_is_kept(self, few: SearchData) -> None:
        model = small_net(dropout=0.3)
        state = torch.get_rng_state()
        proxy.train(model, few, PROTOCOL, device=CPU)
        assert torch.equal(torch.get_rng_state(), state)

    def test_on_epoch_hears_of_each_epoch(self, few: SearchData) -> None:
        heard: list[tuple[int, float]] = []
        curve = proxy.train(small_net(), few, PROTOCOL, device=CPU, on_epoch=lambda *epoch: heard.append(epoch))
        assert heard == [(1, curve.accuracies[0]), (2, curve.accuracies[1])]

    def test_what_on_epoch_raises_ends_the_training(self, few: SearchData) -> None:
        class StopTrialError(Exception):
            pass

        def stop(epoch: int, _: float) -> None:
            raise StopTrialError(epoch)

        with pytest.raises(StopTrialError, match="1"):
            proxy.train(small_net(), few, PROTOCOL, device=CPU, on_epoch=stop)

    def test_each_epoch_takes_a_turn_of_its_own(self, few: SearchData) -> None:
        events: list[str] = []

        @contextmanager
        def turn() -> Iterator[None]:
            events.append("in")
            yield
            events.append("out")

        proxy.train(
            small_net(), few, PROTOCOL, device=CPU, turn=turn, on_epoch=lambda epoch, _: events.append(f"epoch {epoch}")
        )
        assert events == ["in", "out", "epoch 1", "in", "out", "epoch 2"]

    def test_a_batch_larger_than_the_split_is_cut_to_it(self, few: SearchData) -> None:
        curve = proxy.train(small_net(), few, replace(PROTOCOL, batch_size=10_000), device=CPU)
        assert len(curve.losses) == 2

    def test_the_last_incomplete_batch_is_dropped(self, few: SearchData) -> None:
        seen: list[int] = []
        model = small_net()
        model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
        proxy.train(model, few, replace(PROTOCOL, batch_size=33), device=CPU)
        assert seen == [33] * 6

    @pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
    def test_precision(self, few: SearchData, precision: str, dtype: torch.dtype) -> None:
        seen: set[torch.dtype] = set()
        model = small_net()
        model[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        proxy.train(model, few, replace(PROTOCOL, precision=precision), device=CPU)
        assert seen == {dtype}
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_memory_format(self, few: SearchData, channels_last: bool) -> None:
        model, strides = small_net(), set()
        model.register_forward_pre_hook(lambda module, inputs: strides.add(inputs[0].stride()[1:]))
        proxy.train(model, few, replace(PROTOCOL, channels_last=channels_last), device=CPU)
        assert strides == {(1, 16, 1) if channels_last else (256, 16, 1)}
        assert model[3].weight.is_contiguous(memory_format=torch.channels_last) == channels_last

    def test_the_test_split_is_neither_needed_nor_read(self) -> None:
        whole = splits()
        poisoned = replace(whole, test=replace(whole.test, images=torch.empty(0), labels=torch.empty(0)))
        protocol = replace(PROTOCOL, epochs=1)
        curves = [proxy.train(small_net(), given.search(), protocol, device=CPU) for given in (whole, poisoned)]
        assert curves[0].losses == curves[1].losses


class TestFailure:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_non_finite_loss(self, few: SearchData, value: float) -> None:
        model = small_net()
        with torch.no_grad():
            model[-1].bias[3] = value
        with pytest.raises(EvaluationError, match="non-finite loss in epoch 1"):
            proxy.train(model, few, PROTOCOL, device=CPU)

    def test_a_non_finite_output_that_training_does_not_see(self, few: SearchData) -> None:
        model = small_net()
        with torch.no_grad():
            model[1].running_var.fill_(float("nan"))  # used in evaluation mode only
        with pytest.raises(EvaluationError, match="non-finite output in evaluation mode"):
            accuracy(model, few.val, few, PROTOCOL)

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."
            ),
        ],
        ids=["cuda", "cpu"],
    )
    def test_out_of_memory(self, few: SearchData, error: RuntimeError) -> None:
        def fail(*_: Any) -> None:
            raise error

        model = small_net()
        model[0].register_forward_hook(fail)
        with pytest.raises(
            EvaluationError, match="out of memory on cpu while training with batch size 64 at 16x16"
        ) as caught:
            proxy.train(model, few, PROTOCOL, device=CPU)
        assert caught.value.__context__ is None  # it would keep the tensors alive

    def test_another_runtime_error_passes_through(self, few: SearchData) -> None:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            proxy.train(nn.Sequential(nn.Flatten(), nn.Linear(3, 10)), few, PROTOCOL, device=CPU)


class TestValidation:
    def test_mirror_images_add_their_logits(self, data: SearchData) -> None:
        protocol = replace(PROTOCOL, augmentation="shift+flip", mirror_validation=True)
        model = small_net().eval()
        images = batches.inputs(data.val.images, batches.normalisation(data, CPU), protocol)
        with torch.no_grad():
            logits = model(images) + model(images.flip(-1))
        expected = float((logits.argmax(1) == data.val.labels).float().mean())
        assert accuracy(model, data.val, data, protocol) == pytest.approx(expected)
        assert accuracy(model, data.val, data, replace(protocol, mirror_validation=False)) != pytest.approx(expected)

    @pytest.mark.parametrize("augmentation", ["none", "shift"])
    def test_images_are_only_mirrored_where_training_does(self, augmentation: str) -> None:
        with pytest.raises(ValueError, match=f"an augmentation that mirrors, as shift.flip, but got '{augmentation}'"):
            replace(PROTOCOL, augmentation=augmentation, mirror_validation=True)


class TestSelectDevice:
    def test_cpu_is_always_there(self) -> None:
        assert select_device("cpu") == CPU

    @pytest.mark.parametrize(
        ("cuda", "mps", "name", "expected"),
        [
            (2, False, "auto", "cuda:0"),
            (2, False, "cuda", "cuda:0"),
            (2, False, "cuda:1", "cuda:1"),
            (0, True, "auto", "mps"),
            (0, False, "auto", "cpu"),
        ],
    )
    def test_choice(self, monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, name: str, expected: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        assert select_device(name) == torch.device(expected)

    @pytest.mark.parametrize("name", ["gpu", "cuda:7", "cuda", ""])
    def test_no_such_device(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ValueError, match=f"device must be one of auto, cpu, but got '{name}'"):
            select_device(name)


class TestCalibrate:
    def test_statistics_are_those_of_the_images_under_the_present_weights(self, few: SearchData) -> None:
        model = small_net(dropout=0.5)
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm2d)
        images = few.train.images[:96]
        proxy.calibrate(model, images, few, replace(PROTOCOL, batch_size=48))
        mean, std = (torch.tensor(values)[:, None, None] for values in (few.mean, few.std))
        first, second = (
            model[0]((images[part].float() / 255 - mean) / std).detach() for part in (slice(48), slice(48, 96))
        )
        for index in range(12):
            means = [float(maps[:, index].mean()) for maps in (first, second)]
            variances = [float(maps[:, index].var()) for maps in (first, second)]
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert float(norm.running_mean[index]) == pytest.approx(sum(means) / 2, abs=1e-5)
            assert float(norm.running_var[index]) == pytest.approx(sum(variances) / 2, rel=1e-4)

    def test_it_is_the_average_that_torch_calls_cumulative(self, few: SearchData) -> None:
        ours, theirs = small_net(), small_net()
        theirs.load_state_dict(ours.state_dict())
        images = few.train.images[:160]
        proxy.calibrate(ours, images, few, replace(PROTOCOL, batch_size=32))
        norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
        theirs.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for start in range(0, len(images) - 31, 32):
                theirs(batches.inputs(images[start : start + 32], batches.normalisation(few, CPU), PROTOCOL))
        assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))

    def test_all_else_stays(self, few: SearchData) -> None:
        model = small_net().train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        proxy.calibrate(model, few.train.images, few, PROTOCOL)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed == {
            f"{i}.{name}" for i in (1, 4) for name in ("running_mean", "running_var", "num_batches_tracked")
        }
        assert not any(module.training for module in model.modules())
        assert [module.momentum for module in model if isinstance(module, nn.BatchNorm2d)] == [0.1, 0.1]

    def test_no_images_leave_the_running_averages(self, few: SearchData) -> None:
        model = small_net()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        proxy.calibrate(model, few.train.images[:0], few, PROTOCOL)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
