"""The table of blocks: it agrees with the classes, refuses what cannot be, and offers no network twice."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import random
import subprocess
import sys

import pytest
import torch

from nas.architecture import Stage
from nas.attention import BLOCKS, INITS, BlockSpec, build
from nas.attention.options import Choice, Groups, Heads, Number, Reduction, nearest
from nas.attention.widths import eca_kernel, hidden_width, largest_group
from nas.complexity import count
from nas.space import Site

OPTIONS = [(block, option) for block, spec in BLOCKS.items() for option in spec.options]
WIDTHS = (1, 2, 3, 4, 7, 8, 20, 24, 48, 64, 96, 100, 256, 512, 2048)


def every_value(block, option, channels):
    """Return the values of an option that are possible at a width: of a choice also those that are not searched."""
    known = BLOCKS[block].options[option]
    if isinstance(known, Choice):
        return tuple(name for name in known.names if known.allows(name, channels))
    return BLOCKS[block].valid(option, channels)


def setting(block, option, value):
    """Return options that set one option, and the one that it depends on to a value with which it has an effect."""
    when = BLOCKS[block].options[option].when
    return {option: value} if when is None else {when[0]: when[1][0], option: value}


def block_class(spec: BlockSpec) -> type:
    return getattr(importlib.import_module(spec.module), spec.class_name)


def test_import_needs_no_torch():
    code = "import sys, nas.attention, nas.architecture; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ten_blocks_under_their_own_names():
    assert set(BLOCKS) >= {"se", "eca", "coord", "cbam", "bam", "shuffle", "psa", "sge", "gam", "simam"}
    assert all(spec.name == name for name, spec in BLOCKS.items())


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        BLOCKS["mine"] = BLOCKS["se"]
    with pytest.raises(TypeError):
        BLOCKS["se"].options["mine"] = BLOCKS["se"].options["reduction"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        BLOCKS["se"].title = "mine"


@pytest.mark.parametrize("block", BLOCKS)
def test_class_signature_is_the_table(block):
    spec = BLOCKS[block]
    parameters = list(inspect.signature(block_class(spec)).parameters.values())
    assert [(p.name, p.kind) for p in parameters[:1]] == [("channels", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[1:])
    table = {name: option.default for name, option in spec.options.items()}
    assert {p.name: p.default for p in parameters[1:]} == {**table, "init": "paper"}


@pytest.mark.parametrize("block", BLOCKS)
def test_docstring_cites_the_paper_and_its_errors(block):
    spec = BLOCKS[block]
    text = inspect.getdoc(block_class(spec))
    assert spec.title in text.replace("\n", " ")
    assert "Raises:" in text
    if "arxiv.org" in spec.paper:
        assert f"arXiv {spec.paper.rsplit('/', 1)[-1]}" in text.replace("\n", " ")


@pytest.mark.parametrize(
    ("block", "channels"), [(b, c) for b in BLOCKS for c in (1, 3, 4, 20, 64, 96) if BLOCKS[b].possible(c) is None]
)
def test_expressions_count_what_is_built(block, channels):
    site = Site(
        stage=Stage(index=0, name="", channels=channels, reduction=1),
        blocks={block: {option: every_value(block, option, channels) for option in BLOCKS[block].options}},
    )
    for _, options in site.variants():
        counted = count(build(block, channels, **options), (channels, 5, 7))
        assert BLOCKS[block].count(options, channels, 5, 7) == (counted.parameters, counted.macs), options


@pytest.mark.parametrize(("block", "option"), OPTIONS)
def test_every_allowed_choice_builds_and_runs(block, option):
    x = torch.randn(2, 128, 3, 4)
    known = BLOCKS[block].options[option]
    for value in known.names if isinstance(known, Choice) else known.choices:
        assert build(block, 128, **setting(block, option, value))(x).shape == x.shape


def spelling(block, channels, draw):
    """Return options drawn from all that are possible at a width, not only from those that are searched."""
    options = {}
    for name, option in BLOCKS[block].options.items():
        # windows larger than the map, which is 9 x 10, would all see the same
        most = channels if isinstance(option, (Reduction, Groups, Heads)) else 4
        values = [*option.choices, *getattr(option, "names", ()), *range(1, most + 1)]
        options[name] = draw.choice([value for value in dict.fromkeys(values) if option.allows(value, channels)])
    return options


def behaviour(module, x):
    """Return the shapes of a block's parameters, and its output and gradients as one vector."""
    y = module(x)
    tensors = (y, *torch.autograd.grad(y.square().sum(), (x, *module.parameters())))
    return [p.shape for p in module.parameters()], torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("channels", [8, 20, 64])
@pytest.mark.parametrize("block", BLOCKS)
def test_networks_are_equal_exactly_when_their_canonical_options_are(block, channels, randomise):
    draw = random.Random(0)
    spec = BLOCKS[block]
    offered = {option: every_value(block, option, channels) for option in spec.options}
    site = Site(stage=Stage(index=0, name="", channels=channels, reduction=1), blocks={block: offered})
    variants = [options for _, options in site.variants()]
    drawn = draw.sample(variants, min(len(variants), 10)) + [spelling(block, channels, draw) for _ in range(6)]
    x = torch.randn(2, channels, 9, 10, dtype=torch.float64, requires_grad=True)
    seen = []
    for options in drawn:
        module = randomise(build(block, channels, **options)).double().eval()
        canonical = spec.canonical(options, channels)
        shapes, found = behaviour(module, x)
        for other, other_shapes, other_found in seen:
            equal = shapes == other_shapes and torch.allclose(found, other_found, rtol=1e-9, atol=1e-9)
            assert equal == (canonical == other), (canonical, other)
        seen.append((canonical, shapes, found))


@pytest.mark.parametrize("channels", [8, 20, 64])
@pytest.mark.parametrize(("block", "option"), OPTIONS)
def test_values_of_an_option_build_different_networks(block, option, channels, randomise):
    x = torch.randn(2, channels, 9, 10, requires_grad=True)
    values = every_value(block, option, channels)
    built = [randomise(build(block, channels, **setting(block, option, value))).eval() for value in values]
    for (shapes, found), (other_shapes, other_found) in itertools.combinations([behaviour(m, x) for m in built], 2):
        assert shapes != other_shapes or not torch.allclose(found, other_found, rtol=1e-3)


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize(("block", "option"), OPTIONS)
def test_valid_values_are_canonical_and_hold_the_default(block, option, channels):
    spec = BLOCKS[block]
    values = spec.valid(option, channels)
    if spec.possible(channels) is not None:
        assert values == ()
        return
    assert len(set(values)) == len(values)
    assert spec.canonical({}, channels)[option] in values
    for value in values:
        assert spec.canonical(setting(block, option, value), channels)[option] == value
    if not isinstance(spec.options[option], Choice):
        assert list(values) == sorted(values)


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("block", BLOCKS)
def test_possible_tells_whether_the_block_can_be_built(block, channels):
    reason = BLOCKS[block].possible(channels)
    if reason is None:
        build(block, channels if channels < 512 else 512)
    else:
        with pytest.raises(ValueError, match="channels") as caught:
            build(block, channels)
        assert str(caught.value) == reason


@pytest.mark.parametrize("floor", [4, 8])
def test_canonical_reduction_names_the_hidden_width(floor):
    option = Reduction(default=16, choices=(4, 16, 32), floor=floor, help="")
    for channels in range(1, 70):
        by_width = {}
        for reduction in range(1, 80):
            canonical = option.canonical(reduction, channels)
            width = hidden_width(channels, reduction, floor)
            assert hidden_width(channels, canonical, floor) == width
            assert by_width.setdefault(width, canonical) == canonical
            listed = [choice for choice in option.choices if hidden_width(channels, choice, floor) == width]
            first = next(r for r in range(1, 80) if hidden_width(channels, r, floor) == width)
            assert canonical == min(listed, default=first)
        assert len(set(by_width.values())) == len(by_width)


def test_clamped_reductions_merge():
    se = BLOCKS["se"]
    assert se.canonical({"reduction": 32}, 64) == se.canonical({"reduction": 16}, 64) == {"reduction": 16}
    assert se.valid("reduction", 64) == (4, 8, 16)
    assert se.valid("reduction", 8) == (4,)
    assert BLOCKS["coord"].valid("reduction", 64) == (8,)
    assert BLOCKS["coord"].valid("reduction", 512) == (8, 16, 32)


def test_none_becomes_the_number_at_that_width():
    assert BLOCKS["eca"].canonical({}, 512) == {"kernel_size": 5}
    assert BLOCKS["shuffle"].canonical({"groups": None}, 64) == {"groups": 32}
    assert BLOCKS["sge"].canonical({}, 64) == {"groups": 64}
    assert BLOCKS["sge"].canonical({}, 96) == {"groups": 48}


@pytest.mark.parametrize("channels", [8, 20, 64])
def test_blocks_build_the_canonical_number(channels):
    assert build("eca", channels).conv.kernel_size == (BLOCKS["eca"].canonical({}, channels)["kernel_size"],)
    for block in ("shuffle", "sge"):
        assert build(block, channels).groups == BLOCKS[block].canonical({}, channels)["groups"]


def test_eca_kernel_follows_its_paper():
    expected = {1: 1, 7: 1, 8: 3, 127: 3, 128: 5, 512: 5, 2047: 5, 2048: 7}
    assert {channels: eca_kernel(channels) for channels in expected} == expected


def test_largest_group():
    assert largest_group(256, multiple=2) == 64
    assert largest_group(40, multiple=2) == 20
    assert largest_group(7, multiple=1) == 7
    assert largest_group(7, multiple=2) == 0


def test_check_fills_in_defaults_without_changing_what_it_is_given():
    given = {"kernel_size": 3}
    assert BLOCKS["cbam"].check(given) == {"reduction": 16, "kernel_size": 3}
    assert given == {"kernel_size": 3}


def test_a_whole_number_and_its_float_are_one_value():
    (value,) = BLOCKS["simam"].check({"lambda_": 1}).values()
    assert isinstance(value, float)


def test_unknown_block_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown block 'cbm'; did you mean 'cbam'\?; known: se, eca"):
        build("cbm", 64)
    with pytest.raises(ValueError, match=r"unknown block 'SE'; did you mean 'se'\?"):
        build("SE", 64)
    with pytest.raises(ValueError, match=r"unknown block \['se'\]; known"):
        build(["se"], 64)


def test_unknown_option_names_the_nearest_and_the_known():
    with pytest.raises(
        ValueError, match=r"cbam has no option 'kernel'; did you mean 'kernel_size'\?; its options: red"
    ):
        build("cbam", 64, kernel=3)
    with pytest.raises(ValueError, match="se has no option 3; its options: reduction"):
        BLOCKS["se"].check({3: 16})
    with pytest.raises(ValueError, match="se has no option 'groups'"):
        BLOCKS["se"].valid("groups", 64)
    with pytest.raises(ValueError, match="must be a mapping"):
        BLOCKS["se"].check([("reduction", 16)])


def test_unknown_init_names_the_known():
    with pytest.raises(
        ValueError, match=r"init must be one of paper, identity, but got 'ident'; did you mean 'identity'"
    ):
        build("se", 64, init="ident")
    assert INITS == ("paper", "identity")


BAD_VALUES = [
    ("se", "reduction", 0, r"reduction must be an integer >= 1, but got 0.*choices: 4, 8, 16"),
    ("se", "reduction", -4, "but got -4"),
    ("se", "reduction", True, "but got True"),
    ("se", "reduction", "16", "but got '16'"),
    ("se", "reduction", 16.0, r"but got 16\.0"),
    ("se", "reduction", None, "but got None"),
    ("coord", "reduction", 0, "coord: reduction must be"),
    ("eca", "kernel_size", 4, "odd integer from 1 to the number of channels, but got 4"),
    ("eca", "kernel_size", 65, "but got 65 at 64 channels; choices: 3, 5, 7, 9"),
    ("eca", "kernel_size", 3.0, r"but got 3\.0"),
    ("eca", "kernel_size", True, "but got True"),
    ("cbam", "kernel_size", 6, "kernel_size must be an odd integer >= 1, but got 6 at 64 channels; choices: 3, 5, 7"),
    ("cbam", "kernel_size", -1, "but got -1"),
    ("gam", "kernel_size", None, "but got None"),
    ("gam", "gate", "tanh", "gate must be one of sigmoid, none, but got 'tanh'"),
    ("bam", "dilation", 0, "dilation must be an integer >= 1"),
    ("bam", "combine", "max", "combine must be one of add, mul, but got 'max'"),
    ("bam", "combine", True, "but got True"),
    ("shuffle", "groups", 64, r"channels % \(2 \* groups\) == 0, but got 64 at 64 channels; choices: 4, 8, 16, 32$"),
    ("shuffle", "groups", False, "but got False"),
    ("sge", "groups", 5, "channels % groups == 0, but got 5 at 64 channels; choices: 4, 8, 16, 32, 64"),
    ("sge", "groups", 0, "but got 0"),
    ("sge", "groups", "8", "but got '8'"),
    ("psa", "layout", "serial", "layout must be one of parallel, sequential"),
    ("psa", "layout", None, "but got None"),
    ("simam", "lambda_", 0, "lambda_ must be a number from 1e-12 to 1000, but got 0"),
    ("simam", "lambda_", float("nan"), "but got nan"),
    ("simam", "lambda_", float("inf"), "but got inf"),
    ("simam", "lambda_", True, "but got True"),
    ("simam", "lambda_", "0.1", r"but got '0\.1'"),
]


@pytest.mark.parametrize(("block", "option", "value", "message"), BAD_VALUES)
def test_impossible_values_are_refused_by_build_and_by_the_class(block, option, value, message):
    with pytest.raises(ValueError, match=message) as by_table:
        build(block, 64, **{option: value})
    with pytest.raises(ValueError, match=message) as by_class:
        block_class(BLOCKS[block])(64, **{option: value})
    assert str(by_table.value) == str(by_class.value)


@pytest.mark.parametrize("channels", [0, -1, True, 8.0, "8"])
def test_impossible_widths_are_refused(channels):
    with pytest.raises(ValueError, match="se: channels must be an integer >= 1, but got"):
        build("se", channels)


def test_impossible_widths_name_the_rule():
    assert "channels % (2 * groups) == 0" in BLOCKS["shuffle"].possible(3)
    assert "at least 2" in BLOCKS["psa"].possible(1)
    with pytest.raises(ValueError, match=r"channels % \(2 \* groups\) == 0, but no value fits 7 channels"):
        BLOCKS["shuffle"].canonical({"groups": 1}, 7)


@pytest.fixture
def dependent() -> BlockSpec:
    """A row whose second option has an effect only with some values of the first."""
    branch = Choice(default="both", choices=("both", "left"), names=("both", "left", "right"), help="")
    return dataclasses.replace(
        BLOCKS["se"],
        options={
            "branch": branch,
            "reduction": Reduction(default=16, choices=(4, 16), when=("branch", ("both", "left")), help=""),
        },
        identity_when={"branch": "right"},
    )


def test_an_option_without_effect_takes_its_default(dependent):
    assert dependent.canonical({"branch": "right", "reduction": 4}, 64) == {"branch": "right", "reduction": 16}
    assert dependent.canonical({"branch": "left", "reduction": 4}, 64) == {"branch": "left", "reduction": 4}
    assert dependent.canonical({"branch": "right"}, 8) == {"branch": "right", "reduction": 4}


def test_whether_the_published_start_is_an_identity_may_depend_on_options(dependent):
    assert dependent.starts_as_identity({"branch": "right"})
    assert not dependent.starts_as_identity({})
    assert dataclasses.replace(dependent, identity_when={}).starts_as_identity({})
    assert not BLOCKS["se"].starts_as_identity({})


def test_a_dependent_option_must_stand_behind_the_one_that_it_depends_on(dependent):
    turned = dict(reversed(list(dependent.options.items())))
    with pytest.raises(ValueError, match="reduction depends on branch, which must stand before it"):
        dataclasses.replace(dependent, options=turned)


def test_variants_of_a_site_merge_options_without_effect(dependent, monkeypatch):
    monkeypatch.setattr("nas.space.site.BLOCKS", {**BLOCKS, "se": dependent})
    values = {"branch": ("both", "right"), "reduction": (4, 16)}
    site = Site(stage=Stage(index=0, name="", channels=64, reduction=1), blocks={"se": values})
    assert list(site.variants()) == [
        ("se", {"branch": "both", "reduction": 4}),
        ("se", {"branch": "both", "reduction": 16}),
        ("se", {"branch": "right", "reduction": 16}),
    ]
    asked = []

    def last(name, options):
        asked.append(name)
        return options[-1]

    assert site.options("se", last) == {"branch": "right", "reduction": 16}
    assert asked == ["branch"]


def test_a_name_that_needs_a_multiple_of_channels_says_so():
    option = Choice(default="a", choices=("a", "b"), names=("a", "b"), multiples={"b": 4}, help="")
    assert option.valid(6) == ("a",)
    assert option.valid(8) == ("a", "b")
    with pytest.raises(ValueError, match=r"must be one of a, b \(channels % 4 == 0\), but got 'b' at 6 channels"):
        option.check("x", "y", "b", (6,))


def test_nearest_tolerates_anything():
    assert nearest("shufle", BLOCKS) == "; did you mean 'shuffle'?"
    assert nearest("zzz", BLOCKS) == ""
    assert nearest(3, BLOCKS) == ""
    assert nearest(None, []) == ""


def test_a_row_of_the_table_is_checked_when_it_is_written():
    with pytest.raises(ValueError, match="default must be one of the choices"):
        Groups(default=3, choices=(None, 4), help="")
    with pytest.raises(ValueError, match=r"must be a number from 0 to 1, but got 2\.0"):
        Number(default=0.5, choices=(0.5, 2.0), low=0.0, high=1.0, help="")
    with pytest.raises(ValueError, match="cost of se must be one of channel, spatial"):
        dataclasses.replace(BLOCKS["se"], cost="cheap")
