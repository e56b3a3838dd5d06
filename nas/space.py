"""The search space: which backbones, stages, blocks and option values may be combined. Knows neither Optuna nor timm.

A :class:`SearchSpace` is a declaration and knows no widths. :meth:`SearchSpace.resolve` checks it against the stages of
its backbones and returns a :class:`ResolvedSpace`, which can be counted, enumerated and sampled.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import json
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nas.architecture import POSITIONS, Architecture, Placement, Stage
from nas.attention import BLOCKS, INITS
from nas.attention.options import OptionValue, nearest
from nas.attention.widths import is_int

NONE = "none"
"""The choice of placing nothing at a stage."""
UNIFORM_CONTROLS = ("se", "eca", "cbam")
"""Blocks that are evaluated on every stage as controls, whatever the space offers."""

Choose = Callable[[str, Sequence[Any]], Any]
"""``choose(name, options)`` returns one of the options; ``name`` is the same whenever the question is the same."""
Values = Mapping[str, tuple[OptionValue, ...]]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A declaration of what may be combined. "None" is always a choice at every stage.

    Raises:
        ValueError: On an unknown block, option, position or init, on an impossible option value, and on empty choices.
    """

    backbones: tuple[str, ...]
    """timm names; with more than one, the backbone is searched too."""
    blocks: Mapping[str, Values] | Sequence[str]
    """Block names, each with the option values to search; an option that is not named takes the block's own choices."""
    stages: tuple[int, ...] | None = None
    """Stages where a block may stand, as timm's ``feature_info`` numbers them; None for all."""
    position: str = "after_stage"
    """Where in a stage the blocks stand."""
    init: str = "identity"
    """``identity`` or ``paper``: the initialisation of every block."""

    def __post_init__(self) -> None:
        for name, value in (("backbones", self.backbones), ("stages", self.stages)):
            if value is not None and (not isinstance(value, tuple) or not value or len(set(value)) != len(value)):
                raise ValueError(f"{name} must be a tuple of distinct entries, at least one, but got {value!r}")
        for backbone in self.backbones:
            if not isinstance(backbone, str) or not backbone:
                raise ValueError(f"backbones must be names of timm models, but got {backbone!r}")
        for index in self.stages or ():
            if not is_int(index) or index < 0:
                raise ValueError(f"stages must be integers >= 0, but got {index!r}")
        if self.position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, but got {self.position!r}")
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, but got {self.init!r}")
        if isinstance(self.blocks, str) or not self.blocks:
            raise ValueError(f"blocks must name at least one block, but got {self.blocks!r}")
        given = self.blocks if isinstance(self.blocks, Mapping) else {name: {} for name in self.blocks}
        object.__setattr__(self, "blocks", {block: _checked(block, values) for block, values in given.items()})

    @property
    def values(self) -> Mapping[str, Values]:
        """The blocks, each with the option values that the declaration names."""
        assert isinstance(self.blocks, Mapping)  # __post_init__ made it one
        return self.blocks

    def resolve(self, stages: Mapping[str, Sequence[Stage]]) -> ResolvedSpace:
        """Check the declaration against the stages of its backbones.

        Args:
            stages: For each backbone its stages.

        Raises:
            ValueError: If a stage does not exist, or a named option value is impossible at a stage's width.
        """
        sites = {}
        for backbone in self.backbones:
            known = {stage.index: stage for stage in stages[backbone]}
            for index in self.stages or ():
                if index not in known:
                    has = ", ".join(str(number) for number in known)
                    raise ValueError(f"{backbone} has no stage {index}; its stages: {has}")
            chosen = [known[index] for index in (self.stages or known)]
            sites[backbone] = tuple(self._site(backbone, stage) for stage in chosen)
        return ResolvedSpace(space=self, sites=sites)

    def _site(self, backbone: str, stage: Stage) -> Site:
        offered = {}
        for block, named in self.values.items():
            spec = BLOCKS[block]
            if spec.possible(stage.channels) is not None and not named:
                continue
            try:
                if spec.possible(stage.channels) is not None:
                    raise ValueError(spec.possible(stage.channels))
                offered[block] = {
                    option: _effective(block, option, named[option], stage.channels)
                    if option in named
                    else spec.valid(option, stage.channels)
                    for option in spec.options
                }
            except ValueError as error:
                where = f"stage {stage.index} ({stage.name}, {stage.channels} channels) of {backbone}"
                raise ValueError(f"{where}: {error}") from error
        return Site(stage=stage, blocks=offered)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A stage, and what may stand there."""

    stage: Stage
    """The stage."""
    blocks: Mapping[str, Values]
    """Blocks that are possible at the stage's width, each with its distinct effective option values."""

    def variants(self) -> Iterator[tuple[str, dict[str, OptionValue]]]:
        """Yield every block with every combination of its option values, equal networks once."""
        for block, values in self.blocks.items():
            seen = set()
            for chosen in itertools.product(*values.values()):
                options = BLOCKS[block].canonical(dict(zip(values, chosen, strict=True)), self.stage.channels)
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
                chosen[name] = option.idle(self.stage.channels)
            else:
                chosen[name] = choose(name, values) if len(values) > 1 else values[0]
        return chosen


@dataclass(frozen=True, kw_only=True)
class Control:
    """An architecture that every study evaluates for comparison."""

    label: str
    """``bare``, or ``se everywhere`` and so on."""
    architecture: Architecture
    """The architecture."""
    choices: Mapping[str, Any] = field(default_factory=dict)
    """The answers to ``choose`` that lead to it; empty where the space itself does not contain it."""


@dataclass(frozen=True, kw_only=True)
class ResolvedSpace:
    """A search space whose stages and widths are known. Every architecture that it yields is canonical."""

    space: SearchSpace
    """The declaration."""
    sites: Mapping[str, tuple[Site, ...]]
    """For each backbone the stages where a block may stand."""

    def size(self) -> int:
        """Return the number of distinct architectures."""
        return sum(math.prod(1 + sum(1 for _ in site.variants()) for site in sites) for sites in self.sites.values())

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every architecture once, the bare backbones first."""
        for backbone, sites in self.sites.items():
            for combination in itertools.product(*([None, *site.variants()] for site in sites)):
                placements = [
                    self._placement(site, block=choice[0], options=choice[1])
                    for site, choice in zip(sites, combination, strict=True)
                    if choice is not None
                ]
                yield Architecture(backbone=backbone, placements=tuple(placements))

    def sample(self, choose: Choose) -> Architecture:
        """Build an architecture from the answers of ``choose``, which is asked only where there is a choice."""
        backbones = tuple(self.sites)
        backbone = choose("backbone", backbones) if len(backbones) > 1 else backbones[0]
        # One name must always offer the same options, and two backbones differ in their widths.
        prefix = f"{backbone}." if len(backbones) > 1 else ""
        placements = []
        for site in self.sites[backbone]:
            name = f"{prefix}stage{site.stage.index}"
            block = choose(f"{name}.block", (NONE, *site.blocks)) if site.blocks else NONE
            if block == NONE:
                continue
            options = site.options(block, partial(_ask, choose, f"{name}.{block}"))
            placements.append(self._placement(site, block=block, options=options))
        return Architecture(backbone=backbone, placements=tuple(placements))

    def controls(self) -> list[Control]:
        """Return the bare backbone and the uniform controls of every backbone, the bare ones first.

        A uniform control has the block with its default options on every stage of the space where it is possible.
        """
        found = [self._control(backbone, NONE) for backbone in self.sites]
        found += [self._control(backbone, block) for backbone in self.sites for block in UNIFORM_CONTROLS]
        distinct = {control.architecture.id: control for control in reversed(found)}
        return [control for control in found if distinct[control.architecture.id] is control]

    def _control(self, backbone: str, block: str) -> Control:
        label = "bare" if block == NONE else f"{block} everywhere"
        if block != NONE and block not in self.space.values:
            placements = [
                self._placement(site, block=block, options=BLOCKS[block].canonical({}, site.stage.channels))
                for site in self.sites[backbone]
                if BLOCKS[block].possible(site.stage.channels) is None
            ]
            return Control(label=label, architecture=Architecture(backbone=backbone, placements=tuple(placements)))
        choices: dict[str, Any] = {}
        widths = {f"stage{site.stage.index}": site.stage.channels for site in self.sites[backbone]}

        def choose(name: str, options: Sequence[Any]) -> Any:
            if name == "backbone":
                answer: Any = backbone
            elif name.endswith(".block"):
                answer = block if block in options else NONE
            else:
                stage, _, option = name.rsplit(".", 2)
                default = BLOCKS[block].canonical({}, widths[stage.rsplit(".", 1)[-1]])[option]
                answer = default if default in options else options[0]
            choices[name] = answer
            return answer

        return Control(label=label, architecture=self.sample(choose), choices=choices)

    def _placement(self, site: Site, *, block: str, options: Mapping[str, OptionValue]) -> Placement:
        init = "paper" if BLOCKS[block].starts_as_identity(options) else self.space.init
        return Placement(stage=site.stage.index, block=block, options=options, position=self.space.position, init=init)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON values: for each backbone, stage and block the option values."""
        sites = {
            backbone: {
                f"stage{site.stage.index}": {
                    "name": site.stage.name,
                    "channels": site.stage.channels,
                    "blocks": {
                        block: {option: list(choices) for option, choices in values.items()}
                        for block, values in site.blocks.items()
                    },
                }
                for site in sites
            }
            for backbone, sites in self.sites.items()
        }
        return {"backbones": sites, "position": self.space.position, "init": self.space.init}

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that two spaces share exactly when they are equal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _ask(choose: Choose, prefix: str, option: str, values: Sequence[OptionValue]) -> OptionValue:
    """Ask for the value of one option under the name that it has in the whole space."""
    answer: OptionValue = choose(f"{prefix}.{option}", values)
    return answer


def _checked(block: str, values: Values) -> dict[str, tuple[OptionValue, ...]]:
    """Return the named option values of a block, or raise on what no width could make right."""
    if block not in BLOCKS:
        hint = "; 'none' is always a choice and is not listed" if block == NONE else nearest(block, BLOCKS)
        raise ValueError(f"unknown block {block!r}{hint}; known: {', '.join(BLOCKS)}")
    if not isinstance(values, Mapping):
        raise ValueError(f"options of {block} must map names to tuples of values, but got {values!r}")
    for option, choices in values.items():
        if not isinstance(choices, (tuple, list)) or not choices:
            raise ValueError(f"{block}.{option} must be a tuple of values, at least one, but got {choices!r}")
        for value in choices:
            BLOCKS[block].check({option: value})
    return {option: tuple(choices) for option, choices in values.items()}


def _effective(block: str, option: str, values: Sequence[OptionValue], channels: int) -> tuple[OptionValue, ...]:
    """Return the distinct effective values at a width, in the order that the declaration gives."""
    known = BLOCKS[block].options[option]
    checked = [known.check(block, option, value, channels) for value in values]
    return tuple(dict.fromkeys(known.canonical(value, channels) for value in checked))


def names() -> list[str]:
    """Return the names of the spaces that the package ``search_spaces`` holds."""
    package = importlib.import_module("search_spaces")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(name_or_path: str) -> SearchSpace:
    """Return the ``SPACE`` of a module of ``search_spaces``, or of a Python file. A file is executed: trust it first.

    Raises:
        ValueError: If there is no such space, the file cannot be executed, or its ``SPACE`` is not a search space.
    """
    path = Path(name_or_path)
    if path.suffix == ".py" or path.name != name_or_path:
        if not path.is_file():
            raise ValueError(f"no space file {name_or_path}; give a file, or one of: {', '.join(names())}")
        spec = importlib.util.spec_from_file_location("nas_space_file", path)
        if spec is None or spec.loader is None:
            raise ValueError(f"a space file must be Python (.py), but got {name_or_path}")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever somebody's file raises is bad input here
            raise ValueError(f"the space file {name_or_path} failed: {type(error).__name__}: {error}") from error
    elif name_or_path in names():
        module = importlib.import_module(f"search_spaces.{name_or_path}")
    else:
        known = names()
        raise ValueError(f"unknown space {name_or_path!r}{nearest(name_or_path, known)}; known: {', '.join(known)}")
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{name_or_path} must define SPACE = SearchSpace(...), but its SPACE is {space!r}")
    return space
