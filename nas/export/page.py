"""The README of an exported folder, and the proof's figures in words: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nas.architecture import Architecture
from nas.export.standalone import evidence, plain


def figures_table(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a proof has found, each figure with what it says."""
    rows, limits = [], figures["limits"]
    if figures["logits"] is not None:
        rows.append(("`model.py`, where nas cannot be imported: logits", _off(figures["logits"], limits["logits"])))
    else:
        rows.append(("`model.py`", "not executed"))
    if figures["logits_of_weights"] is not None:
        rows.append(("the same with `weights.safetensors`", _off(figures["logits_of_weights"], limits["logits"])))
    onnx = figures["onnx"]
    found = onnx if isinstance(onnx, str) else _off(onnx, limits["onnx"])
    rows.append(("`model.onnx`, by onnxruntime: logits", found))
    rows.append(("`reference.safetensors`: logits", _off(figures["reference"], limits["reference"])))
    equal = ", the same in `model.py`" if figures["logits"] is not None else ""
    rows.append(("parameters, tensors, multiply-accumulates", _sizes(figures) + equal))
    if figures["least_effect_of_a_block"] is not None:
        words = f"at least {figures['least_effect_of_a_block']:.1e} of the largest: the comparison sees each of them"
        rows.append(("what passing one block by changes in the logits", words))
    if (timed := figures["latency"]) is not None:
        interval = f"{timed['ratio']:.3f} [{timed['ratio_low']:.3f}, {timed['ratio_high']:.3f}]"
        busy = ", but the machine was busy" if timed["unstable"] else ""
        both = f"{timed['model_py_ms']:.3f} ms and {timed['original_ms']:.3f} ms"
        rows.append(("latency of `model.py` and of the original", f"{both}; pair by pair {interval} times{busy}"))
    return rows


def text(figures: Mapping[str, Any]) -> str:
    """Return the figures as lines for a terminal."""
    rows = [(what.replace("`", ""), found.replace("`", "")) for what, found in figures_table(figures)]
    width = max(len(what) for what, _ in rows)
    return "\n".join([*(f"{what:{width}}  {found}" for what, found in rows), circumstances(figures)])


def left_out(figures: Mapping[str, Any]) -> list[str]:
    """Return which of the files that are there were not compared, and why."""
    found = ["model.py was not executed"] if figures["logits"] is None else []
    if isinstance(figures["onnx"], str) and figures["onnx"].startswith("not compared"):
        found.append(f"model.onnx was {figures['onnx']}")
    return found


def _off(value: float, limit: float) -> str:
    found = f"off by {value:.1e} of the largest" if value else "equal, bit for bit"
    return f"{found}; at most {limit:.0e} of the largest is allowed"


def _sizes(figures: Mapping[str, Any]) -> str:
    return f"{figures['parameters']:,}, {figures['tensors']}, {figures['macs']:,}"


def circumstances(figures: Mapping[str, Any]) -> str:
    """Return with what and on what a proof was made."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    return f"{figures['images']}; {versions}; {figures['device']}"


def page(
    architecture: Architecture, content: Mapping[str, Any], figures: Mapping[str, Any], optional: Sequence[str]
) -> str:
    """Return the README.

    Args:
        architecture: What the folder holds.
        content: The config's content.
        figures: What the proof has found.
        optional: Which of the files are there that need not be.
    """
    side, channels = content["protocol"]["resolution"], content["in_channels"]
    placements = [f"- stage {placement.describe()}" for placement in architecture.placements]
    table = [f"| {what} | {found} |" for what, found in figures_table(figures)]
    parts = [
        f"# {architecture.backbone}, architecture {architecture.id}",
        "\n".join(placements or ["The bare backbone: no block is placed in it."]),
        f"Images of {channels} x {side} x {side} pixels, {content['num_classes']} classes; "
        + evidence(dict(content), _as_markdown)
        + " That accuracy is of a short training: it ranks architectures, and is not what the network can reach. The "
        "images were normalised by mean and standard deviation of each channel over the training images, which "
        f"`split.json` in the folder of the study records.{_start(content['protocol'])}",
        "## What is here",
        "\n".join(_files(optional)),
        "## How to use it",
        _USE if "weights.safetensors" in optional else _USE.replace(_LOAD, ""),
        *(_onnx(optional)),
        "## Proof",
        "The network was rebuilt from every file and compared with the one that was measured: in float32, in "
        "evaluation mode, on the CPU. A block that starts as the identity does nothing yet; so every parameter was "
        "first given a value by a formula.",
        "\n".join(["| what | found |", "|---|---|", *table]),
        f"With {circumstances(figures)}. The latencies decide nothing.",
        _REPEAT,
    ]
    return "\n\n".join(parts) + "\n"


def _start(protocol: Mapping[str, Any]) -> str:
    """Return with which weights the short training began, where it was not with fresh ones."""
    if not protocol["weights"]:
        return ""
    then = "stayed as it was" if protocol["freeze_backbone"] else "was trained on"
    return f" The backbone started from trained weights, {_as_markdown(protocol['weights'])}, and {then}."


def _as_markdown(value: object) -> str:
    """Return text that is nothing but text in Markdown, whatever somebody has written into a config."""
    return re.sub(r"([\\`*_\[\]<>&!#|~])", r"\\\1", plain(value))


def _files(optional: Sequence[str]) -> list[str]:
    said = {
        "architecture.json": "the architecture as data, with protocol, search space and all that was measured",
        "model.py": "the network as code: needs torch and timm, and nothing else",
        "weights.safetensors": "its trained weights, as a state dict",
        "model.onnx": "the network for other runtimes: input `images`, output `logits`, batches of any size",
        "model.onnx.data": "its weights, where they are too large for one file",
        "reference.safetensors": "images, and the network's logits of them",
        "proof.json": "the proof's figures, and the sha256 of every other file",
    }
    there = [name for name in said if name in optional or not name.startswith(("weights", "model.onnx"))]
    return [f"- `{name}`: {said[name]}" for name in there]


def _onnx(optional: Sequence[str]) -> list[str]:
    if "model.onnx" not in optional:
        return []
    if "weights.safetensors" in optional:
        return [
            "`model.onnx` has the weights of `weights.safetensors`: `logits_of_weights` of the reference are its own."
        ]
    return [
        "`model.onnx` has no trained weights but those of the formula: `logits` of the reference are its own. It "
        "serves to try a runtime, not to classify anything."
    ]


_LOAD = 'model = load("weights.safetensors")  # or with the weights here\n'
_USE = f"""```python
from model import build, load

model = build()                 # fresh weights
model = build(pretrained=True)  # the backbone's weights by timm, downloaded; the blocks are fresh
{_LOAD}```

It is an ordinary torch module whose backbone's tensors have timm's names, so that timm's checkpoints of the backbone
load into it. With the program that has found it, `nas.load("architecture.json")` builds the same."""
_REPEAT = """Repeat it where the program is installed:

```bash
python run_search.py check .
```

and where it is not, with torch and timm alone:

```bash
python model.py
```

which builds the network, fills its parameters by the same formula, and compares its logits with the reference in
double precision. `check` refuses a folder in which a file was changed or is missing, and executes `model.py` only if it
is, letter by letter, what the program writes for `architecture.json`."""
