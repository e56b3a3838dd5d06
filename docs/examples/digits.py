"""Which of four blocks, on which stages of a small network? In about a minute on a CPU.

    python docs/examples/digits.py FOLDER

The folder takes the study, the plot of its front and the config of the chosen architecture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import nas

SPACE = nas.SearchSpace(
    backbones=("test_resnet",),
    stages=(2, 3, 4),
    blocks={"se": {"reduction": (4, 8)}, "eca": {}, "coord": {"reduction": (8,)}, "simam": {}},
    init="paper",
)


def main(folder: Path) -> None:
    # A cut of the embedded digits, and short trainings and timings: for the example's sake. Run once more, it goes on
    # where it was, which is at its end.
    short = {"limit": 600, "epochs": 2, "latency_seconds": 0.2, "repeats": 2}
    with nas.search(SPACE, data="digits", budget=10, studies=str(folder / "studies"), **short) as study:
        print(study.answer)
        for row in study.front():
            ratio, words = row.latency_ratio, row.architecture.describe()
            print(f"{row.accuracy:.1%} at {ratio:.3f} times the bare backbone's latency: {words}")

        choice = study.best("knee")
        choice.export(folder / "knee.json")
        study.figure("pareto").write_html(folder / "front.html")

    # The model is an ordinary timm model with the blocks in it; the config builds the same one anywhere.
    model = choice.build().eval()
    again = nas.load(folder / "knee.json").eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 32, 32)
    print("the same logits:", torch.equal(model(images), again(images)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
