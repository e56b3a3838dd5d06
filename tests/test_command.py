"""The command that repeats a search asks for the same."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import pytest

from nas import SearchSpace, flags
from nas.cli import parser
from nas.command import command, naming
from nas.settings import Settings

ASKED: list[dict[str, Any]] = [
    {},
    {"budget": 7, "seed": 3, "space": "channel_only", "backbone": "resnet18"},
    {"model_kwargs": {"drop_path_rate": 0.1, "act_layer": "relu"}, "positions": ("after_stage", "in_residual")},
    {"warm_start": True, "freeze_backbone": True},
    {"warm_start": 4},
    {"checkpoint": "a file.pth", "max_slowdown": 0.05, "max_params": 11_700_000, "max_latency_ms": 2.5},
    {"max_slowdown": 1.25},
    {"max_slowdown": -0.1},
    {"rungs": "3", "epochs": 9, "patience": 10},
    {"rungs": "none", "sampler": "tpe", "risk": 0.1},
    {"latency_batch_size": 16, "latency_precision": "bfloat16", "runtime": "onnxruntime", "latency_seconds": 0.5},
    {"compile": True, "mirror_validation": True, "augmentation": "shift+flip", "label_smoothing": 0.0},
    {"workers": 4, "devices": "0,1"},
    {"workers_per_device": 2, "device": "cuda:1"},
    {"data": "torch/cifar10", "data_dir": "/data sets", "download": True, "limit": 6000, "weight_decay": 1e-05},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_parsing_it_gives_the_same_settings(asked: dict[str, Any]) -> None:
    settings = Settings(**asked)
    words = shlex.split(command(settings))
    assert words[:2] == ["python", "run_search.py"]
    arguments = vars(parser().parse_args(["search", *words[2:]]))
    given = {field.name: arguments[field.name] for field in dataclasses.fields(Settings) if field.name in arguments}
    given["model_kwargs"] = flags.model_kwargs(arguments["model_kwargs"])
    given["positions"] = None if arguments["positions"] is None else tuple(flags.names(arguments["positions"]))
    assert Settings(**given) == settings


def test_it_keeps_passwords_to_itself() -> None:
    settings = Settings(storage="postgresql://me:secret@host/db", studies="elsewhere", study="a-study")
    assert command(settings) == "python run_search.py --budget 50 --seed 0"


def test_a_space_declared_in_python_has_no_command() -> None:
    assert command(Settings(space=SearchSpace(backbones=("resnet18",), blocks={"se": {}}))) == ""


def test_a_study_is_named_for_a_shell() -> None:
    assert naming("mine", "studies") == "--study mine"
    assert naming("mine", "my studies") == "--study mine --studies 'my studies'"
    assert naming("mine", "studies", is_elsewhere=True) == "--study mine --storage URL"
