"""How a network shows that it is the one that was exported, without the program that exported it.

Its parameters are filled by a formula, so that nobody's random numbers matter and no part is idle that would start at
zero; then it is run on the images of the reference, and its logits must be those of the reference. What is here is
written out into ``model.py``, and imports nothing but torch and safetensors.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

TOLERANCE = 1e-6
"""Largest difference of logits, as a part of the largest of them."""
TOLERANCE_ELSEWHERE = 1e-4
"""The same where the reference is in single precision, which every machine rounds in its own way."""


def fill(model: nn.Module, images: Tensor, salt: int = 0) -> None:
    """Give every parameter of a network a value that follows from its name and place alone.

    Weights keep the size of what they are applied to, and factors are near 3/8: no gate is closed, and no block starts
    as the identity. What batch normalisations remember is what they see when these images pass, in double precision,
    or else a deep network would lose them on the way. The biases are large enough that rounding does not grow on it.

    Args:
        model: The network; it is changed in place.
        images: (B, C, H, W).
        salt: Another one gives other values.
    """
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(_filling(name, tensor.shape, salt))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(_remember) for norm in norms if norm.running_mean is not None]
    kind = next(model.parameters()).dtype
    try:
        precise_answers(model, images)
    finally:
        for handle in handles:
            handle.remove()
        model.to(kind)


def _remember(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """Set the running statistics of a batch normalisation to those of its input; what hardly varies stays small."""
    (x,) = inputs
    others = [axis for axis in range(x.dim()) if axis != 1]
    norm.get_buffer("running_mean").copy_(x.mean(others))
    least = 0.1 * x.square().mean(others)
    norm.get_buffer("running_var").copy_(torch.maximum(x.var(others, correction=0), least).clamp_min(1e-4))


def _filling(name: str, shape: torch.Size, salt: int) -> Tensor:
    """Return the values of one tensor, in double precision."""
    values = noise(name, shape, salt)
    if len(shape) >= 2:
        # (1, tokens, channels) is added to the map, not multiplied with it
        inputs = 1 if shape[0] == 1 and len(shape) == 3 else shape[1:].numel()
        return values * math.sqrt(3 / inputs)
    return 3 * values / 4 if name.endswith("bias") else (3 + values) / 8


def noise(name: str, shape: tuple[int, ...], salt: int = 0) -> Tensor:
    """Return numbers in [-1, 1), the same on every machine: integers are scrambled and scaled, exactly.

    Args:
        name: What tells the tensor from others.
        shape: Its shape.
        salt: Another one gives other numbers.
    """
    x = torch.arange(math.prod(shape), dtype=torch.int64, device="cpu") + zlib.crc32(f"{name} {salt}".encode())
    for factor in (0x7FEB352D, 0x846CA68B):  # below 2**63, as no more than 31 bits meet 32
        x = x & 0x7FFFFFFF
        x = (x ^ (x >> 15)) * factor
    x = (x >> 16) & 0xFFFF
    return (x.double() / 0x8000 - 1).reshape(shape)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors as a part of the largest expected value; infinite if not finite."""
    if found.shape != expected.shape or not (found.isfinite().all() and expected.isfinite().all()):
        return math.inf
    scale = expected.double().abs().max().item()
    return (found.double() - expected.double()).abs().max().item() / scale if scale else math.inf


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read tensors by their names from a .safetensors file, or from a state dict that torch has saved.

    The file is only read, never executed.

    Raises:
        ValueError: If there is no such file, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    except Exception as error:  # torch's reader raises what its formats meet
        raise ValueError(
            f"{path} holds no plain state dict ({type(error).__name__}); give a .safetensors file, or what "
            "torch.save(model.state_dict(), file) writes"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{path} holds no state dict: it must map names to tensors")
    return found


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of images in the precision of the images, in evaluation mode."""
    with torch.no_grad():
        logits: Tensor = model.to(images.dtype).eval()(images)
    return logits


def precise_answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of images in double precision, which every machine finds again, where the network has it."""
    try:
        return answers(model, images.double())
    except RuntimeError:  # a backbone that computes something in single precision, whatever it is given
        return answers(model, images.float())


def self_check(build: Callable[[], nn.Module], folder: Path) -> bool:
    """Compare a network with the reference in a folder, and print what came of it.

    Args:
        build: Returns the network, with any weights.
        folder: Holds ``reference.safetensors``, and perhaps ``weights.safetensors``.

    Returns:
        Whether the logits are equal.
    """
    reference = read_tensors(folder / "reference.safetensors")
    weights = folder / "weights.safetensors"
    equal = True
    for name, words in (("logits", "filled by the formula"), ("logits_of_weights", weights.name)):
        if name not in reference:
            continue
        model = build()
        if name == "logits":
            fill(model, reference["images"])
        else:
            model.load_state_dict(read_tensors(weights))
        expected = reference[name]
        found = difference(answers(model, reference["images"].to(expected.dtype)), expected)
        limit = TOLERANCE if expected.dtype == torch.float64 else TOLERANCE_ELSEWHERE
        equal &= found <= limit
        verdict = "equal" if found <= limit else "DIFFERENT"
        print(f"{words}: logits are {verdict}, off by {found:.1e} of the largest; at most {limit:.0e} is allowed")
    return equal
