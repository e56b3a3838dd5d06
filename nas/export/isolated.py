"""Run a written-out ``model.py`` where this program cannot be imported: a script, which imports nothing of it.

``python isolated.py MODEL.py REQUEST RESULT THREADS`` reads a reference and batches of images from the file REQUEST and
writes logits, the names and shapes of the network's tensors and its number of parameters to RESULT.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import Any


class _Refuse:
    """Finds every module of this program, and refuses it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name.split(".")[0] == "nas":
            raise ModuleNotFoundError(f"{name} must not be needed here")


def load_model_file(path: str, name: str) -> Any:
    """Import a written-out file, without leaving compiled code beside it.

    Args:
        path: The file; it is executed.
        name: What the module is called.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look there
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
        del sys.modules[name]
    return module


def main(model_file: str, request: str, result: str, threads: str) -> None:
    """Do what the script does; see the module."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(int(threads))
    code = load_model_file(model_file, "model")
    given = load_file(request)
    with safe_open(request, "pt") as file:
        asked = json.loads(file.metadata()["asked"])
    found = {}
    for run in asked["runs"]:
        model = code.build()
        if run["weights"] is None:
            code.fill(model, given["images"], run["salt"])
        else:
            model.load_state_dict(code.read_tensors(run["weights"]))
        for batch in asked["batches"]:
            found[f"{run['name']} {batch}"] = code.answers(model, given[batch]).contiguous()
    needed = sorted(name for name in sys.modules if name.split(".")[0] == "nas")
    assert not needed, f"it needs {', '.join(needed)}"
    said = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tensors": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
    }
    save_file(found, result, {"said": json.dumps(said)})


if __name__ == "__main__":
    del sys.path[0]  # the folder of this script, which is a part of the program
    sys.meta_path.insert(0, _Refuse)
    main(*sys.argv[1:])
