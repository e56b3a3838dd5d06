"""What runs a model when it is timed: torch itself, torch.compile, or onnxruntime."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from nas.protocol import RUNTIMES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Type of the tensors of what is timed, by precision."""
Run = Callable[[], object]
"""One forward pass over the batch that is timed."""


class RuntimeMissingError(ValueError):
    """A runtime cannot be used here at all; the message says why."""


class Runtime:
    """Makes what is timed out of models, for one batch. A model that was exported once is not exported again."""

    def __init__(self, name: str, batch: torch.Tensor, precision: str) -> None:
        """Check that the runtime is there.

        Args:
            name: One of :data:`nas.protocol.RUNTIMES`.
            batch: (B, C, H, W), on the device that is timed.
            precision: ``float32``, or ``bfloat16`` for models whose tensors are all cast to it, once.

        Raises:
            ValueError: If the name is unknown.
            RuntimeMissingError: If it cannot be used on this machine, device or precision.
        """
        if name not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, but got {name!r}")
        self.name = name
        self._batch = batch.to(DTYPES[precision])
        self._made: weakref.WeakKeyDictionary[nn.Module, Callable[[], Run]] = weakref.WeakKeyDictionary()
        self._make = _onnxruntime if name == "onnxruntime" else _compiled
        if name == "onnxruntime":
            _check_onnxruntime(batch.device, precision)

    @property
    def may_prepare_beside_others(self) -> bool:
        """Whether :meth:`prepare` takes long, and makes the same of a model while others use the device.

        On a GPU torch.compile tries kernels and keeps the quickest, which with others beside it may be another one.
        """
        return self.name == "onnxruntime" or (self.name == "compile" and self._batch.device.type == "cpu")

    def prepare(self, *models: nn.Module) -> None:
        """Export or compile models in evaluation mode, unless that was done, so that :meth:`fresh` need not.

        Call it in inference mode, as what is compiled is compiled for the mode.

        Raises:
            RuntimeError: If the runtime cannot run one of them.
        """
        if self.name == "eager" or all(model in self._made for model in models):
            return
        if self.name == "compile":  # forget what would slow these down, or stop them: dynamo looks through all its
            self._made.clear()  # graphs of one class
            torch._dynamo.reset()
        for model in models:
            self._prepare(model)

    def _prepare(self, model: nn.Module) -> Callable[[], Run]:
        if model not in self._made:
            self._made[model] = self._make(model, self._batch)
        return self._made[model]

    def fresh(self, model: nn.Module) -> Run:
        """Return a pass through the model whose tensors lie elsewhere in memory than before, where that is cheap.

        Raises:
            RuntimeError: If the runtime cannot run the model.
        """
        if self.name == "eager":
            twin = copy.deepcopy(model).to(self._batch.dtype)
            return lambda: twin(self._batch)
        return self._prepare(model)()


def software(name: str) -> str:
    """Return the name and version of a runtime that is not torch's own, or nothing."""
    if name != "onnxruntime" or importlib.util.find_spec(name) is None:
        return ""
    return f"{name} {importlib.metadata.version(name)}"


def _compiled(model: nn.Module, batch: torch.Tensor) -> Callable[[], Run]:
    twin = copy.deepcopy(model).to(batch.dtype)
    compiled = torch.compile(twin, fullgraph=True, dynamic=False)
    with _quiet():
        try:
            compiled(batch)
        except Exception as error:  # dynamo, inductor and the C++ compiler have no common class
            raise RuntimeError(f"torch.compile fails: {_first_line(error)}") from error

    tensors = (*twin.parameters(), *twin.buffers())

    def fresh() -> Run:
        # What is compiled stays; only where its tensors lie is new, also to the runs that are kept.
        placed = [tensor.data.clone() for tensor in tensors]
        for tensor, new in zip(tensors, placed, strict=True):
            tensor.data = new

        def run(_placed: list[torch.Tensor] = placed) -> object:
            return compiled(batch)

        return run

    return fresh


def _onnxruntime(model: nn.Module, batch: torch.Tensor) -> Callable[[], Run]:
    ort = importlib.import_module("onnxruntime")
    folder = _Folder()
    with _quiet():
        try:
            # A copy, as the exporter changes what it traces; in inference mode it cannot trace at all.
            with torch.inference_mode(False), torch.no_grad():
                program = torch.onnx.export(copy.deepcopy(model), (batch.clone(),), dynamo=True, verbose=False)
            assert program is not None
            program.save(folder.file)
        except Exception as error:  # exporter and checker raise classes of several packages
            raise RuntimeError(f"the export to ONNX fails: {_first_line(error)}") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: the optimiser warns about every constant it folds

    def fresh() -> Run:
        session = ort.InferenceSession(folder.file, options, providers=_providers(batch.device))
        binding = session.io_binding()
        name = session.get_inputs()[0].name
        # The session reads the batch where it lies, so that neither a copy nor a conversion is timed.
        kept = batch.contiguous()
        place = {"device_type": batch.device.type, "device_id": batch.device.index or 0}
        dtype = importlib.import_module("numpy").float32
        binding.bind_input(name, **place, element_type=dtype, shape=tuple(kept.shape), buffer_ptr=kept.data_ptr())
        binding.bind_output(session.get_outputs()[0].name, **place)

        def run(_kept: torch.Tensor = kept) -> None:
            session.run_with_iobinding(binding)

        return run

    return fresh


class _Folder:
    """A folder for one exported graph, whose weights may lie in files beside it; it goes when nothing needs it."""

    def __init__(self) -> None:
        path = tempfile.mkdtemp(prefix="nas-onnx-")
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        self.file = os.path.join(path, "model.onnx")


def _check_onnxruntime(device: torch.device, precision: str) -> None:
    for package in ("onnxruntime", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise RuntimeMissingError(f"the runtime onnxruntime needs {package}: pip install onnxruntime onnxscript")
    if precision != "float32":
        raise RuntimeMissingError(f"the runtime onnxruntime takes the precision float32, but got {precision}")
    available = importlib.import_module("onnxruntime").get_available_providers()
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type)
    if provider not in available:
        raise RuntimeMissingError(f"this onnxruntime cannot run on {device.type}; it has {', '.join(available)}")


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cuda":
        return [("CUDAExecutionProvider", {"device_id": device.index or 0})]
    return ["CPUExecutionProvider"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what compilers and exporters say about themselves off the terminal; their errors are raised all the same."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip() if lines else ''}"[:200]
