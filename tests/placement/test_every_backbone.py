"""One architecture of every file of timm, with real weights: nothing is lost, nothing changes, every block counts."""

from __future__ import annotations

import pytest
import timm
from every_backbone import numbers, small_of_each_file, structure

SHARES = 6  # so that several cores have something to do


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # timm's and torch's own, from ninety files
@pytest.mark.parametrize("share", range(SHARES))
def test_a_backbone_of_every_file_of_timm(share: int) -> None:
    modules = [module for module in timm.list_modules() if timm.list_models(module=module)]
    assert len(modules) > 60
    names = small_of_each_file(modules[share::SHARES])
    assert len(names) == len(modules[share::SHARES])
    reports = [numbers(name) for name in names]
    assert {report.backbone: report.faults for report in reports if report.faults} == {}
    assert {report.backbone: report.refusal for report in reports if report.refusal} == {}
    assert all(report.points["after_stage"] for report in reports)
    assert sum("in_residual" in report.points for report in reports) > 0.7 * len(reports)
    assert any("replace" in report.points for report in reports)


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_vit", "mobilenetv3_small_050", "crossvit_tiny_240", "regnety_002"]
)
def test_structure_without_data(backbone: str) -> None:
    report = structure(backbone)
    assert (report.verdict, report.faults) == ("supported", [])
