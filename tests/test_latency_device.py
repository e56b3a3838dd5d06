"""What is said about the device that is timed, and what only a GPU has: events and CUDA graphs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nas.latency import device, device_words, lock_name, measure
from nas.latency.graph import replay_of
from nas.latency.runtime import Runtime


def test_the_words_for_a_cpu_tell_sleeping_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    spinning = device_words(torch.device("cpu"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert device_words(torch.device("cpu")) == f"{spinning} (OMP passive)"


def test_the_words_for_a_cpu_name_its_model_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    cpu = torch.device("cpu")
    assert device_words(cpu) == device_words(cpu)
    assert device_words(cpu).startswith("cpu: ")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert device_words(cpu).endswith(", 1 thread")
        torch.set_num_threads(2)
        assert device_words(cpu).endswith(", 2 threads")
        assert lock_name(cpu) == "cpu"  # other threads, yet the same device
    finally:
        torch.set_num_threads(threads)


def test_a_processor_without_a_model_name_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.Path, "exists", lambda self: False)
    monkeypatch.setattr(device.platform, "processor", lambda: "")
    monkeypatch.setattr(device.platform, "machine", lambda: "arm64")
    assert device_words(torch.device("mps")) == "mps: arm64"


@pytest.mark.parametrize("captured", [True, False])
def test_replays_are_timed_in_turns_where_both_can_be_captured(captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["nas.latency.measure"]  # its name in the package is the function's
    batch = torch.randn(1, 3, 8, 8)
    names: dict[object, str] = {}
    order = ""

    def fake(run: Callable[[], object], _device: torch.device) -> Callable[[], object] | None:
        names[run] = "b" if names else "c"
        return run if captured or names[run] == "c" else None

    def sample(run: Callable[[], object], repeats: int) -> int:
        nonlocal order
        if run in names:
            order += names[run]
        return 3 if names.get(run) == "c" else 2

    monkeypatch.setattr(module, "replay_of", fake)
    bench = module._Bench(Runtime("eager", batch, "float32"), nn.Conv2d(3, 8, 5), nn.Conv2d(3, 8, 3), sample)
    pairs = bench.replays(batch.device)
    assert pairs == ([((3, 3), (2, 2))] * module.GRAPH_PAIRS if captured else [])
    assert order == ("bccbcbbc" * (module.GRAPH_PAIRS // 2) if captured else "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    bare = nn.Conv2d(3, 8, 3).to(device)
    candidate = nn.Sequential(bare, nn.Conv2d(8, 8, 3).to(device))
    words = device_words(device)
    assert words.startswith("cuda: ")
    assert lock_name(device).startswith("cuda ")
    start = time.perf_counter()
    result = measure(candidate, bare, batch=torch.randn(8, 3, 64, 64, device=device), device_words=words)
    assert result.median_ms * result.n / 1e3 < time.perf_counter() - start
    assert result.ratio_low <= result.ratio <= result.ratio_high
    assert result.graph_ms is not None  # two convolutions can be captured
    assert result.graph_ratio is not None


class Waiting(nn.Module):
    """A model that looks at a number of the device's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum().item())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_waits_for_the_device_is_not_captured_and_breaks_nothing() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    batch, model = torch.randn(2, 3, device=device), Waiting()
    with torch.inference_mode():
        assert replay_of(lambda: model(batch), device) is None
        torch.randn(3, device=device)  # random numbers are still to be had
        assert replay_of(lambda: batch * 2, device) is not None
