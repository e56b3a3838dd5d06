"""The trainer: compiled training, and memory that is let go after every trial, whatever became of it."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CPU, PROTOCOL, few, small_net
from torch import nn

from nas import proxy
from nas.architecture import Architecture, Placement
from nas.data import SearchData
from nas.evaluate import Evaluator
from nas.evaluation import EvaluationError
from nas.limits import BeyondLimitsError, Limits
from nas.store import Store
from nas.trainer import Trainer

ARCHITECTURE = Architecture(
    backbone="test_resnet",
    placements=(Placement(stage=2, block="cbam"), Placement(stage=4, block="se", position="in_residual")),
)


@pytest.fixture(name="few")
def fixture_few() -> SearchData:
    return few()


class TestCompile:
    @pytest.mark.slow
    def test_it_agrees_with_eager_and_leaves_the_model_as_it_is(self, few: SearchData) -> None:
        eager = Trainer(few, replace(PROTOCOL, learning_rate=0.01), CPU)
        compiled = eager.under(compile=True)
        models = [trainer.build(ARCHITECTURE) for trainer in (eager, compiled)]
        kinds = [type(module) for module in models[1].modules()]
        curves = [trainer.train(model) for trainer, model in zip((eager, compiled), models, strict=True)]
        assert curves[1].losses == pytest.approx(curves[0].losses, rel=1e-3)
        assert list(models[1].state_dict()) == list(models[0].state_dict())
        assert [type(module) for module in models[1].modules()] == kinds
        again = compiled.train(compiled.build(ARCHITECTURE))
        assert again.losses == curves[1].losses

    @pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
    def test_no_compiler(self, few: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
        monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
        proxy.check_compiler.cache_clear()
        with pytest.raises(ValueError, match=r"^torch.compile does not work on this machine: [^\n]*compiler[^\n]*$"):
            Trainer(few, replace(PROTOCOL, compile=True), CPU)
        model = small_net()
        with pytest.raises(EvaluationError, match=r"^torch.compile cannot compile the training: [^\n]*compiler"):
            proxy.train(model, few, replace(PROTOCOL, compile=True), device=CPU)


class TestMemory:
    def test_models_are_let_go(self, few: SearchData) -> None:
        trainer = Trainer(few, PROTOCOL, CPU)
        for number in range(30):
            alive = trial(trainer, number)
            assert len(alive) > 100
            assert [reference() for reference in alive] == [None] * len(alive)

    @pytest.mark.slow
    def test_evaluations_leave_no_tensor_behind(
        self, few: SearchData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        short = replace(PROTOCOL, epochs=1, batch_size=50, calibration_images=50, latency_seconds=0.01)
        store = Store(f"sqlite:///{tmp_path / 'cache.db'}")
        store.create()
        ends: dict[str, int] = dict.fromkeys(("", "non-finite loss", "out of memory", "beyond the limits"), 0)
        alive: list[int] = []

        def train(model: nn.Module, *arguments: Any, **named: Any) -> proxy.Curve:
            if end == "out of memory":
                model.get_submodule("layer4").register_forward_hook(_fail)
            return inner(model, *arguments, **named)

        inner = proxy.train
        monkeypatch.setattr(proxy, "train", train)
        trainers = {rate: Trainer(few, replace(short, learning_rate=rate), CPU) for rate in (0.1, 1e30)}
        evaluators = {
            end: Evaluator(
                trainers[1e30 if end == "non-finite loss" else 0.1],
                store,
                limits=Limits(parameters=10) if end == "beyond the limits" else None,
            )
            for end in ends
        }
        for number in range(30):
            end = list(ends)[number % len(ends)]
            placed = Placement(
                stage=1 + number % 4, block="se", options={"reduction": 2 + number}, position="in_residual"
            )
            try:
                evaluators[end](Architecture(backbone="test_resnet", placements=(placed,)))
                reason = ""
            except (EvaluationError, BeyondLimitsError) as error:
                reason = end if end in str(error) or isinstance(error, BeyondLimitsError) else str(error)
            assert reason == end
            ends[reason] += 1
            gc.collect()  # of earlier tests, too
            if number >= 8:  # each evaluator has made what it keeps
                alive.append(sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()))
        assert min(ends.values()) >= 7
        assert max(alive) <= alive[0]

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_memory_of_a_gpu_is_let_go(self, few: SearchData) -> None:
        device = proxy.select_device("cuda")
        trainer = Trainer(few, PROTOCOL, device)
        used = []
        for number in range(30):
            trial(trainer, number)
            used.append(torch.cuda.memory_allocated(device))
        assert max(used[3:]) <= max(used[:3])  # every end was met once; libraries keep what they work with


def trial(trainer: Trainer, number: int) -> list[weakref.ref[object]]:
    """Build and train a model, which learns, diverges or runs out of memory in turn; return references to its parts."""
    ends = ("", "non-finite loss", "out of memory")
    end = ends[number % 3]
    rate = 1e30 if end == "non-finite loss" else 0.1
    short = trainer.under(seed=number, epochs=1, batch_size=50, calibration_images=50, learning_rate=rate)
    model = short.build(ARCHITECTURE)

    if end == "out of memory":
        model.get_submodule("layer4").register_forward_hook(_fail)
    alive: list[weakref.ref[object]] = [weakref.ref(part) for part in (*model.modules(), *model.parameters())]
    if not end:
        short.train(model)
    else:
        with pytest.raises(EvaluationError, match=end):
            short.train(model)
    return alive


def _fail(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
