"""Whether a folder's files are one network: compared in logits, parameters, tensors and multiply-accumulates.

``model.py`` is run in a process of its own, in which this program cannot be imported. All parameters are filled by a
formula first (:func:`nas.export.selfcheck.fill`), since a block that starts as the identity would be compared while it
does nothing; trained weights are compared, too, where there are any.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas import complexity, latency, placement
from nas.architecture import Architecture
from nas.export import isolated, onnx_file, selfcheck
from nas.export.config import build
from nas.export.onnx_file import ONNX_TOLERANCE
from nas.export.selfcheck import TOLERANCE, answers, difference, fill, noise
from nas.locks import DeviceLock
from nas.packed import check_unpacked

BATCHES = (1, 2, 5)
"""Images in the batches that are compared."""
SALTS = (0, 1)
"""Fillings of the parameters that are compared."""
REFERENCE_IMAGES = 4
"""Images in the reference."""


class ProofError(ValueError):
    """Two files of a folder are not one network; the message says which, and by how much."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is proved: a config's network, with or without trained weights."""

    architecture: Architecture
    """The architecture."""
    content: dict[str, Any]
    """The config's content."""
    folder: Path
    """Where the files lie."""
    weights: Path | None = None
    """The file of trained weights, if there is one."""

    def build(self, weights: Path | None = None, *, salt: int = 0) -> nn.Module:
        """Return the network as this program builds it, with trained weights or filled by the formula.

        Raises:
            ProofError: If the weights are not those of the network.
        """
        model = build(self.architecture, self.content)
        if weights is None:
            fill(model, self.images("images", REFERENCE_IMAGES), salt)
        else:
            load_weights(model, weights)
        return model.eval()

    def images(self, name: str, count: int) -> Tensor:
        """Return images (count, C, H, W) that are the same everywhere."""
        side = self.content["protocol"]["resolution"]
        return noise(name, (count, self.content["in_channels"], side, side)).float()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file's tensors into a network.

    Raises:
        ProofError: If they are not exactly those of the network, with the first that differs.
        ValueError: If the file cannot be read.
    """
    check_unpacked(path)
    found, wanted = selfcheck.read_tensors(path), model.state_dict()
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            lacks = "lacks" if name not in found else "has, beyond those of the network,"
            raise ProofError(f"{path} is not of this network: it {lacks} {name}")
        if found[name].shape != wanted[name].shape:
            shapes = f"{tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
            raise ProofError(f"{path} is not of this network: {name} has the shape {shapes}")
    model.load_state_dict(found)


def reference(subject: Subject) -> dict[str, Tensor]:
    """Return images, and the network's logits of them, as precise as it computes.

    Raises:
        ProofError: If they are not finite.
    """
    images = subject.images("images", REFERENCE_IMAGES)
    found = {"images": images}
    for name, weights in (("logits", None), ("logits_of_weights", subject.weights)):
        if name == "logits" or weights is not None:
            found[name] = selfcheck.precise_answers(subject.build(weights), images).contiguous()
            if not found[name].isfinite().all():
                raise ProofError(f"the network has logits that are not finite, with {weights or 'its filling'}")
    return found


def check_reference(subject: Subject) -> tuple[float, float]:
    """Compare the reference of a folder with what this program finds; return the difference and what is allowed.

    Raises:
        ProofError: If they differ.
        ValueError: If the file cannot be read.
    """
    path = subject.folder / "reference.safetensors"
    found, expected = selfcheck.read_tensors(path), reference(subject)
    if set(found) != set(expected) or not torch.equal(found["images"], expected["images"]):
        raise ProofError(f"{path} is not the reference of this network: it holds other tensors")
    largest, allowed = 0.0, 0.0
    for name in expected:
        limit = TOLERANCE if found[name].dtype != torch.float32 or name == "images" else selfcheck.TOLERANCE_ELSEWHERE
        largest = max(largest, _within(difference(expected[name], found[name]), limit, f"{path}: {name}"))
        allowed = max(allowed, limit)
    return largest, allowed


def prove(subject: Subject, *, seconds: float, runs_code: bool = True, onnx: bool) -> dict[str, Any]:
    """Rebuild the network from each file of a folder and compare.

    Args:
        subject: What is compared.
        seconds: Longest sampling of the latencies, in seconds; 0 for none.
        runs_code: Whether ``model.py`` is executed.
        onnx: Whether ``model.onnx`` is one of the files.

    Returns:
        The figures, as JSON values.

    Raises:
        ProofError: If two of them differ, or the comparison would not see one of the blocks.
    """
    model = subject.build()
    side, channels = subject.content["protocol"]["resolution"], subject.content["in_channels"]
    counted = complexity.count(model, (channels, side, side))
    off, allowed = check_reference(subject)
    figures: dict[str, Any] = {
        "images": f"batches of {', '.join(map(str, BATCHES))} images of {channels} x {side} x {side} pixels",
        "parameters": counted.parameters,
        "macs": counted.macs,
        "tensors": len(model.state_dict()),
        "least_effect_of_a_block": _least_effect(model, subject.images("images", REFERENCE_IMAGES)),
        "reference": off,
        "limits": {"logits": TOLERANCE, "onnx": ONNX_TOLERANCE, "reference": allowed},
        "logits": None,
        "logits_of_weights": None,
        "latency": None,
    }
    if runs_code:
        figures |= _compare_alone(subject, model)
        twin = _twin(subject, model)
        macs = complexity.count(twin, (channels, side, side)).macs
        if macs != counted.macs:
            raise ProofError(f"{subject.folder / 'model.py'} takes {macs} multiply-accumulates, not {counted.macs}")
        figures["latency"] = _latency(subject, twin, model, seconds) if seconds else None
    return figures | {"onnx": _compare_onnx(subject) if onnx else "not written", **_circumstances()}


def _runs(subject: Subject) -> list[dict[str, Any]]:
    """Return with which values of the parameters networks are compared."""
    runs: list[dict[str, Any]] = [{"name": f"filling {salt}", "salt": salt, "weights": None} for salt in SALTS]
    if subject.weights is not None:
        runs.append({"name": "weights", "salt": 0, "weights": str(subject.weights.resolve())})
    return runs


def _batches(subject: Subject) -> dict[str, Tensor]:
    return {f"batch of {size}": subject.images(f"batch of {size}", size) for size in BATCHES}


def _compare_alone(subject: Subject, model: nn.Module) -> dict[str, Any]:
    """Compare with ``model.py``, run in a process without this program."""
    runs, batches = _runs(subject), _batches(subject)
    images = {"images": subject.images("images", REFERENCE_IMAGES)}
    with tempfile.TemporaryDirectory(prefix="nas-export-") as folder:
        request, result = Path(folder, "request"), Path(folder, "result")
        save_file({**images, **batches}, request, {"asked": json.dumps({"runs": runs, "batches": list(batches)})})
        file = (subject.folder / "model.py").resolve()
        words = [sys.executable, "-B", isolated.__file__, file, request, result, torch.get_num_threads()]
        ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=folder, check=False)
        if ended.returncode:
            last = (ended.stderr.strip() or "no message").splitlines()[-1]
            raise ProofError(f"{subject.folder / 'model.py'} does not run alone: {last}")
        alone = load_file(result)
        with safe_open(result, "pt") as opened:
            said = json.loads(opened.metadata()["said"])
    file = subject.folder / "model.py"
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if said["tensors"] != expected or said["parameters"] != sum(p.numel() for p in model.parameters()):
        raise ProofError(f"{file} builds another network: its parameters or their names differ")
    found: dict[str, float] = {}
    for run in runs:
        original = subject.build(subject.weights if run["weights"] else None, salt=run["salt"])
        key = "logits_of_weights" if run["weights"] else "logits"
        for name, batch in batches.items():
            off = difference(alone[f"{run['name']} {name}"], answers(original, batch))
            found[key] = max(found.get(key, 0.0), _within(off, TOLERANCE, f"{file}: logits ({run['name']}, {name})"))
    return found


def _compare_onnx(subject: Subject) -> float | str:
    """Return the difference of the ONNX file's logits, or why they were not compared."""
    if (missing := onnx_file.missing_to_run()) is not None:
        return f"not compared, as {missing}"
    path = subject.folder / "model.onnx"
    run = onnx_file.opened(path)
    model = subject.build(subject.weights)
    pairs = [(run(batch), answers(model, batch)) for batch in _batches(subject).values()]
    return _within(max(difference(*pair) for pair in pairs), ONNX_TOLERANCE, f"{path}: logits")


def _within(found: float, limit: float, words: str) -> float:
    if not found <= limit:
        raise ProofError(f"{words} differ by {found:.1e} of the largest, and at most {limit:.0e} is allowed")
    return found


def _least_effect(model: nn.Module, images: Tensor) -> float | None:
    """Return by how much the logits change at least if one of the blocks is passed by; None if there is none.

    Raises:
        ProofError: If a block has so little effect that a comparison of networks would not see it.
    """
    twin = copy.deepcopy(model)
    whole = answers(twin, images)
    found = []
    for block in placement.blocks(twin):
        handle = block.register_forward_hook(lambda _module, inputs, _output: inputs[0])
        found.append(difference(answers(twin, images), whole))
        handle.remove()
        if not found[-1] > TOLERANCE:
            raise ProofError(
                f"nothing can be proved about block {len(found)} ({type(block).__name__}): to pass it by changes the "
                f"logits by {found[-1]:.1e} of the largest, and the comparison sees only what is above {TOLERANCE:.0e}"
            )
    return min(found, default=None)


def _twin(subject: Subject, model: nn.Module) -> nn.Module:
    """Return the network of ``model.py``, built in this process, with the weights of the original."""
    twin: nn.Module = isolated.load_model_file(str(subject.folder / "model.py"), "nas_exported_model").build()
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def _latency(subject: Subject, twin: nn.Module, model: nn.Module, seconds: float) -> dict[str, Any]:
    """Time the network of ``model.py`` and the original in turns, on the CPU, one image at a time."""
    device = torch.device("cpu")
    with DeviceLock(latency.lock_name(device)).timing():
        found = latency.measure(
            twin,
            model,
            batch=subject.images("batch of 1", 1),
            device_words=latency.device_words(device),
            max_seconds=seconds,
        )
    names: Mapping[str, str] = {
        "model_py_ms": "median_ms",
        "original_ms": "bare_ms",
        "ratio": "ratio",
        "ratio_low": "ratio_low",
        "ratio_high": "ratio_high",
        "pairs": "n",
        "unstable": "unstable",
    }
    return {name: getattr(found, field) for name, field in names.items()}


def _circumstances() -> dict[str, Any]:
    others = ["timm"] + (["onnxruntime"] if onnx_file.is_there("onnxruntime") else [])
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "versions": versions | {name: importlib.metadata.version(name) for name in others},
        "device": latency.device_words(torch.device("cpu")),
    }
