"""The table of blocks in words: for the terminal, and as the page docs/blocks.md. Needs no torch.

``python -m nas.catalogue > docs/blocks.md`` writes the page anew.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping

from nas.answer import count_text
from nas.attention import BLOCKS, BlockSpec, spec_of
from nas.attention.options import Option, OptionValue, options_text
from nas.attention.spec import COSTS

CLASSES: Mapping[str, str] = {
    "channel": "a gate for each channel",
    "spatial": "gates for each pixel",
    "joint": "gates for each channel and pixel",
    "mixing": "convolutions over the whole map",
    "global": "all pairs of pixels, or of channels",
}
"""The cost classes in words."""
COMMAND = "python -m nas.catalogue > docs/blocks.md"
"""Writes the page anew."""
EXAMPLES = ((64, 56), (512, 7))
"""Widths, and heights and widths of maps, for which the page gives numbers: a ResNet's first and last stage."""


def listing(channels: int, map_size: int) -> str:
    """Return all blocks with their options, by cost class, as plain text.

    Args:
        channels: Width of the map for which values and counts are given.
        map_size: Height and width of that map, in pixels.

    Raises:
        ValueError: If one of them is below 1.
    """
    _check(channels, map_size)
    lines = [f"{len(BLOCKS)} blocks; counts and values at {channels} channels on {map_size}x{map_size} maps"]
    for cost, specs in _by_cost().items():
        lines += ["", f"{cost}: {CLASSES[cost]}"]
        for spec in specs:
            lines += ["", *_entry(spec, channels, map_size)]
    lines += ["", "python run_search.py blocks NAME shows formula, claim and traps of one block"]
    return "\n".join(lines)


def entry(name: str, channels: int, map_size: int) -> str:
    """Return all that is known of one block, as plain text.

    Raises:
        ValueError: If there is no such block, or a number is below 1.
    """
    spec = spec_of(name)
    _check(channels, map_size)
    lines = [
        f"{spec.cost}: {CLASSES[spec.cost]}",
        f"counts and values at {channels} channels on {map_size}x{map_size} maps",
    ]
    lines += ["", *_entry(spec, channels, map_size), ""]
    sizes = [f"with {size} = {expression}" for size, expression in spec.sizes.items()]
    counts = [f"{spec.parameters} parameters", f"{spec.macs} MACs", *sizes]
    for head, text in (
        ("formula", spec.formula),
        ("counts", "; ".join(counts)),
        ("claim", spec.claim),
        ("costly", spec.costly),
        ("traps", spec.traps),
        ("start", _start(spec)),
    ):
        lines += _wrapped(text, f"  {head:<9}", " " * 11)
    return "\n".join(lines)


def _check(channels: int, map_size: int) -> None:
    for name, value in (("channels", channels), ("map", map_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}")


def _by_cost() -> dict[str, list[BlockSpec]]:
    found = {cost: [spec for spec in BLOCKS.values() if spec.cost == cost] for cost in COSTS}
    return {cost: specs for cost, specs in found.items() if specs}


def _entry(spec: BlockSpec, channels: int, map_size: int) -> Iterator[str]:
    """Yield name, title, paper, counts and options of a block."""
    yield from _wrapped(spec.title, f"{spec.name:<10} ", " " * 11)
    yield f"{'':11}{spec.paper}"
    reason = spec.possible(channels)
    if reason is not None:
        yield from _wrapped(reason, " " * 11, " " * 11)
    else:
        parameters, macs = spec.count({}, channels, map_size, map_size)
        yield f"{'':11}{parameters:,} parameters, {macs:,} MACs"
    if not spec.options:
        yield f"{'':11}no options"
    for name, option in spec.options.items():
        text = f"{option.help}. Default {option.default}; searched {_values(option.choices)}; at {channels} channels "
        text += f"{_values(spec.valid(name, channels)) or 'none'}; any: {option.rule}{_condition(option, '; ')}"
        yield from _wrapped(text, f"  {name:<13}", " " * 15)


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    width = min(100, max(60, shutil.get_terminal_size((100, 24)).columns))
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _values(values: tuple[OptionValue, ...]) -> str:
    return ", ".join(str(value) for value in values)


def _condition(option: Option, lead: str = "") -> str:
    """Return when an option has an effect, or nothing if always."""
    if option.when is None:
        return ""
    name, values = option.when
    return f"{lead}only with {name} = {' or '.join(str(value) for value in values)}"


def _start(spec: BlockSpec) -> str:
    """Return what the two initialisations of a block do."""
    scalar = "init=identity adds one scalar, strength, which starts at 0 and passes the map through exactly"
    if spec.identity_when is None:
        return f"init=paper starts as published; {scalar}."
    if not spec.identity_when:
        return "As published the block is already an exact identity: both inits are one network."
    return (
        f"With {options_text(spec.identity_when)} the block as published is already an exact identity, and both "
        f"inits are one network; otherwise {scalar}."
    )


def page() -> str:
    """Return the page docs/blocks.md."""
    lines = [
        "# The blocks",
        "",
        f"Generated from the table of blocks in `nas/attention/tables/` by `{COMMAND}`; do not edit.",
        "`python run_search.py blocks` shows the same in a terminal, and `python run_search.py costs` measures what",
        "each block adds to a backbone's latency on your device.",
        "",
        "Every block works on maps of any height and width, from 1x1: which values are valid depends on the channels",
        "alone. A window or a stride larger than the map acts as one of the map's size. An option without effect",
        "beside others (column *when*) is accepted and ignored; values that build equal networks at a width are one",
        "value there.",
        "",
        "In the expressions, C is the map's channels, H and W its rows and columns, N = H * W its pixels. MACs are",
        "multiply-accumulates of convolutions and matrix products for one image. The numbers hold for the default",
        "options.",
        "Cost classes: " + "; ".join(f"*{cost}*: {CLASSES[cost]}" for cost in _by_cost()) + ".",
        "",
        "| name | paper | cost class | options |",
        "|---|---|---|---|",
    ]
    for specs in _by_cost().values():
        for spec in specs:
            options = ", ".join(f"`{name}`" for name in spec.options) or "none"
            cells = (f"[{spec.name}](#{spec.name})", f"[{_cell(spec.title)}]({spec.paper})", spec.cost, options)
            lines.append(f"| {' | '.join(cells)} |")
    for specs in _by_cost().values():
        for spec in specs:
            lines += ["", *_section(spec)]
    return "\n".join(lines) + "\n"


def _section(spec: BlockSpec) -> Iterator[str]:
    """Yield the lines of a block's section."""
    yield from (f"## {spec.name}", "", f"[{spec.title}]({spec.paper})", "")
    yield f"{spec.claim} Cost class *{spec.cost}*: {CLASSES[spec.cost]}."
    yield from ("", "```text", spec.formula, "```", "")
    if spec.options:
        yield from ("| option | default | searched | rule | what it does | when |", "|---|---|---|---|---|---|")
        for name, option in spec.options.items():
            facts = (option.rule, option.help, _condition(option) or "always")
            shown = (f"`{name}`", str(option.default), _values(option.choices), *facts)
            yield f"| {' | '.join(map(_cell, shown))} |"
    else:
        yield "It has no options."
    yield ""
    if spec.min_channels > 1:
        yield f"- **Width** at least {spec.min_channels} channels"
    yield f"- **Parameters** `{spec.parameters}`, **MACs** `{spec.macs}`" + "".join(
        f", with `{name} = {expression}`" for name, expression in spec.sizes.items()
    )
    yield f"- **Numbers** {'; '.join(_numbers(spec, *example) for example in EXAMPLES)}"
    yield f"- **Costs much** {spec.costly}"
    yield f"- **Traps** {spec.traps}"
    yield f"- **Start** {_start(spec)}"


def _numbers(spec: BlockSpec, channels: int, map_size: int) -> str:
    where = f"{channels} channels, {map_size}x{map_size}:"
    if spec.possible(channels) is not None:
        return f"{where} impossible"
    parameters, macs = spec.count({}, channels, map_size, map_size)
    return f"{where} {count_text(parameters)} parameters, {count_text(macs)} MACs"


def _cell(text: str) -> str:
    """Return text that ends no cell of a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
