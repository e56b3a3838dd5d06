"""Every block survives what people do to models before they deploy them: compile, export, ONNX."""

from __future__ import annotations

import shutil

import pytest
import torch

from nas.attention import BLOCKS, INITS, build

EVERY = [
    (block, options)
    for block, spec in BLOCKS.items()
    for options in (
        {},
        *({name: value} for name, option in spec.options.items() for value in getattr(option, "names", ())),
    )
    if all(spec.options[name].default != value for name, value in options.items())
]
"""Every block with its defaults, and with every name that an option of it may take: these lead through other code."""
every_path = pytest.mark.parametrize(("block", "options"), EVERY, ids=str)
every_way = pytest.mark.parametrize(
    ("block", "options", "init"),
    [
        pytest.param(block, options, init, marks=[pytest.mark.slow] if options or init == "paper" else [])
        for block, options in EVERY
        for init in INITS
    ],
    ids=str,
)
"""Both inits, too; the defaults with the identity, which runs through everything, are quick enough for every day."""


@pytest.fixture
def ready(randomise):
    """A function that builds a block with random weights, half open where it has a strength."""

    def make(block, options, init="paper"):
        torch.manual_seed(0)
        module = build(block, 16, init=init, **options)
        return randomise(module, strength=None if module.strength is None else 0.5)

    return make


@pytest.fixture(autouse=True)
def _fresh():
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@every_way
def test_compiles_as_one_graph(block, options, init, ready):
    assert_compiles(ready(block, options, init), backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's compiler about torch's own functions
def test_compiled_kernels_agree(block, ready):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch's compiler needs a C++ compiler")
    assert_compiles(ready(block, {}, "identity"), backend="inductor")


def assert_compiles(module, backend):
    module = module.double().train()  # so that rounding hides nothing, and is mistaken for nothing
    x, weights = torch.randn(2, 3, 16, 6, 5, dtype=torch.float64).unbind()
    x.requires_grad_()
    inputs = (x, *module.parameters())
    expected = module(x)
    gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    output = torch.compile(module, fullgraph=True, backend=backend)(x)
    found = torch.autograd.grad((output * weights).sum(), inputs)
    # a saturated softmax leaves gradients that are nothing beside the others
    largest = max(gradient.abs().max().item() for gradient in gradients)
    torch.testing.assert_close(output, expected, rtol=1e-7, atol=1e-9)
    for actual, wanted in zip(found, gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-9 * largest)


@every_way
def test_exports_for_any_batch(block, options, init, ready):
    module = ready(block, options, init).eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(module, (torch.randn(3, 16, 6, 5),), dynamic_shapes=({0: batch},))
    for size in (1, 4):
        x = torch.randn(size, 16, 6, 5)
        torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.slow
def test_relative_attention_in_parts_compiles_and_exports(ready, monkeypatch):
    monkeypatch.setattr("nas.attention.multihead.SCORES", 64)  # 30 pixels, two at a time
    module = ready("mhsa", {"position": "relative"})
    assert_compiles(module, backend="aot_eager")
    x = torch.randn(3, 16, 6, 5, dtype=torch.float64)
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    torch.testing.assert_close(program.module()(x[:2]), module(x[:2]))


@pytest.mark.slow
@every_path
def test_onnx_agrees(block, options, ready, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    module = ready(block, options, "identity").eval()
    x = torch.randn(3, 16, 6, 5)
    file = tmp_path / "block.onnx"
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(module, (x,), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for size in (1, 4):
        x = torch.randn(size, 16, 6, 5)
        (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        wanted = module(x)
        torch.testing.assert_close(torch.from_numpy(output), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
