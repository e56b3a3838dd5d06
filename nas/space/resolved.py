"""A search space whose stages and widths are known: counted, enumerated, sampled."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from nas.architecture import NONE, Architecture, Placement
from nas.attention import BLOCKS
from nas.attention.options import OptionValue
from nas.space.site import Site

if TYPE_CHECKING:
    from nas.space.declaration import SearchSpace

REMOVE = "none (replace)"
"""The choice of taking the built-in attention of a stage out and putting nothing in."""
UNIFORM_CONTROLS = ("se", "eca", "cbam")
"""Blocks that are evaluated on every stage as controls, whatever the space offers."""

Choose = Callable[[str, Sequence[Any]], Any]
"""``choose(name, options)`` returns one of the options; ``name`` is the same whenever the question is the same."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """An architecture that every study evaluates for comparison."""

    label: str
    """``bare``, ``se everywhere`` and so on, or ``built-in attention removed``."""
    architecture: Architecture
    """The architecture."""
    choices: Mapping[str, Any] = field(default_factory=dict)
    """The answers to ``choose`` that lead to it; empty where the space itself does not contain it."""


@dataclass(frozen=True, kw_only=True)
class ResolvedSpace:
    """A search space whose stages and widths are known. Every architecture that it yields is canonical.

    It has at most one placement per stage, at one of the space's positions, and at most ``max_blocks`` altogether.
    """

    space: SearchSpace
    """The declaration."""
    sites: Mapping[str, tuple[Site, ...]]
    """Where in each backbone a block may stand: stage by stage, at a stage in the order of the space's positions."""

    def size(self) -> int:
        """Return the number of distinct architectures."""
        total = 0
        for backbone in self.sites:
            # by_count[k]: with k stages in use, over the stages so far
            by_count = [1]
            for placements in self.by_stage(backbone):
                without, with_one = [*by_count, 0], [0, *(len(placements) * count for count in by_count)]
                by_count = [a + b for a, b in zip(without, with_one, strict=True)][: self.most(backbone) + 1]
            total += sum(by_count)
        return total

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every architecture once, of each backbone the bare one first."""
        for backbone in self.sites:
            indices = [sites[0].stage.index for sites in self._by_stage(backbone)]
            offered = dict(zip(indices, self.by_stage(backbone), strict=True))
            for used in self._patterns(backbone):
                for placements in itertools.product(*(offered[index] for index in used)):
                    yield Architecture(backbone=backbone, placements=placements)

    def sample(self, choose: Choose) -> Architecture:
        """Build an architecture from the answers of ``choose``, which is asked only where there is a choice.

        Where the space bounds the number of blocks, it is asked first which stages are used: with a question a stage,
        and no more answers once the bound is reached, the first stages would get most of the blocks.
        """
        backbone = _ask(choose, "backbone", tuple(self.sites))
        placements = []
        bounded = self._is_bounded(backbone)
        used = self._used(choose, backbone) if bounded else ()
        for sites in self._by_stage(backbone):
            name = self._stage_name(backbone, sites[0])
            if bounded and sites[0].stage.index not in used:
                continue
            block = _ask(choose, f"{name}.block", self._blocks(sites)[bounded:])  # what is used is not left empty
            if block == REMOVE:
                (slots,) = (site for site in sites if site.position == "replace")
                placements.append(self._placement(slots, block=NONE, options={}))
            elif block != NONE:
                possible = {site.position: site for site in sites if block in site.blocks}
                site = possible[_ask(choose, f"{name}.{block}.position", tuple(possible))]
                options = site.options(block, partial(_ask_option, choose, self._options_name(backbone, site, block)))
                placements.append(self._placement(site, block=block, options=options))
        return Architecture(backbone=backbone, placements=tuple(placements))

    def most(self, backbone: str) -> int:
        """Return at how many stages of a backbone something may be placed at most."""
        stages = len(list(self._by_stage(backbone)))
        return stages if self.space.max_blocks is None else min(stages, self.space.max_blocks)

    def _is_bounded(self, backbone: str) -> bool:
        return self.most(backbone) < len(list(self._by_stage(backbone)))

    def _patterns(self, backbone: str) -> Iterator[tuple[int, ...]]:
        """Yield the sets of stages that may be used at once, the empty one first."""
        indices = [sites[0].stage.index for sites in self._by_stage(backbone)]
        for count in range(self.most(backbone) + 1):
            yield from itertools.combinations(indices, count)

    def _used(self, choose: Choose, backbone: str) -> tuple[int, ...]:
        patterns = {_pattern_words(used): used for used in self._patterns(backbone)}
        return patterns[_ask(choose, self._used_name(backbone), tuple(patterns))]

    def _used_name(self, backbone: str) -> str:
        return f"{backbone}.stages" if len(self.sites) > 1 else "stages"

    def by_stage(self, backbone: str) -> list[list[Placement]]:
        """Return what may stand at each stage of a backbone, equal networks once: all but leaving it empty."""
        return [list(self._placements(sites)) for sites in self._by_stage(backbone)]

    def answers(self, architecture: Architecture) -> dict[str, Any] | None:
        """Return the answers to ``choose`` that lead to an architecture; None if the space does not contain it."""
        if architecture.backbone not in self.sites:
            return None
        placed = {placement.stage: placement for placement in architecture.placements}
        wanted: dict[str, Any] = {"backbone": architecture.backbone}
        wanted[self._used_name(architecture.backbone)] = _pattern_words(sorted(placed))
        for sites in self._by_stage(architecture.backbone):
            name, placement = self._stage_name(architecture.backbone, sites[0]), placed.get(sites[0].stage.index)
            if placement is None:
                wanted[f"{name}.block"] = NONE
                continue
            wanted[f"{name}.block"] = REMOVE if placement.block == NONE else placement.block
            wanted[f"{name}.{placement.block}.position"] = placement.position
            for site in sites:
                prefix = self._options_name(architecture.backbone, site, placement.block)
                wanted |= {f"{prefix}.{option}": value for option, value in placement.options.items()}
        asked: dict[str, Any] = {}

        def choose(name: str, options: Sequence[Any]) -> Any:
            asked[name] = wanted[name] if wanted.get(name) in options else options[0]
            return asked[name]

        return asked if self.sample(choose) == architecture else None

    def controls(self) -> list[Control]:
        """Return the bare backbone and the uniform controls of every backbone, the bare ones first.

        A uniform control has the block with its default options on every stage of the space, at the first of the
        space's positions that the stage has, where it is possible there. A space that replaces built-in attention has
        one more control, from which all of it is taken out.
        """
        return list(self._controls)

    @cached_property  # every proposal asks for them
    def _controls(self) -> tuple[Control, ...]:
        found = [self._control(backbone, "bare", NONE) for backbone in self.sites]
        if "replace" in self.space.positions:
            found += [self._control(backbone, "built-in attention removed", REMOVE) for backbone in self.sites]
        for backbone in self.sites:
            found += [self._control(backbone, f"{block} everywhere", block) for block in UNIFORM_CONTROLS]
        distinct = {control.architecture.id: control for control in reversed(found)}
        return tuple(control for control in found if distinct[control.architecture.id] is control)

    def _control(self, backbone: str, label: str, block: str) -> Control:
        """Return the control that answers with one block, or choice of none, at every stage."""
        if block in UNIFORM_CONTROLS and block not in self.space.values:
            first = [sites[0] for sites in self._by_stage(backbone)]
            placements = [
                self._placement(site, block=block, options=BLOCKS[block].canonical_at({}, site.widths))
                for site in first
                if BLOCKS[block].possible_at(site.widths) is None
            ]
            return Control(label=label, architecture=Architecture(backbone=backbone, placements=tuple(placements)))
        if self._is_bounded(backbone) and block != NONE:
            unbounded = dataclasses.replace(self, space=dataclasses.replace(self.space, max_blocks=None))
            everywhere = unbounded._control(backbone, label, block).architecture
            return Control(label=label, architecture=everywhere, choices=self.answers(everywhere) or {})
        answers = self._answers(backbone, block)
        choices: dict[str, Any] = {}

        def choose(name: str, _: Sequence[Any]) -> Any:
            choices[name] = answers[name]
            return choices[name]

        return Control(label=label, architecture=self.sample(choose), choices=choices)

    def _answers(self, backbone: str, block: str) -> dict[str, Any]:
        """Return the answers that lead to one block, or choice of none, at every stage where it is offered."""
        answers: dict[str, Any] = {"backbone": backbone, self._used_name(backbone): _pattern_words(())}
        for sites in self._by_stage(backbone):
            name, first = self._stage_name(backbone, sites[0]), sites[0]
            offered = block in first.blocks or (block == REMOVE and block in self._blocks(sites))
            answers[f"{name}.block"] = block if offered else NONE
            answers[f"{name}.{block}.position"] = first.position
            for option, values in first.blocks.get(block, {}).items():
                default = BLOCKS[block].canonical_at({}, first.widths)[option]
                question = f"{self._options_name(backbone, first, block)}.{option}"
                answers[question] = default if default in values else values[0]
        return answers

    def _by_stage(self, backbone: str) -> Iterator[tuple[Site, ...]]:
        """Yield the sites of each stage."""
        for _, sites in itertools.groupby(self.sites[backbone], key=lambda site: site.stage.index):
            yield tuple(sites)

    def _stage_name(self, backbone: str, site: Site) -> str:
        # One name must always offer the same choices, and two backbones differ in their widths.
        prefix = f"{backbone}." if len(self.sites) > 1 else ""
        return f"{prefix}stage{site.stage.index}"

    def _options_name(self, backbone: str, site: Site, block: str) -> str:
        # The same: two positions differ in their widths.
        position = f"{site.position}." if len(self.space.positions) > 1 else ""
        return f"{self._stage_name(backbone, site)}.{position}{block}"

    def _blocks(self, sites: Sequence[Site]) -> tuple[str, ...]:
        """Return the choices at a stage: nothing, taking out what is built in, the blocks possible at any position."""
        removed = [REMOVE] if any(site.position == "replace" for site in sites) else []
        possible = [block for block in self.space.values if any(block in site.blocks for site in sites)]
        return (NONE, *removed, *possible)

    def _placements(self, sites: Sequence[Site]) -> Iterator[Placement]:
        """Yield every placement that may stand at a stage, equal networks once."""
        for site in sites:
            if site.position == "replace":
                yield self._placement(site, block=NONE, options={})
            for block, options in site.variants():
                yield self._placement(site, block=block, options=options)

    def _placement(self, site: Site, *, block: str, options: Mapping[str, OptionValue]) -> Placement:
        same = block == NONE or BLOCKS[block].starts_as_identity(options)
        init = "paper" if same else self.space.init
        return Placement(stage=site.stage.index, block=block, options=options, position=site.position, init=init)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON values: for each backbone, stage, position and block the option values."""
        backbones: dict[str, Any] = {}
        for backbone in self.sites:
            stages = backbones[backbone] = {}
            for sites in self._by_stage(backbone):
                stage = sites[0].stage
                positions = {
                    site.position: {
                        "widths": list(site.widths),
                        "blocks": {
                            block: {option: list(choices) for option, choices in values.items()}
                            for block, values in site.blocks.items()
                        },
                    }
                    for site in sites
                }
                stages[f"stage{stage.index}"] = {"name": stage.name, "channels": stage.channels, "positions": positions}
        # A bound that bounds nothing is not named: the space is equal to the one without.
        is_bounded = any(self._is_bounded(backbone) for backbone in self.sites)
        bound = {"max_blocks": self.space.max_blocks} if is_bounded else {}
        return {"backbones": backbones, "positions": list(self.space.positions), "init": self.space.init, **bound}

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that two spaces share exactly when they are equal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _pattern_words(used: Sequence[int]) -> str:
    """Return a set of stages as an answer to a question: ``1+3``, or ``none``."""
    return "+".join(map(str, used)) or NONE


def _ask(choose: Choose, name: str, options: Sequence[str]) -> str:
    """Return the answer to a question, or the only one that there is."""
    answer: str = choose(name, options) if len(options) > 1 else options[0]
    return answer


def _ask_option(choose: Choose, prefix: str, option: str, values: Sequence[OptionValue]) -> OptionValue:
    """Ask for the value of one option under the name that it has in the whole space."""
    answer: OptionValue = choose(f"{prefix}.{option}", values)
    return answer
