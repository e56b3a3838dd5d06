"""``model.py``: one network as a file that needs torch and timm, and nothing of this program."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import nas
from nas.architecture import NONE, Architecture, Placement
from nas.attention import BLOCKS
from nas.export.sources import ROOT, Section, merged, written

if TYPE_CHECKING:
    from nas.placement import Insertion, Wire
    from nas.placement.layout import Layout

WIDTH = 120
"""Longest line, in characters."""
_OWN = ("import timm", "from pathlib import Path", "from torch import nn")
"""What the network's own part imports."""
_CHECK = ("nas.export.selfcheck", "self_check")
_PARTS = {"nas.attention": "blocks", "nas.placement": "how a backbone runs them", "nas.export": "the self-check"}


def source(architecture: Architecture, content: dict[str, Any]) -> str:
    """Return the text of ``model.py``.

    It follows from the config, this program and where timm's model has its stages, and from nothing else.

    Args:
        architecture: The network.
        content: The config's content, as :func:`nas.export.read` returns it.

    Raises:
        nas.placement.BackboneError: If timm does not know the backbone, or cannot build it.
        ValueError: If a block cannot stand where it is placed.
    """
    hung = _hung(architecture, content)
    roots = [_CHECK, ("nas.export.selfcheck", "read_tensors")]
    for insertion, wire in hung:
        roots += [("nas.placement.layout", "Layout"), ("nas.placement.hosting", _function(wire))]
        if insertion.placement.block != NONE:
            spec = BLOCKS[insertion.placement.block]
            roots.append((spec.module, spec.class_name))
    text = written(dict.fromkeys(roots))
    imports = ("from __future__ import annotations", "", *merged({*text.imports, *_OWN}))
    parts = [
        "\n".join((f'"""{_docstring(architecture, content)}\n"""', "", *imports)),
        _build(architecture, content, hung),
        _LOAD,
        *_sections(text.sections),
        _MAIN,
    ]
    return "\n\n\n".join(parts) + "\n"


def program() -> dict[str, str]:
    """Return what ``model.py`` follows from, beside the config: this program's text, and the version of timm."""
    from importlib.metadata import version

    digest = hashlib.sha256()
    for path in sorted(path for part in ("attention", "placement", "export") for path in (ROOT / part).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return {"nas": nas.__version__, "timm": version("timm"), "source": digest.hexdigest()[:16]}


def _hung(architecture: Architecture, content: dict[str, Any]) -> list[tuple[Insertion, Wire]]:
    """Return the blocks in the order in which they are built, each with where it hangs: read off a model."""
    from nas import placement

    model = placement.create(
        architecture.backbone,
        num_classes=content["num_classes"],
        in_channels=content["in_channels"],
        model_kwargs=content["protocol"]["model_kwargs"],
    )
    insertions = placement.insert(model, architecture)
    wires = {wire.path: wire for wire in placement.wires(model)}
    ordered = sorted(insertions, key=lambda insertion: insertion.placement.position != "replace")
    return [(insertion, wires[insertion.path]) for insertion in ordered]


def _function(wire: Wire) -> str:
    return "substitute" if wire.how == "instead" else "attach"


def _docstring(architecture: Architecture, content: dict[str, Any]) -> str:
    shape = f"{content['in_channels']} x {content['protocol']['resolution']} x {content['protocol']['resolution']}"
    blocks = [_wrapped(f"stage {placement.describe()}", "    ") for placement in architecture.placements]
    written_by = "Written by attention-placement-nas, which it does not need: only torch and timm (and, with timm, "
    paragraphs = [
        f"{plain(architecture.backbone)} with {len(blocks) or 'no'} attention block{'s' * (len(blocks) != 1)}: "
        f"images of {shape} to {content['num_classes']} classes.",
        "\n".join(blocks),
        _wrapped(f"Architecture {architecture.id}, {evidence(content)}"),
        _wrapped(f"{written_by}safetensors). The names of its tensors are those of timm's model, plus the blocks'."),
        "    from model import build, load\n\n"
        "    model = build()                    # fresh weights\n"
        "    model = build(pretrained=True)     # timm's weights for the backbone, downloaded; fresh blocks\n"
        '    model = load("weights.safetensors")',
        "``python model.py`` compares it with reference.safetensors, beside it.",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def evidence(content: dict[str, Any], shown: Callable[[object], str] | None = None) -> str:
    """Return in one sentence where a network comes from and what was measured on it.

    Args:
        content: The config's content.
        shown: Returns a name as it may stand in the text; :func:`plain` by default.
    """
    shown = shown or plain
    found = content["evidence"] if isinstance(content["evidence"], dict) else {}
    protocol, latency = content["protocol"], found.get("latency")
    words = [f"from trial {shown(found.get('trial'))} of the study {shown(found.get('study'))}"]
    accuracy = [found.get(name) for name in ("accuracy", "accuracy_low", "accuracy_high")]
    if all(isinstance(value, (int, float)) for value in accuracy):
        mean, low, high = (100 * value for value in accuracy if value is not None)
        epochs = f"{protocol['epochs']} epoch{'s' * (protocol['epochs'] != 1)}"
        words.append(
            f"{mean:.1f} [{low:.1f}, {high:.1f}] % of the validation images right after {epochs} of a short training"
        )
    numbers = ("ratio", "ratio_low", "ratio_high")
    if isinstance(latency, dict) and all(isinstance(latency.get(name), (int, float)) for name in numbers):
        ratio, low, high = (latency[name] for name in numbers)
        where = f" on {shown(latency.get('device'))}"
        words.append(f"{ratio:.3f} [{low:.3f}, {high:.3f}] times the latency of the bare backbone{where}")
    return "; ".join(words) + "."


def plain(value: object) -> str:
    """Return text that is nothing but text inside a docstring, whatever somebody has written into a config."""
    words = " ".join(str(value).split())
    return "".join(sign if sign.isprintable() and sign not in '"\\' else "'" for sign in words)[:300]


def _wrapped(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(text, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), indent)


def _build(architecture: Architecture, content: dict[str, Any], hung: list[tuple[Insertion, Wire]]) -> str:
    kwargs = content["protocol"]["model_kwargs"]
    constants = [
        f"MODEL_KWARGS = {_literal(kwargs)}",
        '"""Arguments of timm\'s factory beside classes and channels."""',
    ]
    arguments = [_literal(architecture.backbone), "pretrained=pretrained", "num_classes=num_classes"]
    arguments += ["in_chans=in_channels"] + (["**MODEL_KWARGS"] if kwargs else [])
    classes, channels = content["num_classes"], content["in_channels"]
    lines = [
        f"def build(*, pretrained: bool = False, num_classes: int = {classes}, in_channels: int = {channels})"
        " -> nn.Module:",
        '    """Return the network, from images (B, C, H, W) to logits (B, classes).',
        "",
        "    Args:",
        "        pretrained: Whether the backbone starts from timm's weights, which are downloaded; blocks are fresh.",
        "        num_classes: Classes of the head.",
        "        in_channels: Channels of the images.",
        '    """',
        *_call("model = timm.create_model", arguments),
    ]
    for (placement, layout), group in groupby(hung, key=lambda each: (each[0].placement, each[1].layout)):
        lines += _hang(placement, layout, list(group))
    lines += ["", "    return model"] if hung else ["    return model"]
    return "\n".join([*constants, "", "", *lines] if kwargs else lines)


def _hang(placement: Placement, layout: Layout, group: list[tuple[Insertion, Wire]]) -> Iterator[str]:
    """Yield the lines that put the blocks of one placement into the backbone."""
    stage = group[0][0].stage
    where = f"stage {stage.index} ({stage.name})"
    positions = {
        "after_stage": f"after {where}",
        "in_residual": f"at the end of the residual branches of {where}",
        "replace": f"in place of the backbone's own attention in {where}",
    }
    what = "nothing" if placement.block == NONE else placement.describe().partition(": ")[2]
    widths = sorted({insertion.channels for insertion, _ in group})
    often = f"{len(group)} times, " if len(group) > 1 else ""
    channels = f"{widths[0]} to {widths[-1]}" if len(widths) > 1 else f"{widths[0]}"
    fields = [f"axes={_literal(layout.axes)}", f"grid={layout.grid!r}"]
    others = ("prefix", "item", "also", "strides")
    fields += [f"{name}={getattr(layout, name)!r}" for name in others if getattr(layout, name)]
    yield ""
    comment = f"{positions[placement.position]}: {what}, {often}on {channels} channels"
    yield from _wrapped(comment, "    # ").splitlines()
    yield from _call("layout = Layout", fields)
    for insertion, wire in group:
        arguments = ["model", _literal(wire.host), _literal(wire.name), _made(insertion), "layout"]
        yield from _call(_function(wire), arguments + (["before=True"] if wire.how == "before" else []))


def _made(insertion: Insertion) -> str:
    """Return the expression that makes a block."""
    placement = insertion.placement
    if placement.block == NONE:
        return "None"
    options = [f"{name}={_literal(value)}" for name, value in placement.options.items()]
    arguments = [str(insertion.channels), *options, f"init={_literal(placement.init)}"]
    return f"{BLOCKS[placement.block].class_name}({', '.join(arguments)})"


def _literal(value: object) -> str:
    """Return a JSON value as Python writes it: with whatever somebody has put into a config, it is nothing else."""
    if isinstance(value, str):  # JSON's escapes are Python's as far as ASCII goes
        return json.dumps(value) if value.isascii() else ascii(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_literal, value)) + "]"
    assert value is None or isinstance(value, (bool, int, float)), value
    return repr(value)


def _call(function: str, arguments: list[str]) -> Iterator[str]:
    whole = f"    {function}({', '.join(arguments)})"
    if len(whole) <= WIDTH:
        yield whole
        return
    yield f"    {function}("
    yield from (f"        {argument}," for argument in arguments)
    yield "    )"


def _sections(sections: tuple[Section, ...]) -> Iterator[str]:
    """Yield the definitions, grouped by what they are for, each module's after its own words."""
    for package, title in _PARTS.items():
        for section in sections:
            if not section.module.startswith(f"{package}."):
                continue
            path = ROOT.name + "/" + "/".join(section.module.split(".")[1:]) + ".py"
            rule = f"# {title}, from {path} ".ljust(WIDTH, "-")
            words = "\n".join(f"# {line}".rstrip() for line in _narrow(section.words))
            yield f"{rule}\n{words}"
            yield from section.texts


def _narrow(words: str) -> Iterator[str]:
    """Yield the lines of a docstring, narrow enough for a comment."""
    for number, paragraph in enumerate(words.split("\n\n")):
        lines = paragraph.splitlines()
        yield from [""] if number else []
        yield from textwrap.wrap(paragraph, WIDTH - 2) if max(map(len, lines)) > WIDTH - 2 else lines


_LOAD = '''def load(weights: str | Path | None = None, **arguments: int) -> nn.Module:
    """Return the network with trained weights, in training mode as timm's models are.

    Args:
        weights: A .safetensors file, or a state dict that torch has saved; None for weights.safetensors
            beside this file.
        arguments: Those of :func:`build`.

    Raises:
        ValueError: If there is no such file, or it holds something else.
        RuntimeError: If its tensors are not those of the network.
    """
    model = build(**arguments)
    model.load_state_dict(read_tensors(weights or Path(__file__).with_name("weights.safetensors")))
    return model'''

_MAIN = """if __name__ == "__main__":
    raise SystemExit(0 if self_check(build, Path(__file__).parent) else 1)"""
