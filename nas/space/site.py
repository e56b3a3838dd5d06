"""A position of a stage, and what may stand there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nas.architecture import Stage
from nas.attention import BLOCKS
from nas.attention.options import OptionValue

Values = Mapping[str, tuple[OptionValue, ...]]
"""Option values by the option's name."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A position of a stage, and what may stand there."""

    stage: Stage
    """The stage."""
    position: str = "after_stage"
    """The position, one that the stage has."""
    blocks: Mapping[str, Values]
    """Blocks that are possible at all widths of the places, each with its option values that are distinct in effect."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The distinct widths of the position's places."""
        return self.stage.widths(self.position)

    def variants(self) -> Iterator[tuple[str, dict[str, OptionValue]]]:
        """Yield every block with every combination of its option values, equal networks once."""
        for block, values in self.blocks.items():
            seen = set()
            for chosen in itertools.product(*values.values()):
                options = BLOCKS[block].canonical_at(dict(zip(values, chosen, strict=True)), self.widths)
                key = tuple(options.values())
                if key not in seen:  # options that have no effect beside others merge
                    seen.add(key)
                    yield block, options

    def options(
        self, block: str, choose: Callable[[str, Sequence[OptionValue]], OptionValue]
    ) -> dict[str, OptionValue]:
        """Return the block's effective options from the answers of ``choose``, asked where there is a choice."""
        chosen: dict[str, OptionValue] = {}
        for name, values in self.blocks[block].items():
            option = BLOCKS[block].options[name]
            if not option.active(chosen):
                chosen[name] = option.idle_at(self.widths)
            else:
                chosen[name] = choose(name, values) if len(values) > 1 else values[0]
        return chosen
