"""Does the counted latency, which guides the sampler, rank architectures as the clock does?

    python benchmarks/nominal.py sqlite:///studies/studies.db default-digits

Prints Spearman's rank correlation of the counted latency with the measured ratio to the bare backbone over the finished
trials of a study, and that of two naive rankers: multiply-accumulates and parameters.
"""

from __future__ import annotations

import sys

from scipy.stats import spearmanr

from nas.study import Study


def main() -> None:
    url, name = sys.argv[1:3]
    study = Study.open(name, url)
    evaluations = [study.evaluation(row.trial) for row in study.rows()]
    measured = [evaluation.latency.ratio for evaluation in evaluations]
    rankers = {
        "counted latency": [evaluation.nominal_ms for evaluation in evaluations],
        "multiply-accumulates": [evaluation.macs for evaluation in evaluations],
        "parameters": [evaluation.parameters for evaluation in evaluations],
    }
    widths = sorted((e.latency.ratio_high - e.latency.ratio_low) / 2 for e in evaluations)
    print(f"{len(evaluations)} trials; ratios {min(measured):.3f} to {max(measured):.3f}, ", end="")
    print(f"median half width of their intervals {widths[len(widths) // 2]:.3f}")
    for label, values in rankers.items():
        print(f"{label:>22}: {spearmanr(values, measured).statistic:.3f}")


if __name__ == "__main__":
    main()
