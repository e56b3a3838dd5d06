"""Which worker trains on which device, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nas import devices
from nas.cli import main
from nas.settings import Settings


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pretend that there are three GPUs, and return their words, which may be changed."""
    words = {"cuda:0": "cuda: A", "cuda:1": "cuda: A", "cuda:2": "cuda: A", "cpu": "cpu: C, 1 thread"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr("nas.latency.device_words", lambda device: words[str(device)])
    return words


def shown(settings: Settings) -> list[str]:
    found = devices.posts(settings)
    assert {post.workers for post in found} == {len(found)}
    return [f"{post.device} {post.beside}" for post in found]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ["cuda:0 1"]),
        ({"device": "cuda:1"}, ["cuda:1 1"]),
        ({"devices": "2"}, ["cuda:2 1"]),
        ({"device": "cpu", "workers": 2}, ["cpu 3", "cpu 3"]),
        ({"device": "cuda:1", "workers_per_device": 2}, ["cuda:1 3", "cuda:1 3"]),
        ({"devices": "0, 2"}, ["cuda:0 2", "cuda:2 1"]),
        ({"devices": ("cuda", "cuda:1"), "workers": 3}, ["cuda:0 3", "cuda:1 1", "cuda:0 3"]),
        ({"devices": "1,0", "workers_per_device": 2}, ["cuda:1 3", "cuda:0 2", "cuda:1 3", "cuda:0 2"]),
        ({"devices": "auto"}, ["cuda:0 2", "cuda:1 1", "cuda:2 1"]),
    ],
)
def test_workers_are_spread_over_the_devices(gpus: dict[str, str], asked: dict[str, Any], expected: list[str]) -> None:
    assert shown(Settings(**asked)) == expected


def test_auto_is_what_there_is_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert shown(Settings(devices="auto", workers=2)) == ["cpu 3", "cpu 3"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, but got 0"),
        ({"workers_per_device": 0}, "workers per device must be at least 1, but got 0"),
        ({"workers": 4, "workers_per_device": 2}, "not both, but got --workers 4 and --workers-per-device 2"),
        ({"device": "cpu", "devices": "0,1"}, "not both, but got --device cpu and --devices 0,1"),
        ({"devices": ""}, "devices must be auto, or names such as 0,1 or cuda:0,cuda:1, but got ''"),
        ({"devices": "0,,1"}, "devices must be auto, or names"),
        ({"devices": "auto,1"}, "devices must be auto, or names"),
        ({"devices": "0,cuda"}, "devices must differ, but got 0,cuda; --workers-per-device has several"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"devices": "0,3"}, "device must be one of auto, cuda:0, cuda:1, cuda:2, cpu, but got 'cuda:3'"),
        ({"devices": "0,gpu"}, "device must be one of auto, .*, but got 'gpu'"),
        ({"devices": "cuda:0,cpu"}, "of one kind of device, but cuda:0 is 'cuda: A' and cpu is 'cpu: C, 1 thread'"),
        ({"devices": "auto", "workers": 2}, "3 devices take at least as many workers, but got --workers 2"),
    ],
)
def test_what_there_is_not_is_refused(gpus: dict[str, str], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        devices.posts(Settings(**asked))


def test_gpus_of_two_kinds_are_refused(gpus: dict[str, str]) -> None:
    gpus["cuda:2"] = "cuda: B"
    with pytest.raises(ValueError, match="cuda:0 is 'cuda: A' and cuda:2 is 'cuda: B'; name equal ones with --devices"):
        devices.posts(Settings(devices="auto"))


def test_the_command_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers", "0"]) == 2
    assert "workers must be at least 1, but got 0" in capsys.readouterr().err
    assert main(["--devices", "cpu,cuda:99"]) == 2
    assert "but got 'cuda:99'" in capsys.readouterr().err
