"""The trainer: compiled training, and memory that is let go after every trial, whatever became of it."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from small import CPU, PROTOCOL, few, small_net

from nas import proxy
from nas.architecture import Architecture, Placement
from nas.data import SearchData
from nas.evaluation import EvaluationError
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

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    if end == "out of memory":
        model.get_submodule("layer4").register_forward_hook(fail)
    alive: list[weakref.ref[object]] = [weakref.ref(part) for part in (*model.modules(), *model.parameters())]
    if not end:
        short.train(model)
    else:
        with pytest.raises(EvaluationError, match=end):
            short.train(model)
    return alive
