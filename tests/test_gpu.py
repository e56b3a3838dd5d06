"""What only a GPU can show: training in half precision without waits, a full memory, an evaluation with its replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nas import batches, proxy
from nas.architecture import Architecture, Placement
from nas.cli import main
from nas.data import SearchData, Split
from nas.data import load as load_data
from nas.evaluate import Evaluator
from nas.evaluation import EvaluationError
from nas.latency import device_words
from nas.pauses import Pause, Pauses
from nas.protocol import Protocol
from nas.store import Store
from nas.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SE = Architecture(backbone="test_resnet", placements=(Placement(stage=2, block="se"),))


@pytest.fixture
def data() -> SearchData:
    return load_data("digits", limit=600, resolution=32).search()


def trainer(data: SearchData, **changes: Any) -> Trainer:
    device = proxy.select_device("cuda")
    common = {"data": "digits", "data_hash": "0", "split_seed": 0, "num_classes": 10, "channels": 1, "resolution": 32}
    given = {"epochs": 2, "batch_size": 64, "precision": "bfloat16", "channels_last": True, "latency_seconds": 0.2}
    return Trainer(data, Protocol(**{**common, **given, "device": device_words(device), **changes}), device)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.1), ("adamw", 0.003)])
@pytest.mark.parametrize("augmentation", ["none", "shift+flip+cutout"])
def test_half_precision_learns(data: SearchData, optimizer: str, rate: float, augmentation: str) -> None:
    one = trainer(data, epochs=4, optimizer=optimizer, learning_rate=rate, augmentation=augmentation)
    curve = one.train(one.build(SE))
    assert curve.losses[-1] < curve.losses[0]
    assert curve.accuracies[-1] > 0.3  # a tenth by chance


def test_no_step_waits_for_the_device(data: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(data)
    model = one.build(SE)
    one.train(model)  # libraries initialise
    inner = batches.batches
    steps = 0

    def watched(split: Split, *arguments: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        nonlocal steps
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in inner(split, *arguments):
                steps += 1
                yield batch
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(batches, "batches", watched)
    one.train(model)
    assert steps > 2 * (len(data.train) // 64)  # those of the validation are watched, too


def test_a_memory_that_is_full_is_a_failure_and_is_let_go(data: SearchData) -> None:
    one = trainer(data, batch_size=256)
    device = one.device
    model = one.build(SE)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    ballast = torch.empty(free - 2**24, dtype=torch.uint8, device=device)
    before = torch.cuda.memory_allocated(device)
    with pytest.raises(EvaluationError, match="^out of memory on cuda"):
        one.train(model)
    del model
    assert torch.cuda.memory_allocated(device) <= before
    del ballast
    assert one.train(one.build(SE)).accuracies


def test_an_evaluation_has_the_ratio_of_the_replays(data: SearchData, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'cache.db'}")
    store.create()
    evaluation = Evaluator(trainer(data), store)(SE)
    assert evaluation.latency.graph_ratio is not None
    assert 0.5 < evaluation.latency.graph_ratio < 5
    assert evaluation.train_memory_bytes is not None
    assert evaluation.train_memory_bytes > 4 * evaluation.parameters


def test_a_training_that_was_cut_off_goes_on(data: SearchData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.pauses.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("nas.pauses.MOST_SHARE", float("inf"))
    pauses, one = Pauses(tmp_path), trainer(data, epochs=4)
    seen: list[tuple[int, float]] = []

    def after_epoch(epoch: int, accuracy: float) -> None:
        seen.append((epoch, accuracy))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.train(one.build(SE), on_epoch=after_epoch, pause=Pause(pauses, "one"))
    state = pauses.get("one")
    assert state is not None
    assert state["random_cuda"] is not None
    curve = one.train(one.build(SE), on_epoch=after_epoch, pause=Pause(pauses, "one"))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 1, 2, 3, 4]
    assert seen[3:5] == seen[:2]  # what was kept, to the last digit; the kernels of a GPU need not repeat the rest
    assert len(curve.accuracies) == 4


@pytest.mark.slow
def test_two_workers_on_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = "--budget 8 --limit 600 --epochs 1 --latency-seconds 0.2 --device cuda --repeats 2 --workers-per-device 2"
    assert main(words.split()) == 0
    assert len((tmp_path / "studies" / "default-digits" / "front.csv").read_text().splitlines()) == 9
