"""What a stored study is evaluated with again: as it was, or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest import mock

import pytest
import torch
import toy

from nas.evaluate import software
from nas.latency import device_words
from nas.protocol import Protocol
from nas.reopen import Place, _devices, _here, _refuse_others, _weights
from nas.threads import threads_of_torch

CPU = torch.device("cpu")
WEIGHTS = Path(__file__).parents[1] / "benchmarks" / "attnbench" / "photographs.safetensors"


def study(checkpoint: str | None, protocol: Protocol = toy.PROTOCOL) -> mock.Mock:
    found = mock.Mock(
        inputs={"pretrained": False, "checkpoint": checkpoint}, space={"backbones": ["test_resnet"]}, protocol=protocol
    )
    found.name = "toy"
    return found


def test_a_checkpoint_that_has_moved_is_found_where_it_is() -> None:
    protocol = dataclasses.replace(toy.PROTOCOL, num_classes=10)
    gone = study("/gone/photographs.safetensors", protocol)
    with pytest.raises(
        ValueError, match=r"there is no checkpoint /gone/.*; give the place of the study's with --check"
    ):
        _weights(gone, None)
    found = _weights(gone, str(WEIGHTS))
    assert found is not None
    assert found.words.startswith("photographs.safetensors (sha256 ")
    assert _weights(study(None), None) is None
    with pytest.raises(ValueError, match="study 'toy' was not started from a file, but got the checkpoint x"):
        _weights(study(None), "x")


def test_the_threads_that_a_worker_had_are_found() -> None:
    with threads_of_torch(2):
        whole = device_words(CPU)
        with threads_of_torch(1):
            half = device_words(CPU)
        shared = dataclasses.replace(toy.PROTOCOL, device=half, latency_device=whole, software=software())
        assert _here(shared, CPU, CPU) == (shared, 1)
        alone = dataclasses.replace(shared, device=whole)
        assert _here(alone, CPU, CPU) == (alone, None)
        elsewhere = dataclasses.replace(shared, device="cpu: another, 1 thread", latency_device="another")
        assert _here(elsewhere, CPU, CPU) == (alone, None)


def test_devices_are_of_the_kinds_that_the_study_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda:0")
    on_cpu = dataclasses.replace(toy.PROTOCOL, device="cpu: this", latency_device="cpu: this")
    mixed = dataclasses.replace(on_cpu, device="cuda: that")
    assert _devices(on_cpu, Place()) == (CPU, CPU)
    assert _devices(mixed, Place()) == (gpu, CPU)
    assert _devices(mixed, Place(device="cuda:1", latency_device="cuda")) == (torch.device("cuda:1"), gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _devices(mixed, Place())[1] == CPU  # and what trains differs, which is refused
    with pytest.raises(ValueError, match="device must be one of auto"):
        _devices(mixed, Place(device="cuda"))


def test_another_machine_is_refused_with_what_differs() -> None:
    here = dataclasses.replace(toy.PROTOCOL, device="cpu: another", software="torch 99")
    _refuse_others(study(None), toy.PROTOCOL)
    with pytest.raises(
        ValueError, match=r'differs protocol.device: "cpu" -> "cpu: another"; protocol.software: "" -> '
    ):
        _refuse_others(study(None), here)
