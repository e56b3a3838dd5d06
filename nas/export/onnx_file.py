"""``model.onnx``: written by torch's exporter for batches of any size, and run by onnxruntime."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

ONNX_TOLERANCE = 1e-4
"""Largest difference of onnxruntime's logits, as a part of the largest of them: it computes in another order."""
LARGEST_BATCH = 1024
"""Most images in one batch that the file is written for."""


class OnnxError(ValueError):
    """A network cannot be written as ONNX; the message says why."""


def is_there(package: str) -> bool:
    """Tell whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def missing_to_run() -> str | None:
    """Return why a file cannot be run here, or None."""
    return None if is_there("onnxruntime") else "onnxruntime is not installed"


def check_exporter() -> None:
    """Raise unless a file can be written here.

    Raises:
        OnnxError: If a package is missing.
    """
    for package in ("onnx", "onnxscript"):
        if not is_there(package):
            raise OnnxError(f"--onnx needs {package}: pip install onnxruntime onnxscript")


def write(model: nn.Module, images: Tensor, path: Path) -> None:
    """Write a network as ONNX, for batches of any size.

    Args:
        model: The network, in evaluation mode; a copy is exported.
        images: Some images of the right size, (B, C, H, W), more than one.
        path: The file. The weights of a network beyond 1.5 GB come to lie in another file beside it.

    Raises:
        OnnxError: If a package is missing, or the exporter cannot write the network.
    """
    check_exporter()
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with _quiet():
        try:
            program = torch.onnx.export(
                copy.deepcopy(model),
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
            assert program is not None
            for node in program.model.graph:  # where on this machine each line of code is
                node.metadata_props.clear()
            program.save(path)
        except Exception as error:  # exporter and checker raise classes of several packages
            raise OnnxError(f"the export to ONNX fails: {_root(error)}") from error


def opened(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what runs a file on images, on the CPU.

    Raises:
        OnnxError: If onnxruntime does not read it.
    """
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: the optimiser warns about every constant it folds
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base
        raise OnnxError(f"onnxruntime does not read {path}: {' '.join(str(error).split())[:200]}") from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _root(error: BaseException) -> str:
    """Return in one line what was at the bottom of an error; on top of it are pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first[:200]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says about itself off the terminal; its errors are raised all the same."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nothing, redirect_stdout(nothing):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
