"""What an architecture costs: in which runtime, at which resolution, and measured again where the machine was busy."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas import placement, timing
from nas.architecture import Architecture, Placement
from nas.attention import BLOCKS
from nas.data import load as load_data
from nas.evaluate import Evaluator
from nas.evaluation import EvaluationError, Latency
from nas.latency import Runtime, RuntimeMissingError, measure
from nas.locks import DeviceLock
from nas.placement import BackboneError
from nas.protocol import Protocol
from nas.settings import Settings, make_protocol
from nas.space import ResolvedSpace, SearchSpace
from nas.store import Store
from nas.study import Study
from nas.study.sampler import Proposal
from nas.study.worker import Worker
from nas.timing import REFERENCE_RETRIES, Timer
from nas.trainer import Trainer

CPU = torch.device("cpu")
BARE = Architecture(backbone="test_resnet")
SE = Architecture(backbone="test_resnet", placements=(Placement(stage=2, block="se"),))
PROTOCOL = Protocol(
    data="digits",
    data_hash="0",
    split_seed=0,
    num_classes=10,
    channels=1,
    resolution=16,
    epochs=1,
    batch_size=64,
    latency_seconds=0.05,
)


def trainer(**changes: Any) -> Trainer:
    data = load_data("digits", limit=300, resolution=16).search()
    return Trainer(data, dataclasses.replace(PROTOCOL, **changes), CPU)


def resolved() -> ResolvedSpace:
    stages = trainer().plan("test_resnet").stages
    return SearchSpace(backbones=("test_resnet",), blocks=("se",)).resolve({"test_resnet": stages})


def test_a_size_of_nothing_is_refused() -> None:
    splits = load_data("digits", limit=300, resolution=16)
    with pytest.raises(ValueError, match="latency_resolution must be at least 1, but got 0"):
        make_protocol(Settings(latency_resolution=0), splits, CPU)


def test_a_batch_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit in memory; lower --latency-batch"):
        Timer(trainer(latency_batch_size=10**12)).check("test_resnet")


def latency(**changes: Any) -> Latency:
    figures = {"median_ms": 2.0, "low_ms": 2.0, "high_ms": 2.0, "bare_ms": 1.0, "ratio": 2.0}
    known = Latency(**figures, ratio_low=1.9, ratio_high=2.1, n=9, batch_size=1, device="cpu")
    return dataclasses.replace(known, **changes)


def test_costs_are_those_of_the_resolution_that_is_timed() -> None:
    small, large = (Timer(trainer(latency_resolution=size))(SE) for size in (16, 32))
    assert (small.latency.resolution, large.latency.resolution) == (16, 32)
    assert large.macs > 3 * small.macs
    assert large.parameters == small.parameters
    assert large.memory_bytes > small.memory_bytes > 4 * small.parameters
    assert small.reference_ms == small.latency.bare_ms


def test_a_backbone_is_made_for_the_resolution_that_is_timed() -> None:
    made_for = placement.fit_kwargs("test_vit", num_classes=10, in_channels=1, resolution=32)
    both = trainer(latency_resolution=48, resolution=32, model_kwargs=made_for)
    vit = Architecture(backbone="test_vit", placements=(Placement(stage=1, block="se"),))
    assert Timer(both)(vit).latency.resolution == 48


def test_memory_grows_with_the_images_in_a_pass() -> None:
    one, four = (Timer(trainer(latency_batch_size=size))(SE) for size in (1, 4))
    assert one.memory_bytes < four.memory_bytes < 4 * one.memory_bytes
    assert (one.latency.batch_size, four.latency.batch_size) == (1, 4)


def test_a_resolution_that_cannot_be_timed_is_found_at_once() -> None:
    with pytest.raises(BackboneError, match="vgg11_bn does not run on images of 1 x 8 x 8"):
        Timer(trainer(latency_resolution=8)).check("vgg11_bn")


def test_a_known_cost_is_used_unless_it_is_unstable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"sqlite:///{tmp_path / 'cache.db'}")
    store.create()
    queue = iter([latency(unstable=True), latency(bare_ms=5.0)])
    monkeypatch.setattr(timing, "measure", lambda *_, **__: next(queue))
    first = Evaluator(trainer(), store)(SE)
    assert first.latency.unstable
    second = Evaluator(trainer(epochs=2), store)(SE)  # another protocol, whose latencies are the same
    assert second.latency == latency(bare_ms=5.0)
    assert second.reference_ms == first.reference_ms == 1.0  # that of the first, as the bare backbone was not timed
    third = Evaluator(trainer(epochs=3), store)(SE)  # the queue is empty: nothing is measured any more
    assert third.latency == second.latency


def test_the_bare_backbone_is_timed_again_while_the_machine_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'cache.db'}")
    store.create()
    queue = iter([latency(bare_ms=9.0, unstable=True), latency(bare_ms=8.0, unstable=True), latency(bare_ms=1.5)])
    monkeypatch.setattr(timing, "measure", lambda *_, **__: next(queue))
    evaluator = Evaluator(trainer(), store)
    evaluator.time_reference("test_resnet")
    evaluator.time_reference("test_resnet")  # the queue is empty: it is known
    assert evaluator(BARE).reference_ms == 1.5


def test_latencies_become_multiples_of_a_better_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study.create("s", f"sqlite:///{tmp_path / 'cache.db'}", space=resolved(), protocol=trainer().protocol)
    store = study.store
    busy = [latency(bare_ms=9.0, unstable=True)] * (1 + REFERENCE_RETRIES)
    queue = iter([*busy, latency(ratio=1.25), latency(bare_ms=1.5)])
    monkeypatch.setattr(timing, "measure", lambda *_, **__: next(queue))
    evaluator = Evaluator(trainer(), store)
    evaluator.time_reference("test_resnet")
    assert evaluator(SE).latency_ms == 1.25 * 9.0
    assert evaluator(BARE).latency_ms == 1.5  # timed once more, as what is known of it was unstable
    assert evaluator(SE).latency_ms == 1.25 * 1.5
    with Worker(study.store) as worker:
        for architecture in (BARE, SE):
            trial = study.claim(Proposal(architecture=architecture), worker, resolved())
            study.finish(trial, store.evaluations(trainer().protocol.hash)[architecture.id])
    assert [row.latency_ms for row in study.rows()] == [1.5, 1.25 * 1.5]
    assert study.evaluation(1).latency_ms == 1.25 * 1.5
    study.close()


def test_whoever_trains_or_times_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(trainer())
    timer._locks = [DeviceLock(name, timeout=0.05) for name in ("cpu of this test", "cuda of this test")]
    monkeypatch.setattr(timing, "measure", lambda *_, **__: latency())
    timer(SE)
    for name in ("cpu of this test", "cuda of this test"):
        with DeviceLock(name).training(), ThreadPoolExecutor(1) as elsewhere, pytest.raises(TimeoutError):
            elsewhere.submit(timer, SE).result()


@pytest.mark.parametrize(
    ("runtime", "shares"), [("eager", [False]), ("compile", [True, False]), ("onnxruntime", [True, False])]
)
def test_others_train_while_a_model_is_prepared(
    runtime: str, shares: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether others may have the device, in each call that prepares; that before the clock finds it done."""
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    timer = Timer(trainer(latency_runtime=runtime))
    timer._locks = [DeviceLock(f"{runtime} of this test", timeout=0.05)]
    seen: list[bool] = []
    made: list[nn.Module] = []
    inner = Runtime.prepare

    def make(model: nn.Module, batch: torch.Tensor) -> Any:
        assert not model.training
        assert torch.is_inference_mode_enabled()
        made.append(model)
        return lambda: lambda: model(batch)

    def prepare(self: Runtime, *models: nn.Module) -> None:
        with ThreadPoolExecutor(1) as elsewhere:
            seen.append(elsewhere.submit(trains, timer._locks[0]).result())
        self._make = make
        inner(self, *models)

    monkeypatch.setattr(Runtime, "prepare", prepare)
    timer(SE)
    assert seen == shares
    assert len(made) == (0 if runtime == "eager" else 2)


def trains(lock: DeviceLock) -> bool:
    """Tell whether another thread may train."""
    try:
        with lock.training():
            return True
    except TimeoutError:
        return False


def test_on_a_gpu_kernels_are_tried_alone() -> None:
    batch = torch.zeros(1, 1, 8, 8, device="meta")
    assert not Runtime("compile", batch, "float32").may_prepare_beside_others
    assert Runtime("compile", torch.zeros(1, 1, 8, 8), "float32").may_prepare_beside_others


def test_what_trains_and_what_is_timed_are_locked_both() -> None:
    one = Timer(trainer())
    two = Timer(trainer(), torch.device("meta"))
    assert [len(timer._locks) for timer in (one, two)] == [1, 2]


def test_precision_is_that_of_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(timing, "measure", lambda *_, **named: seen.append(named["precision"]) or latency())
    for precision in (None, "bfloat16"):
        Timer(trainer(latency_precision=precision))(SE)
    assert seen == ["float32", "bfloat16"]


@pytest.mark.parametrize("block", sorted(BLOCKS))
@pytest.mark.slow
def test_every_block_is_timed_in_half_precision(block: str) -> None:
    placed = Architecture(backbone="test_resnet", placements=(Placement(stage=2, block=block),))
    short = trainer(latency_precision="bfloat16", latency_seconds=0.001)
    assert Timer(short)(placed).latency.conditions["precision"] == "bfloat16"


def test_protocols_that_time_alike_share_their_latencies() -> None:
    key = PROTOCOL.latency_hash
    for same in (
        {"epochs": 9},
        {"learning_rate": 1.0},
        {"weights": "a"},
        {"latency_resolution": PROTOCOL.resolution},
        {"latency_precision": "float32"},
    ):
        assert dataclasses.replace(PROTOCOL, **same).latency_hash == key  # type: ignore[arg-type]
    for other in (
        {"latency_batch_size": 2},
        {"latency_resolution": 32},
        {"resolution": 32},
        {"latency_runtime": "compile"},
        {"latency_device": "tpu"},
        {"precision": "bfloat16"},
        {"latency_precision": "bfloat16"},
        {"latency_software": "onnxruntime 1.20"},
        {"num_classes": 3},
        {"model_kwargs": {"drop_rate": 0.1}},
    ):
        assert dataclasses.replace(PROTOCOL, **other).latency_hash != key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "runtime", ["eager", *(pytest.param(name, marks=pytest.mark.slow) for name in ("compile", "onnxruntime"))]
)
def test_runtimes_run_the_model_itself(runtime: str) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    candidate = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), *(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)))
    batch = torch.randn(1, 1, 32, 32)
    maker = Runtime(runtime, batch, "float32")
    result = measure(candidate, bare, batch=batch, device_words="cpu", runtime=maker, max_seconds=0.2)
    assert result.ratio > 1.5  # a hundred times the work; no clock is that wrong
    assert result.conditions["runtime"] == runtime
    kept = weakref.ref(candidate)
    del candidate
    gc.collect()
    assert kept() is None


def test_what_is_compiled_lies_elsewhere_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    batch = torch.randn(1, 1, 32, 32)
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64)).eval()
    maker = Runtime("compile", batch, "float32")
    runs: list[Any] = []
    places: list[set[int]] = []
    with torch.inference_mode():
        for _ in range(3):
            runs.append(maker.fresh(model))
            assert torch.equal(runs[-1](), model(batch))
            tensors = (*compiled[0].parameters(), *compiled[0].buffers())
            places.append({tensor.data_ptr() for tensor in tensors})
    assert len(compiled) == 1
    assert not places[0] & places[1]
    assert not places[2] & (places[0] | places[1])


def test_what_a_runtime_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    batch = torch.randn(1, 1, 8, 8)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="the export to ONNX fails: "):
        Runtime("onnxruntime", batch, "float32").fresh(Odd())
    timer = Timer(trainer(latency_runtime="onnxruntime"))

    def fail(*_: object) -> None:
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(Runtime, "fresh", fail)
    with pytest.raises(EvaluationError, match=r"^test_resnet cannot be timed: no such operator$"):
        timer.check("test_resnet")
    with pytest.raises(EvaluationError, match=r"^it cannot be timed: no such operator$"):
        timer(SE)


def test_a_runtime_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="runtime must be one of eager, compile, onnxruntime, but got 'tflite'"):
        Runtime("tflite", batch, "float32")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match="needs onnxruntime: pip install onnxruntime onnxscript"):
        Runtime("onnxruntime", batch, "float32")


def test_onnxruntime_takes_single_precision() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    with pytest.raises(RuntimeMissingError, match="takes the precision float32, but got bfloat16"):
        Runtime("onnxruntime", torch.zeros(1, 1, 8, 8), "bfloat16")


def test_the_bare_backbone_is_its_own_measure() -> None:
    cost = Timer(trainer())(BARE)
    assert cost.latency.ratio == 1.0
    assert cost.latency.ratio_low <= 1.0 <= cost.latency.ratio_high
