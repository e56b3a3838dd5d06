"""A search space read back from the JSON that a study keeps of it: what the declaration said is no longer needed."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.architecture import Stage
from nas.attention import BLOCKS
from nas.attention.options import OptionValue
from nas.space.declaration import SearchSpace
from nas.space.resolved import ResolvedSpace
from nas.space.site import Site, Values


def restored(data: Mapping[str, Any], stages: Mapping[str, Sequence[Stage]]) -> ResolvedSpace:
    """Return the space that :meth:`nas.space.ResolvedSpace.to_dict` wrote.

    Blocks are offered in the order of the declaration as far as the sites show it: of two that no site offers both, the
    one that the table of blocks names first.

    Args:
        data: What it wrote.
        stages: For each backbone its stages.

    Raises:
        ValueError: If the backbones have other stages or widths now, or if it is something else: a database may have
            been written by anybody.
    """
    try:
        sites = {name: tuple(_sites(name, data, stages[name])) for name in data["backbones"]}
        space = SearchSpace(
            backbones=tuple(sites),
            blocks=_order(list(site.blocks) for offered in sites.values() for site in offered),
            positions=tuple(data["positions"]),
            init=data["init"],
            max_blocks=data.get("max_blocks"),
        )
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"the study holds no search space as this program writes it: {error!r}") from error
    return ResolvedSpace(space=space, sites=sites)


def _sites(backbone: str, data: Mapping[str, Any], stages: Sequence[Stage]) -> Iterable[Site]:
    known = {f"stage{stage.index}": stage for stage in stages}
    for key, kept in data["backbones"][backbone].items():
        for position, offered in kept["positions"].items():
            widths = list(known[key].widths(position)) if key in known else []
            if widths != offered["widths"]:
                raise ValueError(
                    f"{position} of {key} of {backbone} had {offered['widths']} channels when the study was made, but "
                    f"has {widths or 'none'} now"
                )
            blocks = {block: _values(block, values) for block, values in offered["blocks"].items()}
            yield Site(stage=known[key], position=position, blocks=blocks)


def _values(block: str, values: Mapping[str, Sequence[OptionValue]]) -> Values:
    """Return the option values of a block, each of which is possible at some width."""
    checked = SearchSpace(backbones=("any",), blocks={block: {name: tuple(each) for name, each in values.items()}})
    for name, option in BLOCKS[block].options.items():
        if name in values and option.when is not None and option.when[0] not in values:
            raise ValueError(f"{block}.{name} depends on {option.when[0]}, which the study's space does not have")
    return checked.values[block]


def _order(orders: Iterable[list[str]]) -> list[str]:
    """Return all names in one order in which each of these is kept; they are parts of one."""
    before: dict[str, set[str]] = {}
    for order in orders:
        for place, name in enumerate(order):
            before.setdefault(name, set()).update(order[:place])
    sorter = graphlib.TopologicalSorter(before)
    sorter.prepare()
    table = list(BLOCKS)
    ready: list[str] = []
    found: list[str] = []
    while sorter.is_active():
        ready += sorter.get_ready()
        ready.sort(key=table.index)
        found.append(ready.pop(0))
        sorter.done(found[-1])
    return found
