"""One set of options at several widths: it stands for all that build the same networks at each of them."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence

import pytest

from nas.attention import BLOCKS, BlockSpec
from nas.attention.options import ChannelKernel, Choice, Groups, GroupWidth, Heads, Option, OptionValue, Reduction
from nas.attention.widths import HIDDEN_FLOOR

OPTIONS = [(block, option) for block, spec in BLOCKS.items() for option in spec.options]
STEPS = (1, 2, 4, 8, 16, 32)


def draw_widths(generator: random.Random) -> tuple[int, ...]:
    """Return one to four widths from 8 to 512, of which some are close to each other and some share large divisors."""
    step = generator.choice(STEPS)
    widths = [generator.randrange(-(-8 // step) * step, 513, step)]
    for _ in range(generator.randrange(4)):
        near = [width for width in range(widths[0] - 2 * step, widths[0] + 3 * step, step) if 8 <= width <= 512]
        far = range(-(-8 // step) * step, 513, step)
        widths.append(generator.choice(near if generator.random() < 0.5 else far))
    return tuple(dict.fromkeys(widths))


def possible_values(option: Option, widths: Sequence[int]) -> list[OptionValue]:
    """Return every value that is possible at all the widths, not only those that are searched."""
    adapts = isinstance(option, (Reduction, ChannelKernel, Groups, Heads, GroupWidth))
    values = [*option.choices, *getattr(option, "names", ()), *range(max(widths) + 2 if adapts else 9)]
    return [value for value in dict.fromkeys(values) if all(option.allows(value, width) for width in widths)]


@pytest.mark.parametrize(("block", "name"), OPTIONS)
def test_values_equal_at_every_width_are_one(block: str, name: str) -> None:
    """All values at once: they fall into the same classes by their effects and by what stands for them."""
    option, generator = BLOCKS[block].options[name], random.Random(f"{block}.{name}")
    for _ in range(15):
        widths = draw_widths(generator)
        stands: dict[tuple[OptionValue, ...], OptionValue] = {}
        values = possible_values(option, widths)
        for value in values:
            effects = tuple(option.canonical(value, width) for width in widths)
            canonical = option.canonical_at(value, widths)
            assert canonical == stands.setdefault(effects, canonical), (widths, value)
            assert canonical in values
            assert tuple(option.canonical(canonical, width) for width in widths) == effects
        assert len(set(stands.values())) == len(stands)


@pytest.mark.parametrize("block", BLOCKS)
def test_options_are_equal_exactly_when_they_are_at_every_width(block: str) -> None:
    spec, generator = BLOCKS[block], random.Random(block)
    for _ in range(40):
        widths = draw_widths(generator)
        if spec.possible_at(widths) is not None:
            continue
        pools = {name: possible_values(option, widths) for name, option in spec.options.items()}
        # few values of each, so that equal sets are drawn too; neighbours, because those are often equal in effect
        starts = {name: generator.randrange(len(pool)) for name, pool in pools.items()}
        few = {name: [pool[0], *pool[starts[name] : starts[name] + 2]] for name, pool in pools.items()}
        drawn = [{name: generator.choice(values) for name, values in few.items()} for _ in range(12)]
        found = []
        for options in drawn:
            canonical = spec.canonical_at(options, widths)
            assert spec.canonical_at(canonical, widths) == canonical
            assert spec.canonical_at(options, widths[::-1]) == canonical
            at_each = [spec.canonical(options, width) for width in widths]
            assert [spec.canonical(canonical, width) for width in widths] == at_each
            if len(widths) == 1:
                assert canonical == at_each[0]
            found.append((canonical, at_each))
        for (canonical, at_each), (other, other_at_each) in itertools.combinations(found, 2):
            assert (canonical == other) == (at_each == other_at_each), widths


@pytest.mark.parametrize(("block", "name"), OPTIONS)
def test_searched_values_are_possible_and_differ_in_effect(block: str, name: str) -> None:
    spec, generator = BLOCKS[block], random.Random(f"{block}.{name}")
    option = spec.options[name]
    for _ in range(30):
        widths = draw_widths(generator)
        values = spec.valid_at(name, widths)
        assert bool(values) == (spec.possible_at(widths) is None)
        assert [option.canonical_at(value, widths) for value in values] == list(values)
        effects = {tuple(option.canonical(value, width) for width in widths) for value in values}
        assert len(effects) == len(values)
        if values and not isinstance(option, Heads):  # heads narrower than 8 channels are possible, but not searched
            fitting = [value for value in option.choices if all(option.allows(value, width) for width in widths)]
            assert effects == {tuple(option.canonical(value, width) for width in widths) for value in fitting}
        if not isinstance(option, Choice):
            numbers = [value for value in values if isinstance(value, (int, float))]
            assert list(values) == [None] * (None in values) + sorted(numbers)
        assert spec.valid_at(name, widths[:1]) == spec.valid(name, widths[0])


def test_a_reduction_that_no_single_width_would_name() -> None:
    # At 80 channels four hidden units are 17 and more, for which 32 stands; at 90 five are 16 to 18, for which 16 does.
    se = BLOCKS["se"]
    assert [se.canonical({"reduction": value}, 80)["reduction"] for value in (16, 17, 18, 19)] == [16, 32, 32, 32]
    assert [se.canonical({"reduction": value}, 90)["reduction"] for value in (16, 17, 18, 19)] == [16, 16, 16, 32]
    together = [se.canonical_at({"reduction": value}, (80, 90))["reduction"] for value in (16, 17, 18, 19)]
    assert together == [16, 17, 17, 32]


def test_a_rule_of_the_paper_stays_where_it_comes_to_several_values() -> None:
    assert BLOCKS["eca"].canonical_at({}, (64, 512)) == {"kernel_size": None}
    assert BLOCKS["eca"].canonical_at({}, (256, 512)) == {"kernel_size": 5}
    assert BLOCKS["eca"].valid_at("kernel_size", (64, 512)) == (None, 3, 5, 7, 9)
    assert BLOCKS["eca"].valid_at("kernel_size", (256, 512)) == (3, 5, 7, 9)
    assert BLOCKS["sge"].valid_at("groups", (24, 40)) == (None, 4, 8)


def test_what_one_of_the_widths_forbids_is_refused() -> None:
    with pytest.raises(ValueError, match="shuffle: groups must be .*, but got 16 at 24 channels"):
        BLOCKS["shuffle"].canonical_at({"groups": 16}, (64, 24))
    assert BLOCKS["shuffle"].possible_at((64, 7)) == BLOCKS["shuffle"].possible(7)
    with pytest.raises(ValueError, match="psa: channels must be at least 2, but got 1"):
        BLOCKS["psa"].canonical_at({}, (8, 1))
    assert BLOCKS["psa"].valid_at("reduction", (8, 1)) == ()
    with pytest.raises(ValueError, match="se: widths must be at least one"):
        BLOCKS["se"].canonical_at({}, ())


@pytest.fixture
def made_up() -> BlockSpec:
    return dataclasses.replace(
        BLOCKS["se"],
        options={
            "branch": Choice(default="left", choices=("left", "right"), names=("left", "right"), help=""),
            "groups": Groups(default=4, choices=(4, 6), help="", when=("branch", ("left",))),
            "reduction": Reduction(default=16, choices=(4, 16), help="", when=("branch", ("left",))),
        },
        identity_when=None,
    )


def test_options_without_effect_take_one_value_at_all_widths(made_up: BlockSpec) -> None:
    assert HIDDEN_FLOOR == 4
    # 4 groups are the default, but 6 and 18 channels only split into 6
    assert made_up.canonical_at({"branch": "right", "groups": 3, "reduction": 2}, (6, 18)) == {
        "branch": "right",
        "groups": 6,
        "reduction": 4,
    }
    assert made_up.canonical_at({"branch": "right", "groups": 2}, (8, 64))["groups"] == 4


def test_a_block_without_a_value_for_all_widths_is_refused(made_up: BlockSpec) -> None:
    assert made_up.possible(8) is None
    assert made_up.possible(6) is None
    reason = made_up.possible_at((6, 8))
    assert reason is not None
    assert reason.endswith("but no value fits 6, 8 channels")
    with pytest.raises(ValueError, match="no value fits 6, 8 channels"):
        made_up.canonical_at({"groups": 2}, (6, 8))


def test_an_option_cannot_depend_on_one_that_adapts_to_the_width(made_up: BlockSpec) -> None:
    options = dict(made_up.options)
    options["reduction"] = Reduction(default=16, choices=(4, 16), help="", when=("groups", (4,)))
    with pytest.raises(ValueError, match="reduction depends on groups, which must not adapt to the width"):
        dataclasses.replace(made_up, options=options)


@pytest.mark.parametrize(("block", "name"), OPTIONS)
def test_only_options_that_say_so_adapt_to_the_width(block: str, name: str) -> None:
    option = BLOCKS[block].options[name]
    generator = random.Random(0)
    differs = False
    for _ in range(10):
        widths = draw_widths(generator)
        for value in possible_values(option, widths):
            differs |= any(option.canonical(value, width) != value for width in widths)
    assert differs <= option.adapts
